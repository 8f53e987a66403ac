# SPDX-License-Identifier: Apache-2.0
"""fpgahal.kernels.xgboost as its users meet it: inputs of every kind, old files, scikit-learn, life."""

from __future__ import annotations

import copy
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import xgboost
from hypothesis import given
from hypothesis import strategies as st
from xgboost_models import CASES, Leaf, Raw, Split, booster, document, dumps, single, small, trained, trees_of

import fpgahal
from fpgahal import emu
from fpgahal.kernels import xgboost as boards
from fpgahal.kernels.xgboost import _json


@pytest.fixture(scope="module")
def dev() -> Iterator[fpgahal.Device]:
    with emu.rack("u250"), fpgahal.open() as opened:
        yield opened


@pytest.fixture(scope="module")
def flights(dev: fpgahal.Device) -> Iterator[tuple[boards.Model, xgboost.Booster, np.ndarray]]:
    real, x = trained(CASES[0])
    with boards.load(dev, real) as model:
        yield model, real, x


# --- inputs of every kind -----------------------------------------------------------------------------------


def test_arrays(flights: Any) -> None:
    model, real, x = flights
    want = real.inplace_predict(x)
    wide = np.zeros((len(x), 40), np.float32)
    wide[:, 3:33:2] = x
    for same in (
        x,
        x.astype(np.float64),
        np.asfortranarray(x),
        np.asfortranarray(x.astype(np.float64)),
        wide[:, 3:33:2],
        np.repeat(x, 2, axis=0)[::2],
        x[::-1][::-1],
        x.astype(">f4"),
        x.astype(np.longdouble),
        memoryview(x),
    ):
        assert np.array_equal(model.predict(same), want)
    assert np.array_equal(model.predict(x[::-1]), want[::-1])
    assert np.array_equal(model.predict(x[:3].tolist()), want[:3])
    assert np.array_equal(model.predict(x[5]), want[5:6])
    assert np.array_equal(model.predict(x.astype(np.float16)), real.inplace_predict(x.astype(np.float16)))
    readonly = x.copy()
    readonly.flags.writeable = False
    assert np.array_equal(model.predict(readonly), want)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32", "uint32", "int64", "uint64", "bool"])
def test_integers(flights: Any, dtype: str) -> None:
    model, real, x = flights
    whole = np.nan_to_num(x).astype(dtype)
    assert np.array_equal(model.predict(whole), real.inplace_predict(whole))


def test_pandas(flights: Any) -> None:
    import pandas

    model, real, x = flights
    want = real.inplace_predict(x)
    for frame in (pandas.DataFrame(x), pandas.DataFrame(x.astype(np.float64)), pandas.DataFrame(x)[[*range(15)]]):
        assert np.array_equal(model.predict(frame), want)
    mixed = pandas.DataFrame(x)
    mixed[0] = mixed[0].astype("int64") + (1 << 53)  # a common type with the floats would round it twice
    mixed[1] = mixed[1].astype("Int64")  # pandas' integers with holes
    mixed.loc[3, 1] = pandas.NA
    mixed[2] = mixed[2].astype("Float32")
    mixed[3] = mixed[3] > 0
    assert np.array_equal(model.predict(mixed), real.inplace_predict(mixed))
    for bad, name in (("category", 4), ("str", 5)):
        with pytest.raises(fpgahal.ArgumentError, match=f"Column '{name}'"):
            model.predict(pandas.DataFrame(x).astype({name: bad}))


def test_polars(flights: Any) -> None:
    import polars

    model, real, x = flights
    frame = polars.DataFrame(x, schema=[f"f{i}" for i in range(15)])
    assert np.array_equal(model.predict(frame), real.inplace_predict(x))
    mixed = frame.with_columns(polars.col("f1").cast(polars.Int32), polars.col("f12").cast(polars.Float64))
    mixed = mixed.with_columns(polars.when(polars.col("f1") > 5).then(polars.col("f1")).alias("f1"))  # nulls
    same = mixed.to_numpy()
    assert np.isnan(same[:, 1]).any()
    assert np.array_equal(model.predict(mixed), real.inplace_predict(same))


def test_missing(dev: fpgahal.Device, flights: Any) -> None:
    model, real, x = flights
    marked = np.where(np.isnan(x), np.float32(-999), x)
    want = real.inplace_predict(marked, missing=-999)
    assert np.array_equal(model.predict(marked, missing=-999), want)
    assert np.array_equal(model.predict(marked.astype(np.float64), missing=-999), want)
    assert not np.array_equal(model.predict(marked), want)
    infinite = np.where(np.isnan(x), np.float32(np.inf), x)
    assert np.array_equal(model.predict(infinite, missing=np.inf), real.inplace_predict(x))
    with boards.load(dev, real, missing=-999) as other:
        assert np.array_equal(other.predict(marked), want)


