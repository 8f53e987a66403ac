# SPDX-License-Identifier: Apache-2.0
"""Pipelines: how near to the ideal, where a board never waits for its link, nor the link for the board.

The ideal is the longer of two sums: the bytes at the link's speed, and the runs of the kernel alone, measured in turn
with the pipeline in the same process.  An emulated board computes on one of this computer's cores, and the host's copies
need another: the goals count where two are free at the time.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import fpgahal
from fpgahal import emu
from fpgahal.kernels import xgboost
from fpgahal.kernels.xgboost._board import Slot

GBPS, LAUNCH_US = 11.0, 50.0  # PCIe 3.0 x16 as measured with DMA; a usual time from start to first byte
FEATURES = 28
TOTAL = 524_288  # rows


@pytest.fixture(scope="module")
def rows() -> Any:
    return np.random.default_rng(1).normal(size=(TOTAL, FEATURES)).astype(np.float32)


def booster(rows: Any, trees: int) -> Any:
    import xgboost as xgb

    target = (rows[:, 0] * rows[:, 1] + rows[:, 2] > 0).astype(np.float32)
    data = xgb.DMatrix(rows[:20_000], target[:20_000])
    return xgb.train({"max_depth": 6, "objective": "binary:logistic", "nthread": 1}, data, trees)


@pytest.fixture(scope="module", params=["u250", "pac-a10"])
def board(request: pytest.FixtureRequest, rows: Any) -> Iterator[xgboost.Model]:
    with (
        emu.rack(request.param, link_gbps=GBPS, launch_us=LAUNCH_US),
        fpgahal.open() as dev,
        xgboost.load(dev, booster(rows, 16)) as model,  # some 10 million rows/s on one core: near the link's speed
    ):
        yield model


def seconds(call: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def drain(results: Iterator[Any]) -> None:
    for _ in results:
        pass


def test_chunk_sizes(book: Any, board: xgboost.Model, rows: Any) -> None:
    """The table: one after the other, pipeline, ideal; the goal is for the size that `pipeline` has by default."""
    kind = board.boards[0].dev.driver
    link = TOTAL * FEATURES * 4 / GBPS / 1e9
    for size in (1024, 4096, 16_384, 65_536, 131_072):
        batches = [rows[i : i + size] for i in range(0, TOTAL, size)]
        slot = Slot(board.boards[0], size)
        slot.upload(xgboost._rows.Rows(batches[0], FEATURES), 0, size, np.nan)
        contenders = {}
        with board.pipeline(size) as pipe:
            contenders["pipeline"] = lambda pipe=pipe, batches=batches: drain(pipe.map(batches))
            contenders["serial"] = lambda batches=batches: [board.predict(batch) for batch in batches]
            contenders["runs"] = lambda slot=slot, size=size: [
                slot.run(size, 0, board.forest.n_trees) for _ in range(TOTAL // size)
            ]
            for call in contenders.values():
                call()
            times: dict[str, list[float]] = {name: [] for name in contenders}
            free = []
            for _ in range(9):
                free.append(cores())
                for name, call in contenders.items():
                    times[name].append(seconds(call))
        slot.close()
        ideal = [max(link, run) for run in times["runs"]]
        middle = {name: statistics.median(values) for name, values in times.items()}
        ratio = statistics.median(ours / best for ours, best in zip(times["pipeline"], ideal, strict=True))
        cores_free = statistics.median(free)
        print(
            f"{kind} {size:7d} rows a batch: serial {middle['serial'] * 1e3:6.1f} ms, pipeline "
            f"{middle['pipeline'] * 1e3:6.1f} ms, ideal {statistics.median(ideal) * 1e3:6.1f} ms (link "
            f"{link * 1e3:.1f} ms), ratio {ratio:.2f}; {cores_free:.1f} cores free"
        )
        if size == 16_384:
            best = statistics.median(ideal)
            what = f"pipeline of {TOTAL:,} rows, 16,384 a batch, 11 GB/s, 50 µs ({kind.upper()})"
            book.enter(what, ratio * best, best, "max(link, runs)", at_most=1.15 if cores_free >= 1.8 else None)


def test_two_boards(book: Any, rows: Any) -> None:
    """Twice as fast on two boards, if there are two cores for them."""
    model_file = booster(rows, 100)
    batches = [rows[i : i + 16_384] for i in range(0, TOTAL, 16_384)]
    ratios, free = [], []
    with (
        emu.rack("u250:2", link_gbps=GBPS, launch_us=LAUNCH_US),
        fpgahal.open_all() as devices,
        xgboost.load(devices[0], model_file) as one,
        xgboost.load(devices, model_file) as both,
        one.pipeline() as single,
        both.pipeline() as pair,
    ):
        drain(single.map(batches))
        drain(pair.map(batches))
        for _ in range(9):
            alone = seconds(lambda: drain(single.map(batches)))
            ratios.append(alone / seconds(lambda: drain(pair.map(batches))))
            free.append(cores())
    ratio, cores_free = statistics.median(ratios), statistics.median(free)
    goal = 1.8 if cores_free >= 1.8 else None
    print(f"two boards: {ratio:.2f}x one; cores that were free: {cores_free:.2f}")
    book.enter("pipeline on two boards", alone / ratio, alone, "on one", at_least=goal)


def cores() -> float:
    """How many of two cores are free now: how much faster two threads do twice the work of one."""
    data = np.random.default_rng(2).normal(size=1 << 20)
    alone = seconds(lambda: np.sort(data))
    threads = [threading.Thread(target=np.sort, args=(data,)) for _ in range(2)]

    def both() -> None:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return 2 * alone / seconds(both)
