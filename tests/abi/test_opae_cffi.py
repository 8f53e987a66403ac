# SPDX-License-Identifier: Apache-2.0
"""CFFI as an independent witness of the OPAE ABI: declarations written apart from the binding's own."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import cffi
import pytest

from fpgahal import _library, emu

ffi = cffi.FFI()
ffi.cdef("""
    typedef void *fpga_properties, *fpga_token, *fpga_handle, *fpga_event_handle;
    int fpgaGetProperties(fpga_token, fpga_properties *);
    int fpgaDestroyProperties(fpga_properties *);
    int fpgaPropertiesSetObjectType(fpga_properties, int);
    int fpgaPropertiesGetObjectType(fpga_properties, int *);
    int fpgaPropertiesSetGUID(fpga_properties, uint8_t *);
    int fpgaPropertiesGetGUID(fpga_properties, uint8_t *);
    int fpgaPropertiesGetBus(fpga_properties, uint8_t *);
    int fpgaPropertiesGetVendorID(fpga_properties, uint16_t *);
    int fpgaPropertiesGetNumMMIO(fpga_properties, uint32_t *);
    int fpgaEnumerate(fpga_properties *, uint32_t, fpga_token *, uint32_t, uint32_t *);
    int fpgaDestroyToken(fpga_token *);
    int fpgaOpen(fpga_token, fpga_handle *, int);
    int fpgaClose(fpga_handle);
    int fpgaReset(fpga_handle);
    int fpgaMapMMIO(fpga_handle, uint32_t, uint64_t **);
    int fpgaReadMMIO64(fpga_handle, uint32_t, uint64_t, uint64_t *);
    int fpgaWriteMMIO64(fpga_handle, uint32_t, uint64_t, uint64_t);
    int fpgaReadMMIO32(fpga_handle, uint32_t, uint64_t, uint32_t *);
    int fpgaWriteMMIO32(fpga_handle, uint32_t, uint64_t, uint32_t);
    int fpgaPrepareBuffer(fpga_handle, uint64_t, void **, uint64_t *, int);
    int fpgaReleaseBuffer(fpga_handle, uint64_t);
    int fpgaGetIOAddress(fpga_handle, uint64_t, uint64_t *);
    int fpgaReconfigureSlot(fpga_handle, uint32_t, uint8_t *, size_t, int);
    const char *fpgaErrStr(int);
    int fpgaCreateEventHandle(fpga_event_handle *);
    int fpgaDestroyEventHandle(fpga_event_handle *);
    int fpgaRegisterEvent(fpga_handle, int, fpga_event_handle, uint32_t);
    int fpgaUnregisterEvent(fpga_handle, int, fpga_event_handle);
    int fpgaGetOSObjectFromEventHandle(fpga_event_handle, int *);
