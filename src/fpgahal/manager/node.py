# SPDX-License-Identifier: Apache-2.0
"""Node: the boards, the scheduler, and who is told what became of a request.  Any thread may call it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from fpgahal import ArgumentError, ArgumentRangeError, DeviceInfo, FpgaError
from fpgahal.manager.accelerators import Accelerator, Job, Plain, describe
from fpgahal.manager.board import Result, Worker, clock
from fpgahal.manager.scheduler import NEVER, End, Outcome, Request, Scheduler, Settings, Share, Work
from fpgahal.manager.wire import Code, Done, Failed, Frame

_SHORT = 0.0005  # board-seconds that work may take on the thread that reads from clients
_OPENING = 30.0  # seconds
REPORTED = 200  #: users in a report, which has to fit a frame
_AT_ONCE = 0.002  # seconds that this thread spends on work before it looks at clients again

_TEXTS = {
    End.ERROR: "the run failed",
    End.HUNG: "the run did not end in time, and was stopped",
    End.PROGRAM: "the image could not be loaded",
    End.LOST: "the board was lost; it may have run",
}
_CODES = {End.ERROR: Code.RUN, End.HUNG: Code.TIMEOUT, End.PROGRAM: Code.UNAVAILABLE, End.LOST: Code.LOST}


class Asker(Protocol):
    """Who has sent a request."""

    def reply(self, *answers: tuple[int, Frame]) -> None:
        """Take answers, each with the tag of its request; any thread may call it."""


class Pending(NamedTuple):
    """A request's job, and whom to tell how it ended."""

    job: Job
    asker: Asker
    tag: int


def _failed(request: Request, end: End, error: BaseException | None) -> Failed:
    if end is End.ERROR and isinstance(error, ArgumentRangeError):
        return failure(error)
    why = f": {getattr(error, 'message', error)}" if error is not None else ""
    return Failed(_CODES[end], f"{request.accelerator}: {_TEXTS[end]}{why}", getattr(error, "hint", ""))


def failure(error: BaseException, code: Code | None = None) -> Failed:
    """Tell a client of an error."""
    if code is None:
        code = Code.INTERNAL
        if isinstance(error, FpgaError):
            code = Code.ARGUMENT if isinstance(error, ArgumentError) else Code.RANGE
    message, hint = getattr(error, "message", None), getattr(error, "hint", "")
    return Failed(code, message if message is not None else f"{type(error).__name__}: {error}", hint)


