# SPDX-License-Identifier: Apache-2.0
"""Training on an emulated board against xgboost's own exact method (and hist, which searches fewer splits)."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xgboost as xgb

sys.path.insert(0, str(Path(__file__).parent.parent / "tests/kernels"))
from training import assert_same, flights, native, regression, synth

import fpgahal
from fpgahal import emu
from fpgahal.kernels import xgboost as ours

ROUNDS = 11  # of the three contenders, one after the other
CASES = {  # data, trees, depth, cores of the board
    "flights, 65,000 x 15, depth 6": (lambda: flights(65_000), 20, 6, 1),
    "flights, 65,000 x 15, depth 6, a board of two cores": (lambda: flights(65_000), 20, 6, 2),
    "flights, 65,000 x 15, depth 10": (lambda: flights(65_000), 10, 10, 1),
    "flights, 269,420 x 15, depth 6": (lambda: flights(269_420), 20, 6, 1),
    "synthetic, 160,000 x 28, depth 6": (lambda: synth(160_000), 10, 6, 1),
}


def interleave(contenders: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Median seconds of each; they take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(ROUNDS):
        for name, call in contenders.items():
            begin = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(times) for name, times in seconds.items()}


@pytest.mark.parametrize("case", CASES)
def test_training(benchmark, book, case: str) -> None:
    make, boosts, depth, cores = CASES[case]
    x, y = make()
    params = {"objective": "binary:logistic", "max_depth": depth}
    with emu.rack("u250", cores=cores), fpgahal.open() as dev:
        last: list[Any] = []

        def board() -> None:
            last[:] = [ours.train(params, xgb.DMatrix(x, y), boosts, devices=dev)]

        board()
        assert_same(last[0], native(params, xgb.DMatrix(x, y), boosts), xgb.DMatrix(x))
        times = interleave(
            {
                "ours": board,
                "exact": lambda: native(params, xgb.DMatrix(x, y), boosts),
                "hist": lambda: xgb.train({**params, "tree_method": "hist", "nthread": 1}, xgb.DMatrix(x, y), boosts),
            }
        )
        benchmark.pedantic(board, rounds=1)
    book.enter(f"train, {case}", times["ours"] / boosts, times["hist"] / boosts, "xgboost hist, 1 thread")
    book.enter(
        f"train, {case}", times["ours"] / boosts, times["exact"] / boosts, "xgboost exact, 1 thread", at_least=1.5
    )


@pytest.mark.parametrize(("n_features", "published"), [(64, 119.94), (128, 122.48)])
def test_published_rmse(book, n_features: int, published: float) -> None:
    """SyntheticR of inaccel/xgboost's README, 5 rounds of depth 10 on the board of 2019."""
    x, x_test, y, y_test = regression(n_features)
    with emu.rack("u250"), fpgahal.open() as dev:
        booster = ours.train({"tree_method": "fpga_exact", "max_depth": 10, "eta": 0.1}, (x, y), 5, devices=dev)
    rmse = float(np.sqrt(np.mean((booster.predict(xgb.DMatrix(x_test)) - y_test) ** 2)))
    print(f"{n_features} features: RMSE {rmse:.2f}, published {published}")
    assert rmse == pytest.approx(published, rel=0.005)
