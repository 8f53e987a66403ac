# SPDX-License-Identifier: Apache-2.0
"""Who is let in next, and what is said of those who misbehave."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from fpgahal.manager import complaints, door, wire
from fpgahal.manager.complaints import Complaints
from fpgahal.manager.connection import Account, Peer
from fpgahal.manager.door import Door
from fpgahal.manager.listener import listen
from fpgahal.manager.policy import Policy

LOG = logging.getLogger("complaints")


class Street:
    """Where clients come from, of whatever user."""

    def __init__(self, path: Path, stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
        self.accounts: dict[int, Account] = {}
        self.door = Door(listen(path, 0o600), Policy(), self.accounts, Complaints(LOG))
        stack.callback(self.door.close)
        self._path, self._stack = path, stack
        self._users: list[int] = []
        monkeypatch.setattr(door.Peer, "of", lambda sock: Peer(1, self._users.pop(0), frozenset()))

    def knock(self, user: int) -> socket.socket:
        sock = self._stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        sock.settimeout(5)
        sock.connect(str(self._path))
        self._users.append(user)
        return sock

    def look(self, room: int = 1000) -> None:
        while self._users:
            self.door.look(room)

    def let_in(self) -> int:
        sock, peer, account = self.door.next()
        assert account is self.accounts[peer.uid]
        sock.close()
        return peer.uid


@pytest.fixture
def street(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Street]:
    with ExitStack() as stack:
        yield Street(tmp_path / "socket", stack, monkeypatch)


def refused(sock: socket.socket) -> bool:
    """Whether this one was sent away, and told why."""
    sock.setblocking(False)
    with suppress(BlockingIOError):
        _, frame = wire.parse(sock.recv(wire.MAX_FRAME))
        assert isinstance(frame, wire.Failed)
        assert frame.code is wire.Code.QUOTA
        return True
    return False


def test_users_take_turns(street: Street) -> None:
    for user in (1, 1, 1, 1, 2, 3, 2):
        street.knock(user)
    street.look()
    assert street.door.guests == 7
    assert [street.let_in() for _ in range(3)] == [1, 2, 3]
    street.knock(4)
    street.look()
    assert [street.let_in() for _ in range(5)] == [1, 2, 4, 1, 1]
    assert street.door.guests == 0


def test_those_who_wait_count(street: Street) -> None:
    """Of a user's connections, and of all."""
    most = Policy().grant(1, frozenset()).connections
    socks = []
    for _ in range(most + 2):
        socks.append(street.knock(1))
        street.look()
    assert [refused(sock) for sock in socks] == [False] * most + [True] * 2
    other = street.knock(2)
    street.look()
    assert not refused(other)
    last = street.knock(3)
    street.look(room=most + 1)
    assert refused(last)
    assert street.door.guests == most + 1
    street.let_in()
    again = street.knock(3)
    street.look(room=most + 1)
    assert not refused(again)


def test_who_is_left_when_the_door_closes_is_sent_away(street: Street) -> None:
    sock = street.knock(1)
    street.look()
    street.door.close()
    assert sock.recv(1) == b""


def test_complaints_are_logged_once_a_second(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(complaints, "clock", lambda: now)
    found = Complaints(LOG)
    for _ in range(50):
        found.add("nonsense", uid=7)
    now += 1.0
    found.add("nonsense", uid=8)
    assert [(record.uid, record.times) for record in caplog.records] == [(7, 1), (8, 50)]  # type: ignore[attr-defined]
