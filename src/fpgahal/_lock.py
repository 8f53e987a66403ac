# SPDX-License-Identifier: Apache-2.0
"""Locks between processes: who has a slot open, and who programs it.

They are flock() locks on files in ``/run/lock`` (in an emulated rack: in its own ``run/lock``), so the kernel
drops them when a process dies.  They bind users of fpgahal; a driver's own exclusivity binds everybody else.
"""

from __future__ import annotations

import fcntl
import os
import time
import weakref

from fpgahal._errors import DeviceBusyError
from fpgahal._info import DeviceInfo

_held: weakref.WeakSet[_FileLock] = weakref.WeakSet()


class _FileLock:
    def __init__(self, info: DeviceInfo, purpose: str) -> None:
        self.info = info
        self._fd = -1
        self.path = os.path.join(_folder(info), f"fpgahal-{info.bdf}-{info.slot}.{purpose}")

    def _take(self, mode: int) -> bool:
        fd = _open(self.path)
        try:
            fcntl.flock(fd, mode | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        self._fd = fd
        _held.add(self)
        return True

    def holder(self) -> str:
        """``"process 1234"``: who took the lock last, as it wrote itself down."""
        try:
            with open(self.path, encoding="ascii", errors="replace") as file:
                pid = file.read(16).strip()
        except OSError:
            return "another process"
        return f"process {pid}" if pid.isdigit() else "another process"

    def _sign(self) -> None:
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def __del__(self) -> None:
        self.release()

    def release(self, *, forked: bool = False) -> None:
        """Let go.  In the child of a fork only the child's copy is closed: the lock stays the parent's."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            _held.discard(self)
            if not forked:
                fcntl.flock(fd, fcntl.LOCK_UN)
            os.close(fd)


class OpenLock(_FileLock):
    """Held while a slot is open, where the driver itself shares every device (XRT).

    Raises
    ------
    DeviceBusyError
        Somebody has it open, and one of the two wants it alone.
    """

    def __init__(self, info: DeviceInfo, shared: bool) -> None:
        super().__init__(info, "open")
        if not self._take(fcntl.LOCK_SH if shared else fcntl.LOCK_EX):
            raise DeviceBusyError(
                f"{info.address} is open in {self.holder()}.",
                hint="Wait for it, or pass shared=True in every process.",
            )
        self._sign()


class ProgramLock(_FileLock):
    """Held while a slot is programmed: ``with ProgramLock(info, timeout): ...``."""

    def __init__(self, info: DeviceInfo, timeout: float | None) -> None:
        super().__init__(info, "program")
        self.timeout = timeout

    def __enter__(self) -> ProgramLock:
        end = None if self.timeout is None else time.monotonic() + self.timeout
        while not self._take(fcntl.LOCK_EX):
            if end is not None and time.monotonic() >= end:
                raise DeviceBusyError(
                    f"{self.info.address} is being programmed by {self.holder()} (waited {self.timeout:g} s). "
                    "Nothing was written.",
                    hint="Try again when it is done.",
                )
            time.sleep(0.02)
        self._sign()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def _after_fork_in_child() -> None:
    # A copy that stays open in the child would keep the lock when the parent is long gone.
    for lock in list(_held):
        lock.release(forked=True)


os.register_at_fork(after_in_child=_after_fork_in_child)


def _folder(info: DeviceInfo) -> str:
    folder = os.path.join(info.root, "run", "lock")
    if info.root != "/":
        os.makedirs(folder, exist_ok=True)
    elif not os.access(folder, os.W_OK):
        import tempfile  # slow to import, and rarely needed

        return tempfile.gettempdir()
    return folder


def _open(path: str) -> int:
    try:  # first without O_CREAT: fs.protected_regular forbids that on another user's file in a sticky folder
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        if os.fstat(fd).st_uid == os.getuid():
            os.fchmod(fd, 0o666)  # whatever the umask: another user must be able to lock it
        return fd


__all__ = ["OpenLock", "ProgramLock"]
