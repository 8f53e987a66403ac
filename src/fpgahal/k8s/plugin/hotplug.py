# SPDX-License-Identifier: Apache-2.0
"""Says when to look at the boards again: the kernel's uevents, and from time to time in any case."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from contextlib import suppress
from types import TracebackType

NETLINK_KOBJECT_UEVENT = 15  # include/uapi/linux/netlink.h
KERNEL_GROUP = 1  # what the kernel sends; udev's own are in group 2
#: Subsystems whose events may mean a board: PCI, the drivers of Intel's boards, and of AMD's.
SUBSYSTEMS = frozenset(
    {"pci", "fpga", "fpga_region", "fpga_manager", "fpga_bridge", "dfl", "drm", "xrt", "xrt_user", "xrt_mgmt"}
)
QUIET_SECONDS = 0.2  # without events: then a card's many events are over
LONGEST_SECONDS = 2.0  # a card that never stops sending events does not put a scan off for ever

log = logging.getLogger(__name__)


def concerns_boards(message: bytes) -> bool:
    """Tell whether a uevent may be of a board; ``action@path``, then ``KEY=value``, each ended by NUL."""
    fields = dict(field.partition(b"=")[::2] for field in message.split(b"\0")[1:])
    return fields.get(b"SUBSYSTEM", b"").decode(errors="replace") in SUBSYSTEMS


class Hotplug:
    """Use it in ``with``, in a running event loop.

    Where the kernel gives no events (a sandbox, no right to), only the scans from time to time are left.
    """

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._event = asyncio.Event()
        self._last = 0.0

    def __enter__(self) -> Hotplug:
        try:
            self._socket = open_uevents()
        except OSError as error:
            log.warning("No uevents: boards are looked for from time to time only: %s", error.strerror)
        else:
            asyncio.get_running_loop().add_reader(self._socket, self._read)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    def wake(self) -> None:
        """Have the boards looked at now."""
        self._last = time.monotonic()
        self._event.set()

    async def wait(self, seconds: float) -> None:
        """Return after so many seconds, or soon after an event: when no more follow."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._event.wait()
        latest = time.monotonic() + LONGEST_SECONDS
        while self._event.is_set() and (left := min(self._last + QUIET_SECONDS, latest) - time.monotonic()) > 0:
            await asyncio.sleep(left)
        self._event.clear()

    def _read(self) -> None:
        assert self._socket is not None
        try:
            message, (sender, _) = self._socket.recvfrom(16384)
        except BlockingIOError:
            return
        except OSError:  # ENOBUFS: events were lost, so anything may have happened
            self.wake()
            return
        if sender == 0 and concerns_boards(message):  # 0 is the kernel; any process may send here
            self.wake()


def open_uevents() -> socket.socket:
    """Open a socket on which the kernel sends its uevents.

    Raises
    ------
    OSError
        The kernel or a sandbox does not allow it.
    """
    found = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, NETLINK_KOBJECT_UEVENT)
    try:
        found.bind((0, KERNEL_GROUP))
    except OSError:
        found.close()
        raise
    return found
