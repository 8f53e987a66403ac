# SPDX-License-Identifier: Apache-2.0
"""One tree of exceptions under :class:`FpgaError`.

Each class also derives from the builtin that people already catch, so that ``except TimeoutError`` and
``except PermissionError`` work.  Each message says what happened, what was expected, and what to do: the
last part is the ``hint``, shown on a line of its own.
"""

from __future__ import annotations

import errno as _errno
import os
from typing import Any


class FpgaError(Exception):
    """Base of everything that fpgahal raises on purpose.

    Attributes
    ----------
    code : int or None
        The vendor's result code (OPAE: ``fpga_result``; XRT: ``errno``), if a vendor call failed.
    hint : str
        What to do about it; empty if the message says it all.
    """

    def __init__(self, message: str, *, hint: str = "", code: int | None = None) -> None:
        self.message = message
        self.hint = hint
        self.code = code
        super().__init__(message)

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.hint, self.code)


def _rebuild(cls: type[FpgaError], message: str, hint: str, code: int | None) -> FpgaError:
    return cls(message, hint=hint, code=code)


class DeviceNotFoundError(FpgaError, LookupError):
    """No device matches."""


class AmbiguousDeviceError(FpgaError, LookupError):
    """Several devices match; the message lists them."""


class DeviceBusyError(FpgaError, BlockingIOError):
    """Somebody else holds the device, or it still works on something."""


class DeviceLostError(FpgaError, ConnectionError):
    """The device dropped off the bus, or its driver went away."""


class DeviceStateError(FpgaError, RuntimeError):
    """The device is in a state in which this can't be done (a failed reconfiguration, no image loaded)."""


class AccessError(FpgaError, PermissionError):
    """The device is there, but this user may not open it."""


class BitstreamError(FpgaError, ValueError):
    """The file is not a whole, consistent GBS or xclbin."""


class IncompatibleBitstreamError(BitstreamError):
    """The file is sound, but was built for another shell, interface or board."""


class ImageStoreError(FpgaError, RuntimeError):
    """The image store can't be used, or refuses: a file that was changed, that nobody listed, that is there already."""


class ImageNotFoundError(ImageStoreError, LookupError):
    """The image store has no such image."""


class ProgramError(FpgaError, RuntimeError):
    """The reconfiguration failed; the message says what the slot holds now."""


class ProgramTimeoutError(ProgramError, TimeoutError):
    """The reconfiguration did not end in time."""


class AFUMismatchError(FpgaError, ValueError):
    """Another accelerator than the expected one is loaded."""


class RunError(FpgaError, RuntimeError):
    """A run ended in an error state."""


class RunTimeoutError(RunError, TimeoutError):
    """A run did not end in time; it is still pending."""


class PollTimeoutError(FpgaError, TimeoutError):
    """A register did not take the awaited value in time."""


class ArgumentError(FpgaError, TypeError):
    """A kernel got the wrong number or type of arguments."""


class ArgumentRangeError(FpgaError, ValueError):
    """An argument's value does not fit: its type, its memory bank, its bounds."""


class CsrError(FpgaError, IndexError):
    """A register offset is misaligned, out of range, or undefined."""


class KernelNotFoundError(FpgaError, LookupError):
    """The loaded image has no such kernel; the message lists those that it has."""


class BufferInUseError(FpgaError, BufferError):
    """The buffer can't be closed: views of it are alive, or a run uses it."""


class ClosedError(FpgaError, ValueError):
    """The object was closed, its device was closed, or it belongs to the parent of a fork."""


class DeviceMemoryError(FpgaError, MemoryError):
    """The driver could not give that much memory."""


class UnsupportedError(FpgaError, NotImplementedError):
    """The board, driver or library can't do this."""


class DriverError(FpgaError, OSError):
    """A vendor call failed for a reason that has no class of its own."""


class LibraryError(FpgaError, ImportError):
    """A vendor library can't be used: symbols missing, wrong version, or it would abort the process."""


class LibraryNotFoundError(LibraryError):
    """A vendor library is not installed; the message says where it was looked for."""


