# SPDX-License-Identifier: Apache-2.0
"""Send a file through the board: one thread reads and runs the board, another one writes what comes back.

A few pairs of buffers go round between the two, so memory is constant, whatever the size of the file.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
import traceback
from collections.abc import Callable
from queue import SimpleQueue

import numpy as np
import numpy.typing as npt

from fpgahal import Device, RunError
from fpgahal.kernels import NLB0, NLBResult
from fpgahal.kernels.nlb import LINE

CHUNK = 2 << 20  # bytes handed from thread to thread at once; one 2 MiB page on a real board
PIECE = 256 << 10  # bytes of one run: small enough to stay in a CPU's cache until it is compared
SLOTS = 4  # one being filled, one being written, two in reserve for when the disk is slow

# Written at once.  Larger writes make Linux take larger blocks of memory for the file's pages; in a virtual machine
# those are often with the host, and getting them back takes several times as long as the copy.
BLOCK = 128 << 10

Bytes = npt.NDArray[np.uint8]


class Slot:
    """A pair of buffers: a part of the file, and what came back from the board."""

    def __init__(self, dev: Device) -> None:
        self.src = dev.allocate(CHUNK)
        self.dst = dev.allocate(CHUNK)
        self.input: Bytes = np.asarray(self.src)
        self.output: Bytes = np.asarray(self.dst)
        self.size = 0  # bytes of the file in it

    def pass_through(self, nlb: NLB0, source: int, place: int, compare: bool, timeout: float) -> NLBResult:
        """Read the next part of the file, which is at `place`, and send it through the board, piece by piece."""
        total, self.size = NLBResult(0, 0, 0, 0, 0, 0, nlb.frequency_hz), 0
        for at in range(0, CHUNK, PIECE):
            size = read_all(source, self.input[at:at + PIECE])
            if size:
                lines = -(-size // LINE)
                end = at + lines * LINE
                self.input[at + size:end] = 0  # the rest of the last line
                total += nlb.run(self.src, self.dst, lines, offset=at, timeout=timeout)
                if compare:
                    check_equal(self.input[at:end], self.output[at:end], place + at)
            self.size += size
            if size < PIECE:
                break
        return total

    def close(self) -> None:
        """Free both buffers."""
        del self.input, self.output  # views keep a buffer open
        self.src.close()
        self.dst.close()


def check_equal(sent: Bytes, received: Bytes, place: int) -> None:
    """Raise unless the board gave back what it got, whole cache lines; `place` is where that is in the file."""
    if not (sent.view(np.uint64) == received.view(np.uint64)).all():
        at = int(np.flatnonzero(sent != received)[0])
        raise RunError(f"The copy differs from the input at byte {place + at}: {sent[at]:#04x} was sent, "
                       f"{received[at]:#04x} came back.",
                       hint="The board or its memory is faulty; the output was not kept.")


def read_all(descriptor: int, room: Bytes) -> int:
    """Read until `room` is full or the file ends; give the number of bytes."""
    size = 0
    while size < room.size:
        count = os.readv(descriptor, [room[size:].data])
        if count == 0:
            break
        size += count
    return size


def write_all(descriptor: int, data: Bytes, offset: int | None) -> None:
    """Write all of `data`: at `offset`, or to a pipe without one."""
    while data.size:
        view = data[:BLOCK].data
        count = os.write(descriptor, view) if offset is None else os.pwrite(descriptor, view, offset)
        if count == 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        data = data[count:]
        offset = None if offset is None else offset + count


class Writer:
    """The thread that writes.  Slots come in through `done` and go back through `free`; None ends it."""

    def __init__(self, sink: int, advance: Callable[[float], None]) -> None:
        self.sink = sink
        self.advance = advance
        self.seekable = stat.S_ISREG(os.fstat(sink).st_mode)
        self.free: SimpleQueue[Slot | None] = SimpleQueue()
        self.done: SimpleQueue[Slot | None] = SimpleQueue()
        self.failure: BaseException | None = None
        self.thread = threading.Thread(target=self._work, name="fpgahal-bench writer", daemon=True)

    def _work(self) -> None:
        place = 0
        try:
            while slot := self.done.get():
                write_all(self.sink, slot.output[:slot.size], place if self.seekable else None)
                place += slot.size
                self.advance(place)
                self.free.put(slot)
        except BaseException as error:
            self.failure = error
        finally:
            self.free.put(None)  # nobody waits for a slot that will not come


def copy(dev: Device, source: int, sink: int, *, compare: bool = True, timeout: float = 10.0,
         advance: Callable[[float], None] = lambda place: None) -> NLBResult:
    """Copy one descriptor to another through NLB0, and give the sum of all runs.

    Parameters
    ----------
    dev : Device
        Runs NLB0.
    source, sink : int
        File descriptors; `sink` is written from offset 0 if it is a regular file.
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
    writer = Writer(sink, advance)
    slots: list[Slot] = []
    with NLB0(dev) as nlb:
        total, place = NLBResult(0, 0, 0, 0, 0, 0, nlb.frequency_hz), 0
        try:
            for _ in range(SLOTS):
                slots.append(Slot(dev))
                writer.free.put(slots[-1])
            writer.thread.start()
            while slot := writer.free.get():
                total += slot.pass_through(nlb, source, place, compare, timeout)
                writer.done.put(slot)
                place += slot.size
                if slot.size < CHUNK:
                    break
        except BaseException as error:
            forget_views(error)
            raise
        finally:  # also on Ctrl-C: nothing may touch the buffers when they are freed
            writer.done.put(None)
            if writer.thread.ident is not None:
                writer.thread.join()
            if writer.failure is not None:
                forget_views(writer.failure)
            for slot in slots:
                slot.close()
    if writer.failure is not None:
        raise writer.failure
    return total


def forget_views(error: BaseException) -> None:
    """Clear the frames that an exception remembers: arrays in them would keep the buffers open."""
    traceback.clear_frames(error.__traceback__)
