# SPDX-License-Identifier: Apache-2.0
"""CFFI as an independent witness of XRT's C ABI: declarations written apart from the binding's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cffi
import pytest

from fpgahal import Bitstream, _library, emu

ffi = cffi.FFI()
ffi.cdef("""
    typedef void *handle;
    int xrtIniStringSet(const char *, const char *);
    handle xrtDeviceOpenByBDF(const char *);
    int xrtDeviceClose(handle);
    int xrtDeviceLoadXclbin(handle, const void *);
    int xrtDeviceGetXclbinUUID(handle, unsigned char *);
    handle xrtPLKernelOpen(handle, const unsigned char *, const char *);
    handle xrtPLKernelOpenExclusive(handle, const unsigned char *, const char *);
    int xrtKernelClose(handle);
    int xrtKernelArgGroupId(handle, int);
    uint32_t xrtKernelArgOffset(handle, int);
    int xrtKernelReadRegister(handle, uint32_t, uint32_t *);
    int xrtKernelWriteRegister(handle, uint32_t, uint32_t);
    handle xrtRunOpen(handle);
    int xrtRunSetArg(handle, int, ...);
    int xrtRunStart(handle);
    int xrtRunWaitFor(handle, unsigned int);
    int xrtRunState(handle);
    int xrtRunClose(handle);
    handle xrtBOAlloc(handle, size_t, uint64_t, uint32_t);
    int xrtBOFree(handle);
    size_t xrtBOSize(handle);
    uint64_t xrtBOAddress(handle);
    void *xrtBOMap(handle);
    int xrtBOSync(handle, int, size_t, size_t);
