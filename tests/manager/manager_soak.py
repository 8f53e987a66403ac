# SPDX-License-Identifier: Apache-2.0
"""Clients that work as fast as they can, and are killed; boards with faults; managers that are killed: for minutes.

Nothing is lost, nothing runs twice that must not, and the manager's memory and files stay what they are.
"""

from __future__ import annotations

import random
import time
from array import array
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from manager_clients import Child
from manager_ledger import ONCE
from manager_machine import EXPLAINS, NOT_RUN, USERS, World, becomes, descriptors, files, left, resident
from manager_workload import NOTED, work

CLIENTS = 5
#: What happens, and how often: a second of the soak stands for more than two minutes of a day.
KILL_A_CLIENT, FAULT, KILL_THE_MANAGER = 0.5, 0.5, 15.0  # seconds between two, on average
FAULTS = ("hang", "run-error", "vanish", "program", "wrong-afu")
WARM = 40.0  #: seconds: until then, threads' heaps, models and boards' buffers grow to what they stay at
WINDOW = 20.0  #: seconds after them, from which on a slope says something
EXPECTED = {name for name, causes in EXPLAINS.items() if causes - {"close"}}


@dataclass(slots=True)
class Life:
    """What was seen of one manager's process: seconds, bytes, files."""

    seconds: list[float] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    files: list[int] = field(default_factory=list)

    def window(self) -> float:
        """Seconds that were seen after the warm-up."""
        return max(0.0, self.seconds[-1] - self.seconds[0] - WARM)

    def slope(self, values: list[int]) -> float:
        """How much more in a second, after the warm-up; 0 if that was not seen for long.

        The median of the slopes between any two looks: a buffer that comes and goes does not count.
        """
        if self.window() < WINDOW:
            return 0.0
        at = int(np.searchsorted(self.seconds, self.seconds[0] + WARM))
        x, y = np.array(self.seconds[at:]), np.array(values[at:], float)
        left, right = np.triu_indices(len(x), 1)
        return float(np.median((y[right] - y[left]) / (x[right] - x[left])))


class Soak:
    """The whole of it."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.source = random.Random(seed)
        self.events: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.right = array("Q")  # numbers, of those for the ledger
        self.not_run = array("Q")
        self.children: list[Child] = []
        self.born = 0
        self.wrong: list[tuple[int, str]] = []
        self.lives = [Life()]
        self.begun = time.monotonic()

    def run(self, seconds: float, restarts: bool) -> None:
        """Let it rain."""
        end = time.monotonic() + seconds
        clear = dict.fromkeys(range(3), 0.0)
        times = {"client": 0.0, "fault": 0.0, "manager": self.soon(KILL_THE_MANAGER), "look": 0.0}
        while (now := time.monotonic()) < end:
            while len(self.children) < CLIENTS:
                self.birth()
            self.listen()
            if now >= times["client"]:
                times["client"] = self.soon(KILL_A_CLIENT)
                self.kill(self.source.choice(self.children))
            if now >= times["fault"]:
                times["fault"] = self.soon(FAULT)
                board = self.source.randrange(3)
                if not clear[board]:
                    kind = self.source.choice(FAULTS)
                    self.world.daemon.rack.fault(board, kind, count=-1 if kind == "vanish" else 1)
                    self.events[kind] += 1
                    clear[board] = now + self.source.uniform(0.01, 2.0)
            for board, when in clear.items():
                if when and now >= when:
                    self.world.daemon.rack.clear(board)
                    clear[board] = 0.0
            if restarts and now >= times["manager"]:
                times["manager"] = self.soon(KILL_THE_MANAGER)
                self.world.daemon.kill()
                time.sleep(self.source.uniform(0.0, 0.3))
                self.world.daemon.rack.clear()  # a manager that starts takes the boards that are there
                clear = dict.fromkeys(clear, 0.0)
                self.world.daemon.start()
                self.events["killed managers"] += 1
                self.lives.append(Life())
            if now >= times["look"]:
                times["look"] = now + 0.5
                self.look(now)
        self.world.daemon.rack.clear()

    def soon(self, mean: float) -> float:
        return time.monotonic() + self.source.expovariate(1 / mean)

    def birth(self) -> None:
        self.born += 1
        uid = self.source.choice(sorted(USERS))
        arguments = (str(self.world.daemon.socket), self.born << 32)
        self.children.append(self.world.nursery.child(work, *arguments, uid=uid, gid=USERS[uid]))
        self.events["clients"] += 1

    def kill(self, child: Child) -> None:
        self.hear(child)
        child.kill()
        self.children.remove(child)
        self.events["killed clients"] += 1

    def listen(self) -> None:
        time.sleep(0.01)
        for child in self.children:
            self.hear(child)

    def hear(self, child: Child) -> None:
        while child.link.poll():
            number, outcome = child.link.recv()
            self.outcomes[outcome] += 1
            if number & NOTED and outcome == "right":
                self.right.append(number)
            elif number & NOTED and number & ONCE and outcome in NOT_RUN:
                self.not_run.append(number)
            if outcome != "right" and outcome not in EXPECTED:
                self.wrong.append((number, outcome))

    def look(self, now: float) -> None:
        life = self.lives[-1]
        life.seconds.append(now - self.begun)
        life.memory.append(resident(self.world.daemon))
        life.files.append(descriptors(self.world.daemon))

    def rest(self) -> int:
        """Everybody goes, and nothing is left of them.  Gives the files that the manager has then."""
        while self.children:
            self.kill(self.children[0])
        with self.world.daemon.connect() as m:
            becomes(lambda: left(m.status()), (0, 0, 1))
            becomes(lambda: files(self.world.daemon), (1, 1, 0, 0))
            becomes(lambda: [board["up"] for board in m.status()["boards"]], [True] * 3, 20.0)
            return descriptors(self.world.daemon)

    def judge(self) -> None:
        """Compare what clients were told with what was run."""
        ran = self.world.ledger.counts()
        self.events["runs in the ledger"] = sum(ran.values())
        self.events["runs after the first of a request"] = self.events["runs in the ledger"] - len(ran)
        doubled = [number for number, times in ran.items() if number & ONCE and times > 1]
        lost = [number for number in self.right if number not in ran]
        denied = [number for number in self.not_run if number in ran]
        assert not doubled, f"must not run twice, but did: {doubled}"
        assert not lost, f"have a result, but were not run: {lost}"
        assert not denied, f"were said not to have run, but did: {denied}"
        assert not self.wrong, f"no reason for {self.wrong}"


__all__ = ["WARM", "WINDOW", "Life", "Soak"]
