# SPDX-License-Identifier: Apache-2.0
"""Scheduler: which request runs next, where, and with which others.  It does no I/O and asks no clock.

A board runs what fits its image before it takes another one, because a reload costs seconds.  Such a *turn* ends
when nobody wants that image any more (and for a moment, nobody new comes), or after `turn` times the reload's time if
somebody else has waited for longer or had less.

Every request that :meth:`Scheduler.submit` accepts is given back exactly once: by `cancel`, `drop`, `assign` (its
deadline), or in the Outcome of the work it was part of.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Hashable, Mapping

from fpgahal.manager.backlog import Backlog, Key, Request, Share, User
from fpgahal.manager.work import (
    ENDS,
    NEVER,
    Board,
    End,
    Outcome,
    Refusal,
    Refused,
    Settings,
    Trouble,
    Work,
)

_ENDED = 1000  # requests whose deadline is remembered for nothing, besides as many as are live
_BLAMED = (Trouble.ERROR, Trouble.HUNG, Trouble.BOARD)  # for which a board may be the reason
_FINAL = (Trouble.ARGUMENT, Trouble.ERROR, Trouble.HUNG)  # for which a request may be, that ran by itself


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
        return sum([request.count for request in self._live.values()])

    @property
    def waiting(self) -> bool:
        """Whether any wait."""
        return self._backlog.waiting > 0

    def clients(self) -> Mapping[Hashable, int]:
        """How many requests of each client wait or run."""
        return {client: sum([one.count for one in mine.values()]) for client, mine in self._clients.items()}

    def lengths(self) -> Mapping[str, int]:
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
        if user.live + request.count > user.share.requests:
            raise Refused(Refusal.QUOTA)
        self._enter(request)
        request.arrived = now
        if not self._backlog.waiting and (request.deadline is None or request.deadline > now):
            for board in self.boards.values():
                if board.idle and _has(board, request.accelerator) and user.ready_at(now) <= now:
                    return self._begin(board, (request,), now)
        self._backlog.add(request)
        if request.deadline is not None:
            heapq.heappush(self._deadlines, (request.deadline, next(self._count), request))
        return None

    def take(self, accelerator: str, user: Hashable, count: int) -> Board | None:
        """Take a board for something short that need not wait for anybody; None: it has to be submitted.

        So has a user's first request.  It ends with :meth:`give`, or becomes a Work with :meth:`adopt`.
        """
        one = self._backlog.users.get(user)
        if self._backlog.waiting or one is None or one.share.rate is not None:
            return None
        if one.live + count > one.share.requests:
            return None
        for board in self.boards.values():
            if board.idle and _has(board, accelerator):
                board.taken = True
                return board
        return None

    def give(self, board: Board, accelerator: str, user: Hashable, size: int, seconds: float, now: float) -> None:
        """End what :meth:`take` began: it was done in so many board-seconds."""
        board.taken, board.idle_since = False, now
        board.busy_seconds += seconds
        board.trust.gain()
        backlog = self._backlog
        if user in backlog.active:
            backlog.users[user].charge(seconds)
        else:
            backlog.enter(user)
            backlog.users[user].charge(seconds)
            backlog.leave(user)
        self._learn(accelerator, seconds, size)

    def adopt(self, board: Board, request: Request, now: float) -> Work:
        """Make work of what :meth:`take` began: it takes longer, or has failed."""
        board.taken = False
        self._enter(request)
        request.arrived = now
        return self._begin(board, (request,), now)

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

    def find(self, id: Hashable) -> Request | None:
        """What waits or runs under this id."""
        return self._live.get(id)

    def of(self, client: Hashable) -> list[Request]:
        """What a client has waiting or running."""
        return list(self._clients.get(client, {}).values())

    def shrink(self, request: Request, size: int) -> None:
        """One of the requests that this one stands for, of such a size, is not wanted any more, and others are."""
        request.size -= size
        request.count -= 1
        user = self._backlog.users[request.user]
        user.live -= 1
        user.waiting -= 1

    def _enter(self, request: Request) -> None:
        self._live[request.id] = request
        self._clients.setdefault(request.client, {})[request.id] = request
        user = self._backlog.users[request.user]
        if not user.live:
            self._backlog.enter(request.user)
        user.live += request.count

    def _end(self, request: Request) -> None:
        request.ended, request.running = True, False
        self._forget(request)
        user = self._backlog.users[request.user]
        user.live -= request.count
        if not user.live:
            self._backlog.leave(request.user)

    def _forget(self, request: Request) -> None:
        del self._live[request.id]
        mine = self._clients[request.client]
        del mine[request.id]
        if not mine:
            del self._clients[request.client]

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

    def rests(self, name: str, now: float) -> float:
        """Seconds for which a board is better left alone, because everything failed on it."""
        board = self.boards[name]
        others = [other.images for other in self.boards.values() if other.up and not other.cordoned]
        return board.trust.left(now, needed=any(not any(one in other for other in others) for one in board.images))

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
            for board in [*filter(_idle, self.boards.values()), *filter(self._has_room, self.boards.values())]:
                if (request := self._choose(board, now)) is not None:
                    others = () if board.trust.trial else self._backlog.companions(request, now)
                    requests = (request, *others)
                    for one in requests:
                        self._backlog.remove(one)
                    works.append(self._begin(board, requests, now))
                    again = True
        self.wake = min(self.wake, self._backlog.next_ready)
        return works, late

    def _expire(self, now: float) -> list[Request]:
        late = []
        if len(self._deadlines) > _ENDED + 4 * len(self._live):  # those that ended long before, behind one that waits
            self._deadlines = [one for one in self._deadlines if not one[2].ended]
            heapq.heapify(self._deadlines)
        while self._deadlines and (self._deadlines[0][0] <= now or self._deadlines[0][2].ended):
            request = heapq.heappop(self._deadlines)[2]
            if not request.ended and not request.running:
                self._backlog.remove(request)
                self._end(request)
                late.append(request)
        return late

    def _has_room(self, board: Board) -> bool:
        """Whether a board that has work can take some more for the same image."""
        if not board.works or len(board.works) >= board.lanes or not board.up or board.cordoned or board.trust.trial:
            return False
        last = board.works[-1]
        return not last.reload and last.size * self.cost(last.requests[0].accelerator) > self.settings.overlap

    def _choose(self, board: Board, now: float) -> Request | None:
        """What a board that is idle, or has room, should do next."""
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
            if new is None or now < self._held(board) or mine[0] <= new[0]:
                return mine[1]
            return None if board.works else new[1]
        if board.works or (new is None and more is None):
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
        work = Work(board, image, requests, reload, size)
        board.works.append(work)
        return work

    def done(self, work: Work, seconds: float, now: float, reload: float | None = None) -> Outcome:
        """Work was done, in so many board-seconds; `reload`: what loading the image took, before."""
        self._free(work, now)
        work.board.trust.gain()
        if reload is not None:
            work.board.reload += 0.5 * (reload - work.board.reload)
            self._backlog.users[work.requests[0].user].charge(reload)
        self._settle(work, seconds)
        self._learn(work.requests[0].accelerator, seconds, work.size)
        for request in work.requests:
            self._end(request)
        return [(request, End.DONE) for request in work.requests]

    def _learn(self, accelerator: str, seconds: float, size: int) -> None:
        cost = seconds / max(1, size)
        self._cost[accelerator] = 0.8 * self._cost.get(accelerator, cost) + 0.2 * cost

    def failed(self, work: Work, trouble: Trouble, seconds: float, now: float) -> Outcome:
        """Work was not done.  Gives those requests that are not tried again."""
        self._free(work, now)
        self._settle(work, seconds)
        board = work.board
        doubtful = board.trust.trial
        if trouble in _BLAMED and board.trust.lose(work.requests[0].id, now):
            board.loaded, board.up = None, False
        if trouble is Trouble.PROGRAM:
            board.loaded = None
            board.refused[work.image] = now + self.settings.backoff
        elif trouble is Trouble.BOARD:
            board.loaded, board.up = None, False
        outcome: Outcome = []
        requests = self._parts(work)
        for request in reversed(requests):
            request.running = False
            end = self._verdict(request, trouble, len(requests), doubtful)
            if end is None:
                request.alone = request.alone or len(requests) > 1
                self._backlog.add(request, first=True)
                if request.deadline is not None:
                    heapq.heappush(self._deadlines, (request.deadline, next(self._count), request))
            else:
                self._end(request)
                outcome.append((request, end))
        return outcome[::-1]

    def _parts(self, work: Work) -> list[Request]:
        """The requests of some work, each by itself from now on."""
        found = []
        for request in work.requests:
            parts = request.parts()
            if len(parts) > 1:
                self._forget(request)
                for one in parts:
                    self._live[one.id] = one
                    self._clients.setdefault(one.client, {})[one.id] = one
            found += parts
        return found

    def _verdict(self, request: Request, trouble: Trouble, together: int, doubtful: bool) -> End | None:
        """How it ends; None: it is tried again, as it is where the board is more `doubtful` than the request."""
        end = ENDS[trouble]
        if request.tries >= self.settings.tries:
            return end
        if together == 1 and trouble in _FINAL and (trouble is Trouble.ARGUMENT or request.once or not doubtful):
            return end
        return End.LOST if request.dropped or (request.once and trouble is not Trouble.PROGRAM) else None

    def _free(self, work: Work, now: float) -> None:
        board = work.board
        if work not in board.works:
            raise ValueError("This work has ended already.")
        board.works.remove(work)
        if not board.works:
            board.idle_since = now

    def _settle(self, work: Work, seconds: float) -> None:
        """Charge what was really used, to each by its size."""
        work.board.busy_seconds += seconds
        for request in work.requests:
            part = request.size / work.size if work.size else 1 / len(work.requests)
            self._backlog.users[request.user].charge(seconds * part - request.charged)


def _idle(board: Board) -> bool:
    return board.idle


def _key(found: tuple[Key, Request]) -> Key:
    return found[0]


def _has(board: Board, accelerator: str) -> bool:
    loaded, image = board.loaded, board.images.get(accelerator)
    return board.up and not board.cordoned and loaded is not None and (loaded is image or loaded == image)


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
