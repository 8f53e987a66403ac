# SPDX-License-Identifier: Apache-2.0
"""Print what a libopae-c answers to calls, right and wrong, on two emulated pac-a10: ``opae_answers.py LIBRARY``.

One line a call.  tests/data/opae_answers.txt holds what the vendor's 2.14.0 printed with the plugin below it; the
stand-alone library must print the same.  Calls that crash the vendor's library are left out.
"""

from __future__ import annotations

import ctypes
import sys
from ctypes import c_int, c_size_t, c_uint8, c_uint16, c_uint32, c_uint64, c_void_p
from typing import Any

RESULTS = (
    "OK",
    "INVALID_PARAM",
    "BUSY",
    "EXCEPTION",
    "NOT_FOUND",
    "NO_MEMORY",
    "NOT_SUPPORTED",
    "NO_DRIVER",
    "NO_DAEMON",
    "NO_ACCESS",
    "RECONF_ERROR",
)
DEVICE, ACCELERATOR = 0, 1
SHARED, GLOB, RECURSE, SYNC = 1, 2, 8, 1
FIELDS: dict[str, Any] = {
    "ObjectType": c_int,
    "Segment": c_uint16,
    "Bus": c_uint8,
    "Device": c_uint8,
    "Function": c_uint8,
    "SocketID": c_uint8,
    "VendorID": c_uint16,
    "DeviceID": c_uint16,
    "SubsystemVendorID": c_uint16,
    "SubsystemDeviceID": c_uint16,
    "ObjectID": c_uint64,
    "NumErrors": c_uint32,
    "Interface": c_int,
    "NumSlots": c_uint32,
    "BBSID": c_uint64,
    "BBSVersion": c_uint32,
    "AcceleratorState": c_int,
    "NumMMIO": c_uint32,
    "NumInterrupts": c_uint32,
    "GUID": c_uint8 * 16,
    "Parent": c_void_p,
    "Model": c_uint8 * 64,
    "LocalMemorySize": c_uint64,
    "Capabilities": c_uint64,
}
ref = ctypes.byref
library = ctypes.CDLL(sys.argv[1])


def call(function: str, *args: Any, note: str = "", **results: Any) -> bool:
    """Call fpga`function` and print its answer, with the values of `results` if it succeeded."""
    answer = getattr(library, f"fpga{function}")(*args)
    text = f"{function}({note}): {RESULTS[answer] if 0 <= answer < len(RESULTS) else answer}"
    if answer == 0:
        for name, value in results.items():
            text += f" {name}={bytes(value).hex() if isinstance(value, ctypes.Array) else value.value}"
    print(text)
    return bool(answer == 0)


def every_field(properties: c_void_p, note: str) -> None:
    for name, kind in FIELDS.items():
        value = kind()
        shown = {} if name == "Parent" else {"value": value}  # the parent stays the object's own
        call(f"PropertiesGet{name}", properties, ref(value), note=note, **shown)


def properties() -> None:
    p, copy = c_void_p(), c_void_p()
    call("GetProperties", None, None, note="nowhere")
    call("GetProperties", None, ref(p))
    every_field(p, "empty")
    for name, kind in FIELDS.items():
        call(f"PropertiesGet{name}", p, None, note="nowhere")
        call(f"PropertiesGet{name}", None, ref(kind()), note="no object")
        if name not in ("Parent", "GUID", "Model", "ObjectType"):
            call(f"PropertiesSet{name}", p, kind(1), note="type unknown")
    for kind_of_object in (DEVICE, ACCELERATOR):
        call("PropertiesSetObjectType", p, kind_of_object)
        for name in ("NumSlots", "BBSID", "AcceleratorState", "NumMMIO", "NumInterrupts", "Bus"):
            call(f"PropertiesSet{name}", p, FIELDS[name](1), note=f"type {kind_of_object}")
        every_field(p, f"type {kind_of_object}")
        call("ClearProperties", p)
    call("PropertiesSetParent", p, None, note="none")
    call("CloneProperties", p, ref(copy))
    call("CloneProperties", None, ref(copy), note="no object")
    call("CloneProperties", p, None, note="nowhere")
    call("DestroyProperties", ref(copy))
    call("DestroyProperties", None, note="null")
    call("DestroyProperties", ref(c_void_p()), note="no object")
    call("UpdateProperties", None, p, note="no token")
    call("DestroyProperties", ref(p))


