# SPDX-License-Identifier: Apache-2.0
"""The vendors' own Python bindings beside ours, over the same library and the same emulated boards.

Neither is in a package index, so each test runs where its peer is importable.  The boards are then those below the
vendor's library: ``FPGAHAL_EMU_XRT=real FPGAHAL_EMU_OPAE=real``, which is for a whole process (report.py sets it).
"""

from __future__ import annotations

import ctypes
import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import repeat
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

#: Contenders differ by nanoseconds here: slices that the scheduler seldom cuts in two, and of those the quicker ones.
SHORT: Any = {"slice_seconds": 0.002, "slices": 151, "quantile": 0.25}


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
def theirs(pyxrt: ModuleType, xrt_device: fpgahal.Device, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Theirs]:
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


def c_loop(function: Callable[..., float], *args: object) -> Timed:
    """A contender that loops in C; `function(*args, rounds)` returns nanoseconds."""

    def timed(rounds: int) -> float:
        spent = function(*args, rounds)
        assert spent >= 0
        return spent * 1e-9

    return timed


@pytest.fixture(scope="module")
def in_c(baseline: ctypes.CDLL, xrt_device: fpgahal.Device) -> Iterator[tuple[int, list[int]]]:
    """The same kernel and buffers for the loops in C."""
    image = emu.build_image("vadd", emu.boards()["u250"])
    device = baseline.baseline_xrt_open(xrt_device.info.bdf.encode(), image)
    kernel = baseline.baseline_xrt_kernel(device, b"vadd")
    bank = xrt_device.kernels[0].args[0].banks[0]
    buffers = [baseline.baseline_xrt_buffer(device, SIZE, bank) for _ in range(3)]
    assert kernel
    assert all(buffers)
    yield kernel, buffers
    baseline.baseline_xrt_close(device, kernel, (ctypes.c_void_p * 3)(*buffers), 3)


def test_runs(
    book: Any,
    baseline: ctypes.CDLL,
    in_c: tuple[int, list[int]],
    theirs: Theirs,
    kernel: fpgahal.Kernel,
    buffers: list[fpgahal.Buffer],
) -> None:
    a, b, out, d, e, f = buffers
    x, y, z = theirs.buffers
    c_kernel, c_buffers = in_c
    run, start, wait = theirs.run, theirs.run.start, theirs.run.wait
    thousand = [(a, b, out, 16)] * MANY

    def a_thousand() -> None:
        for _ in repeat(None, MANY):
            start()
            wait(1000)

    times = interleave(
        {
            "again": loop("start(a, b, out, 16).wait()", start=kernel.start, a=a, b=b, out=out),
            "new": loop(
                "start(a, b, out, 16).wait(); start(d, e, f, 17).wait()",
                start=kernel.start,
                a=a,
                b=b,
                out=out,
                d=d,
                e=e,
                f=f,
            ),
            "call": loop("kernel(a, b, out, 16)", kernel=kernel, a=a, b=b, out=out),
            "map": in_lots(lambda: kernel.map(thousand)),
            "their again": loop("start(); wait(1000)", start=start, wait=wait),
            "their set": loop("set(0, x); set(1, y); set(2, z); set(3, 16)", set=run.set_arg, x=x, y=y, z=z),
            "their call": loop("kernel(x, y, z, 16).wait(1000)", kernel=theirs.kernel, x=x, y=y, z=z),
            "their thousand": in_lots(a_thousand),
            "c again": c_loop(baseline.baseline_restart, c_kernel, *c_buffers, 16),
            "c new": c_loop(baseline.baseline_vadd, c_kernel, *c_buffers, 16),
        },
        **SHORT,
    )
    their_new = times["their set"] + times["their again"]
    for what, ours, other, floor, goal in (
        ("start a run again, and wait", times["again"], times["their again"], times["c again"], 1.2),
        ("kernel(a, b, out, n), and wait", times["call"], times["their call"], times["c new"], 12),
        ("set four other arguments, start, and wait", times["new"] / 2, their_new, times["c new"], 2.5),
        ("1,000 runs, each", times["map"], times["their thousand"], times["c again"], 1.8),
    ):
        book.peer(what, ours, other, "pyxrt", at_least=goal, floor=floor)


