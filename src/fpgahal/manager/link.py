# SPDX-License-Identifier: Apache-2.0
"""Link: a client's connection, which outlives the manager's process.

Who waits for an answer reads the socket, and gives others theirs: a thread that does nothing but read would make each
answer wait until it has woken somebody up.
"""

from __future__ import annotations

import array
import math
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from fpgahal import AccessError, ClosedError, DeviceLostError, FpgaError
from fpgahal.manager import packets, soon, wire
from fpgahal.manager.arena import Segment
from fpgahal.manager.errors import Answer, CancelledError, ManagerLostError, WaitTimeoutError, check, exception
from fpgahal.manager.spin import Spin
from fpgahal.manager.wire import Failed, Frame, Register, Release, Welcome

_SPIN = 500e-6  # seconds that the one who waits for a single answer looks for it before sleeping
_FIRST_PAUSE, _LAST_PAUSE = 0.005, 0.25  # seconds between attempts to connect

_family = object()  # another one in the child of a fork: to ask for the process's id takes a system call


def _after_fork_in_child() -> None:
    global _family
    _family = object()


os.register_at_fork(after_in_child=_after_fork_in_child)


class Call:
    """A frame that wants an answer.

    Attributes
    ----------
    data : bytes
        The frame.
    answer : Frame, FpgaError or None
    keep : object
        What must stay until then: the manager reads and writes it.
    once : bool
        Not to be sent a second time, because it may have run.
    segment : Segment or None
        What it registers.
    cancelled : bool
        Not to be sent a second time, because nobody wants it.
    """

    __slots__ = ("answer", "callbacks", "cancelled", "data", "keep", "once", "segment")

    def __init__(self, data: bytes, keep: Any = None, *, once: bool = False, segment: Segment | None = None) -> None:
        self.data = data
        self.keep = keep
        self.once = once
        self.segment = segment
        self.cancelled = False
        self.answer: Answer | None = None
        self.callbacks: list[Callable[[], None]] = []


