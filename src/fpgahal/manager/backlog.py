# SPDX-License-Identifier: Apache-2.0
"""Requests that wait, and whose turn it is: what the scheduler knows of users.

Between users, board-seconds decide: who has had the least for their weight is next.  Priorities order the requests of
one user, so that nobody gets ahead of others by claiming to be urgent; waiting raises them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

PRIORITIES = 3  #: 0 comes first


@dataclass(frozen=True, slots=True)
class Share:
    """What a user may have.

    Attributes
    ----------
    weight : float
        Of board-seconds, against other users' weights.
    requests : int
        Waiting and running, at a time.
    rate : float or None
        Board-seconds a second, over time; None: as many as there are.
    burst : float
        Board-seconds that may be saved up, where there is a `rate`.
    """

    weight: float = 1.0
    requests: int = 1024
    rate: float | None = None
    burst: float = 10.0


@dataclass(slots=True, eq=False)
class Request:
    """One request, and how far it is.

    Attributes
    ----------
    id, client, user : hashable
    accelerator : str
    size : int
        How much it is: rows, elements.
    batch : hashable, optional
        Requests with the same one may run together.
    most : int
        Sum of the sizes of requests that may run together.
    priority : int
        0, 1 or 2; 0 comes first, among the user's own.
    deadline : float, optional
        It is not begun later than that.
    once : bool
        It is not run again if it may have run.
    count : int
        How many of its client's requests it stands for, which came together; should it fail, `job.parts()` gives the
        id, the size and the job of each.
    job : object
        The caller's.
    """

    id: Hashable
    client: Hashable
    user: Hashable
    accelerator: str
    size: int = 1
    batch: Hashable = None
    most: int = 1
    priority: int = 1
    deadline: float | None = None
    once: bool = False
    count: int = 1
    job: Any = None
    # what follows is the scheduler's
    arrived: float = 0.0
    began: float = 0.0
    charged: float = 0.0
    tries: int = 0
    alone: bool = False  # it was in a batch that failed
    running: bool = False
    dropped: bool = False  # its client is gone
    ended: bool = False

    def parts(self) -> list[Request]:
        """One for each of the client's requests."""
        if self.count == 1:
            return [self]
        return [replace(self, id=id, size=size, charged=0.0, count=1, job=job) for id, size, job in self.job.parts()]


@dataclass(slots=True, eq=False)
class User:
    """Board-seconds of a user: `virtual` is what was used, divided by the weight."""

    share: Share
    virtual: float = 0.0
    waiting: int = 0
    live: int = 0
    used: float = 0.0  # board-seconds, ever
    saved: float = 0.0  # board-seconds that may be used now, where there is a rate
    saved_at: float = 0.0

    def refill(self, now: float) -> None:
        """Add what time brings."""
        if self.share.rate is not None:
            self.saved = min(self.share.burst, self.saved + (now - self.saved_at) * self.share.rate)
        self.saved_at = now

    def charge(self, seconds: float) -> None:
        """Take board-seconds; negative ones give some back."""
        self.virtual += seconds / self.share.weight
        self.used += seconds
        self.saved -= seconds

    def ready_at(self, now: float) -> float:
        """When this user may use a board again; `now` or earlier: at once."""
        if self.share.rate is None:
            return now
        self.refill(now)
        return now if self.saved > 0 else now + (1e-6 - self.saved) / self.share.rate


class Key(NamedTuple):
    """Whose turn it is: the least one's."""

    virtual: float
    priority: int
    arrived: float


Queue = OrderedDict[Hashable, Request]  # by id: a dict's first entry is slow to find after many have gone


