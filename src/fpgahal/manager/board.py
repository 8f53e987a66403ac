# SPDX-License-Identifier: Apache-2.0
"""Worker: the thread that has a board.  It programs, runs, gives up what hangs, and gets a lost board back."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Generator, Hashable, Mapping
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import NamedTuple, Protocol

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
from fpgahal.manager.accelerators import Accelerator, Opened
from fpgahal.manager.scheduler import Board, Trouble, Work

RESIDENT = 8  #: models and kernels that stay open on a board
QUICK = 0.002  # seconds that a run may take on the caller's thread
_CHECK = 0.5  # seconds between two looks at an idle board
_LOG = logging.getLogger(__name__)

clock = time.monotonic


class Result(NamedTuple):
    """What became of some work: board-seconds; seconds for the reload, if there was one; the error, if any."""

    seconds: float
    reload: float | None = None
    trouble: Trouble | None = None
    error: BaseException | None = None


class Begun(NamedTuple):
    """Work that another thread has begun: the rest of it, the run to wait for, and since when."""

    rest: Generator[Run]
    run: Run
    since: float


class Owner(Protocol):
    """Who gives work and wants to know what becomes of it; called from the worker's thread."""

    def finished(self, worker: Worker, work: Work, result: Result) -> Work | None:
        """Work has ended; gives the next, if there is any for this board."""

    def found(self, worker: Worker, loaded: Hashable) -> None:
        """The board answers, for the first time or again."""

    def lost(self, worker: Worker) -> None:
        """The board does not answer, and had no work."""


