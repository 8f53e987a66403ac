# SPDX-License-Identifier: Apache-2.0
"""What pyopae (OPAE SDK 2.14) and pyxrt (XRT 2.13) do wrong, each reproduced there: here fpgahal does it right.

Each docstring names the defect.  Where a longer test exists elsewhere, it says which.

What they lack, and fpgahal lacks as well, is no defect and has no test: registers of 512 bits, buffers in memory that
the caller has pinned, and the metrics of the board's management controller (pyopae); buffers exported to other
processes and imported from them, and scalars given as bytes (pyxrt; fpgahal refuses those, see
test_an_argument_is_set_or_refused).  Setting a user clock without programming an image is of that kind, too.
Wheels for every Python, which neither has, are tested by `nox -s wheels`.
"""

from __future__ import annotations

import asyncio
import gc
import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from targets import Target

import fpgahal
from fpgahal import Bitstream, RunState, emu
from fpgahal._gbs import build_gbs


def vm_size() -> int:
    """Address space of this process in MiB."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGESIZE") >> 20


def ticks_during(wait: Callable[[], object]) -> int:
    """How often another thread gets to run in a wait that takes 0.3 s and ends in TimeoutError."""
    ready = threading.Event()

    def work() -> None:
        ready.set()
        with pytest.raises(TimeoutError):
            wait()

    thread = threading.Thread(target=work)
    thread.start()
    ready.wait()
    ticks = 0
    while thread.is_alive():
        time.sleep(0.001)
        ticks += 1
    thread.join()
    return ticks


def arguments(target: Target, dev: fpgahal.Device) -> tuple[object, ...]:
    return target.args(dev.allocate(64), dev.allocate(64), 64)


# --- pyopae -----------------------------------------------------------------------------------------------------


def test_a_deleted_buffer_is_freed(dev: fpgahal.Device) -> None:
    """pyopae: `del buffer` never frees; 1000 times 2 MiB stay mapped.  More: faults/test_leaks.py."""
    before = vm_size()
    for _ in range(200):
        buffer = dev.allocate(2 << 20)
        del buffer
    gc.collect()
    assert vm_size() - before < 100


def test_a_deleted_device_is_closed(target: Target) -> None:
    """pyopae: after `del handle` the board stays BUSY as long as the process lives."""
    dev = fpgahal.open(target.info)
    dev.program(target.image)
    buffer = dev.allocate(64)
    del dev, buffer
    gc.collect()
    fpgahal.open(target.info).close()


@pytest.mark.parametrize("view_of", [np.asarray, memoryview])
def test_a_view_is_good_after_the_device(target: Target, view_of: Callable[[object], object]) -> None:
    """pyopae, pyxrt: a view used after the `with`, or after its buffer, is a SIGSEGV."""
    with target.device() as dev:
        buffer = dev.allocate(64)
        view = view_of(buffer)
        for close in (buffer.close, dev.close):
            with pytest.raises(BufferError):
                close()
        del buffer
        gc.collect()
        view[63] = 7  # type: ignore[index]
        assert view[63] == 7  # type: ignore[index]
        del view


def test_an_element_is_as_wide_as_its_type(dev: fpgahal.Device) -> None:
    """pyopae: `buf[8] = 1` writes four bytes."""
    buffer = dev.allocate(64)
    view = memoryview(buffer)
    view[:] = b"\xff" * 64
    view[8] = 1
    assert bytes(view[7:13]) == b"\xff\x01\xff\xff\xff\xff"
    with pytest.raises(ValueError, match="invalid value"):
        view[8] = 256
    del view


def test_an_index_has_bounds(dev: fpgahal.Device) -> None:
    """pyopae: buf[4160] of a buffer of 4096 bytes reads memory that is not its own."""
    buffer = dev.allocate(4096)
    view, array = memoryview(buffer), np.asarray(buffer)
    for index in (4096, 4160, -4097):
        with pytest.raises(IndexError):
            view[index]
        with pytest.raises(IndexError):
            array[index]
    with pytest.raises(fpgahal.ArgumentRangeError):
        buffer.sync_to_device(4096, 64)
    with pytest.raises(fpgahal.ArgumentRangeError):
        buffer.poll32(4096, 1, 1, timeout=0.1)
    del view, array


def test_a_slice_is_a_view(dev: fpgahal.Device) -> None:
    """pyopae: buf[a:b] is a list of ints, 240 times slower than bytes."""
    buffer = dev.allocate(4096)
    part = memoryview(buffer)[16:32]
    assert isinstance(part, memoryview)
    part[0] = 5
    assert bytes(np.asarray(buffer)[16:18]) == bytes([5, part[1]])
    del part


def test_polling_lets_other_threads_run(dev: fpgahal.Device) -> None:
    """pyopae: poll32 with a timeout of 0.3 s stops all threads."""
    buffer = dev.allocate(64)
    np.asarray(buffer)[:] = 0
    assert ticks_during(lambda: buffer.poll32(0, 1, 1, timeout=0.3)) > 20


@pytest.mark.driver("opae")
def test_polling_a_register_lets_other_threads_run(dev: fpgahal.Device) -> None:
    """The same for registers."""
    assert ticks_during(lambda: dev.csr.poll(0x100, 1, 1, timeout=0.3)) > 20


def test_errors_have_a_class_and_a_code(target: Target) -> None:
    """pyopae, pyxrt: whatever fails is a RuntimeError (or IndexError) without a code.  More: faults/test_faults.py."""
    with target.device() as dev, pytest.raises(fpgahal.DeviceBusyError) as busy:
        fpgahal.open(target.info)
    assert isinstance(busy.value, BlockingIOError)
    if dev.driver == "opae":
        assert busy.value.code == 2  # FPGA_BUSY


def test_a_misspelt_name_is_an_error(target: Target, dev: fpgahal.Device) -> None:
    """pyopae: handle.typo is None, because attributes are looked up in sysfs."""
    for one in (dev, dev.allocate(64), dev.csr, dev.kernel(target.kernel), target.info):
        with pytest.raises(AttributeError):
            one.typo  # noqa: B018


def test_a_misspelt_property_is_an_error(target: Target) -> None:
    """pyopae: properties(bogus=1) matches everything; an unset guid prints to stderr and is ''."""
    with pytest.raises(TypeError, match="bogus"):
        fpgahal.open(bogus=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="bogus"):
        fpgahal.find(bogus=1)
    assert fpgahal.DeviceInfo("0000:01:00.0").afu_id is None


def test_programming_leaves_the_callers_file_alone(target: Target, tmp_path: Path) -> None:
    """pyopae: reconfigure(file) closes Python's descriptor (EBADF at the exit)."""
    path = tmp_path / "image"
    path.write_bytes(target.image)
    with fpgahal.open(target.info) as dev, path.open("rb") as file:
        dev.program(path)
        dev.program(file.read())
        assert os.fstat(file.fileno()).st_size == len(target.image)


