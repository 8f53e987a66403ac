# SPDX-License-Identifier: Apache-2.0
"""Images on a board, a tile at a time: what the image kernels share."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from fpgahal import (
    ArgumentError,
    ArgumentRangeError,
    Buffer,
    BufferInUseError,
    Device,
    DeviceBusyError,
    KernelContract,
    Run,
)
from fpgahal.kernels._left import settle
from fpgahal.kernels._open import Image, open_kernel

Pixels = npt.NDArray[Any]
Span = tuple[int, int]  # first, and one after the last

BUFFER_BYTES = 2 << 20  # one huge page: what an OPAE board gives without trouble
SMALLEST_BUFFER = 4096
MAX_SIDE = 1 << 24  # whole numbers in float32
MAX_CHANNELS = 4
MAX_COLUMNS = 1024  # of a tile: rows of that length stay in a cache

#: Name -> number in the kernels' registers.
BORDERS = {"constant": 0, "replicate": 1, "reflect": 2, "reflect101": 3}


@dataclass(frozen=True, slots=True)
class Tile:
    """One run: what goes to the board, with which scalars, and where the result belongs."""

    load: Callable[[], Pixels]
    scalars: tuple[Any, ...]
    target: Pixels


class Plan(NamedTuple):
    """What a call comes to, once its arguments were checked.

    Attributes
    ----------
    shape : tuple of int
        Of the result.
    dtype : numpy.dtype
        Of the result.
    tiles : callable
        Gives the tiles for the memory of a result, and for buffers of so many bytes.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    tiles: Callable[[Pixels, int], Iterator[Tile]]


