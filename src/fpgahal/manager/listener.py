# SPDX-License-Identifier: Apache-2.0
"""The manager's socket, and who may come in how fast."""

from __future__ import annotations

import os
import socket
import stat
import time
from contextlib import suppress
from pathlib import Path

from fpgahal import DeviceBusyError, FpgaError

_PART = 0.02  # of the time
_BACKLOG = 64  # clients that wait to be accepted; more of them would not be sooner
_AT_FIRST = 0.05  # seconds, which some hundred clients take


def gone(sock: socket.socket) -> bool:
    """Whether the other side has hung up, and has sent nothing before."""
    try:
        return not sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True


class Allowance:
    """What strangers may take of the time of a thread: who connects, has not said hello yet, or talks nonsense.

    Those who are there should not notice, so it is a fiftieth, but what the first few hundred take is free.  What is
    done for them is done in ``with``.
    """

    def __init__(self) -> None:
        self._seconds = _AT_FIRST
        self._seen = time.monotonic()
        self._since = 0.0

    def left(self) -> bool:
        """Whether there is some left."""
        now = time.monotonic()
        self._seconds = min(_AT_FIRST, self._seconds + (now - self._seen) * _PART)
        self._seen = now
        return self._seconds > 0

    def __enter__(self) -> None:
        self._since = time.thread_time()

    def __exit__(self, *error: object) -> None:
        self.charge(time.thread_time() - self._since)

    def charge(self, seconds: float) -> None:
        """Take some."""
        self._seconds -= seconds


def listen(path: Path, mode: int) -> socket.socket:
    """Make the socket; one that nobody serves any more is replaced.

    Raises
    ------
    DeviceBusyError
        Another manager serves it, or it is no socket.
    FpgaError
        There is no such folder, or it may not be written.
    """
    if path.exists():
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise DeviceBusyError(f"{path} is there, and no socket.", hint="Name another path for the socket.")
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                pass  # it is replaced
            else:
                raise DeviceBusyError(f"Another manager serves {path}.", hint="Stop it, or name another path.")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    new = path.with_name(f"{path.name}~")
    try:
        new.unlink(missing_ok=True)
        mask = os.umask(0o777)  # nobody gets in before the mode is set
        try:
            listener.bind(str(new))
        finally:
            os.umask(mask)
        os.chmod(new, mode)
        listener.listen(_BACKLOG)
        new.rename(path)  # who looks for a manager finds one that answers, or none: not one that refuses for a moment
    except OSError as error:
        listener.close()
        raise FpgaError(f"{path}: can't listen there: {error.strerror}.", hint="Is there such a folder?") from error
    return listener


def refuse(sock: socket.socket, why: bytes) -> None:
    """Say why there will be no connection, and close it."""
    with sock, suppress(OSError):
        sock.shutdown(socket.SHUT_RD)  # and what came before is read: the answer would be lost in a reset
        with suppress(BlockingIOError):
            while sock.recv(1, socket.MSG_DONTWAIT):
                pass
        sock.send(why, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


__all__ = ["Allowance", "gone", "listen", "refuse"]