class Link:
    """A connection to the manager at `path`.

    Parameters
    ----------
    path : path
        Of its socket.
    patience : float
        Seconds to wait for a manager: for the first one, and when one has gone.

    Attributes
    ----------
    welcome : Welcome
        What the manager said last.
    away : bool
        The connection was lost, and there is no new one yet.
    reconnected : list of callable
        Called, in a thread of their own, when there is.
    """

    def __init__(self, path: str | os.PathLike[str], patience: float) -> None:
        self.path = Path(path)
        self.welcome: Welcome
        self.closed = False
        self.away = False
        self.reconnected: list[Callable[[], None]] = []
        self._patience = patience
        self._greeted = False
        self._family = _family
        self._segments: dict[int, Segment] = {}
        self._state = threading.Lock()  # guards what follows
        self._calls: dict[int, Call] = {}  # by tag, in the order in which they were sent
        self._tag = 0
        self._generation = 0  # of the socket
        self._present = threading.Event()  # not away
        self._reader = threading.Lock()  # who has it reads the socket
        self._room = soon.Room()
        self._changed = threading.Condition()  # guards what follows
        self._others = 0  # threads that wait while another one reads
        self._spin = Spin(_SPIN)
        self._sock = self._connect(time.monotonic() + patience)
        self._ready = _poll(self._sock)
        self._present.set()

    # --- sending --------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Refuse what a closed connection, or the child of a fork, can't do.

        Raises
        ------
        ClosedError
        """
        if self.closed or self._family is not _family:
            self._refuse()

    def call(self, frame: Frame | bytes, keep: Any = None, *, once: bool = False) -> tuple[int, Call]:
        """Send a frame that wants an answer; bytes are the body of a request."""
        self.check()
        while len(self._calls) >= max(1, self.welcome.requests) and not self.closed:
            self._make_room()
        with self._state:
            if self.closed:
                self._refuse()
            tag = self._tag = self._tag + 1
            data = packets.submit(frame, tag) if type(frame) is bytes else wire.pack(frame, tag)  # type: ignore[arg-type]
            call = self._calls[tag] = Call(data, keep, once=once)
            sock, generation = self._sock, self._generation
        self._send(data, sock, generation)
        return tag, call

    def requests(self, bodies: Sequence[bytes], keep: Sequence[Any], *, once: bool = False) -> list[tuple[int, Call]]:
        """Send requests, many in a packet; like :meth:`call` for each."""
        self.check()
        found: list[tuple[int, Call]] = []
        while len(found) < len(bodies):
            while (room := max(1, self.welcome.requests) - len(self._calls)) <= 0 and not self.closed:
                self._make_room()
            with self._state:
                if self.closed:
                    self._refuse()
                data = []
                for at in range(len(found), min(len(bodies), len(found) + max(1, room))):
                    tag = self._tag = self._tag + 1
                    data.append(packets.submit(bodies[at], tag))
                    call = self._calls[tag] = Call(data[-1], keep[at], once=once)
                    found.append((tag, call))
                sock, generation = self._sock, self._generation
            for packet in packets.together(data):
                self._send(packet, sock, generation)
        return found

    def cancel(self, tag: int) -> None:
        """Ask that a request is not run."""
        if self._family is not _family:
            self._refuse()
        with self._state:
            call = self._calls.get(tag)
            if call is None:
                return
            call.cancelled = True
            sock, generation = self._sock, self._generation
        self._send(wire.pack(wire.Cancel(), tag), sock, generation)

    def _send(self, data: bytes, sock: socket.socket, generation: int, segment: Segment | None = None) -> None:
        """Send on this socket, with a segment's file; if it is lost, what has no answer is sent again on the next."""
        while not self.away and not self.closed:
            try:
                if segment is None:
                    sock.send(data, wire.AT_ONCE)
                else:
                    _send_file(sock, data, segment.fd)
                return
            except BlockingIOError:  # the manager waits until we read
                self._make_room()
                if generation != self._generation:
                    return
            except OSError:
                self._lost(generation)
                return

    def _make_room(self) -> None:
        _poll(self._sock).poll(20)
        self.pump()

    # --- answers ----------------------------------------------------------------------------------------------

    def wait(self, call: Call, timeout: float | None = None) -> Answer:
        """Wait for the answer.

        Raises
        ------
        WaitTimeoutError
        """
        end, left = (None, None) if timeout is None else (time.monotonic() + timeout, max(0.0, timeout))
        while call.answer is None:
            if self._family is not _family:
                self._refuse()
            if self._reader.acquire(blocking=False):
                try:
                    while call.answer is None and self._read(left):
                        if end is not None:
                            left = max(0.0, end - time.monotonic())
                finally:
                    self._stop_reading()
            elif left != 0.0:
                with self._changed:
                    self._others += 1
                    try:
                        if call.answer is None and self._reader.locked():
                            self._changed.wait(left)
                    finally:
                        self._others -= 1
            if call.answer is None and end is not None:
                if left == 0.0:
                    raise WaitTimeoutError(f"No answer after {timeout:g} s; the request is still under way.")
                left = max(0.0, end - time.monotonic())
        return call.answer

    def pump(self) -> None:
        """Take what answers are there; if another thread reads, leave them to it."""
        if self._reader.acquire(blocking=False):
            try:
                while self._read(0.0):
                    pass
            finally:
                self._stop_reading()

    def _stop_reading(self) -> None:
        self._reader.release()
        if self._others:  # who counts itself after this finds that nobody reads
            with self._changed:
                self._changed.notify_all()

    def _read(self, timeout: float | None) -> bool:
        """Read one packet, or wait for a new connection; False if neither came in time."""
        generation, sock = self._generation, self._sock
        if self.closed:
            return False
        if self.away:
            return self._present.wait(timeout)
        try:
            packet = None
            if timeout == 0.0:
                packet = self._room.packet(sock.fileno(), 0.0)
            elif len(self._calls) == 1:
                packet = self._spin.look(self._room.packet, sock.fileno())
            if packet is None and timeout is None:
                packet = sock.recv(wire.MAX_FRAME)
            elif packet is None and timeout and self._ready.poll(math.ceil(timeout * 1000)):
                packet = self._room.packet(sock.fileno(), 0.0)
        except (OSError, ValueError):
            packet = b""
        if packet is None:
            return False
        if not packet:
            self._lost(generation)
            return True
        for tag, frame in packets.dones(packet) or map(wire.parse, packets.apart(packet)):
            if tag == 0 and type(frame) is Failed:  # what it says before it closes the connection
                self._fail(exception(frame))
                return False
            call = self._calls.pop(tag, None)
            if call is not None:
                self._deliver(call, frame)
        return True

    def _deliver(self, call: Call, answer: Answer) -> None:
        call.answer = answer
        call.keep = None
        for callback in tuple(call.callbacks):
            callback()
        if self._others:
            with self._changed:
                self._changed.notify_all()

    def _fail(self, error: FpgaError) -> None:
        """Nothing goes any more: everybody gets this answer."""
        with self._state:
            self.closed = True
            calls = list(self._calls.values())
            self._calls.clear()
        self._present.set()
        for call in calls:
            self._deliver(call, error)

    # --- buffers ------------------------------------------------------------------------------------------------

    def register(self, segment: Segment) -> None:
        """Make a buffer known, and wait until it is.

        Raises
        ------
        QuotaError, ArgumentRangeError
        """
        self.check()
        self._segments[segment.handle] = segment
        frame = Register(segment.handle, segment.constant, segment.nbytes)
        answer = self.wait(self._call_with(frame, segment))
        try:
            check(answer)
        except FpgaError:
            del self._segments[segment.handle]
            raise

    def _call_with(self, frame: Register, segment: Segment) -> Call:
        with self._state:
            if self.closed:
                self._refuse()
            tag = self._tag = self._tag + 1
            call = self._calls[tag] = Call(wire.pack(frame, tag), segment=segment)
            sock, generation = self._sock, self._generation
        self._send(call.data, sock, generation, segment)
        return call

    def knows(self, segment: Segment) -> bool:
        """Whether it is a buffer of this connection: others have the same handles."""
        return self._segments.get(segment.handle) is segment

    def release(self, segment: Segment) -> None:
        """Let the manager forget a buffer."""
        if self._segments.pop(segment.handle, None) is not None and not self.closed:
            self.call(Release(segment.handle))

    # --- life ---------------------------------------------------------------------------------------------------

    def _connect(self, end: float) -> socket.socket:
        pause = _FIRST_PAUSE
        while True:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
            try:
                sock.connect(str(self.path))
                self._greet(sock)
                return sock
            except OSError as error:
                sock.close()
                if isinstance(error, FpgaError) and not self._greeted:
                    raise
                if isinstance(error, PermissionError):
                    raise AccessError(
                        f"{self.path}: this user may not connect.", hint="The socket's owner and group may."
                    ) from error
                left = end - time.monotonic()
                if left <= 0 or self.closed:
                    raise ManagerLostError(
                        f"{self.path}: no manager answers: {error.strerror or error}.",
                        hint="Is fpgahal-manager running, and is this its socket?",
                    ) from error
                time.sleep(min(pause, left))
                pause = min(2 * pause, _LAST_PAUSE)
            except BaseException:
                sock.close()
                raise

    def _greet(self, sock: socket.socket) -> None:
        """Say hello, and register what is there: the manager may be a new one."""
        sock.settimeout(max(1.0, self._patience))
        answer = _ask(sock, wire.pack(wire.Hello(1, wire.VERSION)))
        if not isinstance(answer, Welcome):
            raise exception(answer) if isinstance(answer, Failed) else wire.ProtocolError("This is no manager.")
        for segment in list(self._segments.values()):
            data = wire.pack(Register(segment.handle, segment.constant, segment.nbytes))
            registered = _ask(sock, data, segment.fd)
            if isinstance(registered, Failed):
                raise exception(registered)
        self.welcome = answer
        self._greeted = True
        sock.settimeout(None)

    def _lost(self, generation: int) -> None:
        """Get a new connection, in a thread of its own: who waits with a timeout should not wait longer."""
        with self._state:
            if generation != self._generation or self.closed or self.away:
                return
            self.away = True
            self._present.clear()
            once = [self._calls.pop(tag) for tag, call in list(self._calls.items()) if call.once]
        text = "The connection to the manager was lost; the request may have run."
        for call in once:
            self._deliver(call, DeviceLostError(text, hint="It was to be run once, so it is not sent again."))
        threading.Thread(target=self._reconnect, name="fpgahal reconnects", daemon=True).start()

    def _reconnect(self) -> None:
        """Connect again, and send again what has no answer yet."""
        self._hang_up()
        try:
            sock = self._connect(time.monotonic() + self._patience)
        except (FpgaError, OSError) as error:
            self._fail(error if isinstance(error, FpgaError) else ManagerLostError(f"{self.path}: {error}."))
            return
        with self._state:
            self._sock, self._ready = sock, _poll(sock)
            self._generation += 1
            generation = self._generation
            calls = list(self._calls.items())
            again = []
            for tag, call in calls:
                if call.cancelled or call.segment is not None:
                    del self._calls[tag]
                else:
                    again.append(call)
            self.away = False
        self._present.set()
        for _, call in calls:
            if call.segment is not None:  # with all others, when we said hello
                self._deliver(call, wire.Ok())
            elif call.cancelled:
                self._deliver(call, CancelledError("The request was cancelled."))
        for call in again:
            if generation == self._generation:
                self._send(call.data, sock, generation)
        for reconnected in tuple(self.reconnected):
            reconnected()

    def _refuse(self) -> None:
        if self._family is not _family:
            raise ClosedError("This connection belongs to the parent process.", hint="Connect again in the child.")
        raise ClosedError("The connection to the manager was closed.", hint="Connect again.")

    @property
    def fileno(self) -> int:
        """Of the socket; another one after a reconnection."""
        return self._sock.fileno()

    def close(self) -> None:
        """Hang up; requests that have no answer yet are not run if they have not begun."""
        if self._family is not _family:  # the parent's; a lock may be held by a thread that is not here
            self.closed = True
            return
        if not self.closed:
            self._fail(CancelledError("The connection to the manager was closed."))
        self._hang_up()

    def _hang_up(self) -> None:
        """Close the socket, when nobody looks at it any more: its number may be another file's a moment later."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)  # a thread that reads wakes up
        alone = self._reader.acquire(timeout=1.0)
        self._sock.close()
        if alone:
            self._stop_reading()


def _poll(sock: socket.socket) -> select.poll:
    ready = select.poll()
    with suppress(ValueError):  # it was closed meanwhile
        ready.register(sock, select.POLLIN)
    return ready


def _send_file(sock: socket.socket, data: bytes, fd: int) -> None:
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
    sock.sendmsg([data], rights, wire.AT_ONCE)


def _ask(sock: socket.socket, data: bytes, fd: int | None = None) -> Frame:
    with suppress(BrokenPipeError):  # it does not read: what it has said is why
        if fd is None:
            sock.send(data, socket.MSG_NOSIGNAL)
        else:
            _send_file(sock, data, fd)
    answer = sock.recv(wire.MAX_FRAME)
    if not answer:
        raise ConnectionResetError("it closed the connection")
    return wire.parse(answer)[1]


__all__ = ["Call", "Link"]
