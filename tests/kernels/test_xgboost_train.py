# SPDX-License-Identifier: Apache-2.0
"""kernels.xgboost.train against xgboost: the same trees, bit for bit."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import xgboost as xgb
from sklearn import datasets
from training import assert_same, check, flights, native, synth

import fpgahal
from fpgahal import emu
from fpgahal.kernels import xgboost as ours
from fpgahal.kernels.xgboost import _train, _train_board

BOARDS = ("opae", "xrt")
REGRESSION = {"objective": "reg:squarederror"}
BINARY = {"objective": "binary:logistic"}


@pytest.fixture(scope="module")
def devices() -> Iterator[dict[str, fpgahal.Device]]:
    """Three open boards with the kernel: opae, xrt, and a third one."""
    with emu.rack("pac-a10,u250,u280") as rack:
        opened = {}
        for name, info in zip(("opae", "xrt", "third"), rack.devices(), strict=True):
            opened[name] = fpgahal.open(info.address)
            opened[name].program(emu.build_image("xgboost_exact", rack.board(info)))
        assert [dev.info.driver for dev in opened.values()] == ["opae", "xrt", "xrt"]
        yield opened
        for dev in opened.values():
            dev.close()


# --- real data --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("board", BOARDS)
@pytest.mark.parametrize(
    ("load", "objective"),
    [("load_breast_cancer", "binary:logistic"), ("load_diabetes", "reg:squarederror"), ("load_wine", "multi:softprob")],
)
def test_small_real_data(devices, board: str, load: str, objective: str) -> None:
    x, y = getattr(datasets, load)(return_X_y=True)
    params: dict[str, Any] = {"objective": objective, "max_depth": 6}
    if objective == "multi:softprob":
        params["num_class"] = 3
    check(devices[board], params, xgb.DMatrix(x, y), 100 if objective != "multi:softprob" else 30)


@pytest.mark.parametrize(("rounds", "depth"), [(4, 6), (1, 10)])
def test_flights(devices, rounds: int, depth: int) -> None:
    check(devices["xrt"], {**BINARY, "max_depth": depth}, xgb.DMatrix(*flights(65_000)), rounds)


def test_dense_columns_without_ties(devices) -> None:
    check(devices["opae"], {**BINARY, "max_depth": 6}, xgb.DMatrix(*synth(20_000)), 2)


@pytest.mark.parametrize("objective", ["multi:softprob", "multi:softmax"])
def test_ten_classes(devices, objective: str) -> None:
    x, y = datasets.load_digits(return_X_y=True)
    check(devices["xrt"], {"objective": objective, "num_class": 10, "max_depth": 4}, xgb.DMatrix(x, y), 3)


# --- columns of all kinds ---------------------------------------------------------------------------------------
def killer(n: int) -> np.ndarray:
    """A sequence on which quick sort with median of three goes as deep as it can."""
    values, half = np.zeros(n), n // 2
    for at in range(1, half + 1):
        if at % 2:
            values[at - 1], values[at] = at, half + at
        values[half + at - 1] = 2 * at
    return values


def columns(kind: str) -> np.ndarray | scipy.sparse.csr_matrix:
    rng = np.random.default_rng(7)
    n = 600
    x = rng.normal(size=(n, 6)).astype(np.float32)
    if kind == "ties":
        x = rng.integers(0, 4, (n, 6)).astype(np.float32)
    elif kind == "missing":
        x[rng.random((n, 6)) < 0.4] = np.nan
    elif kind == "mostly missing":
        x[rng.random((n, 6)) < 0.7] = np.nan
    elif kind == "constant and empty":
        x[:, 1], x[:, 3], x[::2, 4] = 5, np.nan, np.nan
        x[1::2, 4] = 2  # constant where it is there
    elif kind == "equal columns":
        x[:, 1:] = x[:, :1]
    elif kind == "signed zeros and denormals":
        x = rng.choice(np.array([0.0, -0.0, 1e-44, -1e-44, 1e-38, 3e38, -3e38], np.float32), (n, 6))
    elif kind == "neighbours":  # whose middle rounds to one of them
        x = (1 + rng.integers(0, 9, (n, 6)) * np.float32(2**-23)).astype(np.float32)
    elif kind == "hard to sort":
        x[:, 0] = killer(n)
        x[:, 1] = killer(n) // 8
    elif kind == "one row a value":
        x = np.tile(np.arange(n, dtype=np.float32)[:, None], (1, 2))
    elif kind == "sparse":
        return scipy.sparse.random(n, 300, density=0.03, format="csr", dtype=np.float32, random_state=3)
    return x


KINDS = (
    "dense",
    "ties",
    "missing",
    "mostly missing",
    "constant and empty",
    "equal columns",
    "signed zeros and denormals",
    "neighbours",
    "hard to sort",
    "one row a value",
    "sparse",
)


@pytest.mark.parametrize("board", BOARDS)
@pytest.mark.parametrize("kind", KINDS)
def test_columns(devices, board: str, kind: str) -> None:
    x = columns(kind)
    y = np.random.default_rng(1).integers(0, 2, x.shape[0])
    check(devices[board], {**BINARY, "max_depth": 7, "min_child_weight": 0.1}, xgb.DMatrix(x, y), 8)


@pytest.mark.parametrize("depth", range(1, 11))
def test_depths(devices, depth: int) -> None:
    x, y = columns("missing"), np.random.default_rng(2).normal(size=600)
    check(devices["xrt"], {**REGRESSION, "max_depth": depth}, xgb.DMatrix(x, y), 3)


@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (1, 5), (33, 2)])
def test_tiny(devices, shape: tuple[int, int]) -> None:
    x = np.arange(shape[0] * shape[1], dtype=np.float32).reshape(shape)
    check(devices["opae"], {**REGRESSION, "min_child_weight": 0}, xgb.DMatrix(x, x[:, 0] ** 2), 3)


# --- parameters -------------------------------------------------------------------------------------------------
PARAMETERS = [
    {"gamma": 1.5},
    {"gamma": 40},
    {"gamma": 1e9},  # nothing is left
    {"min_child_weight": 0},
    {"min_child_weight": 30},
    {"lambda": 0},
    {"lambda": 0, "min_child_weight": 0},
    {"reg_lambda": 77.7},
    {"alpha": 0.7},
    {"reg_alpha": 50},
    {"max_delta_step": 0.05},
    {"max_delta_step": 0.3, "alpha": 0.4, "min_child_weight": 0},
    {"eta": 1},
    {"learning_rate": "0.05"},
    {"eta": 0},
    {"base_score": 0.2},
    {"scale_pos_weight": 3.5},
    {"max_depth": "4", "nthread": 7, "seed": 3, "subsample": 1, "verbosity": 0},
]


@pytest.mark.parametrize("params", PARAMETERS, ids=str)
@pytest.mark.parametrize("task", [REGRESSION, BINARY], ids=["regression", "binary"])
def test_parameters(devices, params: dict[str, Any], task: dict[str, Any]) -> None:
    x = columns("missing")
    rng = np.random.default_rng(3)
    y = (np.nan_to_num(x[:, 0]) + np.nan_to_num(x[:, 1]) ** 2 + rng.normal(size=len(x)) > 1).astype(np.float32)
    if task is REGRESSION:
        y = y * 10 + rng.normal(size=len(x)).astype(np.float32)
    check(devices["xrt"], {**task, "max_depth": 5, **params}, xgb.DMatrix(x, y), 6)


@pytest.mark.parametrize("seed", range(25))
def test_anything(devices, seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, k = int(rng.integers(20, 400)), int(rng.integers(1, 12))
    x = rng.choice([rng.normal(size=(n, k)), rng.integers(0, 6, (n, k))]).astype(np.float32)
    x[rng.random((n, k)) < rng.choice([0, 0.1, 0.7])] = np.nan
    kind = rng.choice(["reg:squarederror", "reg:logistic", "binary:logistic", "binary:logitraw", "multi:softprob"])
    params: dict[str, Any] = {
        "objective": str(kind),
        "max_depth": int(rng.integers(1, 9)),
        "eta": float(rng.choice([0.1, 0.3, 1])),
        "gamma": float(rng.choice([0, 0, 0.5, 3])),
        "lambda": float(rng.choice([0, 1, 5])),
        "alpha": float(rng.choice([0, 0, 0.5])),
        "min_child_weight": float(rng.choice([0, 0.5, 1, 8])),
        "max_delta_step": float(rng.choice([0, 0, 0.5])),
    }
    y = rng.normal(size=n)
    if kind in ("binary:logistic", "binary:logitraw"):
        y = rng.integers(0, 2, n)
    elif kind == "reg:logistic":
        y = rng.random(n)
    elif kind == "multi:softprob":
        y, params["num_class"] = rng.integers(0, 4, n), 4
    dtrain = xgb.DMatrix(x, y)
    if seed % 3 == 0:
        dtrain.set_weight(rng.integers(0, 4, n) + (rng.random(n) if seed % 2 else 0))
    if seed % 5 == 0:
        dtrain.set_base_margin(rng.normal(size=(n, params.get("num_class", 1))))
    check(devices["opae" if seed % 2 else "xrt"], params, dtrain, 5)


# --- boards and pages -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("names", [("xrt",), ("opae", "xrt"), ("third", "opae", "xrt")])
def test_several_boards(devices, names: tuple[str, ...]) -> None:
    chosen = [devices[name] for name in names]
    x = columns("missing")
    y = np.random.default_rng(4).integers(0, 2, len(x))
    check(chosen, {**BINARY, "max_depth": 6}, xgb.DMatrix(x, y), 6)
    check(chosen, {**BINARY, "max_depth": 3}, xgb.DMatrix(columns("equal columns"), y), 3)  # ties between boards
    check(chosen, BINARY, xgb.DMatrix(x[:, :2], y), 2)  # fewer features than boards


def test_cores_of_a_board() -> None:
    with emu.rack("u250", cores=3), fpgahal.open() as dev:
        for kind in ("missing", "equal columns", "one row a value"):  # ties between cores, and fewer columns than those
            x = columns(kind)
            y = np.random.default_rng(5).integers(0, 2, len(x))
            check(dev, {**BINARY, "max_depth": 6}, xgb.DMatrix(x, y), 10)
        check(dev, {**BINARY, "max_depth": 8}, xgb.DMatrix(*flights(20_000)), 3)


def test_levels_in_pages(devices, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_train, "Boards", functools.partial(_train_board.Boards, page=3))
    x = columns("missing")
    y = np.random.default_rng(5).integers(0, 2, len(x))
    check([devices["xrt"], devices["opae"]], {**BINARY, "max_depth": 6}, xgb.DMatrix(x, y), 3)


def test_more_nodes_than_a_run_takes(devices) -> None:
    x = np.arange(20_000, dtype=np.float32)[:, None]  # a line is split in the middle, again and again
    params = {**REGRESSION, "max_depth": 14, "lambda": 0}
    booster = check(devices["xrt"], params, xgb.DMatrix(x, x[:, 0]), 1)
    depths = [line.count("\t") for line in booster.get_dump()[0].splitlines()]
    assert depths.count(13) > 4096


# --- what a user sees -------------------------------------------------------------------------------------------
def halves() -> tuple[xgb.DMatrix, xgb.DMatrix]:
    x, y = datasets.load_breast_cancer(return_X_y=True)
    return xgb.DMatrix(x[::2], y[::2]), xgb.DMatrix(x[1::2], y[1::2])


@pytest.mark.parametrize("metrics", [None, ["auc", "error@0.3", "logloss"], "error"])
def test_metrics_and_early_stopping(devices, capfd: pytest.CaptureFixture[str], metrics: Any) -> None:
    dtrain, dtest = halves()
    params = {**BINARY, "max_depth": 3, "eta": 1}
    if metrics:
        params["eval_metric"] = metrics
    both = {"evals": [(dtrain, "train"), (dtest, "test")], "early_stopping_rounds": 4, "verbose_eval": 3}
    theirs_log: dict[str, Any] = {}
    theirs = native(params, dtrain, 60, evals_result=theirs_log, **both)
    theirs_text = capfd.readouterr().out
    ours_log: dict[str, Any] = {"old": {}}
    booster = ours.train(params, dtrain, 60, devices=devices["xrt"], evals_result=ours_log, **both)
    assert capfd.readouterr().out == theirs_text
    assert ours_log == theirs_log
    assert booster.num_boosted_rounds() == theirs.num_boosted_rounds() < 60
    assert (booster.best_iteration, booster.best_score) == (theirs.best_iteration, theirs.best_score)
    assert_same(booster, theirs, dtest)


def test_multi_class_metrics(devices) -> None:
    x, y = datasets.load_wine(return_X_y=True)
    dtrain, dtest = xgb.DMatrix(x[::2], y[::2]), xgb.DMatrix(x[1::2], y[1::2])
    params = {"objective": "multi:softmax", "num_class": 3, "eval_metric": ["merror", "mlogloss"]}
    logs: list[dict[str, Any]] = [{}, {}]
    ours.train(
        params, dtrain, 5, devices=devices["xrt"], evals=[(dtest, "t")], evals_result=logs[0], verbose_eval=False
    )
    native(params, dtrain, 5, evals=[(dtest, "t")], evals_result=logs[1], verbose_eval=False)
    assert logs[0] == logs[1]


def test_arrays_and_names(devices) -> None:
    x, y = datasets.load_diabetes(return_X_y=True)
    a = ours.train(REGRESSION, (x, y), 3, devices=devices["xrt"])
    assert_same(a, native(REGRESSION, xgb.DMatrix(x, y), 3), xgb.DMatrix(x))
    named = xgb.DMatrix(x, y, feature_names=[f"n{i}" for i in range(10)], feature_types=["q"] * 10)
    assert check(devices["xrt"], REGRESSION, named, 3).feature_names == named.feature_names


def test_goes_on_in_xgboost(devices, tmp_path) -> None:
    dtrain, _ = halves()
    first = ours.train(BINARY, dtrain, 4, devices=devices["xrt"])
    first.save_model(tmp_path / "model.json")
    second = native(BINARY, dtrain, 4, xgb_model=tmp_path / "model.json")
    assert_same(second, native(BINARY, dtrain, 8), dtrain)
    more = native(BINARY, dtrain, 4, xgb_model=first)
    assert_same(more, second, dtrain)


def test_params_as_pairs_with_two_metrics(devices) -> None:
    dtrain, dtest = halves()
    log: dict[str, Any] = {}
    pairs = [("objective", "binary:logistic"), ("eval_metric", "auc"), ("eval_metric", "error")]
    ours.train(
        pairs, dtrain, 2, devices=devices["xrt"], evals=[(dtest, "t")], evals_result=log, verbose_eval=0, progress=True
    )
    assert list(log["t"]) == ["auc", "error"]
