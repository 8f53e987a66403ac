# SPDX-License-Identifier: Apache-2.0
"""The emulated libopae-c, called by a program that knows nothing of fpgahal: cffi with its own declarations.

They were written from the OPAE C API (1.0.0 to 2.14), not from our header.  A wrong signature in one of the two
shows here.
"""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fpgahal import _library, emu

sys.path.insert(0, str(Path(__file__).parent))

from headers import control, exported, needed, table

cffi = pytest.importorskip("cffi")

CDEF = """
typedef void *fpga_properties; typedef void *fpga_token; typedef void *fpga_handle; typedef void *fpga_event_handle;
typedef uint8_t fpga_guid[16];
typedef struct { uint8_t major; uint8_t minor; uint16_t patch; } fpga_version;
int fpgahal_emu_attach(const char *dir);
int fpgaInitialize(const char *config_file);
int fpgaFinalize(void);
int fpgaGetOPAECVersion(fpga_version *version);
int fpgaGetOPAECVersionString(char *text, size_t len);
const char *fpgaErrStr(int result);
int fpgaEnumerate(const fpga_properties *filters, uint32_t num_filters, fpga_token *tokens, uint32_t max_tokens,
                  uint32_t *num_matches);
int fpgaCloneToken(fpga_token src, fpga_token *dst);
int fpgaDestroyToken(fpga_token *token);
int fpgaGetProperties(fpga_token token, fpga_properties *prop);
int fpgaGetPropertiesFromHandle(fpga_handle handle, fpga_properties *prop);
int fpgaDestroyProperties(fpga_properties *prop);
int fpgaPropertiesGetObjectType(const fpga_properties prop, int *type);
int fpgaPropertiesSetObjectType(fpga_properties prop, int type);
int fpgaPropertiesGetBus(const fpga_properties prop, uint8_t *bus);
int fpgaPropertiesSetBus(fpga_properties prop, uint8_t bus);
int fpgaPropertiesGetDeviceID(const fpga_properties prop, uint16_t *id);
int fpgaPropertiesGetVendorID(const fpga_properties prop, uint16_t *id);
int fpgaPropertiesGetGUID(const fpga_properties prop, fpga_guid *guid);
int fpgaPropertiesSetGUID(fpga_properties prop, fpga_guid guid);
int fpgaPropertiesGetAcceleratorState(const fpga_properties prop, int *state);
int fpgaPropertiesGetNumMMIO(const fpga_properties prop, uint32_t *n);
int fpgaPropertiesGetNumSlots(const fpga_properties prop, uint32_t *n);
int fpgaPropertiesGetParent(const fpga_properties prop, fpga_token *parent);
int fpgaOpen(fpga_token token, fpga_handle *handle, int flags);
int fpgaClose(fpga_handle handle);
int fpgaReset(fpga_handle handle);
int fpgaMapMMIO(fpga_handle handle, uint32_t mmio_num, uint64_t **ptr);
int fpgaUnmapMMIO(fpga_handle handle, uint32_t mmio_num);
int fpgaReadMMIO64(fpga_handle handle, uint32_t mmio_num, uint64_t offset, uint64_t *value);
int fpgaWriteMMIO64(fpga_handle handle, uint32_t mmio_num, uint64_t offset, uint64_t value);
int fpgaReadMMIO32(fpga_handle handle, uint32_t mmio_num, uint64_t offset, uint32_t *value);
int fpgaWriteMMIO32(fpga_handle handle, uint32_t mmio_num, uint64_t offset, uint32_t value);
int fpgaPrepareBuffer(fpga_handle handle, uint64_t len, void **address, uint64_t *wsid, int flags);
int fpgaReleaseBuffer(fpga_handle handle, uint64_t wsid);
int fpgaGetIOAddress(fpga_handle handle, uint64_t wsid, uint64_t *ioaddr);
int fpgaReconfigureSlot(fpga_handle fpga, uint32_t slot, const uint8_t *bitstream, size_t len, int flags);
"""

