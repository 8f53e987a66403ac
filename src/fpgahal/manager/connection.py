# SPDX-License-Identifier: Apache-2.0
"""Connection: a client as the manager sees it: who it is, what it has registered, what it is still to be told."""

from __future__ import annotations

import os
import socket
import struct
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fpgahal import ArgumentRangeError
from fpgahal.manager import packets, wire
from fpgahal.manager.accelerators import Argument
from fpgahal.manager.backlog import Share
from fpgahal.manager.memory import Segment, array
from fpgahal.manager.node import Asked, Known
from fpgahal.manager.policy import Grant, Policy
from fpgahal.manager.wire import Frame, Ref, Value

_SO_PEERGROUPS = 59
_SO_PEERPIDFD = 77
_KNOWN = 1024  # requests whose check is remembered
_SHORT = 512  # bytes of such a request: nobody fills the manager's memory with long ones


@dataclass(slots=True, eq=False)
class Account:
    """What the connections of a user have together."""

    grant: Grant
    share: Share
    connections: int = 0
    buffers: int = 0
    memory: int = 0
    moved: int = 0  # bytes of the arrays of requests that were accepted


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end, as the kernel says."""

    pid: int
    uid: int
    groups: frozenset[int]

    @classmethod
    def of(cls, sock: socket.socket) -> Peer:
        """Ask."""
        pid, uid, gid = struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        groups = {gid}
        try:
            more = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 4096)
            groups.update(struct.unpack(f"{len(more) // 4}I", more))
        except OSError:
            pass  # Linux < 4.13, or more than 1,024 groups: the first one counts
        return cls(pid, uid, frozenset(groups))

    def grant(self, policy: Policy) -> Grant:
        """What it may have."""
        return policy.grant(self.uid, self.groups)

    def administers(self, policy: Policy) -> bool:
        """Whether it may cordon and drain boards."""
        said = self.grant(policy).admin
        return said if said is not None else self.pid > 0 and self.uid in (0, os.geteuid())


def death(sock: socket.socket, pid: int) -> int | None:
    """A file descriptor that becomes readable when the peer's process dies, even if a child of it has the socket."""
    try:
        return int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD, 4), sys.byteorder)
    except OSError:  # Linux < 6.5
        try:
            return os.pidfd_open(pid) if pid > 0 else None
        except OSError:
            return None


class Connection:
    """One client.

    Attributes
    ----------
    greeted : bool
        Whether it has said which version it speaks.
    preparing : dict
        Tags of requests that are being prepared, and whether they were cancelled meanwhile.
    known : dict
        By a request's bytes.
    accepted : int
        Requests, ever.
    segments : dict
        Buffers, by handle.
    """

    def __init__(
        self, sock: socket.socket, number: int, peer: Peer, account: Account, unsent: Callable[[], None]
    ) -> None:
        self.sock = sock
        self.number = number
        self.peer = peer
        self.user = peer.uid
        self.account = account
        self.death = death(sock, peer.pid)
        self.greeted = False
        self.closed = False
        self.preparing: dict[int, bool] = {}
        self.known: dict[bytes, Known] = {}
        self.accepted = 0
        self.segments: dict[int, Segment] = {}
        self._unsent: deque[bytes] = deque()
        self._on_unsent = unsent
        self._lock = threading.Lock()
        account.connections += 1

    # --- buffers ------------------------------------------------------------------------------------------------

    def register(self, frame: wire.Register, fds: list[int]) -> None:
        """Map a buffer.

        Raises
        ------
        ArgumentRangeError
            Not one file, not sealed, of another size; or the handle is taken.
        QuotaError
        """
        account, grant = self.account, self.account.grant
        if len(fds) != 1:
            raise ArgumentRangeError(f"{len(fds)} files came with the buffer, expected one.")
        if frame.handle in self.segments:
            raise ArgumentRangeError(f"Buffer {frame.handle} is registered already.")
        if account.buffers >= grant.buffers or account.memory + frame.nbytes > grant.memory:
            raise QuotaError(
                f"This user has {account.buffers} buffers of {account.memory} bytes; {frame.nbytes} more would be too "
                f"many (limits: {grant.buffers} buffers, {grant.memory} bytes)."
            )
        self.segments[frame.handle] = Segment(fds[0], frame.nbytes, frame.constant)
        account.buffers += 1
        account.memory += frame.nbytes

    def release(self, handle: int) -> None:
        """Forget a buffer; requests that wait or run keep it until they have ended."""
        segment = self.segments.pop(handle, None)
        if segment is None:
            raise ArgumentRangeError(f"There is no buffer {handle}.")
        self.known.clear()
        self.account.buffers -= 1
        self.account.memory -= segment.nbytes

    def resolve(self, arguments: dict[str, Value]) -> dict[str, Argument]:
        """Find the arrays of a request.

        Raises
        ------
        ArgumentRangeError
        """
        found: dict[str, Argument] = {}
        for name, value in arguments.items():
            if isinstance(value, Ref):
                segment = self.segments.get(value.handle)
                if segment is None:
                    raise ArgumentRangeError(f"Argument {name}: there is no buffer {value.handle}.")
                found[name] = array(segment, value)
            else:
                found[name] = value
        return found

    def remember(self, data: bytes, known: Known) -> None:
        """Take it that these bytes are this request, until a buffer is released."""
        if len(data) > _SHORT:
            return
        if len(self.known) >= _KNOWN:
            self.known.clear()
        self.known[data] = known

    def asked(self, packet: bytes) -> list[Asked] | None:
        """What a packet asks for, if it was all checked before."""
        found: list[Asked] = []
        for tag, body in packets.submits(packet) or ():
            known = self.known.get(body)
            if known is None:
                return None
            if not found or not found[-1].takes(known, tag):
                found.append(Asked(self, known, tag))
        return found or None

    # --- answers ------------------------------------------------------------------------------------------------

    def reply(self, *answers: tuple[int, Frame]) -> None:
        """Send answers, each with its tag, at once if the client reads; any thread may call it."""
        self._send(packets.together([wire.pack(frame, tag) for tag, frame in answers]))

    def reply_done(self, tags: Sequence[int], waited: float, ran: float) -> None:
        """Tell that requests have run; any thread may call it."""
        self._send(packets.done(tags, waited, ran))

    def _send(self, data: list[bytes]) -> None:
        with self._lock:
            if self.closed:
                return
            sent = 0
            try:
                for packet in () if self._unsent else data:
                    self.sock.send(packet, wire.AT_ONCE)
                    sent += 1
            except BlockingIOError:
                pass
            except OSError:
                return  # it is gone; the loop sees it, too
            if sent == len(data):
                return
            self._unsent.extend(data[sent:])
        self._on_unsent()

    def flush(self) -> bool:
        """Send what was left; True if all is sent."""
        with self._lock:
            while self._unsent and not self.closed:
                try:
                    self.sock.send(self._unsent[0], wire.AT_ONCE)
                except BlockingIOError:
                    return False
                except OSError:
                    self._unsent.clear()
                    break
                self._unsent.popleft()
            return True

    @property
    def behind(self) -> bool:
        """Whether the client does not read its answers."""
        return bool(self._unsent)

    def close(self) -> None:
        """Give everything back."""
        with self._lock:
            self.closed = True
            self._unsent.clear()
            self.sock.close()
        if self.death is not None:
            os.close(self.death)
            self.death = None
        self.known.clear()
        for handle in list(self.segments):
            self.release(handle)
        self.account.connections -= 1


class QuotaError(ArgumentRangeError):
    """A user has too much already."""


__all__ = ["Account", "Connection", "Peer", "QuotaError"]
