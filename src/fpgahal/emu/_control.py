# SPDX-License-Identifier: Apache-2.0
"""The emulator's own C functions (native/include/emu_control.h), through ctypes: cold calls, no compiled module."""

from __future__ import annotations

import ctypes
import enum
import errno
import functools
import os
import uuid
from dataclasses import dataclass

from fpgahal._errors import DeviceNotFoundError, DriverError, FpgaError, errno_error
from fpgahal.emu._boards import BANK_KINDS
from fpgahal.emu._spec import Placed, SpecError
from fpgahal.emu._tree import identity


class SlotState(enum.IntEnum):
    """What an emulated slot is doing."""

    READY = 0
    PROGRAMMING = 1
    FAILED = 2  #: a reconfiguration broke: no accelerator answers


@dataclass(frozen=True, slots=True)
class Status:
    """What the emulator says of a board.

    Attributes
    ----------
    state : SlotState
    afu_id : uuid.UUID or None
        What is loaded: AFU id (OPAE) or xclbin UUID (XRT).
    programmed : int
        How many times the fabric was really reconfigured.
    vanished : bool
        Whether the board is off the bus (fault ``"vanish"``).
    """

    state: SlotState
    afu_id: uuid.UUID | None
    programmed: int
    vanished: bool


class _CStatus(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_uint32),
        ("state", ctypes.c_uint32),
        ("vanished", ctypes.c_uint32),
        ("index", ctypes.c_uint32),
        ("afu_id", ctypes.c_uint8 * 16),
        ("programmed", ctypes.c_uint64),
    )


@functools.cache
def _core() -> ctypes.CDLL:
    from fpgahal import _library  # not at import time, as in _boards

    core = ctypes.CDLL(_library.emulator("opae"), mode=os.RTLD_NOW | os.RTLD_LOCAL)
    text = ctypes.c_char_p
    core.fpgahal_emu_create.argtypes = (text, text)
    core.fpgahal_emu_fault.argtypes = (text, text, text, text, ctypes.c_int, ctypes.c_int)
    core.fpgahal_emu_clear.argtypes = (text, text)
    core.fpgahal_emu_status.argtypes = (text, text, ctypes.POINTER(_CStatus))
    core.fpgahal_emu_error.argtypes = ()
    core.fpgahal_emu_error.restype = text
    return core


def _check(result: int, what: str, where: str) -> None:
    if result == 0:
        return
    text = (_core().fpgahal_emu_error() or b"").decode("utf-8", "replace")
    reason = text or f"{errno.errorcode.get(result, result)} ({os.strerror(result)})"
    if result == errno.EINVAL:
        raise SpecError(f"{where}: {what} failed: {reason}", code=result)
    if result in (errno.ENODEV, errno.ENOENT):
        raise DeviceNotFoundError(f"{where}: {what} failed: {reason}", code=result)
    error: FpgaError = errno_error(result, text, what, where, default=DriverError)
    raise error


def create(rack: str, placed: list[Placed]) -> None:
    """Make ``rack.bin``: the state that the boards share."""
    _check(_core().fpgahal_emu_create(os.fsencode(rack), describe(placed).encode()), "creating an emulated rack", rack)


def fault(rack: str, bdf: str, kind: str, call: str | None, code: int, count: int) -> None:
    """Inject a fault."""
    name = call.encode() if call is not None else None
    _check(
        _core().fpgahal_emu_fault(os.fsencode(rack), bdf.encode(), kind.encode(), name, code, count),
        f"injecting the fault {kind!r}",
        bdf,
    )


def clear(rack: str, bdf: str | None) -> None:
    """Take the faults of a board, or of all, away."""
    name = bdf.encode() if bdf is not None else None
    _check(_core().fpgahal_emu_clear(os.fsencode(rack), name), "clearing faults", bdf or rack)


def status(rack: str, bdf: str) -> Status:
    """Ask for a board's state."""
    out = _CStatus(size=ctypes.sizeof(_CStatus))
    _check(_core().fpgahal_emu_status(os.fsencode(rack), bdf.encode(), ctypes.byref(out)), "reading the state", bdf)
    loaded = bytes(out.afu_id)
    return Status(
        SlotState(out.state), uuid.UUID(bytes=loaded) if any(loaded) else None, out.programmed, bool(out.vanished)
    )


def describe(placed: list[Placed]) -> str:
    """Return the description of a rack as ``fpgahal_emu_create`` takes it."""
    return "".join(_describe(one) for one in placed)


def _describe(one: Placed) -> str:
    board = one.board
    fields: list[tuple[str, object]] = [
        ("bdf", one.bdf),
        ("model", board.name),
        ("name", board.title),
        ("family", board.family),
        ("vendor", f"{board.vendor_id:04x}"),
        ("device", f"{board.device_id:04x}"),
        ("subvendor", f"{board.subvendor_id:04x}"),
        ("subdevice", f"{board.subdevice_id:04x}"),
        ("interface", board.interface_id),
        ("afu", board.default_afu),
        ("vbnv", board.vbnv),
        ("timestamp", board.timestamp),
        ("identity", identity(one)),
        ("link_bytes_per_s", int(board.link_gbps * 1e9)),
        ("launch_ns", int(board.launch_us * 1e3)),
        ("program_ns", int(board.program_ms * 1e6)),
        ("cores", board.cores),
    ]
    fields += [("bank", f"{bank.name} {BANK_KINDS[bank.kind]} {bank.base:#x} {bank.size:#x}") for bank in board.banks]
    return "[board]\n" + "".join(f"{key}={value}\n" for key, value in fields if value not in (None, ""))