OK, INVALID_PARAM, BUSY, EXCEPTION, NOT_FOUND, NO_MEMORY, NOT_SUPPORTED = range(7)
DEVICE, ACCELERATOR = 0, 1
NLB0 = uuid.UUID("d8424dc4-a4a3-c413-f89e-433683f9040b")
NLB3 = uuid.UUID("f7df405c-bd7a-cf72-22f1-44b0b93acd18")

ffi = cffi.FFI()
ffi.cdef(CDEF)


@pytest.fixture
def lib() -> Iterator[Any]:
    """The library, on a rack of two boards (found through FPGAHAL_EMU_RACK, as by any program)."""
    with emu.rack("pac-a10:2"):
        opened = ffi.dlopen(_library.emulator("opae"))
        opened.fpgahal_emu_attach(ffi.NULL)  # forget the rack that bindings in other tests of this process used
        yield opened


def good(result: int) -> None:
    assert result == OK


def tokens(lib: Any, **wanted: Any) -> list[Any]:
    """Matching tokens; `wanted` are properties by name."""
    prop = ffi.new("fpga_properties *")
    good(lib.fpgaGetProperties(ffi.NULL, prop))
    for name, value in wanted.items():
        if name == "GUID":
            value = ffi.new("fpga_guid *", list(value.bytes))[0]
        good(getattr(lib, f"fpgaPropertiesSet{name}")(prop[0], value))
    found = ffi.new("fpga_token[8]")
    count = ffi.new("uint32_t *")
    good(lib.fpgaEnumerate(prop, 1, found, 8, count))
    good(lib.fpgaDestroyProperties(prop))
    return [found[i] for i in range(count[0])]


def get(lib: Any, token: Any, name: str, ctype: str) -> Any:
    prop, value = ffi.new("fpga_properties *"), ffi.new(f"{ctype} *")
    good(lib.fpgaGetProperties(token, prop))
    good(getattr(lib, f"fpgaPropertiesGet{name}")(prop[0], value))
    good(lib.fpgaDestroyProperties(prop))
    return value[0]


def guid(lib: Any, token: Any) -> uuid.UUID:
    return uuid.UUID(bytes=bytes(get(lib, token, "GUID", "fpga_guid")))


def opened(lib: Any, token: Any, flags: int = 0) -> Any:
    handle = ffi.new("fpga_handle *")
    good(lib.fpgaOpen(token, handle, flags))
    return handle[0]


@pytest.fixture
def port(lib: Any) -> Iterator[Any]:
    handle = opened(lib, tokens(lib, ObjectType=ACCELERATOR, Bus=0x3B)[0])
    yield handle
    good(lib.fpgaClose(handle))


def buffer(lib: Any, handle: Any, size: int) -> tuple[Any, int, int]:
    """Memory, its id, its IO address."""
    address, wsid, io = ffi.new("void **"), ffi.new("uint64_t *"), ffi.new("uint64_t *")
    good(lib.fpgaPrepareBuffer(handle, size, address, wsid, 0))
    good(lib.fpgaGetIOAddress(handle, wsid[0], io))
    return ffi.buffer(address[0], size), wsid[0], io[0]


# --- what is exported -------------------------------------------------------------------------------------------


def test_every_function_of_the_table_is_exported() -> None:
    names = table("opae_abi.h")
    assert len(names) > 35
    assert set(names) <= exported("opae")


def test_nothing_but_the_abi_is_exported() -> None:
    own = {name for name in exported("opae") if not name.startswith("fpga") or name.startswith("fpgahal_")}
    assert own - {"opae_print"} == set(control())
    assert sum(name.startswith("fpga") and not name.startswith("fpgahal_") for name in exported("opae")) == 112


def test_it_needs_nothing_but_libc() -> None:
    assert needed("opae") <= {
        "libc.so.6",
        "libm.so.6",
        "libpthread.so.0",
        "ld-linux-x86-64.so.2",
        "ld-linux-aarch64.so.1",
    }


# --- calls ------------------------------------------------------------------------------------------------------