@dataclass(slots=True, eq=False)
class Backlog:
    """Requests that wait.

    Parameters
    ----------
    age : float
        Seconds after which a request's priority rises by one.
    """

    age: float
    users: dict[Hashable, User] = field(default_factory=dict)
    active: dict[Hashable, User] = field(default_factory=dict)  # who has something waiting or running
    waiting: int = 0
    next_ready: float = float("inf")  # when the first user who has used up their rate may go on, as last seen
    _queues: dict[str, dict[Hashable, tuple[Queue, ...]]] = field(default_factory=dict)
    _batches: dict[Hashable, Queue] = field(default_factory=dict)
    _floor: float = 0.0

    def user(self, name: Hashable, share: Share, now: float) -> User:
        """Find a user, or make one."""
        user = self.users.get(name)
        if user is None:
            user = self.users[name] = User(share, virtual=self._floor, saved=share.burst, saved_at=now)
        user.share = share
        return user

    def enter(self, name: Hashable) -> None:
        """A user has something waiting or running again: who was away does not come back with savings."""
        user = self.users[name]
        if self.active:
            self._floor = max(self._floor, min([other.virtual for other in self.active.values()]))
        user.virtual = max(user.virtual, self._floor)
        self.active[name] = user

    def add(self, request: Request, *, first: bool = False) -> None:
        """Let a request wait; `first`: before the others of its priority."""
        user = self.users[request.user]
        user.waiting += request.count
        self.waiting += 1
        users = self._queues.setdefault(request.accelerator, {})
        if request.user not in users:
            users[request.user] = tuple(OrderedDict() for _ in range(PRIORITIES))
        queue = users[request.user][request.priority]
        queue[request.id] = request
        if first:
            queue.move_to_end(request.id, last=False)
        if request.batch is not None and not request.alone:
            batch = self._batches.setdefault(request.batch, OrderedDict())
            batch[request.id] = request

    def remove(self, request: Request) -> None:
        """Take a request out."""
        users = self._queues[request.accelerator]
        queues = users[request.user]
        del queues[request.priority][request.id]
        if not any(queues):
            del users[request.user]
            if not users:
                del self._queues[request.accelerator]
        self.users[request.user].waiting -= request.count
        self.waiting -= 1
        if request.batch is not None and not request.alone:
            batch = self._batches[request.batch]
            del batch[request.id]
            if not batch:
                del self._batches[request.batch]

    def leave(self, name: Hashable) -> None:
        """A user has nothing waiting or running any more: forget them, but not that they have used something."""
        user = self.active.pop(name)
        if not self.active:
            self._floor = max(self._floor, user.virtual)

    def accelerators(self) -> Iterator[str]:
        """Those that somebody waits for."""
        return iter(tuple(self._queues))

    def first(self, accelerator: str, now: float) -> tuple[Key, Request] | None:
        """The request for an accelerator whose turn it is."""
        best: tuple[Key, Request] | None = None
        for name, queues in self._queues.get(accelerator, {}).items():
            user = self.users[name]
            ready = user.ready_at(now)
            if ready > now:
                self.next_ready = min(self.next_ready, ready)
                continue
            for queue in queues:
                if queue:
                    request = next(iter(queue.values()))
                    raised = max(0, request.priority - int((now - request.arrived) / self.age))
                    key = Key(user.virtual, raised, request.arrived)
                    if best is None or key < best[0]:
                        best = key, request
        return best

    def sizes(self, accelerator: str) -> int:
        """How much waits for an accelerator, as far as anybody needs to know: in its 1,000 first requests a queue."""
        total = 0
        for queues in self._queues.get(accelerator, {}).values():
            for queue in queues:
                for _, request in zip(range(1000), queue.values(), strict=False):
                    total += request.size
        return total

    def companions(self, request: Request, now: float) -> list[Request]:
        """Requests that may run together with one, in the order of arrival."""
        if request.batch is None or request.alone or request.once:
            return []
        found: list[Request] = []
        room = request.most - request.size
        for other in self._batches.get(request.batch, {}).values():
            if room <= 0 or len(found) >= 255:
                break
            if other is request or other.once or other.size > room:
                continue
            if self.users[other.user].ready_at(now) > now:
                continue
            found.append(other)
            room -= other.size
        return found


__all__ = ["PRIORITIES", "Backlog", "Key", "Request", "Share", "User"]
