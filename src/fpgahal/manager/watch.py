# SPDX-License-Identifier: Apache-2.0
"""Watch: answers for those who ``await`` them: event loops read the socket while somebody waits in them."""

from __future__ import annotations

import asyncio
import threading

from fpgahal.manager.link import Call, Link


class Watch:
    """The event loops in which somebody waits for an answer on a link."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._lock = threading.Lock()
        self._loops: dict[asyncio.AbstractEventLoop, tuple[int, int]] = {}  # who waits, and the socket
        link.reconnected.append(self._moved)

    async def wait(self, call: Call) -> None:
        """Wait until the call has an answer."""
        if call.answer is not None:
            return
        loop = asyncio.get_running_loop()
        answered = asyncio.Event()

        def tell() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(answered.set)

        call.callbacks.append(tell)
        self._begin(loop)
        try:
            if call.answer is None:
                await answered.wait()
        finally:
            self._end(loop)

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._lock:
            waiting, fd = self._loops.get(loop, (0, -1))
            if not waiting:
                fd = self._link.fileno
                if fd >= 0:  # else we hear of the new one
                    loop.add_reader(fd, self._pump, loop)
            self._loops[loop] = waiting + 1, fd

    def _end(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._lock:
            waiting, fd = self._loops.pop(loop)
            if waiting > 1:
                self._loops[loop] = waiting - 1, fd
            elif fd >= 0:
                loop.remove_reader(fd)

    def _pump(self, loop: asyncio.AbstractEventLoop) -> None:
        self._link.pump()
        if self._link.away:  # until there is a new socket
            with self._lock:
                if loop in self._loops:
                    loop.remove_reader(self._loops[loop][1])

    def _moved(self) -> None:
        """There is a new socket."""
        with self._lock:
            for loop in self._loops:
                loop.call_soon_threadsafe(self._again, loop)

    def _again(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._lock:
            if loop in self._loops:
                waiting, fd = self._loops[loop]
                if fd >= 0:
                    loop.remove_reader(fd)
                fd = self._link.fileno
                loop.add_reader(fd, self._pump, loop)
                self._loops[loop] = waiting, fd


__all__ = ["Watch"]