def find(kind: int, **fields: Any) -> list[c_void_p]:
    p, found, tokens = c_void_p(), c_uint32(), (c_void_p * 8)()
    library.fpgaGetProperties(None, ref(p))
    library.fpgaPropertiesSetObjectType(p, kind)
    for name, value in fields.items():
        getattr(library, f"fpgaPropertiesSet{name}")(p, value)
    call("Enumerate", ref(p), 1, tokens, 8, ref(found), note=f"type {kind} {' '.join(fields)}", found=found)
    library.fpgaDestroyProperties(ref(p))
    return [c_void_p(tokens[i]) for i in range(found.value)]


def destroy(tokens: list[c_void_p]) -> None:
    for token in tokens:
        library.fpgaDestroyToken(ref(token))


def enumeration(fme: c_void_p, afu: c_void_p) -> None:
    found, p, copy, tokens = c_uint32(), c_void_p(), c_void_p(), (c_void_p * 1)()
    call("Enumerate", None, 0, None, 0, None, note="nowhere")
    call("Enumerate", None, 0, None, 3, ref(found), note="no room")
    call("Enumerate", None, 1, None, 0, ref(found), note="no filters")
    call("Enumerate", None, 0, None, 0, ref(found), note="count", found=found)
    call("Enumerate", None, 0, tokens, 1, ref(found), note="room for one", found=found)
    destroy([c_void_p(tokens[0])])
    for kind in (DEVICE, ACCELERATOR):
        for fields in (
            {"Bus": c_uint8(0x3B)},
            {"Bus": c_uint8(0x77)},
            {"Interface": c_int(0)},
            {"VendorID": c_uint16(0x8086), "DeviceID": c_uint16(0x9C4)},
            {"Parent": fme},
            {"SocketID": c_uint8(1)},
            {"BBSID" if kind == DEVICE else "NumMMIO": c_uint64(1)},
        ):
            destroy(find(kind, **fields))
    for state in (0, 1):
        destroy(find(ACCELERATOR, AcceleratorState=state))
    for token, note in ((fme, "device"), (afu, "accelerator")):
        call("GetProperties", token, ref(p), note=note)
        every_field(p, note)
        call("UpdateProperties", token, p, note=note)
        call("UpdateProperties", token, None, note="no object")
        call("DestroyProperties", ref(p))
    call("CloneToken", afu, ref(copy))
    call("DestroyToken", ref(copy))
    call("CloneToken", None, ref(copy), note="no token")
    call("CloneToken", afu, None, note="nowhere")
    call("DestroyToken", None, note="null")
    call("DestroyToken", ref(c_void_p()), note="no token")


def registers(port: c_void_p, device: c_void_p) -> None:
    wide, narrow = c_uint64(), c_uint32()
    for handle, note in ((port, "port"), (device, "device"), (None, "null")):
        for region in (0, 9):
            call("MapMMIO", handle, region, None, note=f"{note} {region}")
            call("UnmapMMIO", handle, region, note=f"{note} {region}")
            call("ReadMMIO64", handle, region, c_uint64(8), ref(wide), note=f"{note} {region}", value=wide)
        call("Reset", handle, note=note)
    for offset in (0, 4, 1, 0x40000, 0x40010):
        call("ReadMMIO64", port, 0, c_uint64(offset), ref(wide), note=f"{offset:#x}")
        call("WriteMMIO64", port, 0, c_uint64(offset), c_uint64(0), note=f"{offset:#x}")
    for offset in (0x100, 0x102, 0x40000):
        call("WriteMMIO32", port, 0, c_uint64(offset), 5, note=f"{offset:#x}")
        call("ReadMMIO32", port, 0, c_uint64(offset), ref(narrow), note=f"{offset:#x}", value=narrow)
    call("ReadMMIO64", port, 0, c_uint64(8), None, note="nowhere")
    call("ReadMMIO32", port, 0, c_uint64(8), None, note="nowhere")


def buffers(port: c_void_p, device: c_void_p) -> None:
    at, wsid, io = c_void_p(), c_uint64(), c_uint64()
    for size, flags in ((0, 0), (1, 0), (4096, 0), (4097, 0), (1 << 31, 0), (4096, 0x80), (1000, 1)):
        if call("PrepareBuffer", port, c_uint64(size), ref(at), ref(wsid), flags, note=f"{size} {flags}"):
            call("GetIOAddress", port, wsid, ref(io))
            call("ReleaseBuffer", port, wsid)
            call("ReleaseBuffer", port, wsid, note="again")
    call("PrepareBuffer", port, c_uint64(0), None, ref(wsid), 1, note="question")
    call("PrepareBuffer", port, c_uint64(0), None, None, 1, note="question, no id")
    call("PrepareBuffer", port, c_uint64(4096), None, ref(wsid), 0, note="no address")
    call("PrepareBuffer", port, c_uint64(4096), ref(at), None, 0, note="no id")
    call("PrepareBuffer", device, c_uint64(4096), ref(at), ref(wsid), 0, note="device")
    call("PrepareBuffer", None, c_uint64(4096), ref(at), ref(wsid), 0, note="null")
    call("GetIOAddress", port, c_uint64(999), ref(io), note="unknown")
    call("GetIOAddress", port, c_uint64(999), None, note="nowhere")
    call("ReleaseBuffer", port, c_uint64(999), note="unknown")