def test_listing_opens_nothing(target: Target) -> None:
    """pyopae: enumerate asks the library twice and clones each token; ours reads sysfs, also while it is open."""
    with target.device():
        files = len(os.listdir("/proc/self/fd"))
        assert target.info.bdf in [info.bdf for info in fpgahal.devices()]
        assert len(os.listdir("/proc/self/fd")) == files


def test_polling_names_its_mask(dev: fpgahal.Device) -> None:
    """pyopae: poll compares the whole byte unless a mask is given; NLB's status has a sequence number beside it."""
    buffer = dev.allocate(4, np.uint32)
    np.asarray(buffer)[0] = 0xABC1
    assert buffer.poll32(0, mask=1, value=1, timeout=1) == 0xABC1
    with pytest.raises(TypeError):
        buffer.poll32(0, timeout=1)  # type: ignore[call-arg]


def test_importing_it_loads_no_vendor_library() -> None:
    """pyopae: needs OPAE's C++ libraries at import, and has no type stubs.  More: faults/test_libraries.py."""
    code = "import fpgahal; maps = open('/proc/self/maps').read(); assert 'opae-c' not in maps and 'libxrt' not in maps"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert Path(fpgahal.__file__).with_name("py.typed").exists()


@pytest.mark.driver("opae")
@pytest.mark.parametrize("cut", [0, 10, 20, 100, -1])
def test_a_cut_image_is_refused_here(target: Target, cut: int) -> None:
    """libopae-c: json lengths beyond the file are read all the same.  More: unit/test_gbs.py, unit/test_xclbin.py."""
    with pytest.raises(fpgahal.BitstreamError):
        Bitstream.parse(target.image[:cut])


