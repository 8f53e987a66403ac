# SPDX-License-Identifier: Apache-2.0
"""Emulated boards are no slower than the links that they stand for, where this computer's memcpy allows it."""

from __future__ import annotations

from typing import Any

import numpy as np
from harness import Timed, interleave, loop

import fpgahal
from fpgahal import emu
from fpgahal.kernels import NLB3

DMA_BYTES = 16 << 20
NLB_LINES = 65532


def memcpy(size: int) -> Timed:
    source, target = np.ones(size, np.uint8), np.zeros(size, np.uint8)
    return loop("copyto(target, source)", copyto=np.copyto, target=target, source=source)


def test_dma(book: Any, xrt_device: fpgahal.Device) -> None:
    with xrt_device.allocate(DMA_BYTES) as buffer:
        np.asarray(buffer)[:] = 1
        times = interleave(
            {
                "to": loop("sync()", sync=buffer.sync_to_device),
                "from": loop("sync()", sync=buffer.sync_from_device),
                "memcpy": memcpy(DMA_BYTES),
            }
        )
    for way in ("to", "from"):
        book.rate(f"u250: DMA {way} the device, 16 MiB", DMA_BYTES, times[way], times["memcpy"], 11)


def test_nlb3(book: Any) -> None:
    size = 64 * NLB_LINES
    with emu.rack("pac-a10") as rack, fpgahal.open(rack.devices()[0]) as dev:
        dev.program(emu.build_image("nlb3", emu.boards()["pac-a10"]))
        with dev.allocate(size) as src, dev.allocate(size) as dst, NLB3(dev) as nlb3:
            np.asarray(src)[:] = np.asarray(dst)[:] = 1

            def trput(rounds: int) -> float:
                """By the AFU's own clock, as nlb3 reckons."""
                return sum(size / nlb3.run(src, dst, lines=NLB_LINES).read_gbps / 1e9 for _ in range(rounds))

            times = interleave({"trput": trput, "memcpy": memcpy(size)})
    book.rate("pac-a10: NLB3 trput, each way, 4 MiB", size, times["trput"], times["memcpy"], 7)