def events(port: c_void_p, device: c_void_p) -> None:
    event, fd = c_void_p(), c_int()
    call("CreateEventHandle", ref(event))
    call("CreateEventHandle", None, note="nowhere")
    call("GetOSObjectFromEventHandle", event, ref(fd), note="too early")
    for handle, kind, vector, note in (
        (port, 0, 0, "interrupt"),
        (port, 1, 0, "error"),
        (port, 0, 99, "vector 99"),
        (port, 9, 0, "type 9"),
        (device, 0, 0, "device's interrupt"),
        (device, 1, 0, "device's error"),
        (None, 0, 0, "null"),
    ):
        if call("RegisterEvent", handle, kind, event, vector, note=note):
            call("GetOSObjectFromEventHandle", event, ref(fd))
            call("GetOSObjectFromEventHandle", event, None, note="nowhere")
            call("UnregisterEvent", handle, kind, event, note=note)
    call("RegisterEvent", port, 0, None, 0, note="no event")
    call("DestroyEventHandle", ref(event))
    call("DestroyEventHandle", ref(event), note="again")
    call("DestroyEventHandle", None, note="null")


def errors(tokens: tuple[tuple[c_void_p | None, str], ...]) -> None:
    info, value = (c_uint8 * 65)(), c_uint64()
    for token, note in tokens:
        for number in (0, 1, 77):
            call("ReadError", token, number, ref(value), note=f"{note} {number}", value=value)
            call("GetErrorInfo", token, number, ref(info), note=f"{note} {number}")
            call("ClearError", token, number, note=f"{note} {number}")
        call("ReadError", token, 0, None, note="nowhere")
        call("GetErrorInfo", token, 0, None, note="nowhere")
        call("ClearAllErrors", token, note=note)


def objects(tokens: tuple[tuple[c_void_p | None, str], ...], handles: tuple[tuple[c_void_p | None, str], ...]) -> None:
    it, part, kind, size, value, text = c_void_p(), c_void_p(), c_int(), c_uint32(), c_uint64(), (c_uint8 * 64)()
    names = [
        (b"nothing", 0),
        (b"../x", 0),
        (b"/etc", 0),
        (b"id", 0),
        (b"errors", 0),
        (b"errors", RECURSE),
        (b"dev", 0),
        (b"errors/errors", 0),
        (b"*perf/revision", GLOB),
        (b"nothing*", GLOB),
        (b"*perf/cache", GLOB | RECURSE),
        (b"*perf/fabric/pcie?_*", GLOB),
        (b"bitstream_id", 0),
        (b"afu_id", 0),
        (b"pr/interface_id", 0),
    ]
    for token, note in tokens:
        for name, flags in names:
            if not call("TokenGetObject", token, name, ref(it), flags, note=f"{note} {name.decode()} {flags}"):
                continue
            call("ObjectGetType", it, ref(kind), kind=kind)
            call("ObjectGetSize", it, ref(size), 0, size=size)
            call("ObjectRead64", it, ref(value), SYNC, value=value)
            call("ObjectRead", it, ref(text), c_size_t(0), c_size_t(1), 0)
            call("ObjectRead", it, ref(text), c_size_t(0), c_size_t(99999), 0, note="too much")
            call("ObjectWrite64", it, c_uint64(1), 0, note="of a token")
            if call("ObjectGetObject", it, b"errors", ref(part), 0):
                call("DestroyObject", ref(part))
            for index in (0, 999):
                if call("ObjectGetObjectAt", it, c_size_t(index), ref(part), note=str(index)):
                    call("ObjectGetType", part, ref(kind), kind=kind)
                    call("DestroyObject", ref(part))
            call("DestroyObject", ref(it))
    for handle, note in handles:
        for name in (b"errors/errors", b"errors/clear", b"errors/inject_error", b"id", b"nothing"):
            if call("HandleGetObject", handle, name, ref(it), 0, note=f"{note} {name.decode()}"):
                call("ObjectWrite64", it, c_uint64(0), 0, note=name.decode())
                call("ObjectRead64", it, ref(value), SYNC, value=value)
                call("DestroyObject", ref(it))
    call("DestroyObject", None, note="null")
    call("ObjectRead64", None, ref(value), 0, note="null")
    call("ObjectGetType", None, ref(kind), note="null")
    call("ObjectGetSize", None, ref(size), 0, note="null")
    call("ObjectWrite64", None, c_uint64(0), 0, note="null")
    call("ObjectGetObject", None, b"x", ref(it), 0, note="null")
    call("ObjectGetObjectAt", None, c_size_t(0), ref(it), note="null")