@pytest.mark.driver("opae")
def test_a_user_clock_is_known_before_programming(target: Target) -> None:
    """pyopae: knows no user clocks.  libopae-c sets what the image asks for; the binding that can't says so, see
    faults/test_dfl.py."""
    image = Bitstream.parse(target.image)
    assert image.interface_id is not None
    asking = build_gbs(image.afu_id, image.interface_id, image.payload, clock_mhz=200)
    assert Bitstream.parse(asking).clocks == (("high", 200.0), ("low", 100.0))
    with fpgahal.open(target.info) as dev:
        assert dev.program(asking, force=True)


def test_every_binding_has_stubs() -> None:
    """pyopae, pyxrt: no type stubs.  That they say the truth: typing/test_stubs.py."""
    folder = Path(fpgahal.__file__).parent
    for module in {sys.modules[getattr(fpgahal, name).__module__] for name in ("Buffer", "Csr", "Kernel", "Run")}:
        assert str(module.__file__).endswith(".so")
        assert (folder / f"{module.__name__.rpartition('.')[2]}.pyi").exists()


@pytest.mark.driver("opae")
def test_a_buffer_that_is_too_large_is_explained(dev: fpgahal.Device) -> None:
    """libopae-c: above 1 GiB it says "invalid parameter", because one buffer is one physical page."""
    with pytest.raises(fpgahal.ArgumentRangeError, match="at most 1 GiB in one buffer"):
        dev.allocate((1 << 30) + 1)


@pytest.mark.driver("opae")
def test_a_missing_huge_page_is_named(target: Target, dev: fpgahal.Device) -> None:
    """libopae-c: without huge pages, larger buffers fail with "out of memory".  More: faults/test_dfl.py."""
    target.need_rack().fault(target.info, "call", call="fpgaPrepareBuffer", code=5, count=1)
    with pytest.raises(fpgahal.DeviceMemoryError, match="huge pages"):
        dev.allocate(8192)


# --- pyxrt ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [16.0, 2**70, "x", -1, None, b"\1"])
def test_an_argument_is_set_or_refused(target: Target, dev: fpgahal.Device, bad: object) -> None:
    """pyxrt: kernel(a, b, out, 16.0) keeps the number of the run before, and completes.  More: test_kernel.py."""
    kernel = dev.kernel(target.kernel)
    src, dst, count = arguments(target, dev)
    kernel(src, dst, count, timeout=30)
    with pytest.raises((TypeError, ValueError), match="argument 2"):
        kernel.start(src, dst, bad)


SCALARS = """
[accelerators.scalars]
kernels = ["passthrough"]
[kernels.passthrough]
arguments = [
    { name = "src", type = "void*", offset = 0x10 },
    { name = "dst", type = "void*", offset = 0x1c },
    { name = "bytes", type = "ulong", offset = 0x28 },
    { name = "f", type = "float", offset = 0x34 },
    { name = "d", type = "double", offset = 0x3c },
    { name = "i", type = "long", offset = 0x48 },
]
"""


