# SPDX-License-Identifier: Apache-2.0
"""DMA: between host memory and the memory of an Intel PAC, through the DMA AFU that comes with its OPAE release.

The AFU takes descriptors (an mSGDMA engine) and raises interrupt 0 at the end of those that ask for it.  It moves
whole lines of 64 bytes; what is less goes through a window of 4 KiB in its registers, as in OPAE's own driver.
Registers, addresses and the write fence: that driver (OPAE's DMA sample, ``fpga_dma.c``).
"""

from __future__ import annotations

import struct
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from fpgahal import (
    AFUMismatchError,
    ArgumentError,
    ArgumentRangeError,
    Buffer,
    Device,
    FpgaError,
    PollTimeoutError,
    RunError,
    RunTimeoutError,
)

Bytes = npt.NDArray[np.uint8]
Piece = tuple[int, int, int]  # destination, source, bytes
Progress = Callable[[int], object]

LINE = 64
BURST = 4 * LINE  # host addresses must be divisible by it where requests of four lines begin
CHUNK = 1023 << 10  # most that one descriptor moves
BOUNCE = 4  # buffers through which memory that is not the device's own goes; used in two halves
GROUP = 8  # chunks of the device's own buffers between two interrupts

BLOCK_ID = uuid.UUID("ef82def7-f6ec-40fc-a914-9a35bace01ea")  #: the feature block: memory to memory
# Offsets in the block.
STATUS, CONTROL, DESCRIPTOR, WINDOW_PAGE, WINDOW = 0x40, 0x44, 0x60, 0x200, 0x1000
WINDOW_BYTES = 0x1000
# STATUS
FULL, RESETTING, STOPPED_ON_ERROR, IRQ = 0x4, 0x40, 0x80, 0x200
# CONTROL
RESET, IRQ_ENABLE = 0x2, 0x10
# A descriptor: addresses (low), length, sequence number, bursts, strides, addresses (high), control.
LAYOUT = struct.Struct("<IIIHBBHHIII")
TRANSFER_IRQ, ERROR_IRQ, GO = 1 << 14, 0xFF << 16, 1 << 31

HOST, FENCED, ROM = 1 << 49, 3 << 48, 1 << 48  # address spaces; without: the board's memory
MAGIC = 0x5772745F53796E63  # what the ROM holds: a line that is written after all others