def test_texts_and_version(lib: Any) -> None:
    texts = [ffi.string(lib.fpgaErrStr(code)).decode() for code in range(11)]
    assert texts == [
        "success",
        "invalid parameter",
        "resource busy",
        "exception",
        "not found",
        "no memory",
        "not supported",
        "no driver available",
        "no fpga daemon running",
        "insufficient privileges",
        "reconfiguration error",
    ]
    assert ffi.string(lib.fpgaErrStr(99)).decode() == "unknown error"
    version = ffi.new("fpga_version *")
    good(lib.fpgaGetOPAECVersion(version))
    assert version.major in (1, 2)
    text = ffi.new("char[32]")
    good(lib.fpgaGetOPAECVersionString(text, 32))
    assert ffi.string(text).decode().startswith(f"{version.major}.{version.minor}.")
    good(lib.fpgaInitialize(ffi.NULL))


def test_enumerate(lib: Any) -> None:
    count = ffi.new("uint32_t *")
    good(lib.fpgaEnumerate(ffi.NULL, 0, ffi.NULL, 0, count))
    assert count[0] == 4  # an FME and a port for each of two boards
    assert lib.fpgaEnumerate(ffi.NULL, 0, ffi.NULL, 0, ffi.NULL) == INVALID_PARAM
    assert lib.fpgaEnumerate(ffi.NULL, 1, ffi.NULL, 0, count) == INVALID_PARAM
    assert lib.fpgaEnumerate(ffi.NULL, 0, ffi.NULL, 1, count) == INVALID_PARAM
    ports = tokens(lib, ObjectType=ACCELERATOR)
    assert [get(lib, token, "Bus", "uint8_t") for token in ports] == [0x3B, 0x3C]
    assert {get(lib, token, "DeviceID", "uint16_t") for token in ports} == {0x09C4}
    assert {get(lib, token, "VendorID", "uint16_t") for token in ports} == {0x8086}
    assert {guid(lib, token) for token in ports} == {NLB0}
    assert len(tokens(lib, GUID=NLB0)) == 2
    assert tokens(lib, GUID=NLB3) == []  # no match is not an error
    assert tokens(lib, Bus=0x77) == []
    (fme,) = tokens(lib, ObjectType=DEVICE, Bus=0x3C)
    assert guid(lib, fme) == emu.boards()["pac-a10"].interface_id
    assert get(lib, fme, "NumSlots", "uint32_t") == 1
    prop, parent = ffi.new("fpga_properties *"), ffi.new("fpga_token *")
    good(lib.fpgaGetProperties(tokens(lib, ObjectType=ACCELERATOR, Bus=0x3C)[0], prop))
    good(lib.fpgaPropertiesGetParent(prop[0], parent))
    assert guid(lib, parent[0]) == guid(lib, fme)
    good(lib.fpgaDestroyProperties(prop))  # the parent's token goes with it, as in the vendor's library


def test_tokens_can_be_cloned_and_destroyed(lib: Any) -> None:
    token, copy = ffi.new("fpga_token *", tokens(lib, ObjectType=ACCELERATOR)[0]), ffi.new("fpga_token *")
    good(lib.fpgaCloneToken(token[0], copy))
    good(lib.fpgaDestroyToken(token))
    assert guid(lib, copy[0]) == NLB0
    good(lib.fpgaDestroyToken(copy))
    assert copy[0] == ffi.NULL
    assert lib.fpgaDestroyToken(copy) == INVALID_PARAM
    assert lib.fpgaDestroyToken(ffi.NULL) == INVALID_PARAM


