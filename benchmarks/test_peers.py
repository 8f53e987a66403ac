# SPDX-License-Identifier: Apache-2.0
"""The vendors' own Python bindings beside ours, over the same library and the same emulated boards.

Neither is in a package index, so each test runs where its peer is importable.  The boards are then those below the
vendor's library: ``FPGAHAL_EMU_XRT=real FPGAHAL_EMU_OPAE=real``, which is for a whole process (report.py sets it).
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from harness import Timed, interleave, loop

import fpgahal
from fpgahal import emu

SIZE = 4096
MANY = 1000


def peer(name: str, variable: str, source: str) -> ModuleType:
    """The peer's module, or a skip that says how to get one."""
    module = pytest.importorskip(name, reason=f"{name} is not importable: build it from {source}")
    if os.environ.get(variable) != "real":
        pytest.skip(f"{name} works over the vendor's library, so emulated boards must too: set {variable}=real")
    return module


@pytest.fixture(scope="module")
def pyxrt() -> ModuleType:
    return peer("pyxrt", "FPGAHAL_EMU_XRT", "Xilinx/XRT, src/python/pybind11, for the libxrt that is installed")


@pytest.fixture(scope="module")
def pyopae() -> ModuleType:
    return peer("opae.fpga", "FPGAHAL_EMU_OPAE", "OFS/opae-sdk, libraries/pyopae, for the libopae-c that is installed")


class Theirs:
    """vadd on u250 through pyxrt: device, kernel, three buffers, and a run of them."""

    def __init__(self, pyxrt: ModuleType, bdf: str, image: Path) -> None:
        self.device = pyxrt.device(bdf)
        self.kernel = pyxrt.kernel(self.device, self.device.load_xclbin(str(image)), "vadd")
        self.buffers = [
            pyxrt.bo(self.device, SIZE, pyxrt.bo.normal, self.kernel.group_id(argument)) for argument in range(3)
        ]
        self.run = self.kernel(*self.buffers, 16)
        self.run.wait(1000)
        self.to_device = pyxrt.xclBOSyncDirection.XCL_BO_SYNC_BO_TO_DEVICE


@pytest.fixture(scope="module")
def theirs(
    pyxrt: ModuleType, xrt_device: fpgahal.Device, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Theirs]:
    image = tmp_path_factory.mktemp("image") / "vadd.xclbin"
    image.write_bytes(emu.build_image("vadd", emu.boards()["u250"]))
    yield Theirs(pyxrt, xrt_device.info.bdf, image)
    gc.collect()  # pyxrt's objects go before the board


@pytest.fixture(scope="module")
def kernel(xrt_device: fpgahal.Device) -> Iterator[fpgahal.Kernel]:
    with xrt_device.kernel("vadd") as kernel:
        yield kernel


@pytest.fixture(scope="module")
def buffers(xrt_device: fpgahal.Device) -> Iterator[list[fpgahal.Buffer]]:
    buffers = [xrt_device.allocate(SIZE // 4, np.uint32) for _ in range(6)]
    yield buffers
    for buffer in buffers:
        buffer.close()


def in_lots(call: Callable[[], object]) -> Timed:
    """A contender whose call does MANY of them."""

    def timed(rounds: int) -> float:
        lots = max(1, rounds // MANY)
        begin = time.perf_counter()
        for _ in range(lots):
            call()
        return (time.perf_counter() - begin) * rounds / (lots * MANY)

    return timed


def test_runs(book: Any, theirs: Theirs, kernel: fpgahal.Kernel, buffers: list[fpgahal.Buffer]) -> None:
    a, b, out, *others = buffers
    x, y, z = theirs.buffers
    run, start = theirs.run, theirs.run.start
    thousand = [(a, b, out, 16)] * MANY

    def reused() -> None:
        for _ in range(MANY):
            start()
            run.wait(1000)

    times = interleave(
        {
            "restart": loop("start(a, b, out, 16).wait()", start=kernel.start, a=a, b=b, out=out),
            "call": loop("kernel(a, b, out, 16)", kernel=kernel, a=a, b=b, out=out),
            "map": in_lots(lambda: kernel.map(thousand)),
            "their restart": loop("(start(), wait(1000))", start=start, wait=run.wait),
            "their call": loop("kernel(x, y, z, 16).wait(1000)", kernel=theirs.kernel, x=x, y=y, z=z),
            "their loop": in_lots(reused),
        }
    )
    print({k: f"{v*1e9:.0f}" for k, v in times.items()})
