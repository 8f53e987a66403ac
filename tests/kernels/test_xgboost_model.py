# SPDX-License-Identifier: Apache-2.0
"""fpgahal.kernels.xgboost as its users meet it: inputs of every kind, bad models, bad inputs, scikit-learn, life."""

from __future__ import annotations

import copy
import json
import math
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import xgboost
from hypothesis import given
from hypothesis import strategies as st
from xgboost_models import CASES, Leaf, Raw, Split, booster, chain, document, dumps, single, small, trained, trees_of

import fpgahal
from fpgahal import emu
from fpgahal.kernels import xgboost as boards
from fpgahal.kernels.xgboost import ModelError, _json, read


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


# --- bad inputs -----------------------------------------------------------------------------------------------


class Table:
    def tocsr(self) -> None: ...


BAD_INPUTS: dict[str, tuple[Callable[[np.ndarray], Any], str]] = {
    "too few features": (lambda x: x[:, :14], "14 features"),
    "too many features": (lambda x: np.hstack([x, x]), "30 features"),
    "one long row": (lambda x: x.ravel(), "features"),
    "three dimensions": (lambda x: x[:, :, None], "3 dimensions"),
    "no dimensions": (lambda x: np.float32(1), "0 dimensions"),
    "complex": (lambda x: x.astype(complex), "complex128"),
    "object": (lambda x: x.astype(object), "object"),
    "text": (lambda x: x.astype(str), "real numbers"),
    "dates": (lambda x: np.zeros(x.shape, "M8[s]"), "real numbers"),
    "a structure": (lambda x: np.zeros(x.shape, [("a", "f4")]), "real numbers"),
    "ragged": (lambda x: [[1.0] * 15, [1.0] * 14], "no table"),
    "None": (lambda x: None, "object"),
    "inf": (lambda x: np.where(np.isnan(x), np.float32(np.inf), x), r"X\[\d+, \d+\] is infinite"),
    "-inf": (lambda x: np.where(np.isnan(x), np.float32(-np.inf), x), "infinite"),
    "beyond float32": (lambda x: np.where(np.isnan(x), 1e39, x.astype(float)), "too large"),
    "sparse": (lambda x: Table(), "sparse"),
    "DMatrix": (lambda x: xgboost.DMatrix(x), "DMatrix"),
}


@pytest.mark.parametrize("name", BAD_INPUTS)
def test_bad_inputs(flights: Any, name: str) -> None:
    model, real, x = flights
    make, says = BAD_INPUTS[name]
    with pytest.raises((fpgahal.ArgumentError, fpgahal.ArgumentRangeError), match=says):
        model.predict(make(x))
    assert np.array_equal(model.predict(x[:9]), real.inplace_predict(x[:9]))


def test_the_place_of_an_infinity(flights: Any) -> None:
    model, _, x = flights
    bad = np.nan_to_num(np.tile(x, (10, 1)))
    bad[70_001, 3] = np.inf
    for same in (bad, bad.astype(np.float64)):
        with pytest.raises(fpgahal.ArgumentRangeError, match=r"X\[70001, 3\] is infinite"):
            model.predict(same)


BAD_OPTIONS = [
    {"iteration_range": (0, 101)},
    {"iteration_range": (-1, 5)},
    {"iteration_range": (7, 5)},
    {"base_margin": np.zeros(3)},
    {"base_margin": np.zeros((9, 2))},
    {"out": np.empty(8, np.float32)},
    {"out": np.empty(9, np.float64)},
    {"out": np.empty(18, np.float32)[::2]},
    {"out": [0.0] * 9},
    {"out": np.broadcast_to(np.float32(0), 9)},
]


@pytest.mark.parametrize("options", BAD_OPTIONS, ids=lambda options: "-".join(options))
def test_bad_options(flights: Any, options: dict[str, Any]) -> None:
    model, _, x = flights
    with pytest.raises(fpgahal.ArgumentRangeError):
        model.predict(x[:9], **options)


# --- bad models -----------------------------------------------------------------------------------------------


def _set(*path: Any) -> Callable[[dict[str, Any]], None]:
    """Put the last of `path` where the others lead to."""

    def change(model: dict[str, Any]) -> None:
        at: Any = model["learner"]
        for key in path[:-2]:
            at = at[key]
        at[path[-2]] = path[-1]

    return change


def _remove(*path: Any) -> Callable[[dict[str, Any]], None]:
    def change(model: dict[str, Any]) -> None:
        at: Any = model["learner"]
        for key in path[:-1]:
            at = at[key]
        del at[path[-1]]

    return change


def _children(left: list[int], right: list[int]) -> Callable[[dict[str, Any]], None]:
    return lambda model: trees_of(model)[0].update(left_children=left, right_children=right)


MODEL = ("gradient_booster", "model")
TREE = (*MODEL, "trees", 0)

