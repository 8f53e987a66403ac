# SPDX-License-Identifier: Apache-2.0
"""Pipelines: uploads, runs and downloads of several batches at the same time."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Generator, Iterable
from contextlib import ExitStack, suppress
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Self

from fpgahal import ClosedError, DeviceBusyError, DeviceLostError, FpgaError
from fpgahal.kernels._lane import END, WAIT, Board, Job, Lane, Stop, Worker, halt


class Pipeline:
    """Takes batches through one or several boards, and hands their results out in order.

    Each board has `depth` lanes: buffers that stay registered, and a thread.  While one batch is computed, the next
    is sent and the last is fetched.  Made by an accelerator's own method, such as ``model.pipeline()``; use it in a
    ``with`` statement.

    Parameters
    ----------
    boards : iterable of callable
        For each board a function without arguments that makes a :class:`Lane` there.
    depth : int
        Lanes of a board.  With 3, one can be filled or fetched while one waits for the board and one runs on it.
    timeout : float, optional
        Seconds that a run may take, waiting for its turn on the board included; None: no limit.

    Attributes
    ----------
    finished : list of (int, result)
        After a ``map`` that was cut short: the batches that were done, but not handed out, with their numbers.

    Examples
    --------
    >>> with model.pipeline(rows=16_384) as pipe:  # doctest: +SKIP
    ...     for margins in pipe.map(batches):
    ...         save(margins)
    """

    def __init__(self, boards: Iterable[Callable[[], Lane]], *, depth: int = 3, timeout: float | None = None) -> None:
        if depth < 1:
            raise ValueError(f"depth={depth}: a pipeline needs a lane, and 3 to keep a board busy.")
        self.finished: list[tuple[int, Any]] = []
        self._boards: list[Board] = []
        self._workers: list[Worker] = []
        self._flow: _Flow | None = None
        self._end = weakref.finalize(self, _close, self._workers)
        try:
            for make in boards:
                for number in range(depth):
                    lane = make()
                    if number == 0:
                        self._boards.append(Board(lane))
                    self._workers.append(Worker(lane, self._boards[-1], timeout))
            if not self._boards:
                raise ValueError("A pipeline needs a board.")
        except BaseException:
            self._end()
            raise

    def __repr__(self) -> str:
        boards = ", ".join(f"{board.address}{' (lost)' if board.lost else ''}" for board in self._boards)
        return f"<fpgahal.kernels.Pipeline on {boards}{' closed' if self.closed else ''}>"

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return not self._end.alive

    # --- batches in, results out --------------------------------------------------------------------------------

    def map(self, batches: Iterable[Any]) -> Generator[Any, None, None]:
        """Take batches through, lazily.

        A batch is copied before the next one is taken, so a source may use one array again and again; a result is
        an object of its own.  Never more than `depth` batches a board are taken of which no result was handed out.

        Parameters
        ----------
        batches : iterable
            It is asked in the caller's thread.

        Yields
        ------
        result
            In the order of `batches`.

        Raises
        ------
        Exception
            What a batch raised, with its number, or what `batches` raised; all results before it were handed out.
            While there is another board, the loss of one is no error: the others do its batches.
        DeviceBusyError
            Another ``map`` of this pipeline is not at its end.
        DeviceLostError
            No board is left.
        ClosedError
            The pipeline or a device was closed.
        """
        flow = self._start(None)
        try:
            source = iter(batches)
            while (result := flow.step(lambda: next(source, END))) is not END:
                if result is WAIT:
                    flow.wait()
                else:
                    yield result
        finally:
            flow.finish()

    async def amap(self, batches: Iterable[Any] | AsyncIterable[Any]) -> AsyncGenerator[Any, None]:
        """As :meth:`map`, for asyncio: ``async for result in pipe.amap(batches)``.

        `batches` may be asynchronous; then a result is handed out as soon as it is there, also while the next batch
        takes its time.
        """
        import asyncio  # 20 ms that only those who await need to pay

        from fpgahal.kernels._source import AsyncSource, Source

        loop = asyncio.get_running_loop()
        news = asyncio.Event()

        def notify() -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(news.set)

        flow = self._start(notify)
        try:
            source = AsyncSource(batches, news) if isinstance(batches, AsyncIterable) else Source(batches)
            try:
                while (result := flow.step(source.take)) is not END:
                    if result is WAIT:
                        await news.wait()
                        news.clear()
                    else:
                        yield result
            finally:
                await source.close()
        finally:
            flow.finish()

    def _check(self) -> None:
        if self.closed:
            raise ClosedError("This pipeline is closed.", hint="Make another one.")
        for board in self._boards:
            if board.device.closed:
                raise ClosedError(f"{board.address} was closed, and with it this pipeline.")

    def _start(self, notify: Callable[[], None] | None) -> _Flow:
        self._check()
        if all(board.lost for board in self._boards):
            raise DeviceLostError("All boards of this pipeline are lost.", hint="Open the devices again.")
        if self._flow is not None:
            raise DeviceBusyError(
                "This pipeline is busy with another map().", hint="Take all of its results, or close its generator."
            )
        for board in self._boards:
            board.idle = [worker for worker in self._workers if worker.board is board]
        self.finished = []
        self._flow = _Flow(self, notify)
        return self._flow

    # --- life ---------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop what is under way, end the threads, free the buffers.  Closing twice is fine.

        Runs get 0.1 s to end; a board where one does not is reset.
        """
        if (flow := self._flow) is not None:
            flow.cancel()
        self._end()

    def __enter__(self) -> Self:
        self._check()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _close(workers: list[Worker]) -> None:
    halt(workers)
    with ExitStack() as stack:  # all of them, whatever one says
        for worker in workers:
            stack.callback(worker.close)