def the_rest(port: c_void_p, device: c_void_p, afu: c_void_p) -> None:
    high, low, count, zeros = c_uint64(), c_uint64(), c_uint32(), (c_uint8 * 4096)()
    for handle, note in ((port, "port"), (device, "device"), (None, "null")):
        call("SetUserClock", handle, c_uint64(200), c_uint64(100), 0, note=note)
        call("GetUserClock", handle, ref(high), ref(low), 0, note=note, high=high, low=low)
    call("SetUserClock", port, c_uint64(1), c_uint64(1), 0, note="too slow")
    for handle, note in ((port, "port"), (None, "null")):
        call("GetChildren", handle, 0, None, ref(count), note=note, count=count)
        call("BindSVA", handle, ref(count), note=note)
        for name in ("GetNumUmsg", "SetUmsgAttributes", "TriggerUmsg", "GetUmsgPtr"):
            call(name, handle, ref(high), note=note)
        call("GetNumMetrics", handle, ref(high), note=note)
        call("GetNumMetrics", handle, None, note=f"{note}, nowhere")
        call("GetMetricsInfo", handle, ref(zeros), ref(high), note=note)
        call("GetMetricsByIndex", handle, ref(high), c_uint64(1), ref(zeros), note=note)
        call("GetMetricsByName", handle, (ctypes.c_char_p * 1)(b"x"), c_uint64(1), ref(zeros), note=note)
        call("GetMetricsThresholdInfo", handle, None, ref(count), note=note)
    call("GetChildren", port, 2, None, ref(count), note="no room")
    for handle, note in ((device, "device"), (None, "null")):
        call("AssignPortToInterface", handle, 0, 0, 0, note=note)
        call("AssignToInterface", handle, afu, 0, 0, note=note)
        call("AssignToInterface", handle, None, 0, 0, note=f"{note}, no token")
        call("ReleaseFromInterface", handle, afu, note=note)
        call("ReconfigureSlot", handle, 0, None, c_size_t(0), 0, note=f"{note}, nothing")
        call("ReconfigureSlot", handle, 0, ref(zeros), c_size_t(4096), 0, note=f"{note}, zeros")
    call("ReconfigureSlot", port, 0, ref(zeros), c_size_t(4096), 0, note="port")
    call("GetOPAECVersion", None, note="nowhere")
    call("GetOPAECVersionString", ref(zeros), c_size_t(3), note="no room")
    call("GetOPAECVersionString", None, c_size_t(99), note="nowhere")
    call("Initialize", None, note="again")
    library.fpgaErrStr.restype = ctypes.c_char_p
    print([library.fpgaErrStr(i).decode() for i in (*range(12), -1)])


def main() -> None:
    properties()
    fme, other_fme = find(DEVICE)
    afu, other_afu = find(ACCELERATOR)
    enumeration(fme, afu)
    port, device, again = c_void_p(), c_void_p(), c_void_p()
    call("Open", None, ref(port), 0, note="no token")
    call("Open", afu, None, 0, note="nowhere")
    call("Open", afu, ref(port), 0x10, note="flag 16")
    call("Open", afu, ref(port), 0)
    call("Open", afu, ref(again), 0, note="again")
    call("Open", afu, ref(again), SHARED, note="again, shared")
    call("Open", fme, ref(device), SHARED, note="device")
    destroy(find(ACCELERATOR, AcceleratorState=0))
    for handle, note in ((port, "port"), (device, "device")):
        call("GetPropertiesFromHandle", handle, ref(again), note=note)
        every_field(again, f"handle of {note}")
        call("DestroyProperties", ref(again))
    call("GetPropertiesFromHandle", port, None, note="nowhere")
    registers(port, device)
    buffers(port, device)
    events(port, device)
    errors(((afu, "accelerator"), (fme, "device"), (None, "null")))
    objects(
        ((afu, "accelerator"), (fme, "device"), (None, "null")), ((port, "port"), (device, "device"), (None, "null"))
    )
    the_rest(port, device, afu)
    call("Close", None, note="null")
    call("Close", port)
    call("Close", device)
    destroy([fme, other_fme, afu, other_afu])


if __name__ == "__main__":
    main()