""")

OK, INVALID_PARAM, BUSY, NOT_FOUND, NOT_SUPPORTED = 0, 1, 2, 4, 6
DEVICE, ACCELERATOR = 0, 1
NLB0 = uuid.UUID("d8424dc4-a4a3-c413-f89e-433683f9040b")
NLB3 = uuid.UUID("f7df405c-bd7a-cf72-22f1-44b0b93acd18")


class Rig:
    """The library, and the few steps that every program takes."""

    def __init__(self, lib: Any) -> None:
        self.lib = lib

    def tokens(self, kind: int, guid: uuid.UUID | None = None) -> list[Any]:
        properties = ffi.new("fpga_properties *")
        assert self.lib.fpgaGetProperties(ffi.NULL, properties) == OK
        assert self.lib.fpgaPropertiesSetObjectType(properties[0], kind) == OK
        if guid:
            assert self.lib.fpgaPropertiesSetGUID(properties[0], ffi.new("uint8_t[16]", guid.bytes)) == OK
        found = ffi.new("uint32_t *")
        assert self.lib.fpgaEnumerate(properties, 1, ffi.NULL, 0, found) == OK
        tokens = ffi.new("fpga_token[8]")
        assert self.lib.fpgaEnumerate(properties, 1, tokens, 8, found) == OK
        self.lib.fpgaDestroyProperties(properties)
        return [tokens[i] for i in range(found[0])]

    def open(self, token: Any, flags: int = 0) -> Any:
        handle = ffi.new("fpga_handle *")
        assert self.lib.fpgaOpen(token, handle, flags) == OK
        return handle[0]

    def buffer(self, handle: Any, size: int) -> tuple[Any, int, int]:
        address, wsid, io = ffi.new("void **"), ffi.new("uint64_t *"), ffi.new("uint64_t *")
        assert self.lib.fpgaPrepareBuffer(handle, size, address, wsid, 0) == OK
        assert self.lib.fpgaGetIOAddress(handle, wsid[0], io) == OK
        return ffi.buffer(address[0], size), wsid[0], io[0]


@pytest.fixture
def rig() -> Iterator[Rig]:
    with emu.rack("pac-a10:2"):
        yield Rig(ffi.dlopen(_library.emulator("opae")))


def test_enumeration(rig: Rig) -> None:
    assert len(rig.tokens(DEVICE)) == len(rig.tokens(ACCELERATOR)) == 2
    assert len(rig.tokens(ACCELERATOR, NLB0)) == 2
    assert rig.tokens(ACCELERATOR, NLB3) == []
    interface = emu.boards()["pac-a10"].interface_id
    assert len(rig.tokens(DEVICE, interface)) == 2
    properties, guid = ffi.new("fpga_properties *"), ffi.new("uint8_t[16]")
    bus, vendor, regions = ffi.new("uint8_t *"), ffi.new("uint16_t *"), ffi.new("uint32_t *")
    assert rig.lib.fpgaGetProperties(rig.tokens(ACCELERATOR)[0], properties) == OK
    assert rig.lib.fpgaPropertiesGetGUID(properties[0], guid) == OK
    assert bytes(guid) == NLB0.bytes
    assert rig.lib.fpgaPropertiesGetBus(properties[0], bus) == OK
    assert rig.lib.fpgaPropertiesGetVendorID(properties[0], vendor) == OK
    assert rig.lib.fpgaPropertiesGetNumMMIO(properties[0], regions) == OK
    assert (bus[0], vendor[0]) == (0x3B, 0x8086)
    assert regions[0] >= 1


def test_results_of_wrong_calls(rig: Rig) -> None:
    found = ffi.new("uint32_t *")
    assert rig.lib.fpgaEnumerate(ffi.NULL, 0, ffi.NULL, 0, ffi.NULL) == INVALID_PARAM
    assert rig.lib.fpgaEnumerate(ffi.NULL, 1, ffi.NULL, 0, found) == INVALID_PARAM
    assert rig.lib.fpgaEnumerate(ffi.NULL, 0, ffi.NULL, 4, found) == INVALID_PARAM
    assert rig.lib.fpgaClose(ffi.NULL) == INVALID_PARAM
    assert rig.lib.fpgaOpen(ffi.NULL, ffi.new("fpga_handle *"), 0) == INVALID_PARAM
    token = rig.tokens(ACCELERATOR)[0]
    handle = rig.open(token)
    assert rig.lib.fpgaOpen(token, ffi.new("fpga_handle *"), 0) == BUSY
    assert rig.lib.fpgaOpen(token, ffi.new("fpga_handle *"), 1) == BUSY
    value = ffi.new("uint64_t *")
    assert rig.lib.fpgaReadMMIO64(handle, 0, 0x4, value) == INVALID_PARAM
    assert rig.lib.fpgaReadMMIO64(handle, 0, 0x40000, value) == INVALID_PARAM  # libxfpga is off by one here
    assert rig.lib.fpgaReadMMIO64(handle, 7, 0, value) != OK
    assert rig.lib.fpgaMapMMIO(handle, 0, ffi.new("uint64_t **")) == NOT_SUPPORTED
    assert rig.lib.fpgaGetIOAddress(handle, 99, value) == NOT_FOUND
    assert rig.lib.fpgaPrepareBuffer(handle, 0, ffi.new("void **"), value, 0) == INVALID_PARAM
    assert rig.lib.fpgaClose(handle) == OK
    assert rig.lib.fpgaClose(handle) == INVALID_PARAM


def test_texts(rig: Rig) -> None:
    assert ffi.string(rig.lib.fpgaErrStr(0)) == b"success"
    assert ffi.string(rig.lib.fpgaErrStr(2)) == b"resource busy"
    assert ffi.string(rig.lib.fpgaErrStr(10)) == b"reconfiguration error"
    assert ffi.string(rig.lib.fpgaErrStr(77)) == b"unknown error"


def test_nlb0_copies(rig: Rig) -> None:
    handle = rig.open(rig.tokens(ACCELERATOR, NLB0)[0])
    low, high = ffi.new("uint64_t *"), ffi.new("uint64_t *")
    assert rig.lib.fpgaReadMMIO64(handle, 0, 0x8, low) == rig.lib.fpgaReadMMIO64(handle, 0, 0x10, high) == OK
    assert high[0] << 64 | low[0] == NLB0.int
    (dsm, dsm_id, dsm_io), (src, src_id, src_io), (dst, dst_id, dst_io) = (
        rig.buffer(handle, size) for size in (4096, 65536, 65536))
    src[:] = bytes(range(256)) * 256
    dsm[:] = bytes(4096)
    for offset, value in ((0x110, dsm_io), (0x138, 0), (0x138, 1), (0x120, src_io >> 6), (0x128, dst_io >> 6),
                          (0x130, 1024), (0x140, 0x42000), (0x138, 3)):
        assert rig.lib.fpgaWriteMMIO64(handle, 0, offset, value) == OK
    for _ in range(1_000_000):
        if dsm[0x40] != b"\0":
            break
    assert dsm[0x40][0] & 1
    assert bytes(dsm[0x44:0x48]) == bytes(4), "error bits"
    assert int.from_bytes(dsm[0x50:0x54], "little") == int.from_bytes(dsm[0x54:0x58], "little") == 1024
    assert bytes(dst[:]) == bytes(src[:])
    assert rig.lib.fpgaReset(handle) == OK
    for wsid in (dsm_id, src_id, dst_id):
        assert rig.lib.fpgaReleaseBuffer(handle, wsid) == OK
    assert rig.lib.fpgaReleaseBuffer(handle, dst_id) != OK
    assert rig.lib.fpgaClose(handle) == OK


def test_reconfigure(rig: Rig) -> None:
    fme = rig.open(rig.tokens(DEVICE)[0])
    good = emu.build_image("nlb3", emu.boards()["pac-a10"])
    for broken in (good[:20], b"\0" + good[1:], good[:16] + b"\xff\xff\xff\x7f" + good[20:],
                   good.replace(b"9926ab6d", b"00000000")):
        assert rig.lib.fpgaReconfigureSlot(fme, 0, ffi.from_buffer("uint8_t[]", broken), len(broken), 0) == INVALID_PARAM
    assert rig.tokens(ACCELERATOR, NLB3) == []
    assert rig.lib.fpgaReconfigureSlot(fme, 0, ffi.from_buffer("uint8_t[]", good), len(good), 0) == OK
    assert len(rig.tokens(ACCELERATOR, NLB3)) == 1
    held = rig.open(rig.tokens(ACCELERATOR, NLB3)[0])
    assert rig.lib.fpgaReconfigureSlot(fme, 0, ffi.from_buffer("uint8_t[]", good), len(good), 0) == BUSY
    assert rig.lib.fpgaClose(held) == rig.lib.fpgaClose(fme) == OK


def test_event_handles(rig: Rig) -> None:
    handle = rig.open(rig.tokens(ACCELERATOR)[0])
    event, fd = ffi.new("fpga_event_handle *"), ffi.new("int *")
    assert rig.lib.fpgaCreateEventHandle(event) == OK
    assert rig.lib.fpgaGetOSObjectFromEventHandle(event[0], fd) == INVALID_PARAM  # 2.x: only once registered
    assert rig.lib.fpgaRegisterEvent(handle, 0, event[0], 0) == OK
    assert rig.lib.fpgaGetOSObjectFromEventHandle(event[0], fd) == OK
    assert fd[0] >= 0
    assert rig.lib.fpgaUnregisterEvent(handle, 0, event[0]) == OK
    assert rig.lib.fpgaDestroyEventHandle(event) == OK
    assert rig.lib.fpgaClose(handle) == OK
