# SPDX-License-Identifier: Apache-2.0
"""Scheduler: which request runs next, where, and with which others.  It does no I/O and asks no clock.

A board runs what fits its image before it takes another one, because a reload costs seconds.  Such a *turn* ends
when nobody wants that image any more (and for a moment, nobody new comes), or after `turn` times the reload's time if
somebody else has waited for longer or had less.

Every request that :meth:`Scheduler.submit` accepts is given back exactly once: by `cancel`, `drop`, `assign` (its
deadline), or in the Outcome of the work it was part of.
"""

from __future__ import annotations

import enum
import heapq
import itertools
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field

from fpgahal.manager.backlog import Backlog, Key, Request, Share, User

NEVER = float("inf")


class Refusal(enum.Enum):
    """Why a request was not accepted."""

    KNOWN = "the client has such a request already"
    QUOTA = "the user has too many requests"
    UNAVAILABLE = "no board can run it"


class Refused(Exception):
    """A request was not accepted; ``args[0]`` is the Refusal."""


class Trouble(enum.Enum):
    """What went wrong with some work."""

    ERROR = "the run failed"
    HUNG = "the run took longer than it may"
    PROGRAM = "the image could not be loaded; nothing was run"
    BOARD = "the board was lost"


class End(enum.Enum):
    """How a request ended."""

    DONE = "done"
    ERROR = "error"
    HUNG = "hung"
    PROGRAM = "program"
    LOST = "lost"  #: it may have run, and must not be run again


_ENDS = {Trouble.ERROR: End.ERROR, Trouble.HUNG: End.HUNG, Trouble.PROGRAM: End.PROGRAM, Trouble.BOARD: End.LOST}


@dataclass(frozen=True, slots=True)
class Settings:
    """Times, in seconds, and numbers.

    Attributes
    ----------
    age : float
        After which a request's priority rises by one.
    turn : float
        Reload times that a board keeps its image while others want it for another one.
    linger : float
        Reload times that a board without work waits for more of the same, within its turn.
    tries : int
        How often a request is begun at most.
    backoff : float
        After which an image that could not be loaded is tried again.
    """

    age: float = 2.0
    turn: float = 5.0
    linger: float = 0.1
    tries: int = 3
    backoff: float = 5.0


@dataclass(slots=True, eq=False)
class Board:
    """What the scheduler knows of a board.

    Attributes
    ----------
    images : mapping
        Which image of this board has an accelerator.
    loaded : hashable or None
        The image that it has, or is getting.
    reload : float
        Seconds that loading takes.
    """

    name: str
    images: Mapping[str, Hashable]
    loaded: Hashable = None
    reload: float = 1.0
    up: bool = True
    cordoned: bool = False
    work: Work | None = None
    turn_began: float = -NEVER
    idle_since: float = -NEVER
    refused: dict[Hashable, float] = field(default_factory=dict)
    busy_seconds: float = 0.0
    reloads: int = 0

    @property
    def idle(self) -> bool:
        """Whether it can take work now."""
        return self.up and self.work is None and not self.cordoned


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """Requests to run together on a board; `reload`: after the image was loaded; `size`: the sum of theirs."""

    board: Board
    image: Hashable
    requests: tuple[Request, ...]
    reload: bool
    size: int


Outcome = list[tuple[Request, End]]