def test_sync(
    book: Any,
    baseline: ctypes.CDLL,
    in_c: tuple[int, list[int]],
    theirs: Theirs,
    buffers: list[fpgahal.Buffer],
) -> None:
    there = theirs.to_device
    times = interleave(
        {
            "ours": loop("sync()", sync=buffers[0].sync_to_device),
            "theirs": loop("sync(there, 4096, 0)", sync=theirs.buffers[0].sync, there=there),
            "c": c_loop(baseline.baseline_sync, in_c[1][0], SIZE, 1),
        },
        **SHORT,
    )
    book.peer("sync 4 KiB", times["ours"], times["theirs"], "pyxrt", at_least=1.05, floor=times["c"])


@pytest.fixture(scope="module")
def their_handle(pyopae: ModuleType, opae_device: fpgahal.Device) -> Iterator[Any]:
    with pyopae.open(pyopae.enumerate(type=pyopae.ACCELERATOR)[0], pyopae.OPEN_SHARED) as handle:
        yield handle


def test_registers(book: Any, baseline: ctypes.CDLL, their_handle: Any, opae_device: fpgahal.Device) -> None:
    handle = baseline.baseline_opae_open()
    assert handle
    csr = opae_device.csr
    times = interleave(
        {
            "read": loop("read64(8)", read64=csr.read64),
            "write": loop("write64(0x108, 5)", write64=csr.write64),
            "their read": loop("read64(8)", read64=their_handle.read_csr64),
            "their write": loop("write64(0x108, 5)", write64=their_handle.write_csr64),
            "c": c_loop(baseline.baseline_read64, handle, 8),
        },
        **SHORT,
    )
    baseline.baseline_opae_close(handle)
    book.peer("read a register", times["read"], times["their read"], "pyopae", at_least=3, floor=times["c"])
    book.peer("write a register", times["write"], times["their write"], "pyopae", at_least=2)


#: In a process whose /sys and /dev are the rack's, libopae-c loads its own plugin, which walks sysfs as it would on
#: a card.  Prints seconds for one enumeration with what DeviceInfo holds: ours, theirs.
ENUMERATION = """
import fpgahal
from harness import interleave, loop
from opae import fpga

NAMES = ("guid segment bus device function vendor_id device_id subsystem_vendor_id subsystem_device_id interface "
         "object_id accelerator_state").split()

def theirs():
    found = map(fpga.properties, fpga.enumerate(type=fpga.ACCELERATOR))
    return [[getattr(properties, name) for name in NAMES] for properties in found]

assert len(fpgahal.devices()) == len(theirs()) == 8
times = interleave({"ours": loop("f()", f=fpgahal.devices), "theirs": loop("f()", f=theirs)}, slices=21)
print(times["ours"], times["theirs"])
"""

#: Makes that process: device nodes that are there are all that libxfpga asks for.
NAMESPACE = """
mount --rbind "$1/sys" /sys && mount -t tmpfs none /mnt && mkdir /mnt/shm && mount --rbind /dev/shm /mnt/shm
for node in "$1"/dev/*; do mknod "/mnt/${node##*/}" c 1 3; done
mknod /mnt/null c 1 3; mknod /mnt/urandom c 1 9; mount --rbind /mnt /dev && exec "$2" -c "$3"
"""


def test_enumeration(book: Any, pyopae: ModuleType) -> None:
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("a private /sys needs the right to mount (root)")
    with emu.rack("pac-a10:8") as rack:
        variables = {"FPGAHAL_EMU_RACK": str(rack.dir), "PYTHONPATH": str(Path(__file__).parent)}
        if named := os.environ.get("FPGAHAL_OPAE_LIBRARY"):  # its plugins lie beside it
            variables["LD_LIBRARY_PATH"] = str(Path(named).parent)
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", NAMESPACE, "sh", rack.dir, sys.executable, ENUMERATION],
            env=os.environ | variables,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    ours, theirs = map(float, done.stdout.split())
    book.peer("enumerate 8 boards, with ids and state", ours, theirs, "pyopae, libxfpga", at_least=3)


def test_release(book: Any, their_handle: Any, pyopae: ModuleType, opae_device: fpgahal.Device) -> None:
    """What allocating and dropping costs in address space: theirs is never given back."""
    size, rounds = 2 << 20, 50

    def mapped() -> int:
        return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")

    def grown(drop: Callable[[], object]) -> int:
        drop()
        before = mapped()
        for _ in range(rounds):
            drop()
        return mapped() - before

    ours = grown(lambda: opae_device.allocate(size).device_address)
    theirs = grown(lambda: pyopae.allocate_shared_buffer(their_handle, size).io_address())
    print(f"after {rounds} buffers of 2 MiB: fpgahal +{ours >> 20} MiB, pyopae +{theirs >> 20} MiB")
    assert ours < size
