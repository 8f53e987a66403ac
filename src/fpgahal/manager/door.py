# SPDX-License-Identifier: Apache-2.0
"""Door: who has connected and waits to be let in.  Users take turns, so that who knocks all the time keeps nobody else
out."""

from __future__ import annotations

import socket
from collections import OrderedDict, deque

from fpgahal.manager import wire
from fpgahal.manager.complaints import Complaints
from fpgahal.manager.connection import Account, Peer
from fpgahal.manager.listener import gone, refuse
from fpgahal.manager.policy import Policy
from fpgahal.manager.wire import Code, Failed

_KNOCKS = 8  # that are answered at a time

Guest = tuple[socket.socket, Peer, Account]


class Door:
    """Connections that nobody has looked after yet.

    Parameters
    ----------
    listener : socket
    policy : Policy
    accounts : dict
        By user; whose first connection it is gets one.
    complaints : Complaints

    Attributes
    ----------
    guests : int
        How many wait.
    """

    def __init__(
        self, listener: socket.socket, policy: Policy, accounts: dict[int, Account], complaints: Complaints
    ) -> None:
        self.guests = 0
        self._listener = listener
        self._policy = policy
        self._accounts = accounts
        self._complaints = complaints
        self._queues: OrderedDict[int, deque[Guest]] = OrderedDict()  # by user; whose turn it is comes first

    def look(self, room: int) -> None:
        """See who has come; there is `room` for so many, those that wait included."""
        for _ in range(_KNOCKS):
            try:
                sock, _address = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:  # it went away meanwhile, or there are no file descriptors left
                self._complaints.add("accept failed", error=str(error))
                return
            if gone(sock):
                sock.close()
                continue
            peer = Peer.of(sock)
            grant = peer.grant(self._policy)
            account = self._accounts.setdefault(peer.uid, Account(grant, grant.share))
            account.grant, account.share = grant, grant.share
            queue = self._queues.setdefault(peer.uid, deque())
            if account.connections + len(queue) < grant.connections and self.guests < room:
                queue.append((sock, peer, account))
                self.guests += 1
                continue
            refuse(sock, wire.pack(Failed(Code.QUOTA, "This user, or the manager, has too many connections.")))
            if not queue:
                del self._queues[peer.uid]

    def next(self) -> Guest:
        """Who is to be let in, of those that wait."""
        user, queue = self._queues.popitem(last=False)
        guest = queue.popleft()
        if queue:
            self._queues[user] = queue
        self.guests -= 1
        return guest

    def close(self) -> None:
        """Send everybody away."""
        self._listener.close()
        while self.guests:
            self.next()[0].close()


__all__ = ["Door", "Guest"]
