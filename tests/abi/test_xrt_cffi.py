# SPDX-License-Identifier: Apache-2.0
"""The emulated libxrt_coreutil, called by a program that knows nothing of fpgahal: cffi with its own declarations.

They were written from the C API of XRT 2.13, not from our header.
"""

from __future__ import annotations

import dataclasses
import errno
import shutil
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fpgahal import Bitstream, _library, emu

sys.path.insert(0, str(Path(__file__).parent))

from headers import control, exported, needed, table

cffi = pytest.importorskip("cffi")

CDEF = """
typedef void *xrtDeviceHandle; typedef void *xrtKernelHandle; typedef void *xrtRunHandle; typedef void *xrtBufferHandle;
typedef void *xrtXclbinHandle;
xrtDeviceHandle xrtDeviceOpen(unsigned int index);
xrtDeviceHandle xrtDeviceOpenByBDF(const char *bdf);
int xrtDeviceClose(xrtDeviceHandle dhdl);
int xrtDeviceLoadXclbin(xrtDeviceHandle dhdl, const void *xclbin);
int xrtDeviceLoadXclbinFile(xrtDeviceHandle dhdl, const char *path);
int xrtDeviceGetXclbinUUID(xrtDeviceHandle dhdl, unsigned char *out);
xrtKernelHandle xrtPLKernelOpen(xrtDeviceHandle dhdl, const unsigned char *uuid, const char *name);
xrtKernelHandle xrtPLKernelOpenExclusive(xrtDeviceHandle dhdl, const unsigned char *uuid, const char *name);
int xrtKernelClose(xrtKernelHandle khdl);
int xrtKernelArgGroupId(xrtKernelHandle khdl, int argno);
uint32_t xrtKernelArgOffset(xrtKernelHandle khdl, int argno);
int xrtKernelReadRegister(xrtKernelHandle khdl, uint32_t offset, uint32_t *data);
int xrtKernelWriteRegister(xrtKernelHandle khdl, uint32_t offset, uint32_t data);
xrtRunHandle xrtKernelRun(xrtKernelHandle khdl, ...);
xrtRunHandle xrtRunOpen(xrtKernelHandle khdl);
int xrtRunSetArg(xrtRunHandle rhdl, int index, ...);
int xrtRunStart(xrtRunHandle rhdl);
int xrtRunWait(xrtRunHandle rhdl);
int xrtRunWaitFor(xrtRunHandle rhdl, unsigned int timeout_ms);
int xrtRunState(xrtRunHandle rhdl);
int xrtRunSetCallback(xrtRunHandle rhdl, int state, void (*cb)(xrtRunHandle, int, void *), void *data);
int xrtRunClose(xrtRunHandle rhdl);
xrtBufferHandle xrtBOAlloc(xrtDeviceHandle dhdl, size_t size, uint64_t flags, uint32_t grp);
xrtBufferHandle xrtBOAllocUserPtr(xrtDeviceHandle dhdl, void *userptr, size_t size, uint64_t flags, uint32_t grp);
xrtBufferHandle xrtBOSubAlloc(xrtBufferHandle parent, size_t size, size_t offset);
int xrtBOFree(xrtBufferHandle bhdl);
size_t xrtBOSize(xrtBufferHandle bhdl);
uint64_t xrtBOAddress(xrtBufferHandle bhdl);
void *xrtBOMap(xrtBufferHandle bhdl);
int xrtBOSync(xrtBufferHandle bhdl, int dir, size_t size, size_t offset);
int xrtBOWrite(xrtBufferHandle bhdl, const void *src, size_t size, size_t seek);
int xrtBORead(xrtBufferHandle bhdl, void *dst, size_t size, size_t skip);
int xrtBOCopy(xrtBufferHandle dst, xrtBufferHandle src, size_t size, size_t dst_offset, size_t src_offset);
xrtXclbinHandle xrtXclbinAllocRawData(const char *data, int size);
int xrtXclbinGetUUID(xrtXclbinHandle xhdl, unsigned char *out);
size_t xrtXclbinGetNumKernels(xrtXclbinHandle xhdl);
int xrtXclbinFreeHandle(xrtXclbinHandle xhdl);
int xrtIniStringSet(const char *key, const char *value);
int fpgahal_emu_attach(const char *dir);
"""

