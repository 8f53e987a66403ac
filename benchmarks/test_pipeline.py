# SPDX-License-Identifier: Apache-2.0
"""Pipelines: how near to the ideal, where a board never waits for its link, nor the link for the board.

The ideal is the longer of two sums: the bytes at the link's speed, and the runs of the kernel alone, measured in turn
with the pipeline in the same process.  An emulated board computes on one of this computer's cores, and the host's
copies need another: the goals count where two are free at the time.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from functools import partial
from itertools import repeat
from typing import Any

import numpy as np
import pytest
from harness import cores, seconds, settled

import fpgahal
from fpgahal import emu
from fpgahal.kernels import Pipeline, Work, open_kernel, xgboost
from fpgahal.kernels.vadd import PASSTHROUGH
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


each_vendor = pytest.mark.parametrize("kind", ["u250", "pac-a10"])


@pytest.fixture(scope="module", params=["u250", "pac-a10"])
def board(request: pytest.FixtureRequest, rows: Any) -> Iterator[xgboost.Model]:
    with (
        emu.rack(request.param, link_gbps=GBPS, launch_us=LAUNCH_US),
        fpgahal.open() as dev,
        xgboost.load(dev, booster(rows, 16)) as model,  # some 10 million rows/s on one core: near the link's speed
    ):
        yield model


def drain(results: Iterator[Any]) -> None:
    for _ in results:
        pass


def compare(book: Any, what: str, link: float, contenders: dict[str, Callable[[], Any]], goal: float | None) -> None:
    """Take turns; print serial, pipeline and ideal; with a goal, note how near to the ideal the pipeline is."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    free = []
    for _ in range(5):
        free.append(cores())
        for name, call in contenders.items():
            times[name].append(settled(call, 3))
    ideals = [max(link, run) for run in times["runs"]]
    ratio = statistics.median(ours / ideal for ours, ideal in zip(times["pipeline"], ideals, strict=True))
    serial, ideal, cores_free = (statistics.median(values) for values in (times["serial"], ideals, free))
    print(
        f"{what}: serial {serial * 1e3:6.1f} ms, pipeline {ratio * ideal * 1e3:6.1f} ms, ideal {ideal * 1e3:6.1f} ms "
        f"(link {link * 1e3:.1f} ms), ratio {ratio:.2f}; {cores_free:.1f} cores free"
    )
    if goal is not None:
        book.enter(what, ratio * ideal, ideal, "max(link, runs)", at_most=goal if cores_free >= 1.8 else None)


def test_chunk_sizes(book: Any, board: xgboost.Model, rows: Any) -> None:
    """The table: one after the other, pipeline, ideal; the goal is for the size that `pipeline` has by default."""
    kind = board.boards[0].dev.driver
    link = TOTAL * FEATURES * 4 / GBPS / 1e9
    for size in (1024, 4096, 8192, 16_384, 65_536):
        batches = [rows[i : i + size] for i in range(0, TOTAL, size)]
        slots = [Slot(board.boards[0], size) for _ in range(3)]  # as many as the pipeline has: caches notice
        for slot in slots:
            slot.upload(xgboost._rows.Rows(batches[0], FEATURES), 0, size, np.nan)
        with board.pipeline(size) as pipe:
            contenders = {
                "pipeline": lambda pipe=pipe, batches=batches: drain(pipe.map(batches)),
                "serial": lambda batches=batches: [board.predict(batch) for batch in batches],
                "runs": lambda slots=slots, batches=batches, size=size: [
                    slots[i % 3].run(size, 0, board.forest.n_trees) for i in range(len(batches))
                ],
            }
            what = f"pipeline of {TOTAL:,} rows, {size:,} a batch, 11 GB/s, 50 µs ({kind.upper()})"
            compare(book, what, link, contenders, 1.15 if size == 16_384 else None)
        for slot in slots:
            slot.close()


class Copies:
    """A lane of passthrough: what comes back is what was sent."""

    def __init__(self, device: fpgahal.Device, kernel: fpgahal.Kernel, size: int) -> None:
        self.device, self.kernel, self.size = device, kernel, size
        self.there, self.back = device.allocate(size), device.allocate(size)

    def fill(self, batch: Any) -> Work:
        np.copyto(np.asarray(self.there), batch)
        return Work((self.there, self.back, self.size), ((self.there, self.size),), ((self.back, self.size),))

    def batch(self) -> Any:
        return np.asarray(self.there)

    def result(self) -> Any:
        return np.array(self.back)

    def close(self) -> None:
        self.there.close()
        self.back.close()


@each_vendor
def test_board_that_computes_by_itself(book: Any, kind: str) -> None:
    """A run takes 1 ms, a transfer 0.5 ms, and next to none of it this computer's: as with a card."""
    size, count, gbps = 262_144, 100, 0.5
    data = np.random.default_rng(3).integers(0, 256, size, np.uint8)
    with emu.rack(kind, link_gbps=gbps, launch_us=1000), fpgahal.open() as dev:
        kernel = open_kernel(dev, PASSTHROUGH)
        board = [partial(Copies, dev, kernel, size)]
        lane = board[0]()
        args = lane.fill(data).args
        with Pipeline(board) as pipe, Pipeline(board, depth=1) as slow:
            contenders = {
                "pipeline": lambda: drain(pipe.map(repeat(data, count))),
                "serial": lambda: drain(slow.map(repeat(data, count))),
                "runs": lambda: [kernel(*args) for _ in range(count)],
            }
            what = f"pipeline of {count} batches, runs of 1 ms, transfers of 0.5 ms ({dev.driver.upper()})"
            compare(book, what, size * count / gbps / 1e9, contenders, 1.15)
        lane.close()


def test_two_boards(book: Any, rows: Any) -> None:
    """Noted without a goal: with the host's copies, one emulated board keeps one and a half cores busy already."""
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
    ratio = statistics.median(ratios)
    print(f"two boards: {ratio:.2f}x one; cores that were free: {statistics.median(free):.2f}")
    book.enter("pipeline on two boards", alone / ratio, alone, "on one")
