# SPDX-License-Identifier: Apache-2.0
"""Any sequence of clients, requests, kills, faults and restarts, over a real manager.

Each request ends once, rightly or with an error that something explains; the ledger knows how often it ran.  At the end
of a story nobody has anything left.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from manager_clients import LOST, PREDICTED, Child, Nursery, Wish, nursery, obey, predict
from manager_daemon import Daemon, running
from manager_ledger import ONCE, Ledger, installed

ROOT = os.geteuid() == 0
BOARDS = "pac-a10:2,u250"
TIMEOUT = 0.5  # seconds of a run, after which it hangs
USERS = {0: 0, 4001: 4001, 4002: 4003} if ROOT else {0: 0}  # uid -> gid; 0: ourselves
WEIGHTS = {4001: 1.0, 4003: 3.0}  # by gid
POLICY = "".join(f"[[rule]]\ngroups = [{gid}]\nweight = {weight}\n" for gid, weight in WEIGHTS.items())
TRIES = 3
BACKLOG = 50  # requests, for each unit of a user's weight, where fairness is measured
WAITING = 10  # of them: who has fewer does not want all that there is
RELOADS = 0.03  # board-seconds that one of them may have been charged for images, more than the other

# What explains an error: something that was done to the boards, the manager, or the request.
EXPLAINS = {
    "RunError": {"run-error"},
    "RunTimeoutError": {"hang"},
    "DeviceLostError": {"vanish", "hang", "kill", "wrong-afu", "program"},
    "DeviceNotFoundError": {"program", "wrong-afu", "vanish"},
    "DeadlineError": {"deadline"},
    "CancelledError": {"cancel", "close"},
    "ClosedError": {"close"},
}
NOT_RUN = {"DeviceNotFoundError", "DeadlineError", "CancelledError"}  # so says docs/manager-protocol.md


@dataclass(slots=True)
class World:
    """What the stories share."""

    daemon: Daemon
    ledger: Ledger
    nursery: Nursery
    events: Counter[str] = field(default_factory=Counter)
    uids: int = 5000  # of users whom the manager has not seen yet
    memory: int = 0  # of this manager's process, after its first story
    failure: BaseException | None = None  # the first one: when Hypothesis tries again, processes do something else


@dataclass(slots=True, eq=False)
class Record:
    """A request, and what is known of it."""

    wish: Wish
    causes: set[str] = field(default_factory=set)
    waited: bool = False
    outcome: str | None = None
    ran: float = 0.0


class Client:
    """A client, and what it was asked to do."""

    def __init__(self, child: Child, daemon: Daemon) -> None:
        self.child = child
        self.records: dict[int, Record] = {}
        self.closed = False
        self._unsent: deque[tuple[str, Any]] = deque()
        self._unanswered = 0
        self.tell("connect", str(daemon.socket))

    def tell(self, command: str, argument: Any) -> None:
        self._unsent.append((command, argument))
        self._send()

    def _send(self) -> None:
        while self._unsent and self._unanswered < 64:  # more would not fit the socket, if it is busy
            self._unanswered += 1
            self.child.link.send(self._unsent.popleft())

    def submit(self, wish: Wish) -> None:
        self.records[wish.number] = Record(wish, set() if wish.deadline is None else {"deadline"})
        self.tell("submit", wish)

    def wait(self, record: Record) -> None:
        if not record.waited:
            record.waited = True
            self.tell("wait", record.wish.number)

    def listen(self, seconds: float = 0.0) -> None:
        """Take the answers that are there; with `seconds`, all that will come."""
        end = time.monotonic() + seconds
        while self._unanswered and self.child.link.poll(max(0.0, end - time.monotonic())):
            command, argument, answer = self.child.link.recv()
            self._unanswered -= 1
            self._send()
            if command == "submit" and answer is not None:
                self.records[argument.number].outcome = answer
            elif command == "wait" and answer is not None:
                record = self.records[argument]
                record.outcome, record.ran = answer
            else:
                assert answer is None, (command, answer)
        assert not seconds or not self._unanswered, "a client does not answer"


OPTIONS = {
    "data": st.data(),
    "priority": st.integers(0, 2),
    "deadline": st.sampled_from([None, None, None, 0.001, 0.1, 30.0]),
    "once": st.booleans(),
    "shared": st.booleans(),
}


def becomes(look: Callable[[], object], wanted: object, seconds: float = 10.0) -> None:
    """Wait until something is as it should be."""
    end = time.monotonic() + seconds
    while (found := look()) != wanted:
        assert time.monotonic() < end, f"found {found}, expected {wanted}"
        time.sleep(0.005)


def left(status: dict[str, Any]) -> tuple[int, int, int]:
    """Requests, buffers and connections that a manager has."""
    return status["requests"], sum(one["buffers"] for one in status["accounts"]), status["connections"]


def files(daemon: Daemon) -> tuple[int, int, int, int]:
    """Connections, their processes, files of buffers, and mappings of them."""
    process = Path(f"/proc/{daemon.process.pid}")
    names = []
    for path in (process / "fd").iterdir():
        with suppress(FileNotFoundError):
            names.append(os.readlink(path))
    sockets, pidfds, memory = (
        sum(name.startswith(kinds) for name in names)
        for kinds in ("socket:", ("anon_inode:[pidfd]", "pidfd:"), "/memfd:fpgahal ")
    )
    return sockets - 1, pidfds, memory, (process / "maps").read_text().count("/memfd:fpgahal ")


def descriptors(daemon: Daemon) -> int:
    """Files that the manager has open, of whatever kind."""
    return len(os.listdir(f"/proc/{daemon.process.pid}/fd"))


def resident(daemon: Daemon) -> int:
    """Bytes of the manager's process, without the memory that it shares with clients."""
    pages = Path(f"/proc/{daemon.process.pid}/statm").read_text().split()
    return (int(pages[1]) - int(pages[2])) * os.sysconf("SC_PAGESIZE")


