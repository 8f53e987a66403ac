# SPDX-License-Identifier: Apache-2.0
"""Predictions on an emulated board against XGBoost and the other engines, 1 thread each, on real rows."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import numpy as np
import pytest
from harness import cores, interleave, loop, seconds

import fpgahal
from fpgahal import emu
from fpgahal.bench import xgboost as bench
from fpgahal.bench.xgboost_peers import Predict, peers
from fpgahal.kernels import xgboost

XGBOOST = "xgboost inplace_predict"


@pytest.fixture(scope="module")
def contenders() -> Iterator[tuple[dict[str, Predict], np.ndarray]]:
    booster, x = bench.model(65_000, 100, 6)
    with emu.rack("u250"), fpgahal.open() as dev, xgboost.load(dev, booster) as model:
        assert np.array_equal(model.predict(x, True), booster.inplace_predict(x, predict_type="margin"))
        yield {"fpgahal": model.predict, **dict(peers(booster))}, x


def best(times: dict[str, float]) -> tuple[float, str]:
    return min((seconds, name) for name, seconds in times.items() if name not in ("fpgahal", XGBOOST))


@pytest.mark.parametrize("rows", [1_000, 100_000])
def test_predict_many(rows: int, contenders, book) -> None:
    engines, x = contenders
    times = bench.in_turns(engines, np.ascontiguousarray(x[:rows]), 0.5 if rows == 1_000 else 2.0)
    name = f"predict {rows:,} flights, 100 trees of depth 6"
    goal = 5 if rows == 100_000 else None
    book.enter(name, times["fpgahal"], times[XGBOOST], XGBOOST, at_least=goal)
    theirs, peer = best(times)
    book.enter(name, times["fpgahal"], theirs, f"the best other: {peer}", at_least=2.5 if rows == 100_000 else None)


def test_predict_one(contenders, book) -> None:
    engines, x = contenders
    one = np.ascontiguousarray(x[:1])
    times = interleave({name: loop("f(x)", f=f, x=one) for name, f in engines.items()}, slices=11)
    book.limit("predict one flight", times["fpgahal"], 15e-6)
    theirs, peer = best(times)
    book.enter("predict one flight", times["fpgahal"], theirs, f"the best other: {peer}", at_least=1)
    book.enter("predict one flight", times["fpgahal"], times[XGBOOST], XGBOOST, at_least=5)


def test_two_boards(contenders, book) -> None:
    """As much again; the goal counts where two cores are free meanwhile."""
    _, x = contenders
    booster, _ = bench.model(65_000, 100, 6)
    large = np.ascontiguousarray(x[:200_000])
    alone, ratios, free = [], [], []
    with (
        emu.rack("u250:2"),
        fpgahal.open_all() as devices,
        xgboost.load(devices[0], booster) as one,
        xgboost.load(devices, booster) as both,
    ):
        both.predict(large)
        for _ in range(41):
            free.append(cores())
            alone.append(seconds(lambda: one.predict(large)))
            ratios.append(alone[-1] / seconds(lambda: both.predict(large)))
    ratio, one_board, cores_free = (statistics.median(values) for values in (ratios, alone, free))
    print(f"two boards: {ratio:.2f}x one; cores that were free: {cores_free:.2f}")
    goal = 1.8 if cores_free >= 1.8 else None
    book.enter("predict 200,000 flights on two boards", one_board / ratio, one_board, "one board", at_least=goal)
