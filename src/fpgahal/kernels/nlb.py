# SPDX-License-Identifier: Apache-2.0
"""NLB, the native loopback AFU that OPAE boards are tested with: mode 0 (copy) and mode 3 (read, write, both).

The AFU moves cache lines of 64 bytes between two buffers, then writes a status line to a third one, the DSM.
Registers and status line: OPAE's NLB sample AFU, as its tools ``nlb0`` and ``nlb3`` use them.
"""

from __future__ import annotations

import operator
import struct
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import ClassVar, Self, TypeVar

from fpgahal import ArgumentRangeError, Buffer, Device, FpgaError, PollTimeoutError, RunError, RunTimeoutError

T = TypeVar("T", int, str)

LINE = 64  #: bytes in a cache line
MAX_LINES = 65535  #: most lines in one test: the limit of the vendor's tools
MAX_GAP = 127  # lines between two requests: 7 bits (the vendor's nlb3 lets more wrap around)
DEFAULT_HZ = 400_000_000  #: clock that nlb0 and nlb3 assume where STATUS2 does not tell

# Byte offsets in the AFU's register space.  SRC, DST and CFG can be written only while CTL is OUT_OF_RESET.
DSM_BASE = 0x110  # 64 bits: byte address of the DSM, 64-aligned
SRC, DST = 0x120, 0x128  # 64 bits: address of a buffer in cache lines (device address / 64)
NUM_LINES = 0x130
CTL = 0x138
CFG = 0x140
STATUS0 = 0x160  # lines read (63:32) and written (31:0)
STATUS1 = 0x168  # reads (63:32) and writes (31:0) under way
STATUS2 = 0x170  # 47:32 clock in MHz, 0 if it does not tell; 31:0 error vector
STRIDE = 0x178

# CTL.  A test goes through IN_RESET, OUT_OF_RESET, GO, STOP.
IN_RESET, OUT_OF_RESET, GO, STOP = 0, 1, 3, 7

# The DSM's status line is written last, after a fence: bit 0 of its first word says "complete"; the other
# bits of that word count the tests.
DSM_STATUS = 0x40
DSM_LINE = struct.Struct("<IIQIIII")  # complete, error vector, clocks, reads, writes, start and end overhead
DSM_BYTES = 4096

CONTINUOUS = 0x2
MODES = {"read": 0x4, "write": 0x8, "trput": 0xC}
MULTI_CL = {1: 0x0, 2: 0x20, 4: 0x60}
READ_HINTS = {"rdline-s": 0x0, "rdline-i": 0x200}
WRITE_HINTS = {"wrline-m": 0x0, "wrline-i": 0x1, "wrpush-i": 0x10000}
CHANNELS = {"va": 0, "vl0": 1, "vh0": 2, "vh1": 3, "random": 4}
READ_CHANNEL_SHIFT, WRITE_CHANNEL_SHIFT = 12, 17

ERROR_BITS = {0x1: "unexpected response", 0x4: "write FIFO overflow", 0x8: "read-back mismatch"}


@dataclass(frozen=True, slots=True)
class NLBResult:
    """What one test moved, and how long it took on the AFU's own clock.

    Attributes
    ----------
    cachelines : int
        Lines asked for, 64 bytes each.
    reads, writes : int
        Lines that the AFU read and wrote.
    clocks : int
        Clock cycles from start to end.
    start_overhead, end_overhead : int
        Cycles before the first request and after the last response.
    frequency_hz : int
        The clock.
    errors : int
        Error vector, 0 if all is well.
    continuous : bool
        Whether the test ran until it was stopped.
    """

    cachelines: int
    reads: int
    writes: int
    clocks: int
    start_overhead: int
    end_overhead: int
    frequency_hz: int = DEFAULT_HZ
    errors: int = 0
    continuous: bool = False

    @property
    def ticks(self) -> int:
        """Cycles that count for the bandwidth, as nlb3 counts them."""
        return self.clocks - self.start_overhead - (0 if self.continuous else self.end_overhead)

    @property
    def seconds(self) -> float:
        """How long that is."""
        return self.ticks / self.frequency_hz

    @property
    def read_gbps(self) -> float:
        """Read bandwidth, GB/s (10^9 bytes)."""
        return self._gbps(self.reads)

    @property
    def write_gbps(self) -> float:
        """Write bandwidth, GB/s (10^9 bytes)."""
        return self._gbps(self.writes)

    def _gbps(self, lines: int) -> float:
        return lines * LINE * self.frequency_hz / self.ticks / 1e9 if self.ticks > 0 else 0.0

    def __add__(self, other: NLBResult) -> NLBResult:
        """Two tests after each other, as one."""
        return NLBResult(
            self.cachelines + other.cachelines,
            self.reads + other.reads,
            self.writes + other.writes,
            self.clocks + other.clocks,
            self.start_overhead + other.start_overhead,
            self.end_overhead + other.end_overhead,
            other.frequency_hz,
            self.errors | other.errors,
            other.continuous,
        )


