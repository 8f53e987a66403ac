# SPDX-License-Identifier: Apache-2.0
"""Server: the thread that reads from clients.

It takes a few frames of each client that has sent some, then lets the node give boards work, then looks again: no
client gets more of it than others, and what came together can run together.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import select
import threading
from collections import deque
from collections.abc import Callable, Hashable, Mapping
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from queue import SimpleQueue

from fpgahal import DeviceInfo, FpgaError
from fpgahal.manager import packets, soon, wire
from fpgahal.manager.accelerators import Accelerator
from fpgahal.manager.board import clock
from fpgahal.manager.complaints import Complaints
from fpgahal.manager.connection import Account, Connection, QuotaError
from fpgahal.manager.cordons import Cordons
from fpgahal.manager.door import Door
from fpgahal.manager.limits import Limits
from fpgahal.manager.listener import Allowance, gone, listen
from fpgahal.manager.memory import Array
from fpgahal.manager.node import NEVER, Asked, Known, Node, failure
from fpgahal.manager.policy import Policy
from fpgahal.manager.report import fitting, report
from fpgahal.manager.scheduler import Refusal, Refused, Settings, Share
from fpgahal.manager.spin import Spin
from fpgahal.manager.wire import Code, Failed, Frame, ProtocolError

_FRAMES = 32  # of one client, before others are looked at
_LONGEST = 3600.0  # seconds that epoll waits: a deadline may be beyond what it takes
_PAUSE = 0.02  # seconds between two looks at who wants to connect, if strangers have had their time
_DEPOSIT = 0.001  # seconds that who connects is charged until it says hello: others notice how often it happens
_PREPARING = 64  # requests of one client that may be prepared at a time
_SLICE = 100e-6  # seconds of this thread that one client gets, before others are looked at
_SPIN = 200e-6  # seconds that the next request is looked for before sleeping
_IN, _OUT, _GONE = select.EPOLLIN, select.EPOLLOUT, select.EPOLLHUP | select.EPOLLERR
_LOG = logging.getLogger(__name__)


class Server:
    """A manager: boards, and a socket.

    Parameters
    ----------
    path : path
        Of the socket.
    devices : sequence of DeviceInfo
    catalogue : mapping
        What clients may ask for, by name.
    policy : Policy
    mode : int
        Of the socket: who may connect.
    limits : Limits
    settings : Settings, optional
        The scheduler's.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        devices: list[DeviceInfo],
        catalogue: Mapping[str, Accelerator],
        policy: Policy | None = None,
        *,
        mode: int = 0o660,
        limits: Limits | None = None,
        settings: Settings | None = None,
    ) -> None:
        self.path = Path(path)
        self.policy = policy or Policy()
        self.limits = limits or Limits()
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._most_buffers = files // 2  # each takes one, and a connection two
        self._most_connections = min(self.limits.connections, files // 8)
        self._accounts: dict[int, Account] = {}
        self._connections: dict[int, Connection] = {}  # by number
        self._by_fd: dict[int, Connection] = {}  # of the socket, and of the process
        self._numbers = 0
        self._mail: deque[Callable[[], None]] = deque()  # what other threads want done here
        self._slow: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._stopping = False
        self._room = soon.Room()
        self._spin = Spin(_SPIN)
        self._held: Asked | None = None  # until it is known whether more has come
        self._alone = False  # nothing else has
        self._answered = False  # a request, at once: who sent it may soon send another
        self._poked = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll = select.epoll()
        self._strangers = Allowance()
        self._pause = NEVER  # when to look at new clients again
        self._complaints = Complaints(_LOG)
        self._reported = False  # which takes long: others come before this client's next packet
        self._listener = listen(self.path, mode)
        self._door = Door(self._listener, self.policy, self._accounts, self._complaints)
        self.node = Node(devices, catalogue, self._share, self._poke, settings, self.limits.timeout)
        self._cordons = Cordons(self.path.with_name(f"{self.path.name}.cordons"), self.node)

    def _share(self, user: Hashable) -> Share:
        account = self._accounts.get(user) if isinstance(user, int) else None
        return account.share if account is not None else Share()

    # --- life -----------------------------------------------------------------------------------------------

    def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Serve until :meth:`stop`.

        Parameters
        ----------
        ready : callable
            Called once clients can connect.
        """
        self._epoll.register(self._listener, select.EPOLLIN)
        self._epoll.register(self._poked, select.EPOLLIN)
        preparer = threading.Thread(target=self._prepare, name="prepare", daemon=True)
        preparer.start()
        self.node.start()
        ready()
        try:
            while not self._stopping:
                self._turn()
        finally:
            self._close(preparer)

    def stop(self) -> None:
        """End :meth:`run`; any thread, and a signal handler, may call it."""
        self._stopping = True
        self._poke()

    def _close(self, preparer: threading.Thread) -> None:
        with suppress(FileNotFoundError):
            self.path.unlink()
        self._door.close()
        for connection in list(self._connections.values()):
            self._drop(connection, "the manager stops")
        self._slow.put(None)
        self.node.stop()
        preparer.join(5.0)
        self._epoll.close()
        os.close(self._poked)

    def add(self, info: DeviceInfo) -> None:
        """Use one more board; any thread may say so, more than once."""

        def add() -> None:
            if info.address not in self.node.boards:
                _LOG.info("board found", extra={"board": info.address})
                self.node.add(info)
                self._cordons.apply(info.address)

        self.call(add)

    def call(self, work: Callable[[], None]) -> None:
        """Have something done in the thread that reads from clients; any thread may ask."""
        self._mail.append(work)
        self._poke()

    def _poke(self) -> None:
        with suppress(BlockingIOError):
            os.eventfd_write(self._poked, 1)

    def _turn(self) -> None:
        if self._pause <= clock():
            self._pause = NEVER
            self._epoll.modify(self._listener, select.EPOLLIN)
        events = soon.events(self._epoll.fileno(), 0.0)
        busy = bool(events)
        if not busy and self._answered:
            events = self._spin.look(soon.events, self._epoll.fileno()) or []
        self._answered = False
        if not events:
            wake = min(self.node.wake, self._pause)
            if self._door.guests and self._pause == NEVER:
                wake = 0.0
            events = self._epoll.poll(None if wake == NEVER else min(max(0.0, wake - clock()), _LONGEST))
        self._alone = len(events) == 1
        new = False
        for fd, event in events:
            connection = self._by_fd.get(fd)
            if connection is not None:
                if connection.death == fd or event & _GONE:
                    with nullcontext() if connection.greeted else self._strangers:
                        self._drop(connection, "it went away")
                    continue
                if event & _OUT and connection.flush():
                    self._epoll.modify(fd, select.EPOLLIN)
                if event & _IN:
                    if connection.greeted:
                        self._hear(connection, busy)
                    else:
                        with self._strangers:
                            self._hear(connection, busy)
            elif fd == self._poked:
                os.eventfd_read(self._poked)
                while self._mail:
                    self._mail.popleft()()
            elif fd == self._listener.fileno():
                new = True
        if (new or self._door.guests) and self._pause == NEVER:
            if self._strangers.left():
                with self._strangers:  # now, because a number of a file that was closed above may come again
                    if new:
                        self._door.look(self._most_connections - len(self._connections))
                    if self._door.guests:
                        self._let_in()
            else:
                self._pause = clock() + _PAUSE
                self._epoll.modify(self._listener, 0)
        self.node.step()

    def _hear(self, connection: Connection, busy: bool) -> None:
        try:
            self._read(connection, busy)
        except ProtocolError as error:
            self._complaints.add("protocol error", client=connection.number, uid=connection.user, error=str(error))
            connection.reply((0, failure(error, Code.PROTOCOL)))
            self._drop(connection, "protocol error")
            if connection.greeted:
                self._strangers.charge(_DEPOSIT)  # which it had back
        except Exception:  # a defect should not cost more than this connection
            _LOG.exception("a client's frames failed", extra={"client": connection.number})
            self._drop(connection, "a defect")

    # --- connections --------------------------------------------------------------------------------------------

    def _let_in(self) -> None:
        """Have one more client."""
        sock, peer, account = self._door.next()
        if gone(sock):
            sock.close()
            return
        self._strangers.charge(_DEPOSIT)
        self._numbers += 1
        number = self._numbers
        connection = Connection(sock, number, peer, account, partial(self._behind, number))
        self._connections[number] = self._by_fd[sock.fileno()] = connection
        self._epoll.register(sock, select.EPOLLIN)
        if connection.death is not None:
            self._by_fd[connection.death] = connection
            self._epoll.register(connection.death, select.EPOLLIN)

    def _drop(self, connection: Connection, why: str) -> None:
        if self._connections.pop(connection.number, None) is None:
            return
        for fd in (connection.sock.fileno(), connection.death):
            if fd is not None:
                with suppress(OSError):
                    self._epoll.unregister(fd)
                del self._by_fd[fd]
        self.node.drop(connection.number)
        connection.close()
        if not connection.greeted:  # it was no client
            return
        _LOG.info(
            "client gone",
            extra={"client": connection.number, "pid": connection.peer.pid, "uid": connection.peer.uid, "why": why},
        )

    def _behind(self, number: int) -> None:
        """A client does not read its answers: its requests are not read either, until it does."""

        def watch() -> None:
            connection = self._connections.get(number)
            if connection is not None and connection.behind:
                self._epoll.modify(connection.sock, select.EPOLLOUT)

        self.call(watch)

    # --- frames -------------------------------------------------------------------------------------------------

    def _read(self, connection: Connection, busy: bool) -> None:
        """Take what a client has sent; its request is run at once, if it is the only one (`busy`: look for more)."""
        self._held, self._reported = None, False
        end = clock() + _SLICE
        for _ in range(_FRAMES if busy else 1):
            try:
                data, fds, cut = self._room.packet_and_files(connection.sock.fileno())
            except OSError:
                self._drop(connection, "reading failed")
                return
            if data is None:
                break
            if not data and not fds:
                self._drop(connection, "it closed the connection")
                return
            try:
                if cut:
                    raise ProtocolError("A packet that is too long, or brings too many files.")
                self._take(connection, data, fds)
            finally:
                for fd in fds:
                    os.close(fd)
            if clock() > end or connection.closed or connection.behind or self._reported:
                break
        if self._held is not None:
            self._submit(connection, self._held, now=self._alone)
            self._answered = self._alone

    def _take(self, connection: Connection, packet: bytes, fds: list[int]) -> None:
        asked = connection.asked(packet) if not fds else None
        if self._held is not None:  # it was not the only one
            self._submit(connection, self._held, now=False)
            self._held, self._alone = None, False
        if asked is not None:
            self._held = asked.pop()
            for one in asked:
                self._submit(connection, one, now=False)
            self._alone = self._alone and not asked
            return
        for data in packets.apart(packet):
            if fds and len(data) != len(packet):
                raise ProtocolError("A file came with several frames.")
            self._take_frame(connection, data, fds)

    def _take_frame(self, connection: Connection, data: bytes, fds: list[int]) -> None:
        tag, frame = wire.parse(data)
        if fds and not isinstance(frame, wire.Register):
            raise ProtocolError("A file came with a frame that takes none.")
        if not connection.greeted:
            self._greet(connection, tag, frame)
            return
        code = Code.BUFFER if isinstance(frame, wire.Register | wire.Release) else None
        self._or_failed(connection, tag, lambda: self._answer(connection, tag, frame, data, fds), code)

    def _or_failed(
        self, connection: Connection, tag: int, answer: Callable[[], None], code: Code | None = None
    ) -> None:
        """Answer, or tell the client what went wrong."""
        try:
            answer()
        except ProtocolError:
            raise
        except FpgaError as error:
            connection.reply((tag, failure(error, Code.QUOTA if isinstance(error, QuotaError) else code)))
        except Exception as error:
            _LOG.exception("a frame failed", extra={"client": connection.number})
            connection.reply((tag, failure(error)))

    def _greet(self, connection: Connection, tag: int, frame: Frame) -> None:
        if not isinstance(frame, wire.Hello):
            raise ProtocolError("The first frame has to be Hello.")
        if frame.lowest > wire.VERSION:
            raise ProtocolError(
                f"This manager speaks version {wire.VERSION}; the client wants {frame.lowest} at least."
            )
        connection.greeted = True
        self._strangers.charge(-_DEPOSIT)
        grant = connection.account.grant
        limits = (min(grant.buffers, 0xFFFF), min(grant.requests, 0xFFFF_FFFF), grant.memory)
        connection.reply((tag, wire.Welcome(wire.VERSION, *limits)))
        _LOG.info("client", extra={"client": connection.number, "pid": connection.peer.pid, "uid": connection.peer.uid})

    def _answer(self, connection: Connection, tag: int, frame: Frame, data: bytes, fds: list[int]) -> None:
        match frame:
            case wire.Submit():
                self._request(connection, tag, frame, packets.body_of(data))
            case wire.Describe():
                self._describe(connection, tag, frame)
            case wire.Cancel():
                if tag in connection.preparing:
                    connection.preparing[tag] = True
                self.node.cancel(connection.number, tag)
            case wire.Register():
                if sum(account.buffers for account in self._accounts.values()) >= self._most_buffers:
                    raise QuotaError("The manager has as many buffers as it may open files for.")
                connection.register(frame, fds)
                connection.reply((tag, wire.Ok()))
            case wire.Release():
                connection.release(frame.handle)
                connection.reply((tag, wire.Ok()))
            case wire.Status():
                if not frame.accelerator:
                    if self._reported:  # it takes long, and is long
                        raise ProtocolError("A packet asks for two reports.")
                    self._reported = True
                connection.reply((tag, self._report(connection, frame.accelerator)))
            case wire.Admin():
                peer = connection.peer
                who = {"client": connection.number, "pid": peer.pid, "uid": peer.uid}
                self._cordons.want(frame.verb, frame.board, peer.administers(self.policy), **who)
                connection.reply((tag, wire.Ok()))
            case _:
                raise ProtocolError(f"{type(frame).__name__} is not a client's frame.")

    def _report(self, connection: Connection, name: str) -> Frame:
        if not name:
            return wire.Report(fitting(self.status()))
        found = self._accelerator(connection, name)
        return found if isinstance(found, Failed) else wire.Report(json.dumps(self.node.offer(found)))

    def status(self) -> dict[str, object]:
        """What goes on, as a JSON document; for the thread that reads from clients."""
        return report(self.node, self._connections.values(), self._accounts)

    # --- requests -----------------------------------------------------------------------------------------------

    def _accelerator(self, connection: Connection, name: str) -> Accelerator | Failed:
        accelerator = self.node.catalogue.get(name)
        if accelerator is None:
            known = ", ".join(sorted(self.node.catalogue))
            return Failed(Code.ACCELERATOR, f"There is no accelerator {name!r}.", f"There are {known}.")
        if not connection.account.grant.allows(name):
            return Failed(Code.ACCESS, f"This user may not use {name}.", "The manager's policy file says who may.")
        return accelerator

    def _request(
        self, connection: Connection, tag: int, submit: wire.Submit, data: bytes, *, prepared: bool = False
    ) -> None:
        found = self._accelerator(connection, submit.name)
        if isinstance(found, Failed):
            connection.reply((tag, found))
            return
        arguments = connection.resolve(submit.arguments)
        slow = None if prepared else found.prepare(arguments)
        if slow is not None:
            self._later(connection, tag, slow, lambda: self._request(connection, tag, submit, data, prepared=True))
            return
        nbytes = sum(value.nbytes for value in arguments.values() if type(value) is Array)
        known = Known(submit, found, found.job(arguments), nbytes)
        connection.remember(data, known)
        self._submit(connection, Asked(connection, known, tag), now=False)

    def _describe(self, connection: Connection, tag: int, frame: wire.Describe, *, prepared: bool = False) -> None:
        found = self._accelerator(connection, frame.submit.name)
        if isinstance(found, Failed):
            connection.reply((tag, found))
            return
        arguments = connection.resolve(frame.submit.arguments)
        slow = None if prepared else found.prepare(arguments)
        if slow is not None:
            self._later(connection, tag, slow, lambda: self._describe(connection, tag, frame, prepared=True))
            return
        connection.reply((tag, wire.Specs(found.outputs(arguments))))

    def _submit(self, connection: Connection, asked: Asked, now: bool) -> None:
        try:
            self.node.submit(asked, now=now)
        except Refused as refused:
            refusal: Refusal = refused.args[0]
            code = {Refusal.QUOTA: Code.QUOTA, Refusal.UNAVAILABLE: Code.UNAVAILABLE}.get(refusal, Code.PROTOCOL)
            failed = Failed(code, f"{asked.known.submit.name}: {refusal.value}.")
            connection.reply(*[(tag, failed) for tag in asked.tags])
            self.node.counts["refused"] += len(asked.tags)
        else:
            connection.accepted += len(asked.tags)
            connection.account.moved += asked.nbytes

    # --- what takes longer ----------------------------------------------------------------------------------------

    def _later(self, connection: Connection, tag: int, slow: Callable[[], None], go_on: Callable[[], None]) -> None:
        """Call `slow` in the thread for that, then `go_on` in this one."""
        if len(connection.preparing) >= _PREPARING or tag in connection.preparing:
            connection.reply((tag, Failed(Code.QUOTA, "Too many requests with new models at a time.")))
            return
        connection.preparing[tag] = False

        def back(error: FpgaError | None) -> None:
            if connection.closed:
                return
            if connection.preparing.pop(tag):
                connection.reply((tag, Failed(Code.CANCELLED, "The request was cancelled.")))
                return
            if error is not None:
                connection.reply((tag, failure(error)))
                return
            self._or_failed(connection, tag, go_on)

        def work() -> None:
            error = None
            if not connection.closed:
                try:
                    slow()
                except FpgaError as failed:
                    error = failed.with_traceback(None)  # which holds the client's memory
                except Exception as failed:
                    _LOG.exception("preparing failed", extra={"client": connection.number})
                    error = FpgaError(f"The request can't be prepared: {type(failed).__name__}: {failed}.")
            self.call(lambda: back(error))

        self._slow.put(work)

    def _prepare(self) -> None:
        while (work := self._slow.get()) is not None:
            work()
            del work  # while this thread waits for the next, it holds nobody's memory


__all__ = ["Server"]
