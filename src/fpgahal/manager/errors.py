# SPDX-License-Identifier: Apache-2.0
"""What a client raises: fpgahal's own exceptions, and these."""

from __future__ import annotations

from fpgahal import (
    AccessError,
    ArgumentError,
    ArgumentRangeError,
    DeviceLostError,
    DeviceNotFoundError,
    FpgaError,
    KernelNotFoundError,
    RunError,
    RunTimeoutError,
)
from fpgahal.manager.wire import Code, Failed, Frame, ProtocolError

Answer = Frame | FpgaError  #: what a call gets: from the manager, or from this side


class ManagerError(FpgaError, RuntimeError):
    """The manager has a defect; its log says more."""


class ManagerLostError(FpgaError, ConnectionError):
    """No manager answers."""


class QuotaError(FpgaError, BlockingIOError):
    """This user has too much already: requests, buffers, connections."""


class CancelledError(FpgaError, RuntimeError):
    """The request was cancelled, and has not run."""


class DeadlineError(FpgaError, TimeoutError):
    """The request's deadline passed before a board was free; it has not run."""


class WaitTimeoutError(FpgaError, TimeoutError):
    """The request has not ended yet; it is still under way."""


_CLASSES: dict[Code, type[FpgaError]] = {
    Code.PROTOCOL: ProtocolError,
    Code.INTERNAL: ManagerError,
    Code.ACCESS: AccessError,
    Code.QUOTA: QuotaError,
    Code.BUFFER: ArgumentRangeError,
    Code.ACCELERATOR: KernelNotFoundError,
    Code.ARGUMENT: ArgumentError,
    Code.RANGE: ArgumentRangeError,
    Code.UNAVAILABLE: DeviceNotFoundError,
    Code.CANCELLED: CancelledError,
    Code.DEADLINE: DeadlineError,
    Code.RUN: RunError,
    Code.TIMEOUT: RunTimeoutError,
    Code.LOST: DeviceLostError,
}


def exception(failed: Failed) -> FpgaError:
    """Make the exception that says what the manager said."""
    return _CLASSES[failed.code](failed.message, hint=failed.hint)


def check(answer: Answer) -> Frame:
    """Raise what an answer says went wrong; else give the answer."""
    if isinstance(answer, Failed):
        raise exception(answer)
    if isinstance(answer, FpgaError):
        raise type(answer)(answer.message, hint=answer.hint)
    return answer


__all__ = [
    "Answer",
    "CancelledError",
    "DeadlineError",
    "ManagerError",
    "ManagerLostError",
    "ProtocolError",
    "QuotaError",
    "WaitTimeoutError",
    "check",
    "exception",
]