BAD_MODELS: dict[str, tuple[Callable[[dict[str, Any]], None], type[Exception], str]] = {
    "dart": (_set("gradient_booster", "name", "dart"), fpgahal.UnsupportedError, "DART"),
    "gblinear": (_set("gradient_booster", "name", "gblinear"), fpgahal.UnsupportedError, "linear"),
    "categories": (_set(*TREE, "split_type", [1, 0, 0, 0, 0]), fpgahal.UnsupportedError, "categorical"),
    "categorical features": (_set("feature_types", ["float", "c", "float"]), fpgahal.UnsupportedError, "categorical"),
    "vector leaves": (_set(*TREE, "tree_param", "size_leaf_vector", "3"), fpgahal.UnsupportedError, "several outputs"),
    "unknown objective": (_set("objective", "name", "reg:mine"), fpgahal.UnsupportedError, "reg:mine"),
    "too many features": (_set("learner_model_param", "num_feature", "99999999"), fpgahal.UnsupportedError, "99999999"),
    "too many classes": (
        _set("learner_model_param", "num_class", "4000000000"),
        fpgahal.UnsupportedError,
        "4000000000",
    ),
    "a circle": (_set(*TREE, "left_children", [1, 0, -1, -1, -1]), ModelError, "child"),
    "a long circle": (_children([1, 1, -1, -1, -1], [2, 2, -1, -1, -1]), ModelError, "leads back"),
    "a shared child": (_children([1, 3, 3, -1, -1], [2, 4, 4, -1, -1]), ModelError, "two nodes"),
    "a child outside": (_set(*TREE, "left_children", [1, 77, -1, -1, -1]), ModelError, "77"),
    "a negative child": (_set(*TREE, "left_children", [1, -7, -1, -1, -1]), ModelError, "-7"),
    "children apart": (_children([1, 2, -1, -1, -1], [4, 3, -1, -1, -1]), ModelError, "next to each other"),
    "one child": (_set(*TREE, "right_children", [4, -1, -1, -1, -1]), ModelError, "child"),
    "an unknown feature": (_set(*TREE, "split_indices", [3, 0, 0, 0, 0]), ModelError, "feature 3"),
    "a negative feature": (_set(*TREE, "split_indices", [-1, 0, 0, 0, 0]), ModelError, "feature -1"),
    "fewer thresholds": (_set(*TREE, "split_conditions", [Raw("1.0")]), ModelError, "split_conditions has 1"),
    "no nodes": (_set(*TREE, "tree_param", "num_nodes", "0"), ModelError, "0 nodes"),
    "a huge count of nodes": (_set(*TREE, "tree_param", "num_nodes", "99999999999"), ModelError, "99999999999"),
    "a count that is none": (_set(*TREE, "tree_param", "num_nodes", "five"), ModelError, "five"),
    "a huge count of trees": (_set(*MODEL, "gbtree_model_param", "num_trees", "4000000000"), ModelError, "4000000000"),
    "a tree that is none": (_set(*MODEL, "trees", [{}, 2, 3]), ModelError, "tree_param|expected an object"),
    "trees that are none": (_set(*MODEL, "trees", {}), ModelError, "3 trees"),
    "thresholds as texts": (_set(*TREE, "split_conditions", ["a"] * 5), ModelError, "split_conditions"),
    "children as floats": (_set(*TREE, "left_children", [1.5, 2.5, -1.0, -1.0, -1.0]), ModelError, "left_children"),
    "children of 70 bits": (_set(*TREE, "left_children", [1 << 70, 0, 0, 0, 0]), ModelError, "64 bits"),
    "an unknown output": (_set(*MODEL, "tree_info", [0, 1, 0]), ModelError, "output 1"),
    "fewer outputs": (_set(*MODEL, "tree_info", [0]), ModelError, "1 entries"),
    "rounds beyond": (_set(*MODEL, "iteration_indptr", [0, 1, 2, 9]), ModelError, "rounds"),
    "rounds backwards": (_set(*MODEL, "iteration_indptr", [0, 2, 1, 3]), ModelError, "rounds"),
    "no learner": (lambda model: model.pop("learner"), ModelError, "learner"),
    "no trees": (_remove(*MODEL, "trees"), ModelError, "trees"),
    "no thresholds": (_remove(*TREE, "split_conditions"), ModelError, "split_conditions"),
    "no objective": (_remove("objective"), ModelError, "objective"),
    "no base score": (_remove("learner_model_param", "base_score"), ModelError, "base_score"),
    "a base score that is none": (_set("learner_model_param", "base_score", "half"), ModelError, "half"),
    "two base scores": (_set("learner_model_param", "base_score", "[1E0,2E0]"), ModelError, "expected one"),
    "an infinite base score": (_set("learner_model_param", "base_score", "inf"), ModelError, "inf"),
    "a base score of 2": (_set("learner_model_param", "base_score", "[2E0]"), ModelError, "0 to 1"),
    "fewer names": (_set("feature_names", ["a", "b"]), ModelError, "2 names"),
    "names that are none": (_set("feature_names", [1, 2, 3]), ModelError, "feature_names"),
    "a threshold beyond float32": (_set(*TREE, "split_conditions", [Raw("1e60")] * 5), ModelError, "float32"),
}


