# SPDX-License-Identifier: Apache-2.0
"""Predictions of a board against the real xgboost: equal, to the last bit, on every path."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import xgboost
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from xgboost_models import CASES, Case, Leaf, Split, booster, document, dumps, paths, single, trained

import fpgahal
from fpgahal import emu
from fpgahal.kernels import xgboost as boards
from fpgahal.kernels.xgboost import Model

PATHS = list(paths())


@pytest.fixture(scope="module")
def devices() -> Iterator[list[fpgahal.Device]]:
    """A board of each vendor."""
    with emu.rack("pac-a10,u250"), fpgahal.open(driver="opae") as opae, fpgahal.open(driver="xrt") as xrt:
        yield [opae, xrt]


def check(model: Model, real: xgboost.Booster, x: np.ndarray) -> None:
    """All of `x`, and so few rows that other code runs: margins, predictions, on every path."""
    margins = real.inplace_predict(x, predict_type="margin")
    predictions = real.inplace_predict(x)
    assert np.array_equal(margins, real.predict(xgboost.DMatrix(x), output_margin=True))
    with pytest.MonkeyPatch.context() as patch:
        for path in PATHS:
            patch.setenv("FPGAHAL_EMU_ISA", path)
            for n in (len(x), 1, 9, 33):
                assert np.array_equal(model.predict(x[:n], output_margin=True), margins[:n], equal_nan=True), (path, n)
            assert np.array_equal(model.predict(x), predictions, equal_nan=True), path


@pytest.mark.parametrize("case", CASES, ids=str)
def test_equal_to_xgboost(case: Case, devices: list[fpgahal.Device]) -> None:
    real, x = trained(case)
    for dev in devices:
        with boards.load(dev, real) as model:
            check(model, real, x)
            assert model.predict(x[:0]).shape == (0, *real.inplace_predict(x[:1]).shape[1:])


def test_there_are_enough_models() -> None:
    assert len(CASES) >= 30
    assert len({case.data.partition("-")[0] for case in CASES}) >= 5
    assert {case.parameters["max_depth"] for case in CASES} >= {*range(1, 13)}
    assert "avx512" in PATHS or "avx2" in PATHS or PATHS == ["portable"]


@pytest.mark.parametrize("case", [CASES[0], CASES[2], CASES[10], CASES[26], CASES[30]], ids=str)
def test_rounds_leaves_and_base_margins(case: Case, devices: list[fpgahal.Device]) -> None:
    real, x = trained(case)
    x = x[:500]
    matrix = xgboost.DMatrix(x)
    rounds = real.num_boosted_rounds()
    for dev in devices:
        with boards.load(dev, real) as model:
            assert model.num_boosted_rounds() == rounds
            for span in ((0, 1), (1, 3), (rounds - 1, rounds), (rounds // 2, 0), (2, 2), (0, 0)):
                assert np.array_equal(
                    model.predict(x, iteration_range=span), real.inplace_predict(x, iteration_range=span)
                ), span
            whole = model.predict(x, pred_leaf=True)
            assert np.array_equal(whole, real.predict(matrix, pred_leaf=True))
            if rounds > 1:  # xgboost itself does not take a beginning here
                part = model.predict(x, pred_leaf=True, iteration_range=(1, 2))
                trees = whole.shape[1] // rounds
                assert np.array_equal(part.reshape(len(x), -1), whole[:, trees : 2 * trees])
            shape = real.inplace_predict(x, predict_type="margin").shape
            base = np.random.default_rng(3).normal(size=shape).astype(np.float32)
            ours = model.predict(x, output_margin=True, base_margin=base)
            assert np.array_equal(ours, real.inplace_predict(x, predict_type="margin", base_margin=base))
            assert np.array_equal(model.predict(x, base_margin=base), real.inplace_predict(x, base_margin=base))


@pytest.mark.parametrize("kind", ["json", "ubj"])
def test_files(kind: str, tmp_path, devices: list[fpgahal.Device]) -> None:
    real, x = trained(CASES[26])
    file = tmp_path / f"model.{kind}"
    real.save_model(file)
    want = real.inplace_predict(x)
    for model in (file, str(file), file.read_bytes(), bytearray(file.read_bytes())):
        with boards.load(devices[1], model) as loaded:
            assert np.array_equal(loaded.predict(x), want)


# --- models that nobody trained ---------------------------------------------------------------------------------

SPECIAL = [0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 1.1754942e-38, 3.4028235e38, -3.4028235e38, 0.1, 16777217.0]
numbers = st.one_of(st.sampled_from(SPECIAL), st.floats(width=32, allow_nan=False, allow_infinity=False))
thresholds = st.one_of(numbers, st.sampled_from([np.inf, -np.inf]))
values = st.floats(-1e6, 1e6, width=32)


def splits(n_features: int) -> st.SearchStrategy:
    return st.recursive(
        st.builds(Leaf, values),
        lambda below: st.builds(Split, st.integers(0, n_features - 1), thresholds, st.booleans(), below, below),
        max_leaves=40,
    )


def deep(n_features: int) -> st.SearchStrategy:
    """Branches of up to 30 levels."""

    def build(levels: list[tuple[int, float, bool, float, bool]]) -> Leaf | Split:
        node: Leaf | Split = Leaf(0.75)
        for feature, threshold, default, leaf, side in levels:
            pair = (node, Leaf(leaf)) if side else (Leaf(leaf), node)
            node = Split(feature, threshold, default, *pair)
        return node

    level = st.tuples(st.integers(0, n_features - 1), thresholds, st.booleans(), values, st.booleans())
    return st.lists(level, min_size=7, max_size=30).map(build)


@st.composite
def models(draw: st.DrawFn) -> tuple[dict, np.ndarray]:
    n_features = draw(st.integers(1, 6))
    classes = draw(st.sampled_from([0, 0, 2, 3, 10]))
    count = draw(st.integers(1, 4)) * max(1, classes)
    roots = draw(st.lists(st.one_of(splits(n_features), deep(n_features)), min_size=count, max_size=count))
    objective = "multi:softprob" if classes else draw(st.sampled_from(["binary:logistic", "reg:squarederror"]))
    base = f"[{single(draw(st.floats(0.0078125, 0.9921875, width=32))).text}]"
    x = draw(
        st.lists(
            st.lists(st.one_of(numbers, st.just(np.nan)), min_size=n_features, max_size=n_features),
            min_size=1,
            max_size=40,
        )
    )
    return document(roots, n_features, classes, base, objective), np.array(x, np.float32)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(models())
def test_any_model(devices: list[fpgahal.Device], drawn: tuple[dict, np.ndarray]) -> None:
    made, x = drawn
    real = booster(made)
    for dev in devices:
        with boards.load(dev, dumps(made).encode()) as model:
            check(model, real, x)
            assert np.array_equal(model.predict(x, pred_leaf=True), real.predict(xgboost.DMatrix(x), pred_leaf=True))


def test_many_shapes(devices: list[fpgahal.Device]) -> None:
    """Tile borders, and each number of rows of a block."""
    real, x = trained(CASES[0])
    want = real.inplace_predict(x, predict_type="margin")
    with boards.load(devices[1], real) as model:
        for n in (*range(1, 70), 127, 128, 129, 255, 257, 4095, 4097):
            assert np.array_equal(model.predict(x[:n], output_margin=True), want[:n]), n
        large = np.tile(x, (16, 1))
        rows = model.boards[0].rows
        assert len(large) > 2 * rows
        for n in (rows - 1, rows, rows + 1, 2 * rows + 1, len(large)):
            assert np.array_equal(model.predict(large[:n], output_margin=True), np.tile(want, 16)[:n]), n


def test_cores_and_several_boards() -> None:
    real, x = trained(CASES[0])
    large = np.tile(x, (12, 1))
    want = real.inplace_predict(large)
    with emu.rack("pac-a10,u250:2", cores=3):
        opened = [fpgahal.open(info) for info in fpgahal.devices()]
        try:
            for chosen in (opened[:1], opened[1:2], opened):
                with boards.load(chosen, real) as model:
                    for _ in range(3):
                        assert np.array_equal(model.predict(large), want)
                    assert np.array_equal(
                        model.predict(large, pred_leaf=True)[:50], model.predict(x, pred_leaf=True)[:50]
                    )
        finally:
            for dev in opened:
                dev.close()


def test_cores_are_checked() -> None:
    for wrong in (0, -1, 1.5, 1000):
        with pytest.raises(emu.SpecError, match="cores"):
            emu.rack("u250", cores=wrong)
