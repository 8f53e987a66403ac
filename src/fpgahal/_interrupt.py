# SPDX-License-Identifier: Apache-2.0
"""Interrupt: wait until an AFU calls."""

from __future__ import annotations

import errno
import operator
import os
import select
import time
from typing import TYPE_CHECKING

from fpgahal._errors import ArgumentRangeError, PollTimeoutError

if TYPE_CHECKING:
    from fpgahal._session import Session

_SLICE = 0.05  # seconds between two looks at whether the device is still open


class Interrupt:
    """One of the AFU's user interrupts: an eventfd that counts how often it was raised.

    Made by :meth:`Device.interrupt`.  Interrupts count from then on; those that nobody waited for add up.

    Attributes
    ----------
    vector : int
    """

    def __init__(self, session: Session, vector: int) -> None:
        self.vector = operator.index(vector)
        if not 0 <= self.vector < 1 << 32:
            raise ArgumentRangeError(f"Interrupt vector {vector} is none: the first is 0.")
        self._session = session
        self.fileno()

    def __repr__(self) -> str:
        return f"<fpgahal.Interrupt {self.vector} of {self._session.info.address}>"

    def fileno(self) -> int:
        """The eventfd, for an event loop or ``select``; it is closed with the device, or when it is programmed."""
        return self._session.interrupt(self.vector)

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it was raised since the last call.

        Parameters
        ----------
        timeout : float, optional
            Seconds; None: until Ctrl-C.

        Returns
        -------
        int
            How often it was raised, 1 or more.

        Raises
        ------
        PollTimeoutError
            It was not.
        ClosedError
            The device was closed.
        """
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            fd = self.fileno()
            left = _SLICE if end is None else min(_SLICE, max(0.0, end - time.monotonic()))
            if _readable(fd, left):
                try:
                    return os.eventfd_read(fd)
                except OSError as error:  # another thread was faster, or closed the device
                    if error.errno not in (errno.EAGAIN, errno.EBADF):
                        raise
                    continue
            if end is not None and time.monotonic() >= end:
                raise PollTimeoutError(
                    f"{self._session.info.address}: no interrupt {self.vector} in {timeout:g} s.",
                    hint="Is the accelerator running, and are its interrupts enabled?",
                )


def _readable(fd: int, seconds: float) -> bool:
    poll = select.poll()  # select.select knows the first 1,024 descriptors only
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


__all__ = ["Interrupt"]
