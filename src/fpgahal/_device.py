# SPDX-License-Identifier: Apache-2.0
"""Device: one programmable slot, opened."""

from __future__ import annotations

import importlib
import os
import threading
import time
import uuid
import weakref
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any

from fpgahal._bitstream import Bitstream
from fpgahal._contract import KernelContract, RegisterContract
from fpgahal._errors import (
    AFUMismatchError,
    BufferInUseError,
    ClosedError,
    DeviceBusyError,
    DriverError,
    FpgaError,
    LibraryNotFoundError,
    ProgramError,
    ProgramTimeoutError,
    UnsupportedError,
)
from fpgahal._info import DeviceInfo
from fpgahal._lock import ProgramLock
from fpgahal._scheme import is_scheme
from fpgahal._types import BankInfo, KernelInfo

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from fpgahal._buffer import Buffer
    from fpgahal._csr import Csr
    from fpgahal._interrupt import Interrupt
    from fpgahal._kernel import Kernel
    from fpgahal._session import Session

#: Which module opens which driver's devices.  A new driver is one file and one line here.
DRIVERS = {"opae": "fpgahal._opae", "xrt": "fpgahal._xrt", "dfl": "fpgahal._dfl"}

#: Names the binding for Intel boards: ``opae`` (libopae-c) or ``dfl`` (the kernel driver itself).
OPAE_BINDING = "FPGAHAL_OPAE_BINDING"

Image = str | os.PathLike[str] | bytes | Bitstream


