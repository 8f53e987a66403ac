# SPDX-License-Identifier: Apache-2.0
"""Accelerator: what the manager can run for its clients.  A new kind is a class like these, and a line in `catalogue`.

An accelerator checks a request before it waits (:meth:`Accelerator.job`), so that a request that waits will fit; and
runs several that fit together (:meth:`Opened.run`) on a board that has its image.
"""

from __future__ import annotations

import importlib.metadata
import logging
import math
from collections.abc import Callable, Generator, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from fpgahal import ArgumentError, ArgumentRangeError, Device, Kernel, KernelContract, Scalar
from fpgahal import Array as ArrayArgument
from fpgahal.manager.memory import Array
from fpgahal.manager.room import Rooms
from fpgahal.manager.wire import DTYPE_NUMBERS, Spec

_LOG = logging.getLogger(__name__)

Argument = int | float | str | Array
Arguments = Mapping[str, Argument]


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """A request that was checked.

    Attributes
    ----------
    size : int
        How much it is, in what it takes time for: rows, elements.
    batch : hashable or None
        Jobs with the same one may run together.
    most : int
        The sum of sizes of those that do.
    resident : hashable
        Which Opened it needs.
    detail : object
        The accelerator's.
    """

    size: int
    batch: Hashable
    most: int
    resident: Hashable
    detail: Any


class Opened(Protocol):
    """An accelerator on a board that has its image, with what it keeps there.

    Several threads may be in :meth:`run`: while the jobs of one are run, those of another are brought to the board.
    """

    @property
    def kernel(self) -> Kernel:
        """What is run."""

    def run(self, jobs: Sequence[Job], user: Hashable) -> Generator[tuple[Any, ...]]:
        """Do the jobs, all for one batch.  Yields the kernel's arguments for each run; goes on when it has ended."""

    def close(self) -> None:
        """Give everything back."""


class Accelerator(Protocol):
    """Something that clients can ask for by name."""

    @property
    def name(self) -> str:
        """What clients call it."""

    @property
    def contract(self) -> KernelContract:
        """The kernel that a board's image must have."""

    def prepare(self, arguments: Arguments) -> Callable[[], None] | None:
        """What takes longer, and is to be called before the rest, in a thread of its own; None: nothing."""

    def outputs(self, arguments: Arguments) -> tuple[Spec, ...]:
        """Describe the outputs, whether they are among the arguments or not."""

    def job(self, arguments: Arguments) -> Job:
        """Check a request.

        Raises
        ------
        ArgumentError, ArgumentRangeError
        """

    def open(self, dev: Device, job: Job) -> Opened:
        """Get ready for a job, and others with the same `resident`."""


# --- a kernel as its contract says ------------------------------------------------------------------------------------