@contextmanager
def world(spec: str = BOARDS, timeout: float = TIMEOUT) -> Iterator[World]:
    """Have a manager, a ledger, and a nursery of clients."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fpgahal-storm-")))
        folder.chmod(0o755)  # for users other than ours
        (folder / "policy.toml").write_text(POLICY)
        predict(folder / "predicted.npy")
        stack.enter_context(mock.patch.dict(os.environ, {PREDICTED: str(folder / "predicted.npy")}))
        ledger = stack.enter_context(installed(folder))
        options = ["--policy", str(folder / "policy.toml"), "--mode", "666", "--timeout", str(timeout)]
        daemon = stack.enter_context(running(folder, spec, *options))
        yield World(daemon, ledger, stack.enter_context(nursery("manager_workload")))


class Storm(RuleBasedStateMachine):
    """A story."""

    world: World

    def __init__(self) -> None:
        super().__init__()
        self.daemon, self.ledger = self.world.daemon, self.world.ledger
        self.clients: list[Client] = []
        self.dead: list[Client] = []
        self.number = self.world.events["submitted"]
        self.troubled: set[int] = set()  # boards
        self.causes: set[str] = set()  # of this story
        self.kills = 0  # of the manager
        self.next_kill = 0
        self.competitions = 0

    @contextmanager
    def first(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self.world.failure = self.world.failure or error
            raise

    def count(self, event: str, times: int = 1) -> None:
        self.world.events[event] += times
        self.world.events["all"] += 1

    @property
    def alive(self) -> bool:
        return self.daemon.process.poll() is None

    # --- clients ------------------------------------------------------------------------------------------------

    @initialize()
    def begin(self) -> None:
        self.connect(0)

    @precondition(lambda self: len(self.clients) < 6)
    @rule(user=st.sampled_from(sorted(USERS)))
    def connect(self, user: int) -> None:
        self.clients.append(Client(self.world.nursery.child(obey, uid=user, gid=USERS[user]), self.daemon))
        self.count("clients")

    def submit(self, data: Any, accelerator: str, times: int, once: bool, **fields: Any) -> None:
        client = data.draw(st.sampled_from([one for one in self.clients if not one.closed]))
        for _ in range(times):
            self.number += 1
            client.submit(Wish(self.number | (ONCE if once else 0), accelerator, once=once, **fields))
        self.world.events["submitted"] += times
        self.count("submits")

    @precondition(lambda self: any(not one.closed for one in self.clients))
    @rule(size=st.integers(1, 10_000), times=st.sampled_from([1, 2, 20]), **OPTIONS)
    def add(self, **options: Any) -> None:
        self.submit(accelerator="vadd", **options)

    @precondition(lambda self: any(not one.closed for one in self.clients))
    @rule(size=st.integers(1, 200), times=st.sampled_from([1, 2, 20]), **OPTIONS)
    def predict(self, **options: Any) -> None:
        self.submit(accelerator="xgboost.predict", **options)

    @precondition(lambda self: any(not one.closed for one in self.clients))
    @rule(
        size=st.integers(1, 100),
        micros=st.sampled_from([0, 0, 100, 3000, 20_000]),
        times=st.sampled_from([1, 2, 10]),
        **OPTIONS,
    )
    def note(self, **options: Any) -> None:
        self.submit(accelerator="ledger", **options)

    @precondition(lambda self: any(not one.closed for one in self.clients))
    @rule(size=st.just(1), times=st.just(30), micros=st.sampled_from([0, 500, 3000]), **OPTIONS)
    def note_many(self, **options: Any) -> None:
        self.submit(accelerator="ledger", **options)

    @rule(data=st.data(), times=st.sampled_from([1, 5]))
    def cancel(self, data: Any, times: int) -> None:
        chosen = [(client, one) for client in self.clients for one in client.records.values() if one.outcome is None]
        for client, one in chosen[-times:]:
            if not client.closed and not one.waited:
                one.causes.add("cancel")
                client.tell("cancel", one.wish.number)
                self.count("cancelled")

    @precondition(lambda self: self.clients)
    @rule(data=st.data())
    def wait(self, data: Any) -> None:
        client = data.draw(st.sampled_from(self.clients))
        for one in client.records.values():
            client.wait(one)
        self.count("waits")

    @precondition(lambda self: self.clients)
    @rule(data=st.data())
    def leave(self, data: Any) -> None:
        client = data.draw(st.sampled_from(self.clients))
        if not client.closed:
            client.closed = True
            for one in client.records.values():
                one.causes.add("close")
            client.tell("close", None)
            self.count("closed")

    @precondition(lambda self: self.clients)
    @rule(data=st.data())
    def kill_a_client(self, data: Any) -> None:
        client = data.draw(st.sampled_from(self.clients))
        client.listen()
        client.child.kill()
        self.clients.remove(client)
        self.dead.append(client)
        self.count("killed clients")

    # --- boards and the manager ---------------------------------------------------------------------------------

    @rule(
        board=st.integers(0, 2),
        kind=st.sampled_from(["hang", "run-error", "vanish", "program", "wrong-afu"]),
        moment=st.sampled_from([0.0, 0.02]),
    )
    def fault(self, board: int, kind: str, moment: float) -> None:
        if board in self.troubled:
            return
        time.sleep(moment)
        self.causes.add(kind)
        self.troubled.add(board)
        self.daemon.rack.fault(board, kind, count=-1 if kind == "vanish" else 1)
        self.count(kind)

    @precondition(lambda self: self.alive and any(not one.closed for one in self.clients))
    @rule(data=st.data())
    def lose_a_board_at_work(self, data: Any) -> None:
        """What must not run twice is half done."""
        before = self.ledger.path.stat().st_size
        self.submit(data, "ledger", 8, True, size=1, micros=20_000)
        end = time.monotonic() + 1.0
        while self.ledger.path.stat().st_size == before and time.monotonic() < end:
            time.sleep(0.001)
        with self.daemon.connect() as m:
            busy = [number for number, board in enumerate(m.status()["boards"]) if board["running"]]
        if busy:
            self.fault(busy[0], "vanish", 0.0)

    @precondition(lambda self: self.troubled)
    @rule(data=st.data())
    def recover(self, data: Any) -> None:
        board = data.draw(st.sampled_from(sorted(self.troubled)))
        self.troubled.remove(board)
        self.daemon.rack.clear(board)
        self.count("recovered")

    @precondition(lambda self: self.alive and self.world.events["all"] >= self.next_kill)
    @rule()
    def kill_the_manager(self) -> None:
        self.next_kill = self.world.events["all"] + 20  # a start takes as long as many another event
        self.causes.add("kill")
        self.kills += 1
        self.daemon.kill()
        self.world.memory = 0
        self.count("killed managers")

    @precondition(lambda self: not self.alive)
    @rule()
    def restart(self) -> None:
        self.daemon.rack.clear()  # a manager that starts takes the boards that are there
        self.troubled.clear()
        self.daemon.start()
        self.count("restarts")

    @rule(seconds=st.floats(0.0, 0.05))
    def pause(self, seconds: float) -> None:
        time.sleep(seconds)

    @precondition(lambda self: ROOT and self.alive and not self.troubled and self.competitions < 1)
    @rule()
    def compete(self) -> None:
        """Two users who want all of the boards get their shares, as long as both do."""
        with self.first():
            self._compete()

    def _compete(self) -> None:
        self.competitions += 1
        rivals = []
        for gid in WEIGHTS:
            self.world.uids += 1
            child = self.world.nursery.child(obey, uid=self.world.uids, gid=gid)
            rivals.append((Client(child, self.daemon), WEIGHTS[gid]))
        for _ in range(BACKLOG):
            for client, weight in rivals:
                for _ in range(int(weight)):
                    self.number += 1
                    client.submit(Wish(self.number, "ledger", 4, micros=10_000))
        self.world.events["submitted"] = self.number
        lags: list[float] = []  # of one behind the other, in board-seconds for their weight, while both want more
        over = False
        with self.daemon.connect() as m:
            for client, _ in rivals:
                for one in client.records.values():
                    client.wait(one)
            end = time.monotonic() + 60
            while any(one.outcome is None for client, _ in rivals for one in client.records.values()):
                assert time.monotonic() < end, "no answers"
                users = {user["user"]: user for user in m.status()["users"]}
                found = [(users.get(client.child.uid), weight) for client, weight in rivals]
                if all(user is not None and user["waiting"] >= WAITING for user, _ in found) and not over:
                    each = [user["board_seconds"] / weight for user, weight in found if user is not None]
                    lags.append(each[0] - each[1])
                    share = max(each)
                else:
                    over = bool(lags)
                for client, _ in rivals:
                    client.listen()
                time.sleep(0.001)
        records = [one for client, _ in rivals for one in client.records.values()]
        for client, _ in rivals:
            client.child.kill()
            self.dead.append(client)
        assert not (wrong := [one for one in records if one.outcome != "right"]), (wrong, self.causes)
        bound = 6 * max(one.ran for one in records) + RELOADS
        assert all(abs(lag) <= abs(lags[0]) + bound for lag in lags), (lags, bound)
        if lags and share > 2 * (abs(lags[0]) + bound):  # else nobody could have noticed
            self.count("competitions")

    # --- what must be so ----------------------------------------------------------------------------------------

    @invariant()
    def answers_are_right(self) -> None:
        with self.first():
            for client in self.clients:
                client.listen()
                for one in client.records.values():
                    if one.outcome is not None:
                        self.explained(one)

    def explained(self, one: Record) -> None:
        assert one.outcome != LOST, one
        assert one.outcome == "right" or (one.causes | self.causes) & EXPLAINS.get(one.outcome or "", set()), one

    def agree(self) -> None:
        """What clients were told is what has run."""
        ran = self.ledger.counts()
        for client in self.clients + self.dead:
            for number, one in client.records.items():
                if one.wish.accelerator != "ledger":
                    continue
                times = ran.pop(number, 0)
                if one.wish.once:
                    assert times <= 1, f"run {times} times: {one}"
                    assert times == 0 or one.outcome not in NOT_RUN or "close" in one.causes, f"has run: {one}"
                else:
                    assert times <= TRIES * (1 + self.kills), f"run {times} times: {one}"
                if one.outcome == "right":
                    assert times >= 1, f"was not run: {one}"
                    assert times == 1 or self.causes, f"run {times} times, without a reason: {one}"
        assert not ran, f"nobody asked for {ran}"

    def teardown(self) -> None:
        """When nothing goes wrong any more, all requests end, and nobody has anything left."""
        with self.first():
            self.end()

    def end(self) -> None:
        self.daemon.rack.clear()
        if not self.alive:
            self.daemon.start()
        try:
            for client in self.clients:
                for one in client.records.values():
                    client.wait(one)
            for client in self.clients:
                client.listen(90.0)
            self.answers_are_right()
            for client in self.clients:
                assert all(one.outcome is not None for one in client.records.values())
                self.world.events.update(str(one.outcome) for one in client.records.values())
        finally:
            for client in self.clients:
                client.child.kill()
        with self.daemon.connect() as m:
            becomes(lambda: left(m.status()), (0, 0, 1))
            becomes(lambda: [board["up"] for board in m.status()["boards"]], [True] * 3, 20.0)
            self.agree()
            self.ledger.clear()
            becomes(lambda: files(self.daemon), (1, 1, 0, 0))
            memory = resident(self.daemon)
            self.world.memory = self.world.memory or memory
            assert memory < self.world.memory + (24 << 20), "the manager grows"
        self.world.events["stories"] += 1