class DMA:
    """The DMA AFU, opened.  One transfer at a time; other threads wait.

    Parameters
    ----------
    dev : Device
        Runs the DMA AFU; else AFUMismatchError.
    memory_bytes : int, optional
        Size of the board's memory; by default 1 GiB if it is emulated, else 8 GiB (Intel PAC Arria 10 GX: two banks
        of 4 GiB, one after the other).

    Attributes
    ----------
    memory_bytes : int

    Raises
    ------
    AFUMismatchError
        Another AFU is loaded, or it has no block for memory to memory.
    UnsupportedError
        XRT boards have no such AFU: their buffers are the board's memory.
    """

    AFU_ID = uuid.UUID("331db30c-9885-41ea-9081-f88b8f655caa")

    def __init__(self, dev: Device, *, memory_bytes: int | None = None) -> None:
        self._interrupt = dev.interrupt(0)
        dev.verify(self.AFU_ID)
        self.memory_bytes = memory_bytes or (1 << 30 if dev.info.emulated else 8 << 30)
        self._csr = dev.csr
        self._address = dev.info.address
        self._lock = threading.Lock()
        self._base = self._find()
        self._magic = dev.allocate(LINE)
        self._bounce: list[Buffer] = []
        try:
            for _ in range(BOUNCE):
                self._bounce.append(dev.allocate(CHUNK))
        except BaseException:
            self.close()
            raise
        self._reset()

    def _find(self) -> int:
        """Offset of the block: walk the list of features."""
        at = 0
        while True:
            header = self._csr.read64(at)
            found = self._csr.read64(at + 16) << 64 | self._csr.read64(at + 8)
            if header >> 60 == 2 and found == BLOCK_ID.int:
                return at
            step = header >> 16 & 0xFF_FFFF
            if header >> 40 & 1 or not step:
                raise AFUMismatchError(
                    f"{self._address}: the AFU has no block {BLOCK_ID} (memory to memory).",
                    hint="Newer releases drive their DMA in another way, which fpgahal does not know.",
                )
            at += step

    # --- what moves ------------------------------------------------------------------------------------------------

    def write(self, address: int, data: Any, *, timeout: float = 10.0, progress: Progress | None = None) -> None:
        """Copy from the host to the board's memory.

        Parameters
        ----------
        address : int
            Byte in the board's memory; any.
        data : bytes-like, array or Buffer
            Any number of bytes.  Those of a Buffer of this device go without a copy, if buffer and `address` are
            aligned to 64 bytes.
        timeout : float
            Seconds for the whole.
        progress : callable, optional
            Called with the number of bytes that are there.

        Raises
        ------
        ArgumentRangeError
            The range is not inside the board's memory.
        RunTimeoutError
            It did not end in time; the engine was reset.
        RunError
            The engine reports an error; it was reset.
        """
        source = _bytes(data)
        self._check(address, source.size)
        with self._lock, self._guard(timeout, progress):
            head, body = _split(address, source.size)
            self._poke(address, source[:head])
            at = address + head
            if isinstance(data, Buffer) and (data.device_address + head) % LINE == 0:
                data.sync_to_device()
                self._stream(_pieces(at, (data.device_address + head) | HOST, body), fenced=False)
            else:
                self._upload(at, source[head : head + body])
            self._poke(at + body, source[head + body :])

    def read(self, address: int, out: Any, *, timeout: float = 10.0, progress: Progress | None = None) -> Any:
        """Copy from the board's memory to the host.

        Parameters
        ----------
        address : int
            Byte in the board's memory; any.
        out : int, writable bytes-like, array or Buffer
            How many bytes, or where they go.
        timeout, progress
            As for :meth:`write`.

        Returns
        -------
        object
            `out`; for an int a new array of uint8.

        Raises
        ------
        ArgumentRangeError, RunTimeoutError, RunError
            As for :meth:`write`.
        ArgumentError
            `out` can't be written to, or is not contiguous.
        """
        if isinstance(out, int | np.integer):
            self._check(address, int(out))
            out = np.empty(int(out), np.uint8)
        target = _bytes(out, writable=True)
        self._check(address, target.size)
        with self._lock, self._guard(timeout, progress):
            head, body = _split(address, target.size)
            self._peek(address, target[:head])
            at = address + head
            if isinstance(out, Buffer) and (out.device_address + head) % LINE == 0:
                self._stream(_pieces((out.device_address + head) | HOST, at, body), fenced=True)
                out.sync_from_device()
            else:
                self._download(at, target[head : head + body])
            self._peek(at + body, target[head + body :])
        return out

    def copy(
        self, to: int, address: int, nbytes: int, *, timeout: float = 10.0, progress: Progress | None = None
    ) -> None:
        """Copy inside the board's memory, from `address` to `to`; the ranges may not overlap.

        Where `to` and `address` are not equally aligned (modulo 64), the data goes through the host.

        Raises
        ------
        ArgumentRangeError, RunTimeoutError, RunError
            As for :meth:`write`.
        """
        self._check(address, nbytes)
        self._check(to, nbytes)
        if nbytes and abs(to - address) < nbytes:
            raise ArgumentRangeError(f"Bytes {address:#x} and {to:#x}, +{nbytes}, overlap.")
        with self._lock, self._guard(timeout, progress):
            head, body = _split(address, nbytes)
            if (to - address) % LINE:
                head, body = 0, 0
                through = np.empty(min(nbytes, GROUP * CHUNK), np.uint8)
            else:
                through = np.empty(LINE, np.uint8)
            self._carry(to, address, through[:head])
            self._stream(_pieces(to + head, address + head, body), fenced=True)
            for done in range(head + body, nbytes, through.size):
                self._carry(to + done, address + done, through[: min(through.size, nbytes - done)])

    def move(self, dst: Buffer, src: Buffer, *, timeout: float = 10.0, progress: Progress | None = None) -> None:
        """Copy one Buffer of the device to another one of the same size, a multiple of 64 bytes: host to host.

        Raises
        ------
        ArgumentRangeError, RunTimeoutError, RunError
            As for :meth:`write`.
        """
        if dst.nbytes != src.nbytes or src.nbytes % LINE:
            raise ArgumentRangeError(
                f"The buffers have {dst.nbytes} and {src.nbytes} bytes; expected the same multiple of {LINE}."
            )
        src.sync_to_device()
        with self._lock, self._guard(timeout, progress):
            self._stream(_pieces(dst.device_address | HOST, src.device_address | HOST, src.nbytes), fenced=True)
        dst.sync_from_device()

    # --- life ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Free the buffers.  Closing the device does it, too."""
        self._magic.close()
        for buffer in self._bounce:
            buffer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- in pieces -------------------------------------------------------------------------------------------------

    def _upload(self, address: int, source: Bytes) -> None:
        """Through the bounce buffers: one half is filled while the engine empties the other one."""
        half, queued, asked = BOUNCE // 2, 0, 0  # bytes: without an interrupt yet, and before the one to come
        for n, at in enumerate(range(0, source.size, CHUNK)):
            part = source[at : at + CHUNK]
            buffer = self._bounce[n % BOUNCE]
            np.asarray(buffer)[: part.size] = part
            last = n % half == half - 1 or at + CHUNK >= source.size
            if last and asked:
                self._wait(asked)
            self._push(address + at, buffer.device_address | HOST, part.size, irq=last)
            queued += part.size
            if last:
                queued, asked = 0, queued
        if asked:
            self._wait(asked)

    def _download(self, address: int, target: Bytes) -> None:
        """Through the bounce buffers: one half is emptied while the engine fills the other one."""
        half = BOUNCE // 2
        groups = [
            [(n % BOUNCE, n * CHUNK) for n in range(first, min(first + half, -(-target.size // CHUNK)))]
            for first in range(0, -(-target.size // CHUNK), half)
        ]

        def submit(group: list[tuple[int, int]]) -> None:
            for index, at in group:
                size = min(CHUNK, target.size - at)
                self._push(self._bounce[index].device_address | HOST, address + at, size)

        if groups:
            submit(groups[0])
            self._fence()
        for n, group in enumerate(groups):
            if n + 1 < len(groups):
                submit(groups[n + 1])
            self._wait(sum(min(CHUNK, target.size - at) for _, at in group), fenced=True)
            if n + 1 < len(groups):
                self._fence()
            for index, at in group:
                part = target[at : at + CHUNK]
                part[:] = np.asarray(self._bounce[index])[: part.size]

    def _stream(self, pieces: Iterator[Piece], *, fenced: bool) -> None:
        """Between memories that the engine reaches by itself."""
        group: list[Piece] = []
        for piece in pieces:
            group.append(piece)
            if len(group) == GROUP:
                self._run(group, fenced)
                group = []
        if group:
            self._run(group, fenced)

    def _run(self, group: list[Piece], fenced: bool) -> None:
        for n, piece in enumerate(group):
            self._push(*piece, irq=not fenced and n == len(group) - 1)
        if fenced:
            self._fence()
        self._wait(sum(size for _, _, size in group), fenced=fenced)

    def _carry(self, to: int, address: int, through: Bytes) -> None:
        """From board to board through the host, whatever the alignment."""
        for here, work, window in ((address, self._download, self._peek), (to, self._upload, self._poke)):
            head, body = _split(here, through.size)
            window(here, through[:head])
            work(here + head, through[head : head + body])
            window(here + head + body, through[head + body :])

    # --- the window ------------------------------------------------------------------------------------------------

    def _word(self, address: int) -> int:
        """Register offset of the 8 bytes at `address`; turns the window to their page."""
        self._csr.write64(self._base + WINDOW_PAGE, address & -WINDOW_BYTES)
        return self._base + WINDOW + (address & (WINDOW_BYTES - 8))

    def _poke(self, address: int, source: Bytes) -> None:
        for at, first, size in _words(address, source.size):
            offset = self._word(at)
            old = bytearray(self._csr.read64(offset).to_bytes(8, "little") if size < 8 else 8)
            old[first : first + size] = source[at + first - address :][:size].tobytes()
            self._csr.write64(offset, int.from_bytes(old, "little"))

    def _peek(self, address: int, target: Bytes) -> None:
        for at, first, size in _words(address, target.size):
            word = np.frombuffer(self._csr.read64(self._word(at)).to_bytes(8, "little"), np.uint8)
            target[at + first - address :][:size] = word[first : first + size]

    # --- the engine ------------------------------------------------------------------------------------------------

    def _push(self, to: int, source: int, size: int, *, irq: bool = False) -> None:
        """Queue a transfer: short requests up to where the host's address is aligned, then long ones."""
        host = source if source & HOST else to if to & HOST else 0
        first = min(-host % BURST, size)
        middle = (size - first) // BURST * BURST
        parts = [(length, burst) for length, burst in ((first, 1), (middle, 4), (size - first - middle, 1)) if length]
        for n, (length, burst) in enumerate(parts):
            last = n == len(parts) - 1
            control = GO | ERROR_IRQ | (TRANSFER_IRQ if irq and last else 0)
            words = struct.unpack(
                "<4Q",
                LAYOUT.pack(
                    *(source & 0xFFFF_FFFF, to & 0xFFFF_FFFF, length, 0, burst, burst, 1, 1),
                    *(source >> 32, to >> 32, control),
                ),
            )
            self._csr.poll(self._base + STATUS, FULL, 0, self._left(), width=32)
            for index, word in enumerate(words):
                self._csr.write64(self._base + DESCRIPTOR + 8 * index, word)
            source += length
            to += length

    def _fence(self) -> None:
        """Have a line written after all that is on its way to the host."""
        np.asarray(self._magic)[:8] = 0
        self._push(self._magic.device_address | FENCED, ROM, LINE, irq=True)

    def _wait(self, nbytes: int, *, fenced: bool = False) -> None:
        """Wait for the interrupt of the last transfer, and for the line behind it."""
        self._interrupt.wait(self._left())
        if self._csr.read32(self._base + STATUS) & STOPPED_ON_ERROR:
            raise RunError(
                f"{self._address}: the DMA engine stopped with an error after {self._done} bytes.",
                hint="Is the address in the board's memory, and the buffer still open?  The engine was reset.",
            )
        self._csr.write32(self._base + STATUS, IRQ)
        if fenced:
            self._magic.poll32(0, 0xFFFF_FFFF, MAGIC & 0xFFFF_FFFF, self._left())
        self._done += nbytes
        if self._progress is not None:
            self._progress(self._done)

    def _left(self) -> float:
        return max(0.0, self._end - time.monotonic())

    def _guard(self, timeout: float, progress: Progress | None) -> _Guard:
        self._end = time.monotonic() + timeout
        self._done = 0
        self._progress = progress
        return _Guard(self, timeout)

    def _reset(self) -> None:
        """Stop what runs, drop what is queued, forget interrupts."""
        self._csr.write32(self._base + CONTROL, RESET)
        self._csr.poll(self._base + STATUS, RESETTING, 0, 1.0, width=32)
        self._csr.write32(self._base + STATUS, IRQ)
        self._csr.write32(self._base + CONTROL, IRQ_ENABLE)
        with suppress(PollTimeoutError):
            self._interrupt.wait(0)

    def _check(self, address: int, nbytes: int) -> None:
        if address < 0 or nbytes < 0 or address + nbytes > self.memory_bytes:
            raise ArgumentRangeError(
                f"{nbytes} bytes at {address:#x} are not inside the board's memory of {self.memory_bytes >> 20} MiB."
            )


class _Guard:
    """Leaves the engine in order, however a transfer ends."""

    def __init__(self, dma: DMA, timeout: float) -> None:
        self._dma, self._timeout = dma, timeout

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            return
        with suppress(FpgaError):  # the first error says more
            self._dma._reset()
        if isinstance(error, PollTimeoutError):
            raise RunTimeoutError(
                f"{self._dma._address}: the DMA did not end in {self._timeout:g} s; {self._dma._done} bytes are done.",
                hint="The engine was reset.  If it happens again, dev.reset() resets the whole port.",
            ) from error


def _split(address: int, nbytes: int) -> tuple[int, int]:
    """How many bytes come before the first whole line, and how many are in whole lines."""
    head = min(-address % LINE, nbytes)
    return head, (nbytes - head) // LINE * LINE


def _pieces(to: int, source: int, nbytes: int) -> Iterator[Piece]:
    for at in range(0, nbytes, CHUNK):
        yield to + at, source + at, min(CHUNK, nbytes - at)


def _words(address: int, nbytes: int) -> Iterator[tuple[int, int, int]]:
    """The 8-byte words that a range touches: address, first byte of the range in it, and how many."""
    end = address + nbytes
    for at in range(address & -8, end, 8):
        first = max(address - at, 0)
        yield at, first, min(end - at, 8) - first


def _bytes(data: Any, *, writable: bool = False) -> Bytes:
    """The bytes of an array or of what has the buffer protocol; of an array that is not contiguous a copy."""
    array = data if isinstance(data, np.ndarray) else np.asarray(memoryview(data))
    if writable and not (array.flags.writeable and array.flags.c_contiguous):
        raise ArgumentError("The memory to read into must be writable and contiguous.")
    if array.dtype.hasobject:
        raise ArgumentError(f"The board holds bytes, no Python objects: dtype {array.dtype}.")
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


__all__ = ["DMA"]
