# SPDX-License-Identifier: Apache-2.0
"""What the tests of training share: data, and what "the same trees" means."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import xgboost as xgb

import fpgahal
from fpgahal.bench.nycflights import table
from fpgahal.kernels import xgboost as ours

Data = tuple[np.ndarray, np.ndarray]


def native(params: dict[str, Any], dtrain: xgb.DMatrix, rounds: int, **more: Any) -> xgb.Booster:
    """The oracle."""
    return xgb.train({**params, "tree_method": "exact", "nthread": 1}, dtrain, rounds, **more)


def assert_same(a: xgb.Booster, b: xgb.Booster, data: xgb.DMatrix) -> None:
    """Equal to the bit: trees with all their statistics, everything else that a model file has, and margins."""
    ours, theirs = (json.loads(one.save_raw("json"))["learner"] for one in (a, b))
    pairs = [one["gradient_booster"]["model"].pop("trees") for one in (ours, theirs)]
    assert len(pairs[0]) == len(pairs[1])
    for number, (left, right) in enumerate(zip(*pairs, strict=True)):
        for name in right:
            assert left[name] == right[name], f"tree {number}: {name}"
    assert ours == theirs
    assert a.get_dump(with_stats=True) == b.get_dump(with_stats=True)
    margins = [one.predict(data, output_margin=True) for one in (a, b)]
    assert np.array_equal(margins[0].view(np.uint32), margins[1].view(np.uint32))


def check(
    devices: fpgahal.Device | Sequence[fpgahal.Device], params: dict[str, Any], dtrain: xgb.DMatrix, rounds: int
) -> xgb.Booster:
    """Train on boards and with xgboost, and compare."""
    booster = ours.train(params, dtrain, rounds, devices=devices)
    assert_same(booster, native(params, dtrain, rounds), dtrain)
    return booster


@cache
def flights(n: int) -> Data:
    """Flights out of New York in 2013: 15 features, some missing; whether they arrived 15 minutes late or more."""
    frame = table("flights.csv.zip")
    names = (
        "month day dep_time sched_dep_time dep_delay sched_arr_time carrier flight tailnum origin dest air_time "
        "distance hour minute"
    )
    columns = [frame[name] for name in names.split()]
    numbers = [
        (one if one.dtype.kind in "if" else one.astype("category").cat.codes).to_numpy(np.float32) for one in columns
    ]
    order = np.random.default_rng(0).permutation(len(frame))[:n]
    late = (frame["arr_delay"] > 15).to_numpy(np.float32)
    return np.ascontiguousarray(np.stack(numbers, axis=1)[order]), late[order]


@cache
def synth(n: int) -> Data:
    """28 dense features, almost all values different."""
    from sklearn.datasets import make_classification

    x, y = make_classification(n, 28, n_informative=12, random_state=0)
    return x.astype(np.float32), y.astype(np.float32)


@cache
def regression(n_features: int) -> tuple[np.ndarray, ...]:
    """SyntheticR of InAccel's benchmark: training and test data, training and test labels."""
    from sklearn.datasets import make_regression
    from sklearn.model_selection import train_test_split

    x, y = make_regression(n_samples=81250, n_features=n_features, bias=100, noise=1.0, random_state=0)
    return tuple(train_test_split(x, y, test_size=0.2, random_state=0))