class Node:
    """Boards that requests run on.

    Parameters
    ----------
    devices : sequence of DeviceInfo
    catalogue : mapping
        What can be asked for, by name.
    share : callable
        Gives the Share of a user.
    poke : callable
        Called when :attr:`wake` has become earlier.
    settings : Settings, optional
    timeout : float
        Seconds that one run may take.
    """

    def __init__(
        self,
        devices: Sequence[DeviceInfo],
        catalogue: Mapping[str, Accelerator],
        share: Callable[[Hashable], Share],
        poke: Callable[[], None],
        settings: Settings | None = None,
        timeout: float = 10.0,
    ) -> None:
        self.catalogue = catalogue
        self.counts: Counter[str] = Counter()
        self._poke = poke
        self._begun: list[Work] = []  # by submit, for step
        self._lock = threading.Lock()
        self._scheduler = Scheduler(share, settings)
        self._workers = {info.address: Worker(info, catalogue, self, timeout) for info in devices}

    def start(self) -> None:
        """Open the boards; those that can't be opened now are tried again later."""
        for worker in self._workers.values():
            worker.start()
        for worker in self._workers.values():
            worker.tried(_OPENING)

    def stop(self) -> None:
        """Close the boards; what runs ends first."""
        for worker in self._workers.values():
            worker.stop()

    # --- for the thread that reads from clients -----------------------------------------------------------------

    @property
    def wake(self) -> float:
        """When :meth:`step` is to be called at the latest."""
        return self._scheduler.wake

    def submit(self, request: Request) -> None:
        """Accept a request; :meth:`step` gives it to a board.

        Raises
        ------
        Refused
        """
        with self._lock:
            work = self._scheduler.submit(request, clock())
        if work is not None:
            self._begun.append(work)

    def cancel(self, id: Hashable) -> None:
        """Take a request back, if it does not run yet."""
        with self._lock:
            request = self._scheduler.cancel(id)
            self.counts["cancelled"] += request is not None
        if request is not None:
            self._refused(request, Code.CANCELLED, "the request was cancelled.")

    def drop(self, client: Hashable) -> None:
        """Forget what a client has asked for."""
        with self._lock:
            dropped = self._scheduler.drop(client)
            self.counts["dropped"] += len(dropped)
        for request in dropped:
            request.job = None

    def step(self) -> None:
        """Give idle boards work; do it here if it is short."""
        now = clock()
        with self._lock:
            works, late = self._scheduler.assign(now)
            self.counts["deadline"] += len(late)
        if late:
            self._late(late)
        if self._begun:
            works += self._begun
            self._begun.clear()
        end = now + _AT_ONCE
        while works:
            work = works.pop()
            worker = self._workers[work.board.name]
            if work.reload or work.size * self._scheduler.cost(work.requests[0].accelerator) > _SHORT or clock() > end:
                worker.put(work)
                continue
            result = worker.quick(work)
            if result is not None and (following := self.finished(worker, work, result)) is not None:
                works.append(following)

    # --- for the threads of boards (Owner) ----------------------------------------------------------------------

    def finished(self, worker: Worker, work: Work, result: Result) -> Work | None:
        """Work has ended: tell the clients, and give the next."""
        now = clock()
        with self._lock:
            before = self._scheduler.wake
            if result.trouble is None:
                outcome = self._scheduler.done(work, result.seconds, now, result.reload)
            else:
                outcome = self._scheduler.failed(work, result.trouble, result.seconds, now)
            works, late = self._scheduler.assign(now)
            self.counts["deadline"] += len(late)
            for _, end in outcome:
                self.counts[end.value] += 1
            sooner = self._scheduler.wake < before
        self._told(work, result, outcome)
        if late:
            self._late(late)
        mine = None
        for other in works:
            if other.board is work.board:
                mine = other
            else:
                self._workers[other.board.name].put(other)
        if sooner:
            self._poke()
        return mine

    def found(self, worker: Worker, loaded: Hashable) -> None:
        """A board answers."""
        with self._lock:
            if worker.name not in self._scheduler.boards:
                self._scheduler.add(worker.board)
            self._scheduler.back(worker.name, loaded, clock())
        self._poke()

    def lost(self, worker: Worker) -> None:
        """A board without work does not answer."""
        with self._lock:
            if worker.board.work is None:
                self._scheduler.lose(worker.name)

    # --- telling --------------------------------------------------------------------------------------------------

    def _told(self, work: Work, result: Result, outcome: Outcome) -> None:
        """Tell each client once of all its requests: sending takes longer than many a request."""
        done = result.seconds / max(1, len(work.requests))
        answers: dict[Asker, list[tuple[int, Frame]]] = {}
        for request, end in outcome:
            pending: Pending = request.job
            request.job = None  # the client's memory is not needed any more
            if request.dropped:
                continue
            if end is End.DONE:
                frame: Frame = Done(request.began - request.arrived, done)
            else:
                frame = _failed(request, end, result.error)
            answers.setdefault(pending.asker, []).append((pending.tag, frame))
        for asker, frames in answers.items():
            asker.reply(*frames)

    def _refused(self, request: Request, code: Code, text: str) -> None:
        pending: Pending = request.job
        request.job = None
        pending.asker.reply((pending.tag, Failed(code, f"{request.accelerator}: {text}")))

    def _late(self, requests: Sequence[Request]) -> None:
        for request in requests:
            self._refused(request, Code.DEADLINE, "the deadline passed before a board was free.")

    # --- looking --------------------------------------------------------------------------------------------------

    def offer(self, accelerator: Accelerator) -> dict[str, Any]:
        """What an accelerator is, as a JSON document: its kernel, and the ids of the boards' images that have it.

        ``arguments`` is None where they are not the kernel's own.
        """
        images = {str(worker.board.images.get(accelerator.name)) for worker in self._workers.values()}
        plain = isinstance(accelerator, Plain)
        return {
            "kernel": accelerator.contract.name,
            "summary": accelerator.contract.summary,
            "images": sorted(images - {"None"}),
            "arguments": [describe(arg) for arg in accelerator.contract.args] if plain else None,
        }

    def status(self) -> dict[str, Any]:
        """What goes on, as a JSON document."""
        with self._lock:
            boards = [
                {
                    "address": worker.name,
                    "name": worker.info.name,
                    "up": worker.board.up,
                    "cordoned": worker.board.cordoned,
                    "loaded": None if worker.board.loaded is None else str(worker.board.loaded),
                    "accelerators": sorted(worker.board.images),
                    "running": len(worker.board.work.requests) if worker.board.work else 0,
                    "busy_seconds": worker.board.busy_seconds,
                    "reloads": worker.board.reloads,
                }
                for worker in self._workers.values()
            ]
            users: list[dict[str, Any]] = [
                {"user": name, "requests": user.live, "waiting": user.waiting, "board_seconds": user.used}
                for name, user in self._scheduler.users.items()
            ]
            users.sort(key=lambda user: -user["board_seconds"])
            return {
                "boards": boards,
                "users": users[:REPORTED],
                "requests": self._scheduler.live,
                "reloads": self._scheduler.reloads,
                "ended": dict(self.counts),
            }


__all__ = ["NEVER", "REPORTED", "Node", "Pending", "failure"]