def test_open_is_exclusive_unless_shared(lib: Any) -> None:
    token = tokens(lib, ObjectType=ACCELERATOR, Bus=0x3B)[0]
    handle, other = opened(lib, token), ffi.new("fpga_handle *")
    assert get(lib, token, "AcceleratorState", "int") == 0  # assigned
    for flags in (0, 1):
        assert lib.fpgaOpen(token, other, flags) == BUSY
    good(lib.fpgaClose(handle))
    assert get(lib, token, "AcceleratorState", "int") == 1
    first, second = opened(lib, token, 1), opened(lib, token, 1)
    assert lib.fpgaOpen(token, other, 0) == BUSY
    good(lib.fpgaClose(first))
    good(lib.fpgaClose(second))
    assert lib.fpgaClose(second) == INVALID_PARAM
    assert lib.fpgaOpen(ffi.NULL, other, 0) == INVALID_PARAM
    assert lib.fpgaOpen(token, ffi.NULL, 0) == INVALID_PARAM
    assert lib.fpgaOpen(token, other, 0x40) == INVALID_PARAM


def test_mmio(lib: Any, port: Any) -> None:
    wide, narrow = ffi.new("uint64_t *"), ffi.new("uint32_t *")
    good(lib.fpgaReadMMIO64(port, 0, 0, wide))
    assert wide[0] >> 60 == 1  # device feature header of an AFU
    halves = []
    for offset in (0x10, 0x08):
        good(lib.fpgaReadMMIO64(port, 0, offset, wide))
        halves.append(wide[0])
    assert uuid.UUID(int=halves[0] << 64 | halves[1]) == NLB0
    good(lib.fpgaWriteMMIO64(port, 0, 0x108, 0x0123456789ABCDEF))
    good(lib.fpgaReadMMIO32(port, 0, 0x10C, narrow))
    assert narrow[0] == 0x01234567
    good(lib.fpgaWriteMMIO32(port, 0, 0x108, 0xFFFFFFFF))
    good(lib.fpgaReadMMIO64(port, 0, 0x108, wide))
    assert wide[0] == 0x01234567FFFFFFFF
    for offset in (1, 4, 0x40000, 0x3FFFC, 1 << 40):
        assert lib.fpgaReadMMIO64(port, 0, offset, wide) == INVALID_PARAM
        assert lib.fpgaWriteMMIO64(port, 0, offset, 0) == INVALID_PARAM
    assert lib.fpgaReadMMIO32(port, 0, 2, narrow) == INVALID_PARAM
    good(lib.fpgaMapMMIO(port, 0, ffi.NULL))
    good(lib.fpgaUnmapMMIO(port, 0))
    good(lib.fpgaReset(port))
    good(lib.fpgaReadMMIO64(port, 0, 0x108, wide))
    assert wide[0] == 0


def test_buffers(lib: Any, port: Any) -> None:
    seen = set()
    for size in (1, 64, 4096, 4097, 2 << 20):
        memory, wsid, io = buffer(lib, port, size)
        assert bytes(memory[:]) == bytes(size)
        memory[:] = b"\x5a" * size
        assert io % 4096 == 0
        seen.add(io)
        good(lib.fpgaReleaseBuffer(port, wsid))
        assert lib.fpgaGetIOAddress(port, wsid, ffi.new("uint64_t *")) == NOT_FOUND
        assert lib.fpgaReleaseBuffer(port, wsid) != OK
    address, wsid = ffi.new("void **"), ffi.new("uint64_t *")
    assert lib.fpgaPrepareBuffer(port, 0, address, wsid, 0) == INVALID_PARAM
    assert lib.fpgaPrepareBuffer(port, 64, address, ffi.NULL, 0) == INVALID_PARAM
    good(lib.fpgaPrepareBuffer(port, 0, ffi.NULL, wsid, 1))  # "is PREALLOCATED supported?"