class Plain:
    """A kernel whose contract says how large each of its arrays is.

    Parameters
    ----------
    contract : KernelContract
    axis : str, optional
        An integer argument that is the first extent of every array: requests that are the same otherwise may be put
        one after the other, because each element is worked on by itself.
    most : int
        Elements along the axis that are put together.
    """

    def __init__(self, contract: KernelContract, axis: str | None = None, most: int = 1 << 16) -> None:
        self.name = contract.name
        self.contract = contract
        self.axis = axis
        self.most = most
        self._arrays = [arg for arg in contract.args if isinstance(arg, ArrayArgument)]
        self._scalars = [arg for arg in contract.args if isinstance(arg, Scalar)]
        if not all(arg.shape for arg in self._arrays):
            raise ArgumentRangeError(f"Contract {contract.name} does not say how large its arrays are.")
        if axis is not None and not all(arg.shape[0] == axis and axis not in arg.shape[1:] for arg in self._arrays):
            raise ArgumentRangeError(f"Contract {contract.name} has an array without {axis} as its first extent.")

    def prepare(self, arguments: Arguments) -> Callable[[], None] | None:
        """Nothing takes long."""
        return None

    def _numbers(self, arguments: Arguments) -> dict[str, int | float]:
        """All scalars; those that the arrays' shapes tell may be left out."""
        numbers: dict[str, int | float] = {}
        for scalar in self._scalars:
            value = arguments.get(scalar.name)
            if value is None:
                value = self._told(scalar.name, arguments)
            if not isinstance(value, int if scalar.dtype[0] in "iu" else int | float):
                raise ArgumentError(f"{self.name}: {scalar.name} is to be a number of type {scalar.dtype}.")
            if scalar.dtype[0] in "iu":
                limits = np.iinfo(scalar.dtype)
                if not limits.min <= value <= limits.max:
                    raise ArgumentRangeError(f"{self.name}: {scalar.name} = {value} does not fit {scalar.dtype}.")
            numbers[scalar.name] = value
        return numbers

    def _told(self, name: str, arguments: Arguments) -> int | None:
        for arg in self._arrays:
            value = arguments.get(arg.name)
            if isinstance(value, Array) and name in arg.shape:
                if arg.dtype == "void" and arg.shape == (name,):
                    return value.nbytes
                if len(value.shape) == len(arg.shape):
                    return value.shape[arg.shape.index(name)]
        return None

    def _shape(self, arg: ArrayArgument, numbers: Mapping[str, int | float]) -> tuple[int, ...]:
        shape = tuple(int(numbers[extent]) if isinstance(extent, str) else extent for extent in arg.shape)
        if min(shape) < 0:
            raise ArgumentRangeError(f"{self.name}: {arg.name} would have the shape {shape}.")
        return shape

    def _needed(self, arg: ArrayArgument, value: Array, numbers: Mapping[str, int | float]) -> int:
        """Bytes of an array that the kernel may touch."""
        return math.prod(self._shape(arg, numbers)) * (1 if arg.dtype == "void" else value.dtype.itemsize)

    def outputs(self, arguments: Arguments) -> tuple[Spec, ...]:
        """Describe the outputs, whether they are among the arguments or not."""
        numbers = self._numbers(arguments)
        return tuple(
            Spec(arg.name, np.dtype(arg.dtype.replace("void", "uint8")), self._shape(arg, numbers))
            for arg in self._arrays
            if arg.access == "w"
        )

    def job(self, arguments: Arguments) -> Job:
        """Check a request."""
        known = {arg.name for arg in self.contract.args}
        for name in arguments.keys() - known:
            raise ArgumentError(f"{self.name} has no argument {name!r}; it has {', '.join(sorted(known))}.")
        numbers = self._numbers(arguments)
        arrays = []
        for arg in self._arrays:
            value = arguments.get(arg.name)
            if not isinstance(value, Array):
                raise ArgumentError(f"{self.name}: {arg.name} is to be an array of {arg.dtype}.")
            if arg.dtype not in ("void", value.dtype.name):
                raise ArgumentError(f"{self.name}: {arg.name} is an array of {value.dtype}, expected {arg.dtype}.")
            needed = self._needed(arg, value, numbers)
            if value.nbytes < needed:
                raise ArgumentRangeError(
                    f"{self.name}: {arg.name} has the shape {value.shape}, expected {self._shape(arg, numbers)}: "
                    f"{needed} bytes."
                )
            if "w" in arg.access and value.segment.constant:
                raise ArgumentRangeError(f"{self.name}: {arg.name} is written, but its buffer is constant.")
            arrays.append(value.bytes[:needed])
        rest = tuple(value for name, value in numbers.items() if name != self.axis)
        size = int(numbers[self.axis]) if self.axis else max(1, sum(array.nbytes for array in arrays) // 4)
        batch = (self.name, rest) if self.axis else None
        return Job(size, batch, self.most, self.name, (arrays, numbers))

    def open(self, dev: Device, job: Job) -> Opened:
        """Open the kernel."""
        return OpenedPlain(dev, self)

    def kernel(self, dev: Device) -> Kernel:
        """The kernel of the loaded image."""
        return dev.kernel(self.contract)


class OpenedPlain:
    """A kernel, and a room for each thread that works with it at a time."""

    def __init__(self, dev: Device, accelerator: Plain) -> None:
        self._axis = accelerator.axis
        args = accelerator.contract.args
        self._names = [arg.name for arg in args]
        self._arrays = [(index, arg.access) for index, arg in enumerate(args) if isinstance(arg, ArrayArgument)]
        self.kernel = accelerator.kernel(dev)
        self._rooms = Rooms(dev, self.kernel)

    def run(self, jobs: Sequence[Job], user: Hashable) -> Generator[tuple[Any, ...]]:
        """Copy in, run, copy out: each job's piece at its place."""
        room = self._rooms.take(user)
        numbers = jobs[0].detail[1]
        if len(jobs) > 1:
            numbers = numbers | {self._axis: sum([job.detail[1][self._axis] for job in jobs])}
        values: list[Any] = [numbers.get(name) for name in self._names]
        outputs = []
        for at, (index, access) in enumerate(self._arrays):
            pieces = [job.detail[0][at] for job in jobs]
            if access != "w":
                values[index] = room.fill(index, pieces)
            else:
                values[index] = room.buffer(index, sum([piece.nbytes for piece in pieces]))[0]
            if access != "r":
                outputs.append((index, pieces))
        yield tuple(values)
        for index, pieces in outputs:
            room.fetch(index, pieces)
        self._rooms.give(room)

    def close(self) -> None:
        """Give the kernel and the memory back."""
        self.kernel.close()
        self._rooms.close()


def describe(arg: ArrayArgument | Scalar) -> dict[str, Any]:
    """An argument, as a JSON document; only an array has `access`."""
    found: dict[str, Any] = {"name": arg.name, "dtype": arg.dtype}
    return found | {"access": arg.access} if isinstance(arg, ArrayArgument) else found


#: Kernels that work on each element by itself, and the argument that counts elements.
_AXES = {"vadd": "n"}


def contracts() -> Iterator[KernelContract]:
    """Kernels of installed packages."""
    for point in importlib.metadata.entry_points(group="fpgahal.accelerators"):
        try:
            contract = point.load()
        except Exception as error:  # somebody's package is broken: the others' kernels are not
            _LOG.warning("accelerator does not load", extra={"accelerator": point.value, "error": str(error)})
            continue
        if isinstance(contract, KernelContract):
            yield contract


def catalogue() -> dict[str, Accelerator]:
    """What a manager offers: the kernels of installed packages whose contract says enough, images, and XGBoost."""
    from fpgahal.manager.forests import Forests
    from fpgahal.manager.image import Affine, Sobel
    from fpgahal.manager.xgboost import Predict

    found: dict[str, Accelerator] = {}
    for contract in contracts():
        arrays = [arg for arg in contract.args if isinstance(arg, ArrayArgument)]
        if arrays and all(
            arg.shape and np.dtype(arg.dtype.replace("void", "uint8")) in DTYPE_NUMBERS for arg in arrays
        ):
            found[contract.name] = Plain(contract, _AXES.get(contract.name))
    own: tuple[Accelerator, ...] = (Sobel(), Affine(), Predict(), Forests())
    return found | {one.name: one for one in own}


__all__ = ["Accelerator", "Argument", "Arguments", "Job", "Opened", "Plain", "catalogue", "contracts", "describe"]