""")

COMPLETED, TO_DEVICE, FROM_DEVICE = 4, 0, 1
NONE = ffi.NULL


class Rig:
    """A device with an image loaded."""

    def __init__(self, lib: Any, bdf: str) -> None:
        self.lib, self.bdf = lib, bdf.encode()
        self.image = emu.build_image("vadd", emu.boards()["u250"])
        self.uuid = ffi.new("unsigned char[16]", Bitstream.parse(self.image).afu_id.bytes)
        self.device = lib.xrtDeviceOpenByBDF(self.bdf)
        assert self.device != NONE

    def load(self) -> None:
        assert self.lib.xrtDeviceLoadXclbin(self.device, ffi.from_buffer(self.image)) == 0

    def buffer(self, group: int, size: int = 4096) -> tuple[Any, Any]:
        handle = self.lib.xrtBOAlloc(self.device, size, 0, group)
        assert handle != NONE
        assert self.lib.xrtBOSize(handle) >= size
        return handle, ffi.cast("uint32_t *", self.lib.xrtBOMap(handle))


@pytest.fixture
def rig() -> Iterator[Rig]:
    with emu.rack("u250") as rack:
        lib = ffi.dlopen(_library.emulator("xrt"))
        lib.xrtIniStringSet(b"Runtime.runtime_log", b"null")
        yield Rig(lib, rack.devices()[0].bdf)


def test_a_vector_addition(rig: Rig) -> None:
    lib = rig.lib
    rig.load()
    loaded = ffi.new("unsigned char[16]")
    assert lib.xrtDeviceGetXclbinUUID(rig.device, loaded) == 0
    assert bytes(loaded) == bytes(rig.uuid)
    kernel = lib.xrtPLKernelOpen(rig.device, rig.uuid, b"vadd")
    assert kernel != NONE
    assert [lib.xrtKernelArgOffset(kernel, i) for i in range(4)] == [0x10, 0x1C, 0x28, 0x34]
    group = lib.xrtKernelArgGroupId(kernel, 0)
    assert group >= 0
    (a, a_words), (b, b_words), (out, out_words) = (rig.buffer(group) for _ in range(3))
    for i in range(100):
        a_words[i], b_words[i] = i, 1000 * i
    for bo in (a, b):
        assert lib.xrtBOSync(bo, TO_DEVICE, 4096, 0) == 0
    run = lib.xrtRunOpen(kernel)
    for index, bo in enumerate((a, b, out)):
        assert lib.xrtRunSetArg(run, index, bo) == 0
    assert lib.xrtRunSetArg(run, 3, ffi.cast("unsigned int", 100)) == 0
    assert lib.xrtRunStart(run) == 0
    assert lib.xrtRunWaitFor(run, 5000) == COMPLETED == lib.xrtRunState(run)
    assert lib.xrtBOSync(out, FROM_DEVICE, 4096, 0) == 0
    assert [out_words[i] for i in range(100)] == [1001 * i for i in range(100)]
    assert lib.xrtRunClose(run) == lib.xrtKernelClose(kernel) == 0
    for bo in (a, b, out):
        assert lib.xrtBOFree(bo) == 0
    assert lib.xrtDeviceClose(rig.device) == 0


def test_memory_is_the_cards_own(rig: Rig) -> None:
    rig.load()
    handle, words = rig.buffer(0)
    words[0] = 7
    assert rig.lib.xrtBOSync(handle, TO_DEVICE, 4096, 0) == 0
    words[0] = 8  # not synced: the card still has 7
    assert rig.lib.xrtBOSync(handle, FROM_DEVICE, 4096, 0) == 0
    assert words[0] == 7
    assert rig.lib.xrtBOSync(handle, FROM_DEVICE, 4096, 4096) == -1
    assert rig.lib.xrtBOSync(handle, FROM_DEVICE, 2**64 - 1, 1) == -1


def test_wrong_calls_return_errors(rig: Rig) -> None:
    lib = rig.lib
    assert lib.xrtDeviceOpenByBDF(b"0000:ff:00.0") == NONE
    assert lib.xrtBOAlloc(rig.device, 4096, 0, 0) == NONE, "no image is loaded"
    assert lib.xrtPLKernelOpen(rig.device, rig.uuid, b"vadd") == NONE
    rig.load()
    assert lib.xrtPLKernelOpen(rig.device, rig.uuid, b"nope") == NONE
    assert lib.xrtBOAlloc(rig.device, 4096, 0, 4711) == NONE
    kernel = lib.xrtPLKernelOpen(rig.device, rig.uuid, b"vadd")
    assert lib.xrtKernelArgGroupId(kernel, 3) == -1, "a scalar has no memory"
    assert lib.xrtKernelArgOffset(kernel, 9) == 0xFFFFFFFF
    data = ffi.new("uint32_t *")
    assert lib.xrtKernelReadRegister(kernel, 0x10, data) == -1, "it is shared"
    run = lib.xrtRunOpen(kernel)
    assert lib.xrtRunSetArg(run, 9, ffi.cast("unsigned int", 1)) == -1
    assert lib.xrtRunStart(run) == -1, "arguments are missing"
    assert lib.xrtRunClose(run) == 0
    for stale in (run, kernel + 4096, ffi.cast("handle", 12345)):
        assert lib.xrtRunClose(stale) == -1
        assert lib.xrtRunStart(stale) == -1
    broken = bytearray(rig.image)
    broken[0] ^= 1
    assert lib.xrtDeviceLoadXclbin(rig.device, ffi.from_buffer(broken)) == -1
    assert lib.xrtKernelClose(kernel) == lib.xrtDeviceClose(rig.device) == 0
    assert lib.xrtDeviceClose(rig.device) == -1


def test_registers_need_the_unit_alone(rig: Rig) -> None:
    rig.load()
    kernel = rig.lib.xrtPLKernelOpenExclusive(rig.device, rig.uuid, b"vadd")
    assert kernel != NONE
    assert rig.lib.xrtPLKernelOpen(rig.device, rig.uuid, b"vadd") == NONE, "conflicting access mode"
    data = ffi.new("uint32_t *")
    assert rig.lib.xrtKernelWriteRegister(kernel, 0x34, 99) == 0
    assert rig.lib.xrtKernelReadRegister(kernel, 0x34, data) == 0
    assert data[0] == 99
    assert rig.lib.xrtKernelReadRegister(kernel, 0x1000, data) == -1
    assert rig.lib.xrtKernelClose(kernel) == 0