class TiledKernel:
    """A kernel with arguments ``(src, dst, *scalars)``, and two pairs of buffers that are filled in turn.

    While the board works on one tile, the host fetches the last one and sends the next one.

    Parameters
    ----------
    dev : Device
        Is programmed with the kernel's image if it runs another one.
    image : path, bytes or Bitstream, optional
        The file for that; see :func:`fpgahal.kernels.open_kernel`.
    buffer_bytes : int
        Size of each of the four buffers: larger images go through in tiles.
    timeout : float
        Seconds that a tile may take.
    """

    CONTRACT: ClassVar[KernelContract]

    def __init__(
        self, dev: Device, *, image: Image | None = None, buffer_bytes: int = BUFFER_BYTES, timeout: float = 10.0
    ) -> None:
        if buffer_bytes < SMALLEST_BUFFER:
            raise ArgumentRangeError(f"buffer_bytes is {buffer_bytes}; at least {SMALLEST_BUFFER} are needed.")
        self._timeout = timeout
        self._buffer_bytes = buffer_bytes
        self._lock = threading.Lock()
        self._run: Run | None = None
        self._kernel = open_kernel(dev, self.CONTRACT, image)
        self._buffers: list[Buffer] = []
        try:
            for _ in range(4):
                self._buffers.append(dev.allocate(buffer_bytes))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Free buffers and kernel.  Closing the device does it, too.

        Raises
        ------
        BufferInUseError
            A tile is on its way in another thread, or never came back.
        """
        for buffer in self._buffers:
            buffer.close()
        self._kernel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except (BufferInUseError, DeviceBusyError):  # a run that hangs: closing the device stops it
            if kind is None:
                raise

    def _process(self, plan: Plan) -> Pixels:
        result = np.empty(plan.shape, plan.dtype)
        with self._lock, self._kernel.turn:
            for run in self.runs(plan, result):
                run.wait(self._timeout)
        return result

    def runs(self, plan: Plan, result: Pixels) -> Generator[Run]:
        """Do what a plan says, a run at a time, for those who wait for runs in a way of their own.

        Yields
        ------
        Run
            That has to end before the next one can begin.  The caller waits for it, has the board for itself, and
            calls this again only after the last result is complete, or after an error.
        """
        self._settle()
        ended: tuple[Buffer, Pixels] | None = None
        for n, tile in enumerate(plan.tiles(result, self._buffer_bytes)):
            src, dst = self._buffers[n % 2], self._buffers[2 + n % 2]
            pixels = tile.load()
            np.copyto(_view(src, pixels.shape, pixels.dtype.newbyteorder("=")), pixels)
            src.sync_to_device(0, pixels.nbytes)
            if self._run is not None:
                yield self._run
            self._run = self._kernel.start(src, dst, *tile.scalars)
            if ended is not None:
                _fetch(*ended)
            ended = dst, tile.target
        if self._run is not None:
            yield self._run
            self._run = None
        if ended is not None:
            _fetch(*ended)

    def _settle(self) -> None:
        """See to the end of a tile that an earlier call left behind with an exception."""
        if self._run is not None:
            settle(self._run, self._timeout)
            self._run = None


def _view(buffer: Buffer, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Pixels:
    return np.ndarray(shape, dtype, np.asarray(buffer))


def _fetch(buffer: Buffer, target: Pixels) -> None:
    buffer.sync_from_device(0, target.nbytes)
    np.copyto(target, _view(buffer, target.shape, target.dtype))


# --- arguments ----------------------------------------------------------------------------------------------------


def check_image(image: npt.ArrayLike) -> Pixels:
    """An image as (rows, columns, channels); a view, whatever its strides.

    Raises
    ------
    ArgumentError
        It is neither uint8 nor uint16.
    ArgumentRangeError
        It has no pixels, too many, or another number of dimensions or channels.
    """
    array = np.asarray(image)
    if array.dtype.kind != "u" or array.dtype.itemsize > 2:
        raise ArgumentError(
            f"The image has dtype {array.dtype}, expected uint8 or uint16.",
            hint="Scale it to 0..255 or 0..65535 and convert it with astype.",
        )
    if array.ndim not in (2, 3) or (array.ndim == 3 and not 1 <= array.shape[2] <= MAX_CHANNELS):
        raise ArgumentRangeError(
            f"The image has shape {array.shape}, expected (rows, columns) or (rows, columns, channels) with 1 to "
            f"{MAX_CHANNELS} channels."
        )
    if array.size == 0:
        raise ArgumentRangeError(f"The image has shape {array.shape}: it has no pixels.")
    if max(array.shape) > MAX_SIDE:
        raise ArgumentRangeError(f"The image has shape {array.shape}; a side may have {MAX_SIDE:,} pixels.")
    return array if array.ndim == 3 else array[:, :, np.newaxis]


def check_choice(name: str, value: object, choices: tuple[object, ...] | dict[str, int]) -> None:
    """Refuse what is not one of the choices."""
    if not isinstance(value, str | int) or value not in choices:
        raise ArgumentRangeError(f"{name} is {value!r}; it must be one of {', '.join(map(repr, choices))}.")


def check_border_value(value: int | tuple[int, ...], pixels: Pixels) -> Pixels:
    """The border's colour: one number for each channel."""
    given = np.asarray(value)
    channels, largest = pixels.shape[2], np.iinfo(pixels.dtype).max
    if given.dtype.kind not in "iu" or given.shape not in ((), (channels,)):
        raise ArgumentError(
            f"border_value is {value!r}; expected an int, or one for each of the image's {channels} channels."
        )
    if given.min() < 0 or given.max() > largest:
        raise ArgumentRangeError(f"border_value is {value!r}; {pixels.dtype} holds 0 to {largest}.")
    return np.broadcast_to(given, (channels,)).astype(pixels.dtype.newbyteorder("="))


# --- borders ------------------------------------------------------------------------------------------------------


def inside(index: npt.NDArray[np.int64], n: int, border: str) -> npt.NDArray[np.int64]:
    """Indices in [0, n) that stand for any, beyond the edges of an image of n pixels."""
    if border == "replicate":
        return np.clip(index, 0, n - 1)
    period = 2 * n if border == "reflect" else max(2 * n - 2, 1)
    index = index % period
    return np.where(index < n, index, period - index - (border == "reflect"))


def needed(first: int, last: int, n: int, border: str) -> Span:
    """What pixels `first` to `last` (included) are made of, in an image of n; empty: of the border's colour only."""
    if border == "constant":
        return max(first, 0), min(last + 1, n)
    if border == "replicate":
        return min(max(first, 0), n - 1), max(min(last, n - 1), 0) + 1
    if first >= 0 and last < n:
        return first, last + 1
    if last - first >= 2 * n:
        return 0, n
    found = inside(np.arange(first, last + 1), n, border)
    return int(found.min()), int(found.max()) + 1


__all__ = [
    "BORDERS",
    "BUFFER_BYTES",
    "MAX_COLUMNS",
    "MAX_SIDE",
    "Image",
    "Pixels",
    "Plan",
    "Tile",
    "TiledKernel",
    "check_border_value",
    "check_choice",
    "check_image",
    "inside",
    "needed",
]
