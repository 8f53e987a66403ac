# SPDX-License-Identifier: Apache-2.0
"""Send a file through the board, in pieces.

Each piece is read, sent through the board, compared and written by one thread, so that it stays in that CPU's
cache; two threads take turns, so that one can use the board while the other reads or writes.  Memory is constant,
whatever the size of the file.  Pipes have an order, so they get one thread.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
import traceback
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from fpgahal import Device, RunError
from fpgahal.kernels import NLB0, NLBResult
from fpgahal.kernels.nlb import LINE

PIECE = 512 << 10  # bytes of one turn: a lane's two buffers stay in a CPU's cache
RUN_LINES = 4096  # cache lines of one run: 256 KiB are through before a sleeping thread would be awake
# Bytes written at once.  Larger writes make Linux take larger blocks of memory for the file's pages; in a virtual
# machine those are often with the host, and getting them back takes several times as long as the copy.
BLOCK = 256 << 10

Bytes = npt.NDArray[np.uint8]


class Lane:
    """One thread's pair of buffers."""

    def __init__(self, dev: Device) -> None:
        self.src = dev.allocate(PIECE)
        self.dst = dev.allocate(PIECE)
        self.input: Bytes = np.asarray(self.src)
        self.output: Bytes = np.asarray(self.dst)

    def close(self) -> None:
        """Free both buffers."""
        del self.input, self.output  # views keep a buffer open
        self.src.close()
        self.dst.close()


class Copy:
    """One copy under way; parameters as for :func:`copy`."""

    def __init__(
        self,
        dev: Device,
        nlb: NLB0,
        source: int,
        sink: int,
        *,
        parallel: bool,
        compare: bool,
        timeout: float,
        advance: Callable[[float], None],
    ) -> None:
        self.dev, self.nlb, self.source, self.sink = dev, nlb, source, sink
        self.compare, self.timeout, self.advance = compare, timeout, advance
        there, here = os.fstat(source), os.fstat(sink)
        self.size = there.st_size
        # A regular file without a size (in /proc) tells its end only when it is read.
        self.parallel = parallel and self.size > 0 and stat.S_ISREG(there.st_mode) and stat.S_ISREG(here.st_mode)
        self.turn = threading.Lock()  # for what follows
        self.place = 0  # where the next piece begins
        self.written = 0
        self.total = NLBResult(0, 0, 0, 0, 0, 0, nlb.frequency_hz)
        self.board = threading.Lock()  # NLB runs one test at a time
        self.stop = False
        self.failure: BaseException | None = None

    def run(self) -> NLBResult:
        """Copy everything, in this thread and, if pieces have places, in another one."""
        helper = threading.Thread(target=self._help, name="fpgahal-bench copy", daemon=True)
        if self.parallel and self.size > PIECE:
            helper.start()
        try:
            self.work()
            if helper.ident is not None:
                helper.join()
        finally:
            self.stop = True
            # When the board hangs under the helper, Ctrl-C must not wait for its timeout.
            if helper.is_alive() and self.board.acquire(timeout=0.1):
                self.board.release()
                helper.join()
        if self.failure is not None:
            raise self.failure
        return self.total

    def _help(self) -> None:
        try:
            self.work()
        except BaseException as error:
            self.failure = error

    def work(self) -> None:
        """Copy pieces until there are none left."""
        lane = Lane(self.dev)
        try:
            while not self.stop and self.step(lane):
                pass
        except BaseException as error:
            self.stop = True
            traceback.clear_frames(error.__traceback__)  # arrays in them would keep the buffers open
            raise
        finally:
            lane.close()

    def step(self, lane: Lane) -> bool:
        """Copy one piece; False if there was none."""
        with self.turn:
            place = self.place
            self.place += PIECE
        room = min(PIECE, self.size - place) if self.parallel else PIECE
        if room <= 0:
            return False
        size = read_all(self.source, lane.input[:room], place if self.parallel else None)
        if self.parallel and size < room:
            raise OSError(errno.EIO, "The input became shorter while it was read")
        if size == 0:
            return False
        lines = -(-size // LINE)
        end = lines * LINE
        lane.input[size:end] = 0  # the rest of the last line
        with self.board:
            if self.stop:
                return False
            for at in range(0, lines, RUN_LINES):
                self.total += self.nlb.run(
                    lane.src, lane.dst, min(RUN_LINES, lines - at), offset=at * LINE, timeout=self.timeout
                )
        if self.compare:
            check_equal(lane.input[:end], lane.output[:end], place)
        write_all(self.sink, lane.output[:size], place if self.parallel else None)
        with self.turn:
            self.written += size
        self.advance(self.written)
        return True


def check_equal(sent: Bytes, received: Bytes, place: int) -> None:
    """Raise unless the board gave back what it got, whole cache lines; `place` is where that is in the file."""
    if not (sent.view(np.uint64) == received.view(np.uint64)).all():
        at = int(np.flatnonzero(sent != received)[0])
        raise RunError(
            f"The copy differs from the input at byte {place + at}: {sent[at]:#04x} was sent, "
            f"{received[at]:#04x} came back.",
            hint="The board or its memory is faulty; the output was not kept.",
        )


def read_all(descriptor: int, room: Bytes, place: int | None) -> int:
    """Read until `room` is full or the file ends, from `place` or, in a pipe, from where it is."""
    size = 0
    while size < room.size:
        rest = room[size:].data
        count = os.readv(descriptor, [rest]) if place is None else os.preadv(descriptor, [rest], place + size)
        if count == 0:
            break
        size += count
    return size


def write_all(descriptor: int, data: Bytes, place: int | None) -> None:
    """Write all of `data`, at `place` or, to a pipe, without one."""
    size = 0
    while size < data.size:
        rest = data[size : size + BLOCK].data
        count = os.write(descriptor, rest) if place is None else os.pwrite(descriptor, rest, place + size)
        if count == 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        size += count


def copy(
    dev: Device,
    source: int,
    sink: int,
    *,
    parallel: bool = True,
    compare: bool = True,
    timeout: float = 10.0,
    advance: Callable[[float], None] = lambda written: None,
) -> NLBResult:
    """Copy one descriptor to another through NLB0, and give the sum of all runs.

    Parameters
    ----------
    dev : Device
        Runs NLB0.
    source, sink : int
        File descriptors.
    parallel : bool
        Regular files may be read and written from their beginning, in any order.
    compare : bool
        Compare what comes back with what was sent.
    timeout : float
        Seconds for one run.
    advance : callable
        Is told the number of bytes written so far.

    Raises
    ------
    RunError, OSError
    """
    with NLB0(dev) as nlb:
        return Copy(dev, nlb, source, sink, parallel=parallel, compare=compare, timeout=timeout, advance=advance).run()
