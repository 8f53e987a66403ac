# SPDX-License-Identifier: Apache-2.0
"""fpgahal.kernels.xgboost with bad inputs and bad models: each gets a clear error, and nothing hangs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import xgboost
from hypothesis import given
from hypothesis import strategies as st
from xgboost_models import CASES, Leaf, Raw, Split, booster, chain, document, dumps, small, trained, trees_of

import fpgahal
from fpgahal import emu
from fpgahal.kernels import xgboost as boards
from fpgahal.kernels.xgboost import ModelError, read


@pytest.fixture(scope="module")
def dev() -> Iterator[fpgahal.Device]:
    with emu.rack("u250"), fpgahal.open() as opened:
        yield opened


@pytest.fixture(scope="module")
def flights(dev: fpgahal.Device) -> Iterator[tuple[boards.Model, xgboost.Booster, np.ndarray]]:
    real, x = trained(CASES[0])
    with boards.load(dev, real) as model:
        yield model, real, x


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