@pytest.mark.fpga(boards="u250")
def test_scalars_of_all_types(
    fpga_device: fpgahal.Device, fpga_rack: emu.Rack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pyxrt: takes no 64-bit, float or bytes scalars at all."""
    (tmp_path / "scalars.toml").write_text(SCALARS)
    monkeypatch.setenv("FPGAHAL_ACCELERATORS", str(tmp_path / "scalars.toml"))
    fpga_device.program(emu.build_image("scalars", fpga_rack.board(0)))
    src, dst = fpga_device.allocate(64), fpga_device.allocate(64)
    with fpga_device.kernel("passthrough", exclusive=True) as kernel:
        kernel(src, dst, np.uint64(64), 1.5, np.float64(-0.1), -(2**40), timeout=30)
        words = [kernel.csr.read32(offset) for offset in (0x34, 0x3C, 0x40, 0x48, 0x4C)]
    assert struct.pack("<5I", *words) == struct.pack("<fdq", 1.5, -0.1, -(2**40))


def test_waiting_lets_other_threads_run(target: Target, dev: fpgahal.Device) -> None:
    """pyxrt: wait() holds the GIL."""
    target.need_rack().fault(target.info, "hang", count=1)
    run = dev.kernel(target.kernel).start(*arguments(target, dev))
    assert ticks_during(lambda: run.wait(0.3)) > 20
    dev.reset()


def test_strided_arrays_are_copied_right(dev: fpgahal.Device) -> None:
    """pyxrt: bo.write of a strided array writes the wrong bytes; bo.read always allocates and returns int8."""
    buffer = dev.allocate(8, np.uint16)
    strided = np.arange(16, dtype=np.uint16)[::2]
    np.asarray(buffer)[:] = strided
    assert bytes(memoryview(buffer)) == strided.tobytes()
    into = np.empty(8, np.uint16)
    into[:] = np.asarray(buffer)
    assert np.array_equal(into, strided)
    assert buffer.dtype == np.uint16


def test_an_end_can_be_awaited(target: Target, dev: fpgahal.Device) -> None:
    """pyxrt: add_callback is there, but can't be called."""

    async def main() -> RunState:
        return await dev.kernel(target.kernel).start(*arguments(target, dev))

    assert asyncio.run(main()) is RunState.COMPLETED


def test_boards_are_listed_and_registers_read(target: Target, dev: fpgahal.Device) -> None:
    """pyxrt: no enumeration, registers, parts of a buffer, or queues."""
    assert target.info.bdf in [info.bdf for info in fpgahal.devices()]
    if target.info.driver == "xrt":
        with dev.kernel(target.kernel, exclusive=True) as kernel:
            kernel.csr.write32(0x10, 5)
            assert kernel.csr.read32(0x10) == 5
    dev.allocate(256).sync_to_device(64, 64)
    assert dev.kernel(target.kernel).map([arguments(target, dev)] * 3) == 3


def test_a_part_needs_no_end(dev: fpgahal.Device) -> None:
    """pyxrt: bo.sync has no default for size and offset."""
    buffer = dev.allocate(256)
    for sync in (buffer.sync_to_device, buffer.sync_from_device):
        sync()
        sync(64)
        sync(size=64)


def test_a_run_can_be_stopped(target: Target, dev: fpgahal.Device) -> None:
    """pyxrt: no abort.  More: conformance/kernel.py."""
    target.need_rack().fault(target.info, "hang", count=1)
    kernel = dev.kernel(target.kernel)
    run = kernel.start(*arguments(target, dev))
    dev.reset()
    assert run.state is RunState.ABORTED
    kernel(*arguments(target, dev), timeout=30)


def test_a_scalar_has_no_bank(target: Target, dev: fpgahal.Device) -> None:
    """pyxrt: group_id(scalar) is IndexError("vector::_M_range_check")."""
    args = dev.kernel(target.kernel).info.args
    assert args[2].banks == ()
    with pytest.raises(fpgahal.FpgaError):
        dev.allocate(64, bank=9999)
    with pytest.raises(ValueError, match="has no memory bank"):
        dev.allocate(64, bank="DDR[99]")


def test_there_is_no_run_that_never_started(target: Target, dev: fpgahal.Device) -> None:
    """pyxrt: wait() of a run that was not started hangs for ever."""
    with pytest.raises(TypeError):
        fpgahal.Run()
    run = dev.kernel(target.kernel).start(*arguments(target, dev))
    assert run.wait(30) is RunState.COMPLETED
    assert run.wait(30) is RunState.COMPLETED