def test_out_and_probabilities(dev: fpgahal.Device, flights: Any) -> None:
    model, real, x = flights
    out = np.empty(len(x), np.float32)
    assert model.predict(x, out=out) is out
    assert np.array_equal(out, real.inplace_predict(x))
    both = model.predict_proba(x)
    assert np.array_equal(both[:, 1], out)
    assert np.array_equal(both[:, 0], np.float32(1) - out)
    digits, rows = trained(CASES[26])
    with boards.load(dev, digits) as many:
        assert np.array_equal(many.predict_proba(rows), digits.inplace_predict(rows))
        assert many.predict(rows, out=np.empty((len(rows), 10), np.float32)).shape == (len(rows), 10)
        assert list(many.classes_) == list(range(10))


def test_one_copy(flights: Any) -> None:
    """float32 in C order goes into the device buffer, and nowhere else."""
    model, _, x = flights
    large = np.tile(x, (10, 1))
    model.predict(large)
    tracemalloc.start()
    try:
        result = model.predict(large)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < result.nbytes + 64_000 < large.nbytes / 4


def test_names(dev: fpgahal.Device) -> None:
    import pandas

    made = small()
    made["learner"]["feature_names"] = ["a", "b", "c"]
    made["learner"]["feature_types"] = ["float"] * 3
    x = np.array([[0, -2, 1], [0.5, 3, 2]], np.float32)
    frame = pandas.DataFrame(x, columns=["a", "b", "c"])
    with boards.load(dev, dumps(made).encode()) as model:
        assert model.feature_names == list(model.feature_names_in_) == ["a", "b", "c"]
        want = model.predict(x)
        assert np.array_equal(model.predict(frame), want)
        with pytest.raises(fpgahal.ArgumentRangeError, match="another order"):
            model.predict(frame[["b", "a", "c"]])
        with pytest.raises(fpgahal.ArgumentRangeError, match="missing: a; unknown: z"):
            model.predict(frame.rename(columns={"a": "z"}))
        assert np.array_equal(model.predict(frame.rename(columns={"a": "z"}), validate_features=False), want)


# --- numbers --------------------------------------------------------------------------------------------------


@given(st.floats(-(2.0**126), 2.0**126, width=32), st.integers(-1, 1), st.integers(1, 60))
def test_decimals_become_the_nearest_float32(value: float, side: int, digits: int) -> None:
    """Between two float32, and a little to either side of the middle: by way of a float64 it would be wrong."""
    from fractions import Fraction

    low, high = np.float32(value), np.nextafter(np.float32(value), np.float32(np.inf))
    middle = (Fraction(float(low)) + Fraction(float(high))) / 2
    exact = middle + side * (Fraction(float(high)) - Fraction(float(low))) / 10**digits / 3
    scaled = exact * 10**240
    text = f"{scaled.numerator // scaled.denominator}E-240"
    nearer = low if Fraction(text) < middle else high if Fraction(text) > middle else None
    if nearer is None:  # ties go to the even one
        nearer = low if np.float32(low).view(np.uint32) % 2 == 0 else high
    assert np.float32(_json.nearest(text)).view(np.uint32) == (nearer + np.float32(0)).view(np.uint32) or nearer == 0


def test_decimals_as_xgboost_reads_them(dev: fpgahal.Device) -> None:
    low = np.float32(0.1)
    high = np.nextafter(low, np.float32(1))
    middle = f"{(float(low) + float(high)) / 2:.60f}".rstrip("0")
    for text in (middle + "0000000001", middle[:-1] + "4999999999", middle):
        made = document([Split(0, Raw(text), False, Leaf(1.0), Leaf(2.0))], 1)
        x = np.array([[low], [high], [np.nextafter(low, np.float32(0))]], np.float32)
        with boards.load(dev, dumps(made).encode()) as model:
            assert np.array_equal(model.predict(x), booster(made).inplace_predict(x)), text