# --- vendor codes -------------------------------------------------------------------------------------------
# fpga_result -> (name, class, hint).  Source: opae-c types_enum, values 0..10.
OPAE_RESULTS: dict[int, tuple[str, type[FpgaError], str]] = {
    1: ("FPGA_INVALID_PARAM", ArgumentRangeError, ""),
    2: ("FPGA_BUSY", DeviceBusyError, "`fpgahal show {bdf}` lists who holds it; or pass shared=True in every process."),
    3: ("FPGA_EXCEPTION", DriverError, "The driver's log (dmesg) may say more."),
    4: ("FPGA_NOT_FOUND", DeviceLostError, "`fpgahal list` shows the devices that answer now."),
    5: (
        "FPGA_NO_MEMORY",
        DeviceMemoryError,
        "Above 4 KiB OPAE wants huge pages (2 MiB, above that 1 GiB): see `fpgahal doctor`.",
    ),
    6: ("FPGA_NOT_SUPPORTED", UnsupportedError, ""),
    7: ("FPGA_NO_DRIVER", DeviceLostError, "Is the dfl-pci or intel-fpga-pci module loaded?  See `fpgahal doctor`."),
    8: ("FPGA_NO_DAEMON", DriverError, "Start fpgad, or use a driver with interrupt support."),
    9: ("FPGA_NO_ACCESS", AccessError, "Give this user access to the device node: see `fpgahal doctor`."),
    10: ("FPGA_RECONF_ERROR", ProgramError, "Program an image that is known to be good."),
}

# errno -> (class, hint), for XRT and for the kernel's own calls.
ERRNO_CLASSES: dict[int, tuple[type[FpgaError], str]] = {
    _errno.EBUSY: (DeviceBusyError, "`fpgahal show {bdf}` lists who holds it."),
    _errno.EACCES: (AccessError, "Give this user access to the device node: see `fpgahal doctor`."),
    _errno.EPERM: (AccessError, "Give this user access to the device node: see `fpgahal doctor`."),
    _errno.ENODEV: (DeviceLostError, "`fpgahal list` shows the devices that answer now."),
    _errno.ENXIO: (DeviceLostError, "`fpgahal list` shows the devices that answer now."),
    _errno.ENOMEM: (DeviceMemoryError, ""),
    _errno.EOPNOTSUPP: (IncompatibleBitstreamError, "Build the image for this board's shell."),
    _errno.EKEYREJECTED: (AccessError, "The image's signature was refused: sign it with a key that the card trusts."),
    _errno.ETIMEDOUT: (DriverError, "The card did not answer in time."),
}


def opae_error(result: int, text: str, what: str, bdf: str) -> FpgaError:
    """Make the exception for a failed ``fpga*`` call; `text` is the library's own (``fpgaErrStr``)."""
    name, cls, hint = OPAE_RESULTS.get(result, (f"fpga_result {result}", DriverError, ""))
    return cls(f"{bdf}: {what} failed: {name} ({text}).", hint=hint.format(bdf=bdf), code=result)


def errno_error(number: int, text: str, what: str, bdf: str, *, default: type[FpgaError] = DriverError) -> FpgaError:
    """Make the exception for a call that failed with an errno; `text` is the vendor's own, if it left one."""
    cls, hint = ERRNO_CLASSES.get(number, (default, ""))
    name = f"{_errno.errorcode.get(number, number)} ({os.strerror(number)})" if number else ""
    detail = ": ".join(part for part in (name, text) if part) or "the library gave no reason"
    return cls(f"{bdf}: {what} failed: {detail}.", hint=hint.format(bdf=bdf), code=number or None)


__all__ = [
    "AFUMismatchError",
    "AccessError",
    "AmbiguousDeviceError",
    "ArgumentError",
    "ArgumentRangeError",
    "BitstreamError",
    "BufferInUseError",
    "ClosedError",
    "CsrError",
    "DeviceBusyError",
    "DeviceLostError",
    "DeviceMemoryError",
    "DeviceNotFoundError",
    "DeviceStateError",
    "DriverError",
    "FpgaError",
    "ImageNotFoundError",
    "ImageStoreError",
    "IncompatibleBitstreamError",
    "KernelNotFoundError",
    "LibraryError",
    "LibraryNotFoundError",
    "PollTimeoutError",
    "ProgramError",
    "ProgramTimeoutError",
    "RunError",
    "RunTimeoutError",
    "UnsupportedError",
]