@pytest.mark.parametrize("lines", [1, 64, 16384])
def test_an_nlb0_run(lib: Any, port: Any, lines: int) -> None:
    """The sequence of OPAE's own hello_fpga."""
    size = 64 * lines
    dsm, _, dsm_io = buffer(lib, port, 4096)
    source, _, source_io = buffer(lib, port, size)
    target, _, target_io = buffer(lib, port, size)
    pattern = bytes(range(256)) * (size // 256) + bytes(range(size % 256))
    source[:] = pattern
    good(lib.fpgaReset(port))
    good(lib.fpgaWriteMMIO64(port, 0, 0x110, dsm_io))
    good(lib.fpgaWriteMMIO32(port, 0, 0x138, 0))
    good(lib.fpgaWriteMMIO32(port, 0, 0x138, 1))
    good(lib.fpgaWriteMMIO64(port, 0, 0x120, source_io >> 6))
    good(lib.fpgaWriteMMIO64(port, 0, 0x128, target_io >> 6))
    good(lib.fpgaWriteMMIO32(port, 0, 0x130, lines))
    good(lib.fpgaWriteMMIO32(port, 0, 0x140, 0x42000))
    good(lib.fpgaWriteMMIO32(port, 0, 0x138, 3))
    end = time.monotonic() + 30
    while not dsm[0x40][0] & 1:
        assert time.monotonic() < end, "NLB0 never reported"
    good(lib.fpgaWriteMMIO32(port, 0, 0x138, 7))
    assert bytes(target[:]) == pattern
    assert bytes(dsm[0x44:0x48]) == bytes(4)  # no error
    assert int.from_bytes(dsm[0x50:0x54], "little") == int.from_bytes(dsm[0x54:0x58], "little") == lines
    pending = ffi.new("uint64_t *")
    good(lib.fpgaReadMMIO64(port, 0, 0x168, pending))
    assert pending[0] == 0


def test_reconfigure(lib: Any) -> None:
    fme = opened(lib, tokens(lib, ObjectType=DEVICE, Bus=0x3B)[0])
    before = tokens(lib, ObjectType=ACCELERATOR, Bus=0x3B)[0]
    image = emu.build_image("nlb3", emu.boards()["pac-a10"])

    def load(data: bytes, slot: int = 0, flags: int = 0) -> int:
        return int(lib.fpgaReconfigureSlot(fme, slot, ffi.from_buffer("uint8_t[]", data), len(data), flags))

    for broken in (b"x", bytes(100), image[:20], image[:60], b"x" + image):
        assert load(broken) == INVALID_PARAM
    assert load(emu.build_image("nlb3", emu.boards()["d5005"])) == INVALID_PARAM  # another interface
    assert load(image, slot=1) == INVALID_PARAM
    handle = opened(lib, before)
    assert load(image) == BUSY  # somebody uses the port
    good(lib.fpgaClose(handle))
    assert load(image) == OK
    assert guid(lib, before) == NLB0  # a token keeps what it was made with
    assert guid(lib, tokens(lib, ObjectType=ACCELERATOR, Bus=0x3B)[0]) == NLB3
    assert guid(lib, tokens(lib, ObjectType=ACCELERATOR, Bus=0x3C)[0]) == NLB0
    good(lib.fpgaClose(fme))


def test_null_is_an_error_not_a_crash(lib: Any) -> None:
    null = ffi.NULL
    for result in (
        lib.fpgaClose(null),
        lib.fpgaReset(null),
        lib.fpgaMapMMIO(null, 0, null),
        lib.fpgaUnmapMMIO(null, 0),
        lib.fpgaReadMMIO64(null, 0, 0, ffi.new("uint64_t *")),
        lib.fpgaWriteMMIO64(null, 0, 0, 0),
        lib.fpgaReadMMIO32(null, 0, 0, ffi.new("uint32_t *")),
        lib.fpgaWriteMMIO32(null, 0, 0, 0),
        lib.fpgaPrepareBuffer(null, 64, ffi.new("void **"), ffi.new("uint64_t *"), 0),
        lib.fpgaReleaseBuffer(null, 1),
        lib.fpgaGetIOAddress(null, 1, ffi.new("uint64_t *")),
        lib.fpgaGetProperties(null, null),
        lib.fpgaDestroyProperties(null),
        lib.fpgaPropertiesSetBus(null, 1),
        lib.fpgaReconfigureSlot(null, 0, null, 0, 0),
        lib.fpgaGetPropertiesFromHandle(null, ffi.new("fpga_properties *")),
        lib.fpgaCloneToken(null, null),
    ):
        assert result == INVALID_PARAM