class Worker:
    """A board, and its thread.

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
        self.board = Board(self.name, {}, up=False)
        self._catalogue = catalogue
        self._owner = owner
        self._inbox: SimpleQueue[tuple[Work, Begun | None] | None] = SimpleQueue()
        self._lock = threading.Lock()  # who has it uses the device
        self._dev: Device | None = None
        self._images: dict[Hashable, Bitstream] = {}
        self._opened: OrderedDict[Hashable, Opened] = OrderedDict()
        self._image: Hashable = None  # that this process has loaded, or attached to
        self._stopping = False
        self._tried = threading.Event()
        self._thread = threading.Thread(target=self._loop, name=f"board {self.name}", daemon=True)

    def start(self) -> None:
        """Open the board, in its thread."""
        self._thread.start()

    def tried(self, timeout: float) -> None:
        """Wait until it is open, or does not open."""
        self._tried.wait(timeout)

    def stop(self, timeout: float = 15.0) -> None:
        """Let what runs end, and close the board."""
        self._stopping = True
        self._inbox.put(None)
        self._thread.join(timeout)

    def put(self, work: Work) -> None:
        """Do it, some time."""
        self._inbox.put((work, None))

    def quick(self, work: Work) -> Result | None:
        """Do it now, on the caller's thread, if it is a matter of microseconds; None: it is being done elsewhere.

        Waking another thread up takes longer than many a run.
        """
        if not self._lock.acquire(blocking=False):
            self.put(work)
            return None
        try:
            job = work.requests[0].job.job
            if self._dev is None or self._image != work.image or job.resident not in self._opened:
                self.put(work)
                return None
            return self._do(work, QUICK)
        finally:
            self._lock.release()

    # --- the thread -------------------------------------------------------------------------------------------

    def _loop(self) -> None:
        wait = 0.0
        while True:
            try:
                item = self._inbox.get(timeout=wait) if wait else self._inbox.get_nowait()
            except Empty:
                wait = self._look()
                self._tried.set()
                continue
            if item is None:
                break
            work: Work | None
            work, begun = item
            del item  # while this thread waits for the next, it holds nobody's memory
            while work is not None:
                with self._lock:
                    result = self._resume(begun) if begun is not None else self._do(work, None)
                begun = None
                assert result is not None  # only quick work is put off
                work = self._owner.finished(self, work, result)
                if work is not None and self._stopping:
                    break
        with self._lock:
            self._give_up()

    def _look(self) -> float:
        """Is the board still there, or there again?"""
        with self._lock:
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
        except FpgaError as error:
            _LOG.debug("board does not open", extra={"board": self.name, "error": str(error)})
            return False
        if not self.board.images:
            images = {}
            for name, accelerator in self._catalogue.items():
                try:
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

    def _do(self, work: Work, patience: float | None) -> Result | None:
        """Do some work.  With `patience`, a run that takes longer is left to the thread: the answer is None then."""
        reload = None
        since = clock()
        try:
            if self._dev is None and not self._open():
                raise DeviceLostError(f"{self.name} does not answer.", hint="`fpgahal list` shows the boards that do.")
            reload = self._load(work)
            opened = self._resident(work)
        except Exception as error:
            return self._failed(error, 0.0, reload, None)
        since = clock()
        rest = opened.run([request.job.job for request in work.requests], work.requests[0].user)
        try:
            for run in rest:
                try:
                    run.wait(self.timeout if patience is None else patience)
                except RunTimeoutError:
                    if patience is None:
                        raise
                    self._inbox.put((work, Begun(rest, run, since)))
                    return None
        except Exception as error:
            return self._failed(error, clock() - since, reload, rest)
        return Result(clock() - since, reload)

    def _resume(self, begun: Begun) -> Result:
        try:
            begun.run.wait(self.timeout)
            for run in begun.rest:
                run.wait(self.timeout)
        except Exception as error:
            return self._failed(error, clock() - begun.since, None, begun.rest)
        return Result(clock() - begun.since)

    def _load(self, work: Work) -> float | None:
        """See to it that the board runs the work's image.  Gives the seconds that programming took, if it did."""
        assert self._dev is not None
        if self._image == work.image:
            if self._dev.afu_id == work.image:
                return None
            _LOG.warning("another image than expected", extra={"board": self.name})
        since = clock()
        self._image = None
        while self._opened:
            self._opened.popitem()[1].close()
        programmed = self._dev.program(self._images[work.image], timeout=self.timeout * 6)
        self._image = work.image
        if not programmed:  # it ran that image already, and this process did not know
            return None
        seconds = clock() - since
        _LOG.info("programmed", extra={"board": self.name, "image": str(work.image), "seconds": round(seconds, 3)})
        return seconds

    def _resident(self, work: Work) -> Opened:
        assert self._dev is not None
        job = work.requests[0].job.job
        opened = self._opened.get(job.resident)
        if opened is None:
            while len(self._opened) >= RESIDENT:
                self._opened.popitem(last=False)[1].close()
            opened = self._catalogue[work.requests[0].accelerator].open(self._dev, job)
            self._opened[job.resident] = opened
        else:
            self._opened.move_to_end(job.resident)
        return opened

    def _failed(
        self, error: BaseException, seconds: float, reload: float | None, rest: Generator[Run] | None
    ) -> Result:
        """What an error says of the board; and make the board fit for what comes next.  Without `rest`, nothing ran."""
        loading = rest is None
        log = _LOG.warning if isinstance(error, FpgaError) else _LOG.exception
        log("work failed", extra={"board": self.name, "error": str(error)})
        if rest is not None:  # it and the traceback hold the board's memory, and the clients'
            rest.close()
        error.__traceback__ = error.__context__ = error.__cause__ = None
        trouble = Trouble.PROGRAM if loading else Trouble.ERROR
        if isinstance(error, DeviceLostError | DeviceStateError) or (loading and not self._answers()):
            trouble = Trouble.BOARD
            self._give_up()
        elif isinstance(error, RunTimeoutError):
            trouble = Trouble.HUNG
            self._give_up()
        elif loading or not isinstance(error, ArgumentRangeError | RunError):
            self._give_up()
        return Result(seconds, reload, trouble, error)

    def _answers(self) -> bool:
        try:
            return self._dev is not None and self._dev.afu_id is not None
        except FpgaError:
            return False


__all__ = ["Begun", "Owner", "Result", "Worker", "clock"]