def test_older_files(dev: fpgahal.Device) -> None:
    """As XGBoost 1.x and 2.x wrote them."""
    x = np.random.default_rng(5).normal(size=(64, 3)).astype(np.float32)
    x[::5, 1] = np.nan
    for version in ([1, 7, 6], [2, 1, 4]):
        made = small()
        made["version"] = version
        made["learner"]["learner_model_param"]["base_score"] = "2.5E-1"
        model = made["learner"]["gradient_booster"]["model"]
        del model["cats"]
        if version[0] == 1:
            del model["iteration_indptr"]
            for tree in trees_of(made):
                tree["default_left"] = [bool(item) for item in tree["default_left"]]
        with boards.load(dev, dumps(made).encode()) as loaded:
            assert np.array_equal(loaded.predict(x), booster(made).inplace_predict(x))
            assert loaded.num_boosted_rounds() == 3


@pytest.mark.parametrize("base", ["0E0", "1E0", "1E-8", "9.999999E-1", "5E-1"])
def test_base_scores(dev: fpgahal.Device, base: str) -> None:
    made = small()
    made["learner"]["learner_model_param"]["base_score"] = f"[{base}]"
    x = np.zeros((1, 3), np.float32)
    with boards.load(dev, dumps(made).encode()) as model:
        want = booster(made).inplace_predict(x, predict_type="margin")
        assert np.array_equal(model.predict(x, output_margin=True), want)


def test_sigmoid_far_out(dev: fpgahal.Device) -> None:
    values = [-1000.0, -104.0, -88.8, -88.7, -88.6, -20.0, 1e-8, 20.0, 88.7, 1000.0]
    made = document([Leaf(0.0)], 1, base="[5E-1]")
    x = np.zeros((len(values), 1), np.float32)
    margins = np.array(values, np.float32)
    with boards.load(dev, dumps(made).encode()) as model:
        assert np.array_equal(
            model.predict(x, base_margin=margins), booster(made).inplace_predict(x, base_margin=margins)
        )


# --- scikit-learn ---------------------------------------------------------------------------------------------


def test_scikit_learn(dev: fpgahal.Device) -> None:
    from sklearn.base import clone, is_classifier, is_regressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.utils.validation import check_is_fitted

    x = np.random.default_rng(2).normal(size=(300, 5))
    y = (x[:, 0] + x[:, 1] > 0).astype(int) + (x[:, 2] > 0)
    for labels in (y, (y > 1).astype(int)):
        real = xgboost.XGBClassifier(n_estimators=20, n_jobs=1, early_stopping_rounds=2)
        scaled = StandardScaler().fit_transform(x)
        real.fit(scaled, labels, eval_set=[(scaled[:50], (labels[:50] + 1) % (labels.max() + 1))], verbose=False)
        ours = boards.Classifier.from_booster(dev, real)
        assert real.best_iteration + 1 < real.get_booster().num_boosted_rounds()
        pipe = make_pipeline(StandardScaler(), ours).fit(x, labels)
        assert np.array_equal(pipe.predict(x), real.predict(scaled))
        assert np.array_equal(pipe.predict_proba(x), real.predict_proba(scaled))
        assert pipe.score(x, labels) == (real.predict(scaled) == labels).mean()
        assert is_classifier(ours)
        assert is_classifier(pipe)
        check_is_fitted(ours)
        assert clone(pipe).steps[1][1] is ours
        assert set(ours.get_params(deep=False)) == {"device", "booster"}
        assert list(ours.classes_) == list(real.classes_)
        assert "Classifier" in repr(ours)
        ours.close()
    real = xgboost.XGBRegressor(n_estimators=10, n_jobs=1).fit(x, x[:, 3])
    regressor = boards.Regressor.from_booster(dev, real)
    assert is_regressor(regressor)
    assert np.array_equal(regressor.predict(x), real.predict(x))
    assert regressor.score(x, x[:, 3]) > 0.9
    with pytest.raises(fpgahal.ArgumentRangeError, match="no classifier"):
        boards.Classifier.from_booster(dev, real)
    with pytest.raises(fpgahal.UnsupportedError, match="no probabilities"):
        regressor.model_.predict_proba(x)
    regressor.close()


