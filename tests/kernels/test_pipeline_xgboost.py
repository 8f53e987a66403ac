# SPDX-License-Identifier: Apache-2.0
"""``model.pipeline()``: what comes out is what ``xgboost`` itself predicts, whatever the batches are like."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import xgboost as xgb

import fpgahal
from fpgahal import emu
from fpgahal.kernels import xgboost

N, FEATURES = 3000, 5
each_vendor = pytest.mark.parametrize("kind", ["pac-a10", "u250"])


@pytest.fixture(scope="module")
def data() -> Any:
    rng = np.random.default_rng(7)
    x = rng.normal(size=(N, FEATURES)).astype(np.float32)
    x[rng.random(x.shape) < 0.1] = np.nan
    return x


def booster(data: Any, objective: str, **more: Any) -> xgb.Booster:
    target = np.nansum(data, axis=1) > 0
    params = {"objective": objective, "max_depth": 4, "nthread": 1, **more}
    return xgb.train(params, xgb.DMatrix(data, target.astype(np.float32)), 12)


def cut(data: Any) -> list[Any]:
    """Batches of all sizes."""
    ends = np.cumsum([1, 700, 64, 63, 512, 1, 999])
    return np.split(data, ends)


@each_vendor
@pytest.mark.parametrize(
    ("objective", "more"),
    [("binary:logistic", {}), ("reg:squarederror", {}), ("multi:softprob", {"num_class": 3}),
     ("multi:softmax", {"num_class": 3})],
)  # fmt: skip
def test_equals_xgboost(kind: str, data: Any, objective: str, more: dict[str, Any]) -> None:
    real = booster(data, objective, **more)
    with emu.rack(kind), fpgahal.open() as dev, xgboost.load(dev, real) as model:
        with model.pipeline(1000, depth=2) as pipe:
            results = list(pipe.map(cut(data)))
        assert [len(result) for result in results] == [len(batch) for batch in cut(data)]
        assert np.array_equal(np.concatenate(results), real.inplace_predict(data))
        with model.pipeline(1000, output_margin=True, iteration_range=(2, 7)) as pipe:
            margins = np.concatenate(list(pipe.map(cut(data))))
        assert np.array_equal(margins, real.inplace_predict(data, iteration_range=(2, 7), predict_type="margin"))


def test_kinds_of_batches(data: Any) -> None:
    real = booster(data, "binary:logistic")
    want = real.inplace_predict(data[:500])
    holes = np.where(np.isnan(data), -999, data)
    with emu.rack("u250"), fpgahal.open() as dev, xgboost.load(dev, real) as model:
        with model.pipeline(500) as pipe:
            for same in pipe.map([data[:500], data[:500].astype(np.float64), np.asfortranarray(data[:500])]):
                assert np.array_equal(same, want)
            assert pipe.map([data[0]]).__next__() == want[0]
            assert next(pipe.map([data[:0]])).shape == (0,)
        with model.pipeline(500, missing=-999) as pipe:
            assert np.array_equal(next(pipe.map([holes[:500]])), want)


def test_wrong_batches(data: Any) -> None:
    bad = [(data[:501], "It has 501 rows; this pipeline was made for 500"), (data[:5, :4], "4 features"),
           (np.full((3, FEATURES), np.inf), "infinite"), ([["a"] * FEATURES], "dtype")]  # fmt: skip
    with emu.rack("u250"), fpgahal.open() as dev, xgboost.load(dev, booster(data, "binary:logistic")) as model:
        with model.pipeline(500) as pipe:
            for batch, text in bad:
                results = pipe.map([data[:9], batch, data[:9]])
                assert len(next(results)) == 9
                with pytest.raises(fpgahal.FpgaError, match=text) as caught:
                    next(results)
                assert str(caught.value).startswith(f"Batch 1 on {dev.info.address}: ")
        with pytest.raises(fpgahal.ArgumentRangeError, match="rows=0"):
            model.pipeline(0)
        with pytest.raises(fpgahal.ArgumentRangeError, match="iteration_range"):
            model.pipeline(iteration_range=(3, 99))
    with pytest.raises(fpgahal.ClosedError):
        model.pipeline()


def test_boards_of_both_vendors_and_one_that_is_lost(data: Any) -> None:
    real = booster(data, "binary:logistic")

    def source() -> Iterator[Any]:
        for index in range(60):
            if index == 25:
                rack.fault(0, "vanish")
            yield data[50 * index : 50 * index + 50]

    with (
        emu.rack("u250:2,pac-a10", launch_us=300) as rack,
        fpgahal.open_all() as boards,
        xgboost.load(boards, real) as model,
        model.pipeline(50) as pipe,
    ):
        got = np.concatenate(list(pipe.map(source())))
    assert np.array_equal(got, real.inplace_predict(data))


@each_vendor
def test_predict_beside_a_pipeline(kind: str, data: Any) -> None:
    """Both use the same accelerator, one run at a time."""
    real = booster(data, "binary:logistic")
    want = real.inplace_predict(data[:200])
    with (
        emu.rack(kind, launch_us=200),
        fpgahal.open() as dev,
        xgboost.load(dev, real) as model,
        xgboost.load(dev, real) as other,
        model.pipeline(200) as pipe,
    ):
        for result in pipe.map([data[:200]] * 50):
            assert np.array_equal(result, want)
            assert np.array_equal(other.predict(data[:7]), want[:7])