class Device:
    """One programmable slot of a board, opened: program it, move data, run what is loaded.

    Made by :func:`fpgahal.open`; use it in a ``with`` statement.

    Attributes
    ----------
    info : DeviceInfo
        What was known when it was opened.
    csr : Csr
        Registers of the loaded AFU (OPAE); XRT boards have them per compute unit (``Kernel.csr``).
    shared : bool
        Whether others may have it open too.
    driver : str
        The binding in use: ``"opae"`` (libopae-c), ``"dfl"`` (the kernel driver itself) or ``"xrt"``; or the scheme
        by which it was opened, ``"manager"``.
    """

    def __init__(self, info: DeviceInfo, *, shared: bool = False, driver: str | None = None) -> None:
        from fpgahal._csr import Csr

        self.info = info
        self.driver = _binding(info, driver)
        self.shared = shared or self.driver not in DRIVERS
        self._programming: threading.Event | None = None  # set when the driver is done
        self._buffers: weakref.WeakSet[Buffer] = weakref.WeakSet()
        self._kernels: weakref.WeakSet[Kernel] = weakref.WeakSet()
        self._session: Session = _module(info, self.driver).open_session(info, shared)
        self.csr: Csr = Csr(self._session)

    def __repr__(self) -> str:
        return f"<fpgahal.Device {self.info.address} {self.info.name}{' closed' if self.closed else ''}>"

    @property
    def closed(self) -> bool:
        """Whether it was closed (or belongs to the parent of a fork)."""
        return self._session.closed

    # --- what is loaded ---------------------------------------------------------------------------------------

    @property
    def afu_id(self) -> uuid.UUID | None:
        """What the board itself says that it runs (AFU id, or the xclbin's UUID); None if nothing answers."""
        return self._ready().loaded_id()

    def verify(self, expected: uuid.UUID | str | os.PathLike[str] | Bitstream | Any) -> None:
        """Ask the accelerator for its id and compare.

        Parameters
        ----------
        expected : uuid.UUID, str, Bitstream, path, or an object with ``AFU_ID``

        Raises
        ------
        AFUMismatchError
            Another accelerator is loaded, or none.
        """
        wanted, name = _expected(expected)
        actual = self.afu_id
        if actual != wanted:
            runs = f"runs {actual}" if actual else "runs nothing"
            raise AFUMismatchError(
                f"{self.info.address} {runs}, expected {wanted}{f' ({name})' if name else ''}.",
                hint="Load it with dev.program(image).",
            )

    def program(
        self,
        image: Image,
        *,
        timeout: float | None = 60.0,
        force: bool = False,
        progress: Callable[[float], None] | None = None,
    ) -> bool:
        """Load an image, after checking it, and read its id back.

        Nothing is written unless the file is whole, was built for this board, and nobody else uses the slot.  An
        image that the board runs already is not written again, unless `force`.  Where somebody else owns the boards
        (a scheme), nothing is written at all: it is only checked that they run what the image holds.

        Parameters
        ----------
        image : path, bytes or Bitstream
        timeout : float, optional
            Seconds for the whole of it, 60 by default; None: no limit.
        force : bool
            Program even if the same image is loaded (XRT decides itself: its driver skips an image with the
            same UUID).
        progress : callable, optional
            Called about every 50 ms with the seconds since the start.

        Returns
        -------
        bool
            True if the board was programmed, False if it ran that image already.

        Raises
        ------
        BitstreamError, IncompatibleBitstreamError
            The file is broken, or was built for another board.  Nothing was written.
        DeviceBusyError
            Somebody uses or programs the slot.  Nothing was written.
        BufferInUseError
            Buffers of this Device are open: reprogramming would pull the memory from under them.
        ProgramError
            The driver reported a failure; the slot may be without an AFU until a good image is loaded.
        ProgramTimeoutError
            The driver is still at it; the Device stays busy until it is done.
        AFUMismatchError
            The driver reported success, but another id answers.
        UnsupportedError
            Somebody else owns the boards, and has no such image.
        """
        started = time.monotonic()
        bitstream = _bitstream(image)
        session = self._ready()
        if self.driver not in DRIVERS:
            session.program(bitstream, force)
            return False
        bitstream.check_compatible(self.info)
        with ProgramLock(self.info, timeout):
            if not force and session.loaded_id() == bitstream.afu_id:
                session.attach(bitstream)
                return False
            self._refuse_open_children()
            left = None if timeout is None else max(0.0, timeout - (time.monotonic() - started))
            self._program(session, bitstream, force, left, progress)
            actual = session.loaded_id()
        if actual != bitstream.afu_id:
            raise AFUMismatchError(
                f"{self.info.address} was programmed with {bitstream.name} without an error, but runs "
                f"{actual or 'nothing'}, expected {bitstream.afu_id}.",
                hint="Do not use it.  Program it again with an image that is known to be good.",
            )
        return True

    def _refuse_open_children(self) -> None:
        open_buffers = [buffer for buffer in self._buffers if not buffer.closed]
        open_kernels = [kernel for kernel in self._kernels if not kernel.closed]
        if open_buffers:
            raise BufferInUseError(
                f"{self.info.address}: {len(open_buffers)} buffer(s) of this device are open, and reprogramming would "
                "pull their memory away.  Nothing was written.",
                hint="Close them first (buffer.close()), then program.",
            )
        for kernel in open_kernels:
            kernel.close()

    def _program(
        self,
        session: Session,
        bitstream: Bitstream,
        force: bool,
        timeout: float | None,
        progress: Callable[[float], None] | None,
    ) -> None:
        # The vendor's call can't be interrupted, so it gets a thread: Ctrl-C and the timeout end our waiting, and
        # the Device stays busy until the driver is done.
        # (Thread.join won't do: before Python 3.13 a Ctrl-C in it makes the thread look finished.)
        failure: list[BaseException] = []
        done = threading.Event()

        def work() -> None:
            try:
                session.program(bitstream, force)
            except BaseException as error:
                failure.append(error)
            finally:
                done.set()

        started = time.monotonic()
        self._programming = done
        threading.Thread(target=work, name=f"program {self.info.address}", daemon=True).start()
        while True:
            finished = done.wait(0.05)
            elapsed = time.monotonic() - started
            if progress is not None:
                progress(elapsed)
            if finished:
                break
            if timeout is not None and elapsed >= timeout:
                raise ProgramTimeoutError(
                    f"{self.info.address}: the driver did not finish programming in {timeout:g} s; it is still at it.",
                    hint="Wait until it is done, then check with dev.verify(image); the slot is not in a known state.",
                )
        self._programming = None
        if failure:
            error = failure[0]
            if isinstance(error, ProgramError):
                error.message += f"  {bitstream.name} was not loaded; the slot may be without an AFU."
            raise error

    # --- memory and kernels -------------------------------------------------------------------------------------

    @property
    def banks(self) -> tuple[BankInfo, ...]:
        """Memory banks that :meth:`allocate` can use now (XRT: those of the loaded image)."""
        return self._ready().banks()

    def allocate(
        self,
        shape: int | tuple[int, ...],
        dtype: DTypeLike = "uint8",
        bank: int | str | BankInfo | None = None,
    ) -> Buffer:
        """Allocate memory that the device can reach.

        Parameters
        ----------
        shape : int or tuple of int
        dtype : data type
        bank : int, str or BankInfo, optional
            Index or name (``"HBM[3]"``) of a memory bank; by default the first that the image uses.

        Returns
        -------
        Buffer
            ``np.asarray(buffer)`` is a writable view without a copy.

        Raises
        ------
        DeviceMemoryError
            The driver has no memory left (OPAE above 4 KiB: no huge page is free).
        DeviceStateError
            No image is loaded in this process (XRT).
        """
        from fpgahal._buffer import Buffer

        session = self._ready()
        buffer = Buffer(session, shape, dtype, self._bank(bank))
        self._buffers.add(buffer)
        return buffer

    def _bank(self, bank: int | str | BankInfo | None) -> int:
        if bank is None:
            return self._session.default_bank()
        if isinstance(bank, BankInfo):
            return bank.index
        if isinstance(bank, str):
            for known in self.banks:
                if known.name == bank:
                    return known.index
            names = ", ".join(known.name for known in self.banks) or "none: no image is loaded in this process"
            raise ValueError(f"{self.info.address} has no memory bank {bank!r} (it has {names}).")
        return int(bank)

    @property
    def kernels(self) -> tuple[KernelInfo, ...]:
        """Kernels that can be opened now."""
        return self._ready().kernels()

    def kernel(self, name: str | KernelContract | RegisterContract, *, exclusive: bool = False) -> Kernel:
        """Open a kernel of the loaded image.

        Parameters
        ----------
        name : str, KernelContract or RegisterContract
            ``"vadd"``, or ``"vadd:{vadd_1,vadd_2}"`` for some of its compute units (XRT); a KernelContract on
            boards of both vendors; a RegisterContract for an AFU with registers of its own (OPAE).
        exclusive : bool
            Give its one compute unit to this kernel alone; then ``kernel.csr`` works (XRT).

        Raises
        ------
        KernelNotFoundError
            The image has no such kernel; the message lists those that it has.
        ArgumentError
            The image's kernel is not that of the KernelContract; the message lists the differences.
        DeviceStateError
            No image is loaded in this process (XRT).
        """
        from fpgahal._kernel import Kernel

        kernel = Kernel(self._ready().open_kernel(name, exclusive))
        self._kernels.add(kernel)
        return kernel

    def interrupt(self, vector: int = 0) -> Interrupt:
        """Interrupts that the loaded AFU raises (OPAE).

        Parameters
        ----------
        vector : int
            Which of the AFU's user interrupts.

        Raises
        ------
        UnsupportedError
            XRT: its runs tell their end, and it hands out no interrupts.
        ArgumentRangeError
            The AFU has no such vector.
        """
        from fpgahal._interrupt import Interrupt

        return Interrupt(self._ready(), vector)

    def reset(self) -> None:
        """Stop what runs and bring the accelerator back to a known state; buffers stay.

        Raises
        ------
        UnsupportedError
            XRT on a real card: its C API has no reset (``xbutil reset`` has).
        """
        self._ready().reset()
        for kernel in list(self._kernels):
            _ = kernel._running  # runs that nobody holds any more give their buffers back

    # --- life -----------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close it and everything that it handed out.  Closing twice is fine.

        Raises
        ------
        BufferInUseError
            Views of one of its buffers are alive; nothing was closed.
        DeviceBusyError
            It is being programmed, or a run is in flight that the driver can't stop.
        """
        if self.closed:
            return
        if self._programming is not None and not self._programming.is_set():
            self._ready()
        buffers = [buffer for buffer in self._buffers if not buffer.closed]
        for buffer in buffers:
            if views := buffer._views:
                raise BufferInUseError(
                    f"{self.info.address}: {views} NumPy view{'s' if views > 1 else ''} of a {buffer.nbytes}-byte "
                    "buffer of this device are alive; nothing was closed.",
                    hint="Delete them first, or keep copies: np.array(buffer).",
                )
        self._stop_runs()
        for kernel in list(self._kernels):
            kernel.close()
        for buffer in buffers:
            with suppress(DriverError):  # what the driver does not take back now, it drops with the device
                buffer.close()
        self._session.close()

    def _stop_runs(self) -> None:
        def running() -> bool:
            return any(kernel._running for kernel in list(self._kernels))

        if not running():
            return
        with suppress(FpgaError):  # XRT on a real card has no reset, and a card that is gone needs none
            self._session.stop()
        # Closing a run in flight would let the card write into memory that is somebody else's by then; and threads
        # that wait for a run take a moment to see its end.
        end = time.monotonic() + 5
        while running() and time.monotonic() < end:
            time.sleep(0.001)

    def __enter__(self) -> Device:
        self._ready()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.close()
        except (BufferInUseError, DeviceBusyError):
            if kind is None:
                raise
            # Another exception is on its way and says more; the session closes with the last view.

    def _ready(self) -> Session:
        done = self._programming
        if done is not None:
            if not done.is_set():
                raise DeviceBusyError(
                    f"{self.info.address} is still being programmed by an earlier call.",
                    hint="Wait until the driver is done; then verify what it runs.",
                )
            self._programming = None
        if self.closed:
            self._session.loaded_id()  # says why
            raise ClosedError(f"Device {self.info.address} is closed.")
        return self._session


def _binding(info: DeviceInfo, asked: str | None) -> str:
    """Which of DRIVERS opens `info`: what was asked for, else for Intel boards what is there.

    That is $FPGAHAL_OPAE_BINDING; else libopae-c (an emulated board: the emulated one); else, where none is
    installed, the kernel driver itself.  A libopae-c that is there but broken is an error, and so is one that
    FPGAHAL_OPAE_LIBRARY names in vain: nobody should get another binding than the one that was installed.
    """
    if info.driver != "opae":
        if asked not in (None, info.driver):
            raise UnsupportedError(f"{info.address} is a board of driver {info.driver!r}, not {asked!r}.")
        return info.driver
    if asked == "dfl":
        return asked
    named = os.environ.get(OPAE_BINDING, "")
    if named not in ("", "opae", "dfl"):
        raise UnsupportedError(f"{OPAE_BINDING}={named} names no binding for Intel boards.", hint="It is opae or dfl.")
    if named or info.emulated:
        return named or "opae"
    try:
        _module(info, "opae").library()
    except LibraryNotFoundError:
        if os.environ.get("FPGAHAL_OPAE_LIBRARY"):
            raise
        return "dfl"
    return "opae"


def _module(info: DeviceInfo, driver: str) -> Any:
    module = DRIVERS.get(driver) or ("fpgahal._remote" if is_scheme(driver) else None)
    if module is None:
        raise UnsupportedError(f"{info.address}: no driver {driver!r} in fpgahal (it has {', '.join(DRIVERS)}).")
    return importlib.import_module(module)


def _bitstream(image: Image) -> Bitstream:
    if isinstance(image, Bitstream):
        return image
    if isinstance(image, bytes | bytearray | memoryview):
        return Bitstream.parse(bytes(image))
    return Bitstream.load(image)


def _expected(expected: Any) -> tuple[uuid.UUID, str]:
    if isinstance(expected, uuid.UUID):
        return expected, ""
    if isinstance(expected, Bitstream):
        return expected.afu_id, expected.name
    if hasattr(expected, "AFU_ID"):
        return uuid.UUID(str(expected.AFU_ID)), getattr(expected, "__name__", type(expected).__name__)
    if isinstance(expected, str):
        try:
            return uuid.UUID(expected), ""
        except ValueError:
            pass
    bitstream = Bitstream.load(expected)
    return bitstream.afu_id, bitstream.name


__all__ = ["DRIVERS", "Device", "Image"]
