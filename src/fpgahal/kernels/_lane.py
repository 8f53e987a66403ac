# SPDX-License-Identifier: Apache-2.0
"""What an accelerator gives a pipeline (:class:`Lane`), and the threads that take batches through."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import Any, NamedTuple, Protocol

from fpgahal import Buffer, BufferInUseError, Device, DeviceLostError, FpgaError, Kernel, Run, RunTimeoutError
from fpgahal.kernels._relay import Relay

GRACE = 0.1  # seconds that runs in flight get to end by themselves when they are stopped
SLICE = 0.05  # seconds between two looks at whether a run should be left to itself


END: Any = object()  # no more batches, or results
WAIT: Any = object()  # none yet


class Work(NamedTuple):
    """What is to be done with a lane that was filled.

    Attributes
    ----------
    args : tuple
        The kernel's arguments.
    up, down : tuple of (Buffer, int)
        Buffers to send before the run and to fetch after it, each with the number of bytes that matter.
    """

    args: tuple[Any, ...]
    up: tuple[tuple[Buffer, int], ...]
    down: tuple[tuple[Buffer, int], ...]


class Lane(Protocol):
    """Buffers for one batch on one board: what an accelerator's host side writes, to be run by a :class:`Pipeline`.

    One thread at a time uses it, not always the same one.

    Attributes
    ----------
    device : Device
    kernel : Kernel
    """

    device: Device
    kernel: Kernel

    def fill(self, batch: Any) -> Work:
        """Copy a batch into the buffers.  What it raises is the batch's error."""

    def batch(self) -> Any:
        """The batch that is in the buffers, for `fill` of another board's lane when this board is lost."""

    def result(self) -> Any:
        """The result, as an object of its own: the buffers are filled again soon."""

    def close(self) -> None:
        """Give the buffers back."""


class Stopped(Exception):
    """The batch was given up, because nobody waits for it any more."""


class Stop:
    """How far stopping has gone."""

    def __init__(self) -> None:
        self.asked = False  # no new step is begun
        self.given_up = False  # runs in flight are left to themselves


class Job:
    """One batch on its way.  When it has ended, it is put into `news`."""

    __slots__ = (
        "batch", "done", "ended", "error", "filled", "index", "kept", "news", "notify", "result", "stop", "worker"
    )  # fmt: skip

    worker: Worker

    def __init__(
        self, index: int, batch: Any, stop: Stop, news: SimpleQueue[Job | None], notify: Callable[[], None] | None
    ) -> None:
        self.index = index
        self.batch = batch
        self.stop = stop
        self.news = news
        self.notify = notify  # called when it was filled in and when it has ended
        self.kept: Lane | None = None  # the lane of a lost board, which still has the batch
        self.filled = False
        self.ended = False  # says its worker
        self.done = False  # says whoever waits for it: it need not be tried on another board
        self.result: Any = None
        self.error: BaseException | None = None


class Board:
    """What the lanes of one board share."""

    def __init__(self, lane: Lane) -> None:
        self.device = lane.device
        self.address = lane.device.info.address
        self.relay = Relay(lane.kernel.turn)
        self.lost = False
        self.idle: list[Worker] = []

    def gone(self) -> bool:
        """Whether it dropped off the bus; once it did, this pipeline leaves it alone."""
        if not self.lost:
            try:
                _ = self.device.afu_id
            except DeviceLostError:
                self.lost = True
            except FpgaError:
                pass
        return self.lost


class Worker:
    """A lane and its thread.

    The thread takes one batch at a time through all steps; the steps of several lanes overlap, because drivers take
    transfers and runs from several threads.  So a card has its next run while the thread of the last one wakes up.
    """

    def __init__(self, lane: Lane, board: Board, timeout: float | None) -> None:
        self.lane = lane
        self.board = board
        self.timeout = timeout
        self.stop = Stop()
        self.run: Run | None = None
        self.filled = threading.Event()
        self.filled.set()
        self.quiet = threading.Event()
        self.quiet.set()
        self.inbox: SimpleQueue[Job | None] = SimpleQueue()
        self.thread = threading.Thread(target=self._serve, name=f"pipeline {board.address}", daemon=True)
        self.thread.start()

    @property
    def hangs(self) -> bool:
        """Whether its last run still runs."""
        return self.run is not None and not self.run.done

    def give(self, job: Job) -> None:
        """Hand it a batch; it must have none."""
        job.worker = self
        self.stop = job.stop
        self.filled.clear()
        self.quiet.clear()
        self.inbox.put(job)

    def close(self) -> None:
        """End the thread, which has no batch, and give the buffers back."""
        self.inbox.put(None)
        self.thread.join()
        self.run = None
        with suppress(BufferInUseError):  # by a run that can't be stopped: they go when it ends
            self.lane.close()

    def _serve(self) -> None:
        while (job := self.inbox.get()) is not None:
            try:
                job.result = self._process(job)
                job.error = None
            except BaseException as error:
                traceback.clear_frames(error.__traceback__)  # views of buffers in them would outlive the lane
                job.error = error
            job.ended = True
            self.filled.set()
            self.quiet.set()
            job.news.put(job)
            if job.notify is not None:
                job.notify()
            del job  # its result is the caller's

    def _process(self, job: Job) -> Any:
        work = self.lane.fill(job.batch if job.kept is None else job.kept.batch())
        job.batch = job.kept = None
        job.filled = True
        self.filled.set()
        if job.notify is not None:
            job.notify()
        for buffer, nbytes in work.up:
            self._check()
            buffer.sync_to_device(0, nbytes)
        with self.board.relay.run(partial(self._start, work.args)) as run:
            self._wait(run)
        for buffer, nbytes in work.down:
            self._check()
            buffer.sync_from_device(0, nbytes)
        return self.lane.result()

    def _start(self, args: tuple[Any, ...]) -> Run:
        self._check()
        self.run = self.lane.kernel.start(*args)
        return self.run

    def _wait(self, run: Run) -> None:
        end = None if self.timeout is None else time.monotonic() + self.timeout
        while not self.stop.given_up:
            left = SLICE if end is None else min(SLICE, end - time.monotonic())
            try:
                run.wait(max(0.0, left))
            except RunTimeoutError:
                if left <= 0:
                    raise RunTimeoutError(
                        f"{run.kernel.name} on {self.board.address} did not finish in {self.timeout:g} s.",
                        hint="Give it more time (timeout=), or smaller batches.",
                    ) from None
            else:
                self.run = None
                return
        raise Stopped

    def _check(self) -> None:
        if self.stop.asked:
            raise Stopped


def halt(workers: Iterable[Worker]) -> None:
    """Stop what they do, and wait until all have stopped.  A board whose runs don't end soon is reset."""
    workers = [worker for worker in workers if worker.thread.is_alive()]  # the child of a fork has none
    for worker in workers:
        worker.stop.asked = True
    end = time.monotonic() + GRACE
    for worker in workers:
        worker.quiet.wait(max(0.0, end - time.monotonic()))
    for device in {worker.board.device for worker in workers if worker.hangs}:
        with suppress(FpgaError):  # XRT on a real card has no reset, and a card that is gone needs none
            device.reset()
    for worker in workers:
        worker.stop.given_up = True
        worker.quiet.wait()


__all__ = ["END", "WAIT", "Board", "Job", "Lane", "Stop", "Work", "Worker", "halt"]