COMPLETED, ERROR, ABORT, TIMEOUT = 4, 5, 6, 8
TO_DEVICE, FROM_DEVICE = 0, 1
BDF = b"0000:5e:00.1"

ffi = cffi.FFI()
ffi.cdef(CDEF)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A copy of the library: its settings and its rack are not those of the binding in the same process."""
    return shutil.copy(_library.emulator("xrt"), tmp_path_factory.mktemp("lib") / "libxrt-witness.so")


@pytest.fixture
def lib(copy: str) -> Iterator[Any]:
    """The library, on a rack of two boards (found through FPGAHAL_EMU_RACK, as by any program)."""
    with emu.rack("u250:2"):
        opened = ffi.dlopen(str(copy))
        opened.xrtIniStringSet(b"Runtime.runtime_log", b"null")
        yield opened


@pytest.fixture
def device(lib: Any) -> Iterator[Any]:
    handle = lib.xrtDeviceOpenByBDF(BDF)
    assert handle
    yield handle
    assert lib.xrtDeviceClose(handle) == 0


@pytest.fixture
def image() -> Bitstream:
    return Bitstream.parse(emu.build_image("demo", emu.boards()["u250"]))


@pytest.fixture
def loaded(lib: Any, device: Any, image: Bitstream) -> Any:
    assert lib.xrtDeviceLoadXclbin(device, ffi.from_buffer(image.data)) == 0
    return device


def kernel(lib: Any, device: Any, image: Bitstream, name: str, exclusive: bool = False) -> Any:
    entry = lib.xrtPLKernelOpenExclusive if exclusive else lib.xrtPLKernelOpen
    return entry(device, image.afu_id.bytes, name.encode())


def buffer(lib: Any, device: Any, size: int, group: int = 0) -> tuple[Any, Any]:
    """Handle and host memory."""
    handle = lib.xrtBOAlloc(device, size, 0, group)
    assert handle
    return handle, ffi.buffer(lib.xrtBOMap(handle), size)


# --- what is exported -------------------------------------------------------------------------------------------


def test_every_function_of_the_table_is_exported() -> None:
    names = table("xrt_abi.h")
    assert len(names) > 25
    assert set(names) <= exported("xrt")


def test_nothing_but_the_abi_is_exported() -> None:
    own = {name for name in exported("xrt") if not name.startswith("xrt")}
    assert own == {*control(), "fpgahal_emu_xrt_reset"}


def test_it_needs_nothing_but_libc() -> None:
    assert needed("xrt") <= {
        "libc.so.6",
        "libm.so.6",
        "libpthread.so.0",
        "ld-linux-x86-64.so.2",
        "ld-linux-aarch64.so.1",
    }


# --- devices and images -----------------------------------------------------------------------------------------


def test_open_by_address_and_index(lib: Any) -> None:
    for name in (b"5e:00.1", b"0000:5f:00.1", 0, 1, b"1"):
        handle = lib.xrtDeviceOpen(name) if isinstance(name, int) else lib.xrtDeviceOpenByBDF(name)
        assert handle
        assert lib.xrtDeviceClose(handle) == 0
        assert lib.xrtDeviceClose(handle) == -1
    for bad in (b"", b"0000:77:00.1", b"zzz", b"0000:5e:00.1x", b"2"):
        assert not lib.xrtDeviceOpenByBDF(bad)
    assert not lib.xrtDeviceOpen(2)


def test_load_and_read_back(lib: Any, device: Any, image: Bitstream, tmp_path: Path) -> None:
    out = ffi.new("unsigned char[16]")
    lib.xrtDeviceGetXclbinUUID(device, out)
    assert bytes(out) == bytes(16)
    path = tmp_path / "demo.xclbin"
    path.write_bytes(image.data)
    assert lib.xrtDeviceLoadXclbinFile(device, str(path).encode()) == 0
    assert lib.xrtDeviceGetXclbinUUID(device, out) == 0
    assert uuid.UUID(bytes=bytes(out)) == image.afu_id
    assert lib.xrtDeviceLoadXclbinFile(device, b"/nowhere") == -1
    assert lib.xrtDeviceLoadXclbin(device, ffi.NULL) == -1
    other_shell = dataclasses.replace(emu.boards()["u250"], interface_id=uuid.uuid4())
    stranger = emu.build_image("vadd", other_shell)
    ffi.errno = 0
    assert lib.xrtDeviceLoadXclbin(device, ffi.from_buffer(stranger)) == -1
    assert ffi.errno == errno.EOPNOTSUPP
    assert lib.xrtDeviceGetXclbinUUID(device, out) == 0
    assert uuid.UUID(bytes=bytes(out)) == image.afu_id


def test_an_xclbin_without_a_device(lib: Any, image: Bitstream) -> None:
    handle = lib.xrtXclbinAllocRawData(ffi.from_buffer("char[]", image.data), len(image.data))
    assert handle
    out = ffi.new("unsigned char[16]")
    assert lib.xrtXclbinGetUUID(handle, out) == 0
    assert uuid.UUID(bytes=bytes(out)) == image.afu_id
    assert lib.xrtXclbinGetNumKernels(handle) == len(image.kernels)
    assert lib.xrtXclbinFreeHandle(handle) == 0
    assert not lib.xrtXclbinAllocRawData(b"nonsense", 8)


# --- buffers ----------------------------------------------------------------------------------------------------


def test_buffers(lib: Any, loaded: Any) -> None:
    handle, memory = buffer(lib, loaded, 8192)
    assert lib.xrtBOSize(handle) == 8192
    assert lib.xrtBOAddress(handle) not in (0, 2**64 - 1)
    assert bytes(memory[:]) == bytes(8192)
    memory[:] = b"\x11" * 8192
    assert lib.xrtBOSync(handle, TO_DEVICE, 4096, 0) == 0
    memory[:] = bytes(8192)
    assert lib.xrtBOSync(handle, FROM_DEVICE, 8192, 0) == 0
    assert bytes(memory[:]) == b"\x11" * 4096 + bytes(4096)  # the device has a memory of its own
    for size, offset in ((8193, 0), (1, 8192), (2**64 - 1, 2), (8192, 1)):
        assert lib.xrtBOSync(handle, TO_DEVICE, size, offset) == -1
    assert lib.xrtBOWrite(handle, b"abcd", 4, 100) == 0
    back = ffi.new("char[4]")
    assert lib.xrtBORead(handle, back, 4, 100) == 0
    assert bytes(ffi.buffer(back)) == b"abcd"
    assert lib.xrtBOWrite(handle, b"abcd", 4, 8190) == -1
    other, copy = buffer(lib, loaded, 8192)
    assert lib.xrtBOCopy(other, handle, 4096, 0, 0) == 0
    assert lib.xrtBOSync(other, FROM_DEVICE, 8192, 0) == 0
    assert bytes(copy[:64]) == b"\x11" * 64
    part = lib.xrtBOSubAlloc(handle, 4096, 4096)
    assert lib.xrtBOAddress(part) == lib.xrtBOAddress(handle) + 4096
    for done in (part, other, handle):
        assert lib.xrtBOFree(done) == 0
        assert lib.xrtBOFree(done) == -1
    assert lib.xrtBOAddress(handle) == 2**64 - 1
    assert lib.xrtBOSize(handle) == 2**64 - 1
    assert not lib.xrtBOMap(handle)
    assert not lib.xrtBOAlloc(loaded, 64, 0, 999)
    assert not lib.xrtBOAlloc(loaded, 0, 0, 0)


# --- kernels and runs -------------------------------------------------------------------------------------------


def test_vadd(lib: Any, loaded: Any, image: Bitstream) -> None:
    n = 10_000
    handle = kernel(lib, loaded, image, "vadd")
    assert handle
    (a, in1), (b, in2), (out, result) = (buffer(lib, loaded, 4 * n) for _ in range(3))
    for i, memory in enumerate((in1, in2)):
        memory[:] = b"".join((j * (i + 3) & 0xFFFFFFFF).to_bytes(4, "little") for j in range(n))
    for bo in (a, b):
        assert lib.xrtBOSync(bo, TO_DEVICE, 4 * n, 0) == 0
    assert [lib.xrtKernelArgOffset(handle, i) for i in range(4)] == [0x10, 0x1C, 0x28, 0x34]
    assert lib.xrtKernelArgOffset(handle, 9) == 0xFFFFFFFF
    assert lib.xrtKernelArgGroupId(handle, 0) >= 0
    run = lib.xrtRunOpen(handle)
    assert run
    for index, value in enumerate((a, b, out, ffi.cast("unsigned int", n))):
        assert lib.xrtRunSetArg(run, index, value) == 0
    for _ in range(3):
        assert lib.xrtRunStart(run) == 0
        assert lib.xrtRunWaitFor(run, 30000) == COMPLETED
        assert lib.xrtRunState(run) == COMPLETED
    assert lib.xrtBOSync(out, FROM_DEVICE, 4 * n, 0) == 0
    words = [int.from_bytes(result[4 * i : 4 * i + 4], "little") for i in range(n)]
    assert words == [7 * i & 0xFFFFFFFF for i in range(n)]
    assert lib.xrtRunClose(run) == 0
    assert lib.xrtKernelClose(handle) == 0
    assert lib.xrtKernelClose(handle) == -1
    assert lib.xrtRunState(run) == ABORT  # what XRT says of a bad handle


def test_run_in_one_call_with_a_callback(lib: Any, loaded: Any, image: Bitstream) -> None:
    handle = kernel(lib, loaded, image, "passthrough")
    (src, memory), (dst, copy) = buffer(lib, loaded, 4096), buffer(lib, loaded, 4096)
    memory[:] = b"\x77" * 4096
    lib.xrtBOSync(src, TO_DEVICE, 4096, 0)
    run = lib.xrtKernelRun(handle, src, dst, ffi.cast("uint64_t", 4096))
    assert run
    assert lib.xrtRunWait(run) == COMPLETED
    lib.xrtBOSync(dst, FROM_DEVICE, 4096, 0)
    assert bytes(copy[:]) == b"\x77" * 4096
    assert lib.xrtRunSetCallback(run, COMPLETED, ffi.NULL, ffi.NULL) == -1
    assert lib.xrtRunClose(run) == 0
    run = lib.xrtRunOpen(handle)
    for index, value in enumerate((src, dst, ffi.cast("uint64_t", 4096))):
        assert lib.xrtRunSetArg(run, index, value) == 0
    called = threading.Event()

    @ffi.callback("void(void *, int, void *)")
    def finished(which: Any, state: int, data: Any) -> None:
        if which == run and state == COMPLETED:
            called.set()

    assert lib.xrtRunSetCallback(run, COMPLETED, finished, ffi.NULL) == 0
    assert lib.xrtRunSetCallback(run, ERROR, finished, ffi.NULL) == -1
    assert lib.xrtRunStart(run) == 0
    assert called.wait(30)
    assert lib.xrtRunClose(run) == 0
    lib.xrtKernelClose(handle)


def test_a_run_that_hangs(lib: Any, loaded: Any, image: Bitstream) -> None:
    handle = kernel(lib, loaded, image, "passthrough")
    src, _ = buffer(lib, loaded, 64)
    rack = emu.rack(dir=emu.active())
    rack.fault(0, "hang", count=1)
    run = lib.xrtKernelRun(handle, src, src, ffi.cast("uint64_t", 64))
    started = time.monotonic()
    assert lib.xrtRunWaitFor(run, 200) == TIMEOUT
    assert 0.15 < time.monotonic() - started < 5
    assert lib.xrtRunState(run) < COMPLETED
    assert lib.xrtRunStart(run) == -1  # it is still running


def test_a_run_whose_start_failed_is_spent(lib: Any, loaded: Any, image: Bitstream) -> None:
    """As in 2.13: it counts as started, so only another run can be."""
    handle = kernel(lib, loaded, image, "passthrough")
    src, _ = buffer(lib, loaded, 64)
    rack = emu.rack(dir=emu.active())
    runs = [lib.xrtRunOpen(handle) for _ in range(2)]
    for run in runs:
        for index, value in enumerate((src, src, ffi.cast("uint64_t", 64))):
            assert lib.xrtRunSetArg(run, index, value) == 0
    rack.fault(0, "call", call="xrtRunStart", code=errno.EIO, count=1)
    assert lib.xrtRunStart(runs[0]) == -1
    assert lib.xrtRunStart(runs[0]) == -1
    assert lib.xrtRunStart(runs[1]) == 0
    assert lib.xrtRunWait(runs[1]) == COMPLETED
    for run in runs:
        assert lib.xrtRunClose(run) == 0


def test_a_second_kernel_on_a_board_that_is_gone(lib: Any, loaded: Any, image: Bitstream) -> None:
    """As in 2.13: only the first kernel on a unit asks the board."""
    first = kernel(lib, loaded, image, "passthrough")
    emu.rack(dir=emu.active()).fault(0, "vanish")
    second = kernel(lib, loaded, image, "passthrough")
    assert second
    assert not kernel(lib, loaded, image, "vadd")
    assert ffi.errno == errno.ENODEV
    assert not lib.xrtRunOpen(second)
    for opened in (first, second):
        assert lib.xrtKernelClose(opened) == 0


def test_kernel_names_and_contexts(lib: Any, loaded: Any, image: Bitstream) -> None:
    for name in ("nope", "", "vadd:{nope}", "vadd:", "vadd:{"):
        assert not kernel(lib, loaded, image, name), name
    assert not lib.xrtPLKernelOpen(loaded, bytes(16), b"vadd")
    unit = next(k for k in image.kernels if k.name == "vadd").compute_units[0]
    named = kernel(lib, loaded, image, f"vadd:{{{unit}}}")
    assert named
    assert not kernel(lib, loaded, image, "vadd", exclusive=True)  # conflicting access mode
    value = ffi.new("uint32_t *")
    assert lib.xrtKernelReadRegister(named, 0x10, value) == -1  # shared
    assert lib.xrtKernelClose(named) == 0
    alone = kernel(lib, loaded, image, f"vadd:{{{unit}}}", exclusive=True)
    assert lib.xrtKernelWriteRegister(alone, 0x34, 77) == 0
    assert lib.xrtKernelReadRegister(alone, 0x34, value) == 0
    assert value[0] == 77
    for offset in (0x1000, 0xFFFFFFFC, 0x0FFE):
        assert lib.xrtKernelReadRegister(alone, offset, value) == -1
    assert lib.xrtKernelClose(alone) == 0


def test_null_is_an_error_not_a_crash(lib: Any) -> None:
    null = ffi.NULL
    for result in (
        lib.xrtDeviceClose(null),
        lib.xrtDeviceLoadXclbin(null, null),
        lib.xrtDeviceGetXclbinUUID(null, null),
        lib.xrtKernelClose(null),
        lib.xrtRunClose(null),
        lib.xrtRunStart(null),
        lib.xrtBOFree(null),
        lib.xrtBOSync(null, 0, 1, 0),
        lib.xrtKernelReadRegister(null, 0, null),
        lib.xrtKernelWriteRegister(null, 0, 0),
        lib.xrtKernelArgGroupId(null, 0),
    ):
        assert result == -1
    for handle in (
        lib.xrtPLKernelOpen(null, bytes(16), b"x"),
        lib.xrtRunOpen(null),
        lib.xrtBOAlloc(null, 1, 0, 0),
        lib.xrtBOMap(null),
        lib.xrtDeviceOpenByBDF(null),
    ):
        assert not handle
    assert lib.xrtRunState(null) == ABORT
    assert lib.xrtRunWaitFor(null, 10) == ABORT
