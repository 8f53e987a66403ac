# SPDX-License-Identifier: Apache-2.0
"""Bandwidth between an array of the program and the device's memory, by size: copy and sync, both ways.

On an OPAE board a buffer is host memory that the AFU reaches by itself, so this is the cost of filling and
emptying it; what the AFU itself moves is measured with NLB3, and the way to the board's own memory with the DMA AFU.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from fpgahal import Buffer, Device
from fpgahal.bench.boards import load
from fpgahal.bench.report import Report
from fpgahal.cli.output import size_text
from fpgahal.kernels import DMA

Bytes = npt.NDArray[np.uint8]
SIZES = tuple(1 << bits for bits in range(12, 27, 2))  # 4 KiB to 64 MiB
MEMORY_SIZES = tuple(1 << bits for bits in range(12, 25, 4))  # 4 KiB to 16 MiB


def bandwidths(dev: Device, seconds: float, report: Report) -> list[dict[str, Any]]:
    """One entry a size: ``{"bytes", "to_device_gbps", "from_device_gbps", "memcpy_gbps"}``, GB/s of 10^9 bytes.

    memcpy is the same number of bytes from one array to another: what this computer's memory allows.
    """
    report.line(f"{'size':>8}  {'to device':>14}  {'from device':>14}  {'memcpy':>14}")
    found = []
    for size in SIZES:
        array = np.full(size, 0x5A, np.uint8)
        other = np.zeros_like(array)
        copied = _gbps(partial(np.copyto, other, array), size, seconds)
        with dev.allocate(size) as buffer:
            up = _gbps(partial(_upload, buffer, array), size, seconds)
            down = _gbps(partial(_download, buffer, array), size, seconds)
        found.append(
            {
                "bytes": size,
                "to_device_gbps": round(up, 4),
                "from_device_gbps": round(down, 4),
                "memcpy_gbps": round(copied, 4),
            }
        )
        report.line(f"{size_text(size):>8}  {up:>9.3f} GB/s  {down:>9.3f} GB/s  {copied:>9.3f} GB/s")
    return found


def board_memory(dev: Device, seconds: float, report: Report) -> list[dict[str, Any]]:
    """The same for the memory of an Intel PAC, through the DMA AFU; empty where the board does not run it."""
    if dev.info.driver != "opae" or not (dev.info.emulated or dev.afu_id == DMA.AFU_ID):
        return []
    load(dev, "dma", DMA.AFU_ID, None)
    report.line()
    report.line(f"{'size':>8}  {'to memory':>14}  {'from memory':>14}   (DMA AFU)")
    found = []
    with DMA(dev) as dma:
        for size in MEMORY_SIZES:
            array = np.full(size, 0x5A, np.uint8)
            up = _gbps(partial(dma.write, 0, array), size, seconds)
            down = _gbps(partial(dma.read, 0, array), size, seconds)
            found.append({"bytes": size, "to_memory_gbps": round(up, 4), "from_memory_gbps": round(down, 4)})
            report.line(f"{size_text(size):>8}  {up:>9.3f} GB/s  {down:>9.3f} GB/s")
    return found


def _upload(buffer: Buffer, array: Bytes) -> None:
    np.copyto(np.asarray(buffer), array)
    buffer.sync_to_device()


def _download(buffer: Buffer, array: Bytes) -> None:
    buffer.sync_from_device()
    np.copyto(array, np.asarray(buffer))


def _gbps(move: Callable[[], object], size: int, seconds: float) -> float:
    """The best of several runs: what the machine can do, not what else it did."""
    move()
    best, rounds, end = float("inf"), 0, time.perf_counter() + seconds
    while rounds < 3 or time.perf_counter() < end:
        start = time.perf_counter_ns()
        move()
        best = min(best, time.perf_counter_ns() - start)
        rounds += 1
    return size / best