@dataclass(frozen=True, slots=True)
class NLBCounters:
    """What the AFU counts while a test runs, in lines of 64 bytes.

    Attributes
    ----------
    reads, writes : int
        Lines read and written since the test began.
    reads_pending, writes_pending : int
        Requests under way.
    """

    reads: int
    writes: int
    reads_pending: int
    writes_pending: int


def error_names(errors: int) -> str:
    """Name the bits of an error vector."""
    names = [name for bit, name in ERROR_BITS.items() if errors & bit]
    rest = errors & ~sum(ERROR_BITS)
    return ", ".join(names + [f"unknown bits {rest:#x}"] * bool(rest))


class _NLB:
    """What both modes share: the status line, start and stop."""

    AFU_ID: ClassVar[uuid.UUID]

    def __init__(self, dev: Device, *, frequency_hz: int | None = None) -> None:
        dev.verify(self.AFU_ID)
        self._csr = dev.csr
        self._address = dev.info.address
        self._frequency = frequency_hz or (self._csr.read64(STATUS2) >> 32 & 0xFFFF) * 1_000_000 or DEFAULT_HZ
        self._dsm = dev.allocate(DSM_BYTES)

    @property
    def frequency_hz(self) -> int:
        """The AFU's clock: what was passed, else what the AFU tells, else 400 MHz."""
        return self._frequency

    @property
    def counters(self) -> NLBCounters:
        """How far the test is that runs in another thread, or how far the last one came."""
        done, pending = self._csr.read64(STATUS0), self._csr.read64(STATUS1)
        return NLBCounters(done >> 32, done & 0xFFFFFFFF, pending >> 32, pending & 0xFFFFFFFF)

    def close(self) -> None:
        """Free the status buffer.  Closing the device does it, too."""
        self._dsm.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._dsm.__exit__(kind, value, trace)  # after an error, a run that another thread waits for may use it

    def _run(
        self,
        src: Buffer,
        dst: Buffer,
        lines: int,
        timeout: float,
        check: bool,
        *,
        offset: int = 0,
        cfg: int = 0,
        stride: int = 0,
        seconds: float | None = None,
    ) -> NLBResult:
        csr, dsm = self._csr, self._dsm
        source, target = src.device_address + offset, dst.device_address + offset
        if source % LINE or target % LINE:
            raise ArgumentRangeError(f"{self._address}: NLB wants buffers at device addresses divisible by {LINE}.")
        src.sync_to_device()  # on boards with NLB a fence, no copy
        DSM_LINE.pack_into(dsm, DSM_STATUS, 0, 0, 0, 0, 0, 0, 0)
        dsm.sync_to_device()
        csr.write32(CTL, IN_RESET)
        csr.write32(CTL, OUT_OF_RESET)
        csr.write64(DSM_BASE, dsm.device_address)
        csr.write64(SRC, source // LINE)
        csr.write64(DST, target // LINE)
        csr.write32(NUM_LINES, lines)
        csr.write64(CFG, cfg)
        csr.write32(STRIDE, stride)
        try:
            csr.write32(CTL, GO)
            if seconds is not None:
                time.sleep(seconds)
                csr.write32(CTL, STOP)
            dsm.poll32(DSM_STATUS, 1, 1, timeout)
            csr.write32(CTL, STOP)
            csr.poll(STATUS1, 0xFFFFFFFF_FFFFFFFF, 0, timeout)
        except PollTimeoutError as error:
            raise self._timeout(lines, timeout) from error
        except BaseException:  # Ctrl-C: the AFU must not go on writing into memory that is about to be freed
            with suppress(FpgaError):  # the first exception says more
                csr.write32(CTL, IN_RESET)
            raise
        dsm.sync_from_device()
        dst.sync_from_device()
        _, errors, clocks, reads, writes, start, end = DSM_LINE.unpack_from(dsm, DSM_STATUS)
        if errors and check:
            raise RunError(
                f"{self._address}: the NLB test of {lines} lines ended with errors: {error_names(errors)}.",
                hint="The data in the destination is not to be trusted; dev.reset() clears the AFU.",
                code=errors,
            )
        return NLBResult(lines, reads, writes, clocks, start, end, self._frequency, errors, seconds is not None)

    def _timeout(self, lines: int, timeout: float) -> RunTimeoutError:
        """Stop the AFU, and say how far it came."""
        seen = self.counters
        self._csr.write32(CTL, STOP)
        self._csr.write32(CTL, IN_RESET)
        return RunTimeoutError(
            f"{self._address}: the NLB test of {lines} lines did not end in {timeout:g} s: {seen.reads} lines read and "
            f"{seen.writes} written, {seen.reads_pending} reads and {seen.writes_pending} writes under way.",
            hint="The test was stopped and is held in reset; dev.reset() resets the whole port.",
        )


class NLB0(_NLB):
    """NLB mode 0: copies a buffer to another one through the board.

    Parameters
    ----------
    dev : Device
        Runs NLB0; else AFUMismatchError.
    frequency_hz : int, optional
        The AFU's clock, if you know better than its STATUS2 register.
    """

    AFU_ID = uuid.UUID("d8424dc4-a4a3-c413-f89e-433683f9040b")

    def run(
        self,
        src: Buffer,
        dst: Buffer,
        lines: int | None = None,
        *,
        offset: int = 0,
        timeout: float = 10.0,
        check: bool = True,
    ) -> NLBResult:
        """Copy `lines` cache lines from `src` to `dst` and wait for the end.

        Parameters
        ----------
        src, dst : Buffer
            Of the same device.
        lines : int, optional
            1 to 65535; all of `src` from `offset` on if not given.
        offset : int
            Byte at which to begin in both buffers, a multiple of 64.
        timeout : float
            Seconds.
        check : bool
            Raise if the AFU reports errors; else they are in the result.

        Raises
        ------
        ArgumentRangeError
            Too many lines, or more than a buffer holds.
        RunTimeoutError
            It did not end in time; the AFU was stopped.
        RunError
            The AFU reports errors.
        """
        if lines is None:
            lines, rest = divmod(src.nbytes - offset, LINE)
            if rest:
                raise ArgumentRangeError(
                    f"The source has {src.nbytes} bytes, which is no multiple of {LINE}.",
                    hint="Allocate whole cache lines, or pass lines=.",
                )
        _check_lines(lines, src, dst, offset=offset)
        return self._run(src, dst, lines, timeout, check, offset=offset)


class NLB3(_NLB):
    """NLB mode 3: reads a buffer, writes one, or both at once, to measure the bandwidth.

    Parameters
    ----------
    dev : Device
        Runs NLB3; else AFUMismatchError.
    frequency_hz : int, optional
        The AFU's clock, if you know better than its STATUS2 register.
    """

    AFU_ID = uuid.UUID("f7df405c-bd7a-cf72-22f1-44b0b93acd18")

    def run(
        self,
        src: Buffer,
        dst: Buffer,
        *,
        mode: str = "trput",
        lines: int | None = None,
        stride: int = 1,
        multi_cl: int = 1,
        seconds: float | None = None,
        read_hint: str = "rdline-s",
        write_hint: str = "wrline-m",
        read_channel: str = "va",
        write_channel: str = "va",
        timeout: float = 10.0,
        check: bool = True,
    ) -> NLBResult:
        """Run one test and wait for its end.

        Parameters
        ----------
        src, dst : Buffer
            Of the same device, ``64 * stride * lines`` bytes or more.
        mode : {"read", "write", "trput"}
            "read" touches `src` only, "write" `dst` only, "trput" does both at once.
        lines : int, optional
            1 to 65535, a multiple of `multi_cl`; what the smaller buffer holds if not given.
        stride : int
            Distance of two requests, in requests; 1 to 64, and ``multi_cl * (stride - 1)`` at most 127: the AFU's
            register has 7 bits.
        multi_cl : {1, 2, 4}
            Lines in a request.
        seconds : float, optional
            Go over the lines again and again, and stop after that time.
        read_hint : {"rdline-s", "rdline-i"}
        write_hint : {"wrline-m", "wrline-i", "wrpush-i"}
        read_channel, write_channel : {"va", "vl0", "vh0", "vh1", "random"}
        timeout : float
            Seconds (in addition to `seconds`).
        check : bool
            Raise if the AFU reports errors; else they are in the result.

        Raises
        ------
        ArgumentRangeError, RunTimeoutError, RunError
            As in :meth:`NLB0.run`.
        """
        cfg = (
            _choice("mode", mode, MODES)
            | _choice("multi_cl", multi_cl, MULTI_CL)
            | _choice("read_hint", read_hint, READ_HINTS)
            | _choice("write_hint", write_hint, WRITE_HINTS)
            | _choice("read_channel", read_channel, CHANNELS) << READ_CHANNEL_SHIFT
            | _choice("write_channel", write_channel, CHANNELS) << WRITE_CHANNEL_SHIFT
            | (0 if seconds is None else CONTINUOUS)
        )
        if not 1 <= stride <= 64:
            raise ArgumentRangeError(f"stride is {stride}; it must be 1 to 64.")
        if multi_cl * (stride - 1) > MAX_GAP:
            raise ArgumentRangeError(
                f"stride is {stride} with requests of {multi_cl} lines: a gap of {multi_cl * (stride - 1)} lines, and "
                f"the AFU's register holds {MAX_GAP}.",
                hint=f"With multi_cl={multi_cl} a stride of {MAX_GAP // multi_cl + 1} is the most.",
            )
        if lines is None:
            lines = min(src.nbytes, dst.nbytes) // (LINE * stride) // multi_cl * multi_cl
        _check_lines(lines, src, dst, stride=stride, multi_cl=multi_cl)
        return self._run(src, dst, lines, timeout, check, cfg=cfg, stride=multi_cl * (stride - 1), seconds=seconds)


def _choice(name: str, value: T, choices: dict[T, int]) -> int:
    if value not in choices:
        raise ArgumentRangeError(f"{name} is {value!r}; it must be one of {', '.join(map(repr, choices))}.")
    return choices[value]


def _check_lines(lines: int, src: Buffer, dst: Buffer, *, stride: int = 1, multi_cl: int = 1, offset: int = 0) -> None:
    """Check that a test takes that many lines, and that both buffers hold them."""
    lines = operator.index(lines)
    if not 1 <= lines <= MAX_LINES:
        raise ArgumentRangeError(
            f"{lines} cache lines asked for; one test takes 1 to {MAX_LINES}.",
            hint="Send larger data in several pieces.",
        )
    if lines % multi_cl:
        raise ArgumentRangeError(f"{lines} lines do not divide into requests of {multi_cl}.")
    if offset < 0 or offset % LINE:
        raise ArgumentRangeError(f"offset is {offset}; it must be a multiple of {LINE}, and not negative.")
    end = offset + lines * LINE * stride
    if end > min(src.nbytes, dst.nbytes):
        raise ArgumentRangeError(
            f"{lines} lines with stride {stride} at offset {offset} end at byte {end}; "
            f"the source has {src.nbytes} bytes, the destination {dst.nbytes}."
        )
