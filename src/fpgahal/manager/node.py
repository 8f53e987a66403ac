# SPDX-License-Identifier: Apache-2.0
"""Node: the boards, the scheduler, and who is told what became of a request.  Any thread may call it."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from fpgahal import AccessError, ArgumentError, ArgumentRangeError, DeviceInfo, DeviceNotFoundError, FpgaError
from fpgahal.manager.accelerators import Accelerator, Job, Plain, describe
from fpgahal.manager.board import Result, Worker, clock
from fpgahal.manager.figures import Figures
from fpgahal.manager.scheduler import NEVER, End, Outcome, Request, Scheduler, Settings, Share, Work
from fpgahal.manager.wire import Code, Failed, Frame, Submit, Verb

_SHORT = 0.0005  # board-seconds that work may take on the thread that reads from clients
_OPENING = 30.0  # seconds
_AT_ONCE = 0.002  # seconds that this thread spends on work before it looks at clients again
_LOG = logging.getLogger(__name__)

_TEXTS = {
    End.ERROR: "the run failed",
    End.HUNG: "the run did not end in time, and was stopped",
    End.PROGRAM: "the image could not be loaded",
    End.LOST: "the board was lost; it may have run",
}
_SAYS = {ArgumentError: Code.ARGUMENT, AccessError: Code.ACCESS, DeviceNotFoundError: Code.UNAVAILABLE}
_CODES = {End.ERROR: Code.RUN, End.HUNG: Code.TIMEOUT, End.PROGRAM: Code.UNAVAILABLE, End.LOST: Code.LOST}


class Asker(Protocol):
    """Who has sent requests."""

    @property
    def number(self) -> int:
        """Which client."""

    @property
    def user(self) -> int:
        """Whose."""

    def reply(self, *answers: tuple[int, Frame]) -> None:
        """Take answers, each with the tag of its request; any thread may call it."""

    def reply_done(self, tags: Sequence[int], waited: float, ran: float) -> None:
        """Take it that these requests have run, after so many seconds, in so many board-seconds each."""


class Known(NamedTuple):
    """A request that was checked: the same bytes mean the same job, as long as no buffer changes."""

    submit: Submit
    accelerator: Accelerator
    job: Job
    nbytes: int  # of its arrays


class Asked:
    """Requests that came together from one client and may run together: most often one.

    Attributes
    ----------
    known : Known
        The first.
    jobs, tags : list
        Of all.
    size, nbytes : int
        The sums of theirs.
    """

    __slots__ = ("asker", "jobs", "known", "nbytes", "size", "tags")

    def __init__(self, asker: Asker, known: Known, tag: int) -> None:
        self.asker = asker
        self.known = known
        self.jobs = [known.job]
        self.tags = [tag]
        self.size = known.job.size
        self.nbytes = known.nbytes

    def takes(self, known: Known, tag: int) -> bool:
        """Whether another one may run together with these; then it is one of them."""
        job, mine, submit, other = known.job, self.known.job, known.submit, self.known.submit
        if job.batch is None or self.size + job.size > mine.most or submit.priority != other.priority:
            return False
        if submit.once or other.once or submit.deadline or other.deadline or job.batch != mine.batch:
            return False
        self.jobs.append(job)
        self.tags.append(tag)
        self.size += job.size
        self.nbytes += known.nbytes
        return True

    def parts(self) -> list[tuple[Hashable, int, Asked]]:
        """Take them apart: id, size, and each by itself."""
        found: list[tuple[Hashable, int, Asked]] = []
        for tag, job in zip(self.tags, self.jobs, strict=True):
            one = Asked(self.asker, self.known._replace(job=job), tag)
            found.append(((self.asker.number, tag), one.size, one))
        return found

    def part(self, tag: int) -> Asked:
        """Take one of several out."""
        at = self.tags.index(tag)
        del self.tags[at]
        one = Asked(self.asker, self.known._replace(job=self.jobs.pop(at)), tag)
        self.size -= one.size
        return one

    def request(self, now: float) -> Request:
        """For the scheduler."""
        submit, job = self.known.submit, self.known.job
        return Request(
            (self.asker.number, self.tags[0]),
            self.asker.number,
            self.asker.user,
            submit.name,
            self.size,
            job.batch,
            job.most,
            submit.priority,
            now + submit.deadline * 1e-6 if submit.deadline else None,
            submit.once,
            len(self.tags),
            self,
        )


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
            code = next((code for kind, code in _SAYS.items() if isinstance(error, kind)), Code.RANGE)
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
        self.figures = {name: Figures() for name in catalogue}
        self._poke = poke
        self._begun: list[Work] = []  # by submit, for step
        self._lock = threading.Lock()
        self._scheduler = Scheduler(share, settings)
        self._timeout = timeout
        self._workers = {info.address: Worker(info, catalogue, self, timeout) for info in devices}

    def start(self) -> None:
        """Open the boards; those that can't be opened now are tried again later."""
        for worker in self._workers.values():
            worker.start()
        for worker in self._workers.values():
            worker.tried(_OPENING)

    def add(self, info: DeviceInfo) -> None:
        """Use one more board; in the thread that reads from clients."""
        worker = self._workers[info.address] = Worker(info, self.catalogue, self, self._timeout)
        worker.start()

    def stop(self) -> None:
        """Close the boards; what runs ends first."""
        for worker in self._workers.values():
            worker.stop()

    # --- for the thread that reads from clients -----------------------------------------------------------------

    @property
    def wake(self) -> float:
        """When :meth:`step` is to be called at the latest."""
        return self._scheduler.wake

    def submit(self, asked: Asked, *, now: bool = False) -> None:
        """Accept requests; :meth:`step` gives them to a board.  With `now`, they are run at once, if nobody waits.

        Raises
        ------
        Refused
        """
        if now and self._run(asked):
            return
        at = clock()
        with self._lock:
            work = self._scheduler.submit(asked.request(at), at)
        if work is not None:
            self._begun.append(work)

    def _run(self, asked: Asked) -> bool:
        """Run something short here, if it need not wait: it never becomes a Request, unless something goes wrong."""
        name, user = asked.known.submit.name, asked.asker.user
        if asked.size * self._scheduler.cost(name) > _SHORT:
            return False
        with self._lock:
            board = self._scheduler.take(name, user, len(asked.tags))
        if board is None:
            return False
        worker = self._workers[board.name]
        result = worker.quick(board.loaded, name, asked.jobs, user)
        now = clock()
        if type(result) is Result and result.trouble is None:
            asked.asker.reply_done(asked.tags, 0.0, result.seconds / len(asked.tags))  # the client goes on meanwhile
            with self._lock:
                self._scheduler.give(board, name, user, asked.size, result.seconds, now)
                self.counts["done"] += len(asked.tags)
                self.figures[name].at_once(len(asked.tags), result.seconds)
            return True
        with self._lock:
            work = self._scheduler.adopt(board, asked.request(now), now)
        if not isinstance(result, Result):
            worker.put(work, result)
        elif (following := self.finished(worker, work, result)) is not None:
            self._begun.append(following)
        return True

    def cancel(self, client: Hashable, tag: int) -> None:
        """Take a request back, if it does not run yet."""
        with self._lock:
            asked = self._take_back(client, tag)
            self.counts["cancelled"] += asked is not None
        if asked is not None:
            self._refused(asked, Code.CANCELLED, "the request was cancelled.")

    def _take_back(self, client: Hashable, tag: int) -> Asked | None:
        request = self._scheduler.find((client, tag))
        if request is None or tag not in request.job.tags:  # it may be one of those that came together
            request = next((one for one in self._scheduler.of(client) if tag in one.job.tags), None)
        if request is None or request.running:
            return None
        asked: Asked = request.job
        if request.count == 1:
            self._scheduler.cancel(request.id)
            request.job = None
            return asked
        part = asked.part(tag)
        self._scheduler.shrink(request, part.size)
        return part

    def drop(self, client: Hashable) -> None:
        """Forget what a client has asked for."""
        with self._lock:
            dropped = self._scheduler.drop(client)
            self.counts["dropped"] += sum([request.count for request in dropped])
        for request in dropped:
            request.job = None

    def step(self) -> None:
        """Give idle boards work; do it here if it is short."""
        if not (self._begun or self._scheduler.waiting):
            return
        now = clock()
        with self._lock:
            works, late = self._scheduler.assign(now)
            self.counts["deadline"] += sum([request.count for request in late])
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
            jobs = [job for request in work.requests for job in request.job.jobs]
            name, user = work.requests[0].accelerator, work.requests[0].user
            result = worker.quick(work.image, name, jobs, user)
            if not isinstance(result, Result):
                worker.put(work, result)
            elif (following := self.finished(worker, work, result)) is not None:
                works.append(following)

    # --- for administrators -------------------------------------------------------------------------------------

    @property
    def boards(self) -> Sequence[str]:
        """Their addresses."""
        return tuple(self._workers)

    def want(self, name: str, verb: Verb) -> None:
        """Give a board no more work, or close it then, or use it again; requests that only it can run wait."""
        worker = self._workers[name]
        with self._lock:
            worker.board.cordoned = verb is not Verb.UNCORDON
            worker.drained = verb is Verb.DRAIN
        worker.look()

    # --- for the threads of boards (Owner) ----------------------------------------------------------------------

    def finished(self, worker: Worker, work: Work, result: Result) -> Work | None:
        """Work has ended: tell the clients, and give the next."""
        now = clock()
        with self._lock:
            before, rested = self._scheduler.wake, work.board.trust.rests
            if result.trouble is None:
                outcome = self._scheduler.done(work, result.seconds, now, result.reload)
                self.figures[work.requests[0].accelerator].done(work.requests, result.seconds)
            else:
                outcome = self._scheduler.failed(work, result.trouble, result.seconds, now)
            works, late = self._scheduler.assign(now)
            self.counts["deadline"] += sum([request.count for request in late])
            for request, end in outcome:
                self.counts[end.value] += request.count
            sooner = self._scheduler.wake < before
            rest = self._scheduler.rests(worker.name, now) if work.board.trust.rests > rested else 0.0
        if rest:
            _LOG.warning("board rests", extra={"board": worker.name, "seconds": rest, "error": str(result.error)})
            worker.look()
        self._told(work, result, outcome)
        if late:
            self._late(late)
        mine = None
        for other in works:
            if other.board is work.board and mine is None:
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
            if self._scheduler.rests(worker.name, clock()):  # it failed meanwhile
                return
            self._scheduler.back(worker.name, loaded, clock())
        if worker.board.trust.trial:
            _LOG.info("board is tried again", extra={"board": worker.name})
        self._poke()

    def lost(self, worker: Worker) -> None:
        """A board without work does not answer."""
        with self._lock:
            if not worker.board.works and not worker.board.taken and worker.name in self._scheduler.boards:
                self._scheduler.lose(worker.name)

    def rests(self, worker: Worker) -> float:
        """Whether, and how long, a board is left alone."""
        with self._lock:
            return self._scheduler.rests(worker.name, clock()) if worker.name in self._scheduler.boards else 0.0

    # --- telling --------------------------------------------------------------------------------------------------

    def _told(self, work: Work, result: Result, outcome: Outcome) -> None:
        """Tell each client once of all its requests that waited as long: sending takes longer than many a request."""
        ran = result.seconds / sum([len(request.job.tags) for request in work.requests])
        done: dict[tuple[Asker, float], list[int]] = {}
        for request, end in outcome:
            asked: Asked = request.job
            request.job = None  # the client's memory is not needed any more
            if request.dropped:
                continue
            if end is End.DONE:
                done.setdefault((asked.asker, request.arrived), []).extend(asked.tags)
            else:
                failed = _failed(request, end, result.error)
                asked.asker.reply(*[(tag, failed) for tag in asked.tags])
        for (asker, arrived), tags in done.items():
            asker.reply_done(tags, work.requests[0].began - arrived, ran)

    def _refused(self, asked: Asked, code: Code, text: str) -> None:
        failed = Failed(code, f"{asked.known.submit.name}: {text}")
        asked.asker.reply(*[(tag, failed) for tag in asked.tags])

    def _late(self, requests: Sequence[Request]) -> None:
        for request in requests:
            asked, request.job = request.job, None
            self._refused(asked, Code.DEADLINE, "the deadline passed before a board was free.")

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

    def live(self) -> Mapping[Hashable, int]:
        """How many requests of each client wait or run."""
        with self._lock:
            return self._scheduler.clients()

    def status(self) -> dict[str, Any]:
        """What goes on, as a JSON document; users with the most board-seconds come first."""
        now = clock()
        with self._lock:
            users: list[dict[str, Any]] = [
                {
                    "user": name,
                    "weight": user.share.weight,
                    "requests": user.live,
                    "waiting": user.waiting,
                    "board_seconds": user.used,
                }
                for name, user in self._scheduler.users.items()
            ]
            users.sort(key=lambda user: -user["board_seconds"])
            return {
                "boards": [self._shown(worker, now) for worker in self._workers.values()],
                "users": users,
                "requests": self._scheduler.live,
                "waiting": self._scheduler.lengths(),
                "reloads": self._scheduler.reloads,
                "ended": dict(self.counts),
                "figures": {name: one.document() for name, one in self.figures.items() if one.ran.sum},
            }

    def _shown(self, worker: Worker, now: float) -> dict[str, Any]:
        board = worker.board
        rest = self._scheduler.rests(worker.name, now) if worker.name in self._scheduler.boards else 0.0
        state = "running" if board.work else "resting" if rest else "lost"
        if board.up and not board.work:
            state = "trial" if board.trust.trial else "idle"
        if worker.drained:
            state = "draining" if worker.here else "drained"
        elif board.cordoned and state not in ("lost", "resting"):
            state = "cordoned"
        return {
            "address": worker.name,
            "name": worker.info.name,
            "emulated": worker.info.emulated,
            "state": state,
            "up": board.up,
            "cordoned": board.cordoned,
            "loaded": None if board.loaded is None else str(board.loaded),
            "runs": sorted(name for name, image in board.images.items() if image == board.loaded),
            "accelerators": sorted(board.images),
            "running": sum([one.count for work in board.works for one in work.requests]),
            "running_seconds": now - board.work.requests[0].began if board.work else 0.0,
            "resting_seconds": rest,
            "busy_seconds": board.busy_seconds,
            "reloads": board.reloads,
        }


__all__ = ["NEVER", "Asked", "Known", "Node", "failure"]
