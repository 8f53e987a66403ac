# SPDX-License-Identifier: Apache-2.0
"""Worker: the threads that have a board.  They program, run, give up what hangs, and get a lost board back."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Generator, Hashable, Mapping, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, Protocol, TypeAlias

import fpgahal
from fpgahal import (
    ArgumentRangeError,
    Bitstream,
    Device,
    DeviceInfo,
    DeviceLostError,
    DeviceStateError,
    FpgaError,
    KernelNotFoundError,
    Run,
    RunError,
    RunTimeoutError,
)
from fpgahal.kernels import find_image
from fpgahal.manager.accelerators import Accelerator, Job, Opened
from fpgahal.manager.repository import Packed
from fpgahal.manager.scheduler import Board, Trouble, Work

RESIDENT = 8  #: models and kernels that stay open on a board
LANES = 4  #: works that a board has at a time, at most
QUICK = 0.002  # seconds that a run may take on the caller's thread
_CHECK = 0.5  # seconds between two looks at an idle board
_LOG = logging.getLogger(__name__)

Turn: TypeAlias = "threading.Lock | threading.Semaphore"

clock = time.monotonic


class Result(NamedTuple):
    """What became of some work: board-seconds; seconds for the reload, if there was one; the error, if any."""

    seconds: float
    reload: float | None = None
    trouble: Trouble | None = None
    error: BaseException | None = None


class Flight:
    """Jobs that have been begun.

    Parameters
    ----------
    opened : Opened
    steps : generator
        Gives the arguments of one run after the other.
    turn : lock or semaphore
        To be held while a run goes on.
    generation : int
        The device's.
    run : Run, optional
        That goes on already; nobody else has the turn.
    """

    __slots__ = ("generation", "holds", "opened", "run", "since", "steps", "turn")

    def __init__(
        self, opened: Opened, steps: Generator[tuple[Any, ...]], turn: Turn, generation: int, run: Run | None = None
    ) -> None:
        self.opened = opened
        self.steps = steps
        self.turn = turn
        self.generation = generation
        self.run = run
        self.holds = run is not None and turn.acquire()  # its turn
        self.since = clock()

    def go_on(self, patience: float) -> None:
        """Do all runs that are left.

        Raises
        ------
        RunTimeoutError
            One takes longer than `patience`; it goes on, and so may this.
        FpgaError
            From the board.
        """
        while True:
            if self.run is None:
                args = next(self.steps, None)
                if args is None:
                    return
                self.turn.acquire()
                self.holds = True
                self.run = self.opened.kernel.start(*args)
                del args
            self.run.wait(patience)
            self.run = None
            self.end_turn()

    def end_turn(self) -> None:
        """Let others run something."""
        if self.holds:
            self.holds = False
            self.turn.release()

    def let_go(self) -> None:
        """Hold no memory any more, neither the board's nor the clients'."""
        self.run = None
        self.steps.close()


class Owner(Protocol):
    """Who gives work and wants to know what becomes of it; called from the worker's threads."""

    def finished(self, worker: Worker, work: Work, result: Result) -> Work | None:
        """Work has ended; gives the next, if there is any for this board."""

    def found(self, worker: Worker, loaded: Hashable) -> None:
        """The board answers, for the first time or again."""

    def lost(self, worker: Worker) -> None:
        """The board does not answer, and had no work."""

    def rests(self, worker: Worker) -> float:
        """Seconds for which the board is not to be opened."""


