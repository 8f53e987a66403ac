# SPDX-License-Identifier: Apache-2.0
"""A user's program: ``mypy --strict`` must accept it, and know the types that the comments say."""

from __future__ import annotations

from pathlib import Path
from typing import assert_type
from uuid import UUID

import numpy as np

import fpgahal
from fpgahal import emu
from fpgahal.kernels import NLB0, NLB3, NLBResult


def loopback(image: Path) -> bool:
    """Registers, buffers and a kernel."""
    with fpgahal.open(afu_id=NLB0.AFU_ID, shared=True, timeout=1.0) as dev:
        assert_type(dev, fpgahal.Device)
        assert_type(dev.info.bdf, str)
        assert_type(dev.info.health.ok, bool)
        assert_type(dev.afu_id, UUID | None)
        assert_type(dev.program(image, timeout=30, force=True), bool)
        assert_type(dev.csr.read64(0x8), int)
        src, dst = dev.allocate((4, 16), np.float32), dev.allocate(64, "u1", bank="host")
        assert_type(src, fpgahal.Buffer)
        view = np.asarray(src)
        view[:] = 1.0
        kernel = dev.kernel("lpbk1")
        run = kernel.start(src, dst, 4)
        assert_type(run, fpgahal.Run)
        assert_type(run.wait(timeout=1), fpgahal.RunState)
        assert_type(kernel.map([(src, dst, 1)] * 10), int)
        return run.done


def bandwidth(dev: fpgahal.Device) -> float:
    """An accelerator's host side."""
    with dev.allocate(1 << 20) as src, dev.allocate(1 << 20) as dst:
        result = NLB3(dev).run(src, dst, mode="trput")
        assert_type(result, NLBResult)
        return result.read_gbps


def emulated() -> list[fpgahal.DeviceInfo]:
    """Emulated boards."""
    with emu.rack("pac-a10:2", "u250") as rack:
        rack.fault(0, "hang", count=1)
        image = fpgahal.Bitstream.parse(emu.build_image("nlb3", emu.boards()["pac-a10"]))
        assert_type(image.afu_id, UUID)
        return rack.devices()


async def later(run: fpgahal.Run) -> fpgahal.RunState:
    """A run is awaitable."""
    return await run