class _Flow:
    """One map().  All of it is used by the thread that asks for results; workers only put into `_news`."""

    def __init__(self, pipeline: Pipeline, notify: Callable[[], None] | None) -> None:
        self.over = False
        self._pipeline = pipeline
        self._boards = pipeline._boards
        self._notify = notify
        self._news: SimpleQueue[Job | None] = SimpleQueue()
        self._stop = Stop()
        self._pending: deque[Job] = deque()  # taken, and not handed out
        self._taken = 0
        self._last: Worker | None = None  # got the last batch
        self._again: list[Job] = []  # batches of lost boards for which no lane was free yet
        self._all_taken = False
        self._failure: BaseException | None = None  # of the source

    def step(self, take: Callable[[], Any]) -> Any:
        """The next result; END; or WAIT: then there is nothing to do before something was reported.

        `take` returns a batch, or END, or WAIT.
        """
        while True:
            while not self._news.empty():
                self.wait()
            if self._stop.asked:
                raise ClosedError("This pipeline was closed while it was used.")
            self._pipeline._check()
            if self._pending and self._pending[0].done:
                return self._pop()
            if self._all_taken and not self._pending:
                if self._failure is not None:
                    raise self._failure
                return END
            if self._all_taken or not self._room() or (batch := self._take(take)) is WAIT:
                return WAIT
            if batch is END:
                self._all_taken = True
            elif not self._stop.asked:
                self._submit(batch)

    def wait(self) -> None:
        """Wait for a report."""
        job = self._news.get()
        if job is None:  # cancel() wants us to look
            return
        board = job.worker.board
        if job.error is not None and not self._stop.asked and board.gone() and job.filled:
            job.kept = job.worker.lane
            self._again.append(job)
        else:
            job.done = True
            board.idle.append(job.worker)
        self._retry()

    def cancel(self) -> None:
        """End it, from outside: whoever waits in it gets ClosedError."""
        self._stop.asked = True
        self._news.put(None)
        if self._notify is not None:
            self._notify()
        self.finish()

    def finish(self) -> None:
        """Stop what is under way, and wait until it has stopped."""
        if self.over:
            return
        self._stop.asked = True
        halt(self._pipeline._workers)
        self._pipeline.finished = [(job.index, job.result) for job in self._pending if job.ended and not job.error]
        self.over = True
        self._pipeline._flow = None

    # --- batches ------------------------------------------------------------------------------------------------
    def _room(self) -> bool:
        lanes = sum(not worker.board.lost for worker in self._pipeline._workers)
        return len(self._pending) < lanes and not self._again and any(board.idle for board in self._alive())

    def _take(self, take: Callable[[], Any]) -> Any:
        if self._last is not None and not self._last.filled.is_set():  # the source may reuse that batch's memory
            if self._notify is not None:
                return WAIT
            self._last.filled.wait()
        try:
            return take()
        except Exception as error:
            self._failure = error
            return END

    def _submit(self, batch: Any) -> None:
        job = Job(self._taken, batch, self._stop, self._news, self._notify)
        self._taken += 1
        self._pending.append(job)
        self._dispatch(job)

    def _pop(self) -> Any:
        job = self._pending.popleft()
        if job.error is None:
            return job.result
        try:
            raise _named(job)
        finally:
            del job  # its error has this frame: together they would keep each other

    # --- boards -------------------------------------------------------------------------------------------------
    def _alive(self) -> list[Board]:
        return [board for board in self._boards if not board.lost]

    def _dispatch(self, job: Job) -> None:
        board = max(self._alive(), key=lambda board: len(board.idle))  # by turns, if they are equally fast
        self._last = board.idle.pop(0)
        job.ended = False
        self._last.give(job)

    def _retry(self) -> None:
        while self._again and not self._stop.asked:
            alive = self._alive()
            if alive and not any(board.idle for board in alive):
                return
            job = self._again.pop(0)
            if alive:
                self._dispatch(job)
            else:
                job.done = True


def _named(job: Job) -> BaseException:
    """The error of a batch, with the batch's number and the board's address in its text."""
    error, address = job.error, job.worker.board.address
    assert error is not None
    if isinstance(error, FpgaError):
        where = "" if address in error.message else f" on {address}"
        error.message = f"Batch {job.index}{where}: {error.message}"
    else:
        error.add_note(f"In batch {job.index} of the pipeline, on {address}.")
    return error


__all__ = ["Pipeline"]