class Worker:
    """A board, and its threads: while one waits for a run, another brings the next one's arrays.

    Parameters
    ----------
    info : DeviceInfo
    catalogue : mapping
        What it may be asked for, by name.
    owner : Owner
    timeout : float
        Seconds that one run may take.

    Attributes
    ----------
    board : Board
        What the scheduler knows of it: complete from the first call of ``owner.found`` on.
    """

    def __init__(
        self, info: DeviceInfo, catalogue: Mapping[str, Accelerator], owner: Owner, timeout: float = 10.0
    ) -> None:
        self.info = info
        self.name = info.address
        self.timeout = timeout
        self.board = Board(self.name, {}, up=False, lanes=2)
        self.drained = False  # others may have the board, once it is not `here`
        self.here = False
        self._catalogue = catalogue
        self._owner = owner
        self._inbox: SimpleQueue[tuple[Work | None, Flight | None] | None] = SimpleQueue()
        self._lock = threading.Condition()  # guards what follows; who runs something does not hold it
        self._dev: Device | None = None
        self._generation = 0  # of the device
        self._images: dict[Hashable, Bitstream] = {}
        self._opened: OrderedDict[Hashable, Opened] = OrderedDict()
        self._turns: dict[str, Turn] = {}  # by accelerator: as many runs at a time as it has compute units
        self._image: Hashable = None  # that this process has loaded, or attached to
        self._flights: list[Flight] = []
        self._ended = 0.0  # when the last flight did
        self._stopping = False
        self._tried = threading.Event()
        self._threads = [
            threading.Thread(target=self._loop, args=(number,), name=f"board {self.name} {number}", daemon=True)
            for number in range(LANES)
        ]

    def start(self) -> None:
        """Open the board, in its thread."""
        for thread in self._threads:
            thread.start()

    def tried(self, timeout: float) -> None:
        """Wait until it is open, or does not open."""
        self._tried.wait(timeout)

    def stop(self, timeout: float = 15.0) -> None:
        """Let what runs end, and close the board."""
        self._stopping = True
        end = clock() + timeout
        for _ in self._threads:
            self._inbox.put(None)
        for thread in self._threads:
            thread.join(max(0.0, end - clock()))
        with self._lock:
            self._give_up()

    def look(self) -> None:
        """See at once whether the board is to be closed, or opened."""
        self._inbox.put((None, None))

    def put(self, work: Work, flight: Flight | None = None) -> None:
        """Do it, some time; with `flight`, it was begun."""
        self._inbox.put((work, flight))

    def quick(self, image: Hashable, accelerator: str, jobs: Sequence[Job], user: Hashable) -> Result | Flight | None:
        """Do something now, on the caller's thread: waking another one up takes longer than many a run.

        Returns
        -------
        Result, Flight or None
            Flight: it takes longer; None: the board is not ready for it.
        """
        if not self._lock.acquire(blocking=False):
            return None
        try:
            opened = self._opened.get(jobs[0].resident)
            if opened is None or self._flights or self._dev is None:
                return None
            if self._image is not image and self._image != image:
                return None
            since = clock()
            steps, run = opened.run(jobs, user), None
            try:
                if self._dev.afu_id != image:
                    return None
                for args in steps:
                    run = opened.kernel.start(*args)
                    run.wait(QUICK)
                return Result(clock() - since)
            except Exception as error:
                flight = Flight(opened, steps, self._turns[accelerator], self._generation, run)
                if run is None or not isinstance(error, RunTimeoutError):
                    return self._failed(error, clock() - since, None, flight)
                self._flights.append(flight)
                return flight
        finally:
            self._lock.release()

    # --- the threads ------------------------------------------------------------------------------------------

    def _loop(self, number: int) -> None:
        wait = 0.0 if number == 0 else None
        while True:
            try:
                item = self._inbox.get(timeout=wait) if wait != 0.0 else self._inbox.get_nowait()
            except Empty:
                wait = self._look()
                self._tried.set()
                continue
            if item is None:
                break
            work, flight = item
            if work is None:
                self._look()
            del item  # while this thread waits for the next, it holds nobody's memory
            while work is not None:
                result = self._do(work, flight)
                flight = None
                work = self._owner.finished(self, work, result)
                if work is not None and self._stopping:
                    break

    def _look(self) -> float:
        """Is the board still there, or there again?"""
        if self.drained and self.board.work is None:
            with self._lock:
                if self._flights:  # one that was begun just before
                    return _CHECK
                self._give_up()
                self._images.clear()  # it may come back with another shell
                self.here = False
            self._owner.lost(self)
            return _CHECK
        rest = self._owner.rests(self)
        with self._lock:
            if self._flights:  # they will see
                return _CHECK
            if rest:
                self._give_up()  # which resets it
                return min(rest, _CHECK)
            if self._dev is not None:
                try:
                    loaded = self._dev.afu_id
                except FpgaError as error:
                    _LOG.warning("board lost", extra={"board": self.name, "error": str(error)})
                    self._give_up()
                    self._owner.lost(self)
                    return _CHECK
            else:
                if not self._open():
                    return _CHECK
                assert self._dev is not None
                try:
                    loaded = self._dev.afu_id
                except FpgaError:
                    return _CHECK
        if not self.board.up:  # another thread may have opened it, before the owner was told that it was lost
            self._owner.found(self, loaded)
        return _CHECK

    def _open(self) -> bool:
        """Open the board; at the first time, find out what it can run."""
        try:
            self._dev = fpgahal.open(fpgahal.find(self.info.address))
            self.here = True
        except FpgaError as error:
            _LOG.debug("board does not open", extra={"board": self.name, "error": str(error)})
            return False
        if not self._images:
            images = {}
            for name, accelerator in self._catalogue.items():
                try:
                    found: bytes | Bitstream
                    if isinstance(accelerator, Packed):
                        found = accelerator.image(self.info)
                    else:
                        found = find_image(self._dev, accelerator.contract)
                except (KernelNotFoundError, FpgaError) as error:
                    _LOG.info("no image", extra={"board": self.name, "accelerator": name, "error": str(error)})
                    continue
                image = found if isinstance(found, Bitstream) else Bitstream.parse(found)
                images[name] = image.afu_id
                self._images[image.afu_id] = image
            self.board.images = images
        return True

    def _give_up(self) -> None:
        """Let go of the device, whatever state it is in; who uses it next opens it again."""
        dev, self._dev, self._image = self._dev, None, None
        self._generation += 1
        if dev is not None:
            with suppress(FpgaError):
                dev.reset()
        for opened in self._opened.values():
            with suppress(FpgaError):
                opened.close()
        self._opened.clear()
        if dev is not None:
            try:
                dev.close()
            except FpgaError as error:  # it closes when the last thing that holds it is gone
                _LOG.warning("board does not close", extra={"board": self.name, "error": str(error)})

    # --- work -------------------------------------------------------------------------------------------------

    def _do(self, work: Work, flight: Flight | None) -> Result:
        """Do some work, or the rest of it."""
        reload = None
        if flight is None:
            with self._lock:
                try:
                    reload = self._ready(work)
                    flight = self._depart(work)
                except Exception as error:
                    return self._failed(error, 0.0, reload, None)
        try:
            flight.go_on(self.timeout)
        except Exception as error:
            with self._lock:
                return self._failed(error, self._land(flight), reload, flight)
        with self._lock:
            return Result(self._land(flight), reload)

    def _ready(self, work: Work) -> float | None:
        """See to it that the board is open and runs the work's image.  Gives the seconds for programming, if it was."""
        if self._dev is None:  # those who had it have to let go of it first
            self._lock.wait_for(lambda: not self._flights, self.timeout)
        if self._dev is None and not self._open():
            raise DeviceLostError(f"{self.name} does not answer.", hint="`fpgahal list` shows the boards that do.")
        assert self._dev is not None
        if self._image == work.image:
            if self._dev.afu_id == work.image:
                return None
            _LOG.warning("another image than expected", extra={"board": self.name})
            if self._flights:
                raise DeviceStateError(f"{self.name} has another image than its runs need.", hint="Who loaded it?")
        since = clock()
        self._image = None
        self._turns.clear()
        while self._opened:
            self._opened.popitem()[1].close()
        doubtful = self.board.trust.trial  # perhaps the image is not any more what was written
        programmed = self._dev.program(self._images[work.image], timeout=self.timeout * 6, force=doubtful)
        self._image = work.image
        if not programmed:  # it ran that image already, and this process did not know
            return None
        seconds = clock() - since
        _LOG.info("programmed", extra={"board": self.name, "image": str(work.image), "seconds": round(seconds, 3)})
        return seconds

    def _depart(self, work: Work) -> Flight:
        assert self._dev is not None
        jobs = [job for request in work.requests for job in request.job.jobs]
        first = work.requests[0]
        resident = jobs[0].resident
        opened = self._opened.get(resident)
        if opened is None:
            used = [flight.opened for flight in self._flights]
            idle = [key for key, one in self._opened.items() if one not in used]
            for key in idle[: max(0, len(self._opened) - RESIDENT + 1)]:
                self._opened.pop(key).close()
            opened = self._opened[resident] = self._catalogue[first.accelerator].open(self._dev, jobs[0])
            units = len(opened.kernel.info.compute_units)
            self._turns.setdefault(first.accelerator, threading.Semaphore(units) if units > 1 else threading.Lock())
            self.board.lanes = min(LANES, max(1, units) + 1)
        else:
            self._opened.move_to_end(resident)
        flight = Flight(opened, opened.run(jobs, first.user), self._turns[first.accelerator], self._generation)
        self._flights.append(flight)
        return flight

    def _land(self, flight: Flight) -> float:
        """It has ended: give its board-seconds, without those that were the one's before."""
        self._flights.remove(flight)
        self._lock.notify_all()
        began, self._ended = max(flight.since, self._ended), clock()
        return self._ended - began

    def _failed(self, error: BaseException, seconds: float, reload: float | None, flight: Flight | None) -> Result:
        """What an error says of the board; and make it fit for what comes next.  Without `flight`, nothing ran."""
        log = _LOG.warning if isinstance(error, FpgaError) else _LOG.exception
        log("work failed", extra={"board": self.name, "error": str(error)})
        loading = flight is None
        if flight is not None:
            flight.let_go()
        error.__traceback__ = error.__context__ = error.__cause__ = None  # they hold memory, too
        trouble = Trouble.PROGRAM if loading else Trouble.ERROR
        if flight is not None and flight.generation != self._generation:
            trouble = Trouble.STOPPED
        elif isinstance(error, DeviceLostError | DeviceStateError) or (loading and not self._answers()):
            trouble = Trouble.BOARD
            self._give_up()
        elif isinstance(error, RunTimeoutError):
            trouble = Trouble.HUNG
            self._give_up()
        elif loading or not isinstance(error, ArgumentRangeError | RunError):
            self._give_up()
        elif isinstance(error, ArgumentRangeError):
            trouble = Trouble.ARGUMENT
        if flight is not None:  # not before the board was reset
            flight.end_turn()
        return Result(seconds, reload, trouble, error)

    def _answers(self) -> bool:
        try:
            return self._dev is not None and self._dev.afu_id is not None
        except FpgaError:
            return False


__all__ = ["Flight", "Owner", "Result", "Worker", "clock"]