@pytest.mark.parametrize("name", BAD_MODELS)
def test_bad_models(dev: fpgahal.Device, name: str) -> None:
    change, error, says = BAD_MODELS[name]
    model = small()
    boards.load(dev, dumps(model).encode()).close()
    change(model)
    with pytest.raises(error, match=says):
        boards.load(dev, dumps(model).encode())


@pytest.mark.parametrize("depth", [5000, 1_000_000])
def test_endless_depth(dev: fpgahal.Device, depth: int) -> None:
    text = chain(depth).encode()
    begin = time.monotonic()
    with pytest.raises(fpgahal.UnsupportedError, match="deeper than 4096"):
        boards.load(dev, text)
    assert time.monotonic() - begin < 60


def test_deep_but_possible(dev: fpgahal.Device) -> None:
    node: Leaf | Split = Leaf(0.5)
    for level in range(150):
        node = Split(level % 3, float(level), level % 2 == 0, node, Leaf(-float(level)))
    made = document([node], 3)
    x = np.random.default_rng(1).normal(0, 60, (50, 3)).astype(np.float32)
    with boards.load(dev, dumps(made).encode()) as model:
        assert np.array_equal(model.predict(x), booster(made).inplace_predict(x))


BAD_FILES = {
    "empty": b"",
    "blank": b"  \n",
    "text": b"hello",
    "old binary": b"binf\0\0\0\0" + bytes(100),
    "zeros": bytes(200),
    "a list": b"[1, 2]",
    "a brace": b"{",
    "not UTF-8": b'{"learner": "\xff\xfe"}',
    "nested lists": b'{"learner": ' + b"[" * 100_000,
    "nested objects": b'{"a":' * 100_000,
    "nested UBJ": b"{L\0\0\0\0\0\0\0\1a" + b"[" * 100_000,
    "twice the same key": b'{"learner": {}, "learner": {}}',
    "a number of 5000 digits": b'{"learner": ' + b"9" * 5000 + b"}",
    "a huge UBJ count": b"{L\0\0\0\0\0\0\0\1a[$d#L\x7f\xff\xff\xff\xff\xff\xff\xff",
    "a negative UBJ count": b"{L\0\0\0\0\0\0\0\1a[$d#L\xff\xff\xff\xff\xff\xff\xff\xff",
    "a UBJ type that is none": b"{L\0\0\0\0\0\0\0\1aq",
    "a UBJ array of texts": b"{L\0\0\0\0\0\0\0\1a[$S#L\0\0\0\0\0\0\0\1",
    "a UBJ key twice": b"{L\0\0\0\0\0\0\0\1aZL\0\0\0\0\0\0\0\1aZ}",
    "a UBJ key that is not UTF-8": b"{L\0\0\0\0\0\0\0\1\xffZ}",
    "more after UBJ": b"{L\0\0\0\0\0\0\0\1aZ}x",
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files(name: str) -> None:
    with pytest.raises(ModelError):
        read(BAD_FILES[name])


@pytest.mark.parametrize("kind", ["json", "ubj"])
def test_truncated_files(kind: str) -> None:
    whole = bytes(booster(small()).save_raw(kind))
    read(whole)
    for size in range(len(whole) - 1):
        with pytest.raises(ModelError):
            read(whole[:size])


@given(st.data())
def test_changed_bytes(data: st.DataObject) -> None:
    """Whatever a disk does to a file: a model, or one of our errors."""
    kind = data.draw(st.sampled_from(["json", "ubj"]))
    whole = bytearray(booster(small()).save_raw(kind))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with suppress(ModelError, fpgahal.UnsupportedError):
        boards.pack(read(bytes(whole)))


def test_not_a_model(dev: fpgahal.Device, tmp_path) -> None:
    with pytest.raises(TypeError, match="not int"):
        boards.load(dev, 3)
    with pytest.raises(FileNotFoundError):
        boards.load(dev, tmp_path / "absent.json")


# --- numbers --------------------------------------------------------------------------------------------------


@given(st.floats(width=32, allow_nan=False, allow_infinity=False), st.integers(-1, 1), st.integers(1, 60))
def test_decimals_become_the_nearest_float32(value: float, side: int, digits: int) -> None:
    """Between two float32, and a little to either side of the middle: by way of a float64 it would be wrong."""
    from fractions import Fraction

    low, high = np.float32(value), np.nextafter(np.float32(value), np.float32(np.inf))
    if not np.isfinite(high):
        return
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


def test_json_of_these_tests_is_what_xgboost_reads() -> None:
    """The documents made by hand are real models, or the tests above would prove nothing."""
    made = small()
    assert json.loads(booster(copy.deepcopy(made)).save_raw("json"))["learner"]["gradient_booster"]["name"] == "gbtree"
    assert math.isclose(float(single(0.1)), 0.1, rel_tol=1e-6)
