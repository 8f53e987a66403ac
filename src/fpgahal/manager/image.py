# SPDX-License-Identifier: Apache-2.0
"""The accelerators ``image.sobel`` and ``image.affine``: what :mod:`fpgahal.kernels.image` computes, to the last bit.

``image`` is an array of uint8 or uint16, (rows, columns) or (rows, columns, channels); ``out`` gets the result.
Options are those of :class:`~fpgahal.kernels.image.Sobel` and :class:`~fpgahal.kernels.image.Affine`.  Those that are
more than one number (``matrix``, ``size``, ``border_value``) are JSON, such as ``[[1, 0, 5], [0, 1, 0]]``: a text can't
change while the request waits.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Generator, Hashable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fpgahal import ArgumentError, ArgumentRangeError, Device, FpgaError, KernelContract, Run
from fpgahal.kernels import image
from fpgahal.manager.accelerators import Arguments, Job, Opened
from fpgahal.manager.memory import Array
from fpgahal.manager.wire import MAX_BYTES, Spec

MAX_RUNS = 1 << 14  #: of one request: shrinking a large image a thousand times would take one for each pixel
_ARRAYS = ("image", "out")
_MAX_JSON = 1024  # characters
_SAMPLES = 1024  # of the result: a unit of a job's size


class _Detail(NamedTuple):
    plan: image.Plan
    out: npt.NDArray[Any]


class _Images:
    """What both have in common.

    Attributes
    ----------
    options : mapping
        Names, and what each is to be: int, str, or "json".
    """

    name: str
    contract: KernelContract
    kernel: type[image.Sobel] | type[image.Affine]
    options: Mapping[str, type | str]

    def prepare(self, arguments: Arguments) -> Callable[[], None] | None:
        """Nothing takes long."""
        return None

    def outputs(self, arguments: Arguments) -> tuple[Spec, ...]:
        """Describe `out`."""
        plan = self._plan(arguments)
        return (Spec("out", plan.dtype, plan.shape),)

    def job(self, arguments: Arguments) -> Job:
        """Check a request."""
        plan = self._plan(arguments)
        source, out = arguments["image"], arguments.get("out")
        assert isinstance(source, Array)
        if not isinstance(out, Array) or out.dtype != plan.dtype:
            raise ArgumentError(f"{self.name}: out is to be an array of {plan.dtype}.")
        if out.shape != plan.shape or out.segment.constant:
            raise ArgumentRangeError(
                f"{self.name}: out has the shape {out.shape}, expected {plan.shape}, and not constant."
            )
        if _overlap(source, out):
            raise ArgumentRangeError(f"{self.name}: image and out share memory, but tiles are read after others.")
        return Job(1 + out.values.size // _SAMPLES, None, 1, self.name, _Detail(plan, out.values))

    def _plan(self, arguments: Arguments) -> image.Plan:
        source = arguments.get("image")
        if not isinstance(source, Array):
            raise ArgumentError(f"{self.name}: image is to be an array of uint8 or uint16.")
        options = {name: self._option(name, value) for name, value in arguments.items() if name not in _ARRAYS}
        if self.kernel is image.Affine and "matrix" not in options:
            raise ArgumentError(f"{self.name}: matrix is missing.")
        try:
            plan = self.kernel.plan(source.values, **options)
        except FpgaError as error:
            raise type(error)(f"{self.name}: {error.message}", hint=error.hint) from None
        if math.prod(plan.shape) * plan.dtype.itemsize > MAX_BYTES:
            raise ArgumentRangeError(f"{self.name}: the result would have the shape {plan.shape}: no memory holds it.")
        return plan

    def _option(self, name: str, value: object) -> Any:
        kind = self.options.get(name)
        if kind is None:
            known = ", ".join((*_ARRAYS, *self.options))
            raise ArgumentError(f"{self.name} has no argument {name!r}; it has {known}.")
        if isinstance(kind, type):
            if not isinstance(value, kind):
                raise ArgumentError(f"{self.name}: {name} is to be of type {kind.__name__}.")
            return value
        try:
            if not isinstance(value, str) or len(value) > _MAX_JSON:
                raise ValueError
            found = json.loads(value)
            np.asarray(found)  # rows of different lengths
        except (ValueError, RecursionError):
            raise ArgumentError(f"{self.name}: {name} is to be numbers in JSON, such as [1, 2].") from None
        return found

    def open(self, dev: Device, job: Job) -> Opened:
        """Open the kernel, and get its buffers."""
        return OpenedImages(self.kernel(dev))


class Sobel(_Images):
    """Edges and derivatives."""

    name = "image.sobel"
    contract = image.SOBEL
    kernel = image.Sobel
    options = MappingProxyType({"dx": int, "dy": int, "ksize": int, "norm": str, "border": str, "border_value": "json"})


class Affine(_Images):
    """Affine warps."""

    name = "image.affine"
    contract = image.AFFINE
    kernel = image.Affine
    options = MappingProxyType(
        {
            "matrix": "json",
            "size": "json",
            "inverse": int,
            "interpolation": str,
            "border": str,
            "border_value": "json",
        }
    )


class OpenedImages:
    """A kernel on a board.  It reads and writes what was sent and asked for, no more: nothing is left for others."""

    def __init__(self, kernel: image.Sobel | image.Affine) -> None:
        self._kernel = kernel

    def run(self, jobs: Sequence[Job], user: Hashable) -> Generator[Run]:
        """A tile at a time."""
        detail: _Detail = jobs[0].detail
        for count, run in enumerate(self._kernel.runs(detail.plan, detail.out)):
            yield run
            if count >= MAX_RUNS:
                raise ArgumentRangeError(
                    f"The request takes more than {MAX_RUNS:,} runs.", hint="Shrink the image in two steps."
                )

    def close(self) -> None:
        """Give the kernel and its buffers back."""
        self._kernel.close()


def _overlap(a: Array, b: Array) -> bool:
    return a.segment is b.segment and a.offset < b.offset + b.nbytes and b.offset < a.offset + a.nbytes


__all__ = ["MAX_RUNS", "Affine", "OpenedImages", "Sobel"]