class Scheduler:
    """Boards, and the requests that want them.

    Parameters
    ----------
    share : callable
        Gives the Share of a user.
    settings : Settings

    Attributes
    ----------
    wake : float
        When :meth:`assign` should be called again at the latest, even if nothing happens.
    """

    def __init__(self, share: Callable[[Hashable], Share], settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self.boards: dict[str, Board] = {}
        self.wake = NEVER
        self.reloads = 0
        self._share = share
        self._backlog = Backlog(self.settings.age)
        self._live: dict[Hashable, Request] = {}
        self._clients: dict[Hashable, dict[Hashable, Request]] = {}
        self._deadlines: list[tuple[float, int, Request]] = []
        self._count = itertools.count()
        self._cost: dict[str, float] = {}  # seconds for a unit of size

    @property
    def users(self) -> Mapping[Hashable, User]:
        """Everybody who has sent a request."""
        return self._backlog.users

    @property
    def live(self) -> int:
        """Requests that wait or run."""
        return len(self._live)

    def clients(self) -> Mapping[Hashable, int]:
        """How many requests of each client wait or run."""
        return {client: len(mine) for client, mine in self._clients.items()}

    def waiting(self) -> Mapping[str, int]:
        """How many requests wait for each accelerator."""
        return {name: self._backlog.length(name) for name in self._backlog.accelerators()}

    def cost(self, accelerator: str) -> float:
        """Seconds for a unit of size, as measured; 1 ms as long as nothing was."""
        return self._cost.get(accelerator, 1e-3)

    # --- requests ---------------------------------------------------------------------------------------------

    def submit(self, request: Request, now: float) -> Work | None:
        """Accept a request.  If nobody waits and an idle board has its image, it need not wait for :meth:`assign`.

        Returns
        -------
        Work or None
            To be done now, if it was begun.

        Raises
        ------
        Refused
        """
        if request.id in self._live:
            raise Refused(Refusal.KNOWN)
        if not any(request.accelerator in board.images for board in self.boards.values()):
            raise Refused(Refusal.UNAVAILABLE)
        user = self._backlog.user(request.user, self._share(request.user), now)
        if user.live >= user.share.requests:
            raise Refused(Refusal.QUOTA)
        user.live += 1
        if user.live == 1:
            self._backlog.enter(user)
        request.arrived = now
        self._live[request.id] = request
        self._clients.setdefault(request.client, {})[request.id] = request
        if not self._backlog.waiting and (request.deadline is None or request.deadline > now):
            for board in self.boards.values():
                if board.idle and _has(board, request.accelerator) and user.ready_at(now) <= now:
                    return self._begin(board, (request,), now)
        self._backlog.add(request)
        if request.deadline is not None:
            heapq.heappush(self._deadlines, (request.deadline, next(self._count), request))
        return None

    def cancel(self, id: Hashable) -> Request | None:
        """Take a request back; None if it is unknown, or runs already."""
        request = self._live.get(id)
        if request is None or request.running:
            return None
        self._backlog.remove(request)
        self._end(request)
        return request

    def drop(self, client: Hashable) -> list[Request]:
        """Forget a client: gives back its requests that waited; those that run are in their Outcome, once."""
        gone = []
        for request in tuple(self._clients.get(client, {}).values()):
            request.dropped = True
            if self.cancel(request.id) is not None:
                gone.append(request)
        return gone

    def _end(self, request: Request) -> None:
        request.ended, request.running = True, False
        del self._live[request.id]
        mine = self._clients[request.client]
        del mine[request.id]
        if not mine:
            del self._clients[request.client]
        user = self._backlog.users[request.user]
        user.live -= 1
        if not user.live:
            self._backlog.leave(request.user)

    # --- boards -----------------------------------------------------------------------------------------------

    def add(self, board: Board) -> None:
        """Let it take work."""
        self.boards[board.name] = board

    def lose(self, name: str) -> None:
        """A board without work does not answer."""
        board = self.boards[name]
        board.up, board.loaded = False, None

    def back(self, name: str, loaded: Hashable, now: float) -> None:
        """A board that was lost answers again."""
        board = self.boards[name]
        board.up, board.loaded, board.idle_since, board.turn_began = True, loaded, now, -NEVER

    def cordon(self, name: str, cordoned: bool = True) -> None:
        """Give a board no more work, or give it work again; what it runs goes on."""
        self.boards[name].cordoned = cordoned

    # --- work -------------------------------------------------------------------------------------------------

    def assign(self, now: float) -> tuple[list[Work], list[Request]]:
        """Give idle boards work.

        Returns
        -------
        works : list of Work
            To be done now; each ends with :meth:`done` or :meth:`failed`.
        late : list of Request
            Their deadline has passed; they have ended.
        """
        if not self._backlog.waiting:
            self._deadlines.clear()
            self.wake = NEVER
            return [], []
        late, works = self._expire(now), []
        self.wake = self._deadlines[0][0] if self._deadlines else NEVER
        self._backlog.next_ready = NEVER
        again = True
        while again:  # what one board takes may decide what is left for another
            again = False
            for board in self.boards.values():
                if board.idle and (request := self._choose(board, now)) is not None:
                    requests = (request, *self._backlog.companions(request, now))
                    for one in requests:
                        self._backlog.remove(one)
                    works.append(self._begin(board, requests, now))
                    again = True
        self.wake = min(self.wake, self._backlog.next_ready)
        return works, late

    def _expire(self, now: float) -> list[Request]:
        late = []
        while self._deadlines and (self._deadlines[0][0] <= now or self._deadlines[0][2].ended):
            request = heapq.heappop(self._deadlines)[2]
            if not request.ended and not request.running:
                self._backlog.remove(request)
                self._end(request)
                late.append(request)
        return late

    def _choose(self, board: Board, now: float) -> Request | None:
        mine: tuple[Key, Request] | None = None
        new: tuple[Key, Request] | None = None  # with an image that no board has
        more: tuple[Key, Request] | None = None  # with one that other boards have
        for accelerator in self._backlog.accelerators():
            image = board.images.get(accelerator)
            if image is None:
                continue
            until = board.refused.get(image, 0.0)
            if until > now and image != board.loaded:
                self.wake = min(self.wake, until)
                continue
            found = self._backlog.first(accelerator, now)
            if found is None:
                continue
            if image == board.loaded:
                mine = found if mine is None else min(mine, found, key=_key)
                continue
            others = [other for other in self.boards.values() if other is not board and _has(other, accelerator)]
            if not others:
                new = found if new is None else min(new, found, key=_key)
            elif not any(other.idle for other in others) and self._deserves(accelerator, len(others), board):
                more = found if more is None else min(more, found, key=_key)
        if mine is not None:
            over = now >= self._held(board)
            return new[1] if new is not None and over and new[0] < mine[0] else mine[1]
        if new is None and more is None:
            return None
        lingers = self._lingers(board)
        if now < lingers:
            self.wake = min(self.wake, lingers)
            return None
        if new is not None:
            return None if self._better(board, new[1].accelerator, now) else new[1]
        return more[1] if more is not None else None

    def _held(self, board: Board) -> float:
        """Until when a board keeps its image, if somebody wants it."""
        return board.turn_began + board.reload * (1 + self.settings.turn)

    def _lingers(self, board: Board) -> float:
        """Until when a board without work waits for more of the same."""
        if board.loaded is None:
            return -NEVER
        return min(self._held(board), board.idle_since + board.reload * self.settings.linger)

    def _deserves(self, accelerator: str, boards: int, board: Board) -> bool:
        """Whether another board should load an image that some have: if it gets through the reload sooner."""
        return self._backlog.sizes(accelerator) * self.cost(accelerator) / boards > board.reload

    def _better(self, board: Board, accelerator: str, now: float) -> bool:
        """Whether another board could load this now, and has not used its own image for longer."""
        return any(
            other.idle
            and other is not board
            and (image := other.images.get(accelerator)) is not None
            and other.refused.get(image, 0.0) <= now
            and other.idle_since < board.idle_since
            and self._lingers(other) <= now
            for other in self.boards.values()
        )

    def _begin(self, board: Board, requests: tuple[Request, ...], now: float) -> Work:
        accelerator = requests[0].accelerator
        image = board.images[accelerator]
        reload = image != board.loaded
        if reload:
            board.loaded, board.turn_began = image, now
            board.reloads += 1
            self.reloads += 1
        cost = self.cost(accelerator)
        for one in requests:
            one.running, one.began, one.tries = True, now, one.tries + 1
            one.charged = cost * one.size
            self._backlog.users[one.user].charge(one.charged)
        size = sum([one.size for one in requests])
        board.work = Work(board, image, requests, reload, size)
        return board.work

    def done(self, work: Work, seconds: float, now: float, reload: float | None = None) -> Outcome:
        """Work was done, in so many board-seconds; `reload`: what loading the image took, before."""
        self._free(work, now)
        if reload is not None:
            work.board.reload += 0.5 * (reload - work.board.reload)
            self._backlog.users[work.requests[0].user].charge(reload)
        self._settle(work, seconds)
        accelerator, cost = work.requests[0].accelerator, seconds / max(1, work.size)
        self._cost[accelerator] = 0.8 * self._cost.get(accelerator, cost) + 0.2 * cost
        for request in work.requests:
            self._end(request)
        return [(request, End.DONE) for request in work.requests]

    def failed(self, work: Work, trouble: Trouble, seconds: float, now: float) -> Outcome:
        """Work was not done.  Gives those requests that are not tried again."""
        self._free(work, now)
        self._settle(work, seconds)
        board = work.board
        if trouble is Trouble.PROGRAM:
            board.loaded = None
            board.refused[work.image] = now + self.settings.backoff
        elif trouble is Trouble.BOARD:
            board.loaded, board.up = None, False
        outcome: Outcome = []
        for request in reversed(work.requests):
            request.running = False
            end = self._verdict(request, trouble, len(work.requests))
            if end is None:
                request.alone = request.alone or len(work.requests) > 1
                self._backlog.add(request, first=True)
                if request.deadline is not None:
                    heapq.heappush(self._deadlines, (request.deadline, next(self._count), request))
            else:
                self._end(request)
                outcome.append((request, end))
        return outcome[::-1]

    def _verdict(self, request: Request, trouble: Trouble, together: int) -> End | None:
        """How it ends; None: it is tried again."""
        end = _ENDS[trouble]
        if request.tries >= self.settings.tries or (together == 1 and trouble in (Trouble.ERROR, Trouble.HUNG)):
            return end
        return End.LOST if request.dropped or (request.once and trouble is not Trouble.PROGRAM) else None

    def _free(self, work: Work, now: float) -> None:
        if work.board.work is not work:
            raise ValueError("This work has ended already.")
        work.board.work, work.board.idle_since = None, now

    def _settle(self, work: Work, seconds: float) -> None:
        """Charge what was really used, to each by its size."""
        work.board.busy_seconds += seconds
        for request in work.requests:
            part = request.size / work.size if work.size else 1 / len(work.requests)
            self._backlog.users[request.user].charge(seconds * part - request.charged)


def _key(found: tuple[Key, Request]) -> Key:
    return found[0]


def _has(board: Board, accelerator: str) -> bool:
    return (
        board.up and not board.cordoned and board.loaded is not None and board.loaded == board.images.get(accelerator)
    )


__all__ = [
    "NEVER",
    "Board",
    "End",
    "Outcome",
    "Refusal",
    "Refused",
    "Request",
    "Scheduler",
    "Settings",
    "Share",
    "Trouble",
    "Work",
]