def test_nothing_else_is_imported() -> None:
    code = (
        "import sys; from fpgahal.kernels import xgboost; print([name for name in"
        " ('xgboost', 'sklearn', 'pandas', 'polars', 'scipy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- life -----------------------------------------------------------------------------------------------------


def test_life() -> None:
    real, x = trained(CASES[0])
    with emu.rack("u250,pac-a10"):
        for driver in ("xrt", "opae"):
            dev = fpgahal.open(driver=driver)
            model = boards.load(dev, real)
            model.predict(x)
            assert "100 trees" in repr(model)
            model.close()
            model.close()
            with pytest.raises(fpgahal.ClosedError, match="model was closed"):
                model.predict(x)
            model = boards.load(dev, real)
            dev.close()  # no views are left over that would keep it open
            with pytest.raises(fpgahal.ClosedError):
                model.predict(x)
            model.close()


def test_the_board_is_programmed_when_needed(tmp_path) -> None:
    with emu.rack("u250") as rack, fpgahal.open() as dev:
        before = rack.status(0).programmed
        boards.load(dev, dumps(small()).encode()).close()
        assert rack.status(0).programmed == before + 1
        boards.load(dev, dumps(small()).encode()).close()
        assert rack.status(0).programmed == before + 1


def test_two_models_on_a_board(dev: fpgahal.Device) -> None:
    first, x = trained(CASES[11])
    second, _ = trained(CASES[12])
    with boards.load(dev, first) as one, boards.load(dev, second) as other:
        for _ in range(3):
            assert np.array_equal(one.predict(x), first.inplace_predict(x))
            assert np.array_equal(other.predict(x), second.inplace_predict(x))


@pytest.mark.parametrize("driver", ["opae", "xrt"])
def test_threads(driver: str) -> None:
    real, x = trained(CASES[0])
    want = real.inplace_predict(x)
    wrong: list[int] = []
    with emu.rack("pac-a10,u250", cores=2), fpgahal.open(driver=driver) as dev, boards.load(dev, real) as model:

        def work(seed: int) -> None:
            random = np.random.default_rng(seed)
            for _ in range(30):
                first, count = random.integers(0, 4000), int(random.choice([1, 2, 50, 4000]))
                if not np.array_equal(model.predict(x[first : first + count]), want[first : first + count]):
                    wrong.append(seed)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_a_run_can_be_stopped() -> None:
    """A reset ends a run of a second within some milliseconds."""
    leaf = Split(0, 0.5, True, Leaf(1.0), Leaf(2.0))
    made = document([leaf] * 3000, 1)
    with emu.rack("u250"), fpgahal.open() as dev:
        model = boards.load(dev, dumps(made).encode())
        x = np.zeros((1 << 16, 1), np.float32)
        failed: list[BaseException] = []

        def work() -> None:
            try:
                while True:
                    model.predict(x)
            except fpgahal.FpgaError as error:
                failed.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        time.sleep(0.3)
        begin = time.monotonic()
        dev.reset()
        thread.join(5)
        assert not thread.is_alive()
        assert time.monotonic() - begin < 1
        assert "aborted" in str(failed[0])
        assert np.array_equal(model.predict(x[:3]), np.full(3, model.predict(x[:1])[0]))
        model.close()


@pytest.mark.parametrize("spec", ["u250", "pac-a10", "u250:2"])
def test_a_run_that_hangs(spec: str) -> None:
    with (
        emu.rack(spec) as rack,
        fpgahal.open_all() as devices,
        boards.load(list(devices), dumps(small()).encode()) as model,
    ):
        x = np.ones((20_000, model.n_features_in_), np.float32)
        want = model.predict(x)
        rack.fault(0, "hang", count=1)
        begin = time.monotonic()
        for _ in range(2):  # then it still has the board
            with pytest.raises(fpgahal.RunTimeoutError, match="xgboost_predict"):
                model.predict(x, timeout=0.2)
        assert time.monotonic() - begin < 5
        devices[0].reset()
        assert np.array_equal(model.predict(x, timeout=5), want)
        rack.fault(0, "hang", count=1)
        with pytest.raises(fpgahal.RunTimeoutError):
            model.predict(x, pred_leaf=True, timeout=0.2)
        devices[0].reset()


@pytest.mark.parametrize("spec", ["u250", "pac-a10", "u250:2"])
def test_ctrl_c(spec: str) -> None:
    leaf = Split(0, 0.5, True, Leaf(1.0), Leaf(2.0))
    made = document([leaf] * 2000, 1)
    x = np.zeros((4_000_000, 1), np.float32)
    with emu.rack(spec):
        devices = [fpgahal.open(info) for info in fpgahal.devices()]
        model = boards.load(devices, dumps(made).encode())
        want = model.predict(x[:3])
        timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
        begin = time.monotonic()
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            model.predict(x)
        assert time.monotonic() - begin < 2
        assert np.array_equal(model.predict(x[:3]), want)
        model.close()
        for dev in devices:
            dev.close()


def test_json_of_these_tests_is_what_xgboost_reads() -> None:
    """The documents made by hand are real models, or the tests above would prove nothing."""
    made = small()
    assert json.loads(booster(copy.deepcopy(made)).save_raw("json"))["learner"]["gradient_booster"]["name"] == "gbtree"
    assert math.isclose(float(single(0.1)), 0.1, rel_tol=1e-6)
