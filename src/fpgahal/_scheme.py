# SPDX-License-Identifier: Apache-2.0
"""Schemes: boards that somebody else owns, opened as ``fpgahal.open("manager:")``.

The name before the colon is an entry point of the group ``fpgahal.schemes``; what it loads is a :class:`Scheme`.  The
rest of the library meets the owner of the boards as it meets a vendor's library: below a Session (``_remote.pyx``).
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

from fpgahal._errors import DeviceNotFoundError, FpgaError, LibraryError, UnsupportedError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from fpgahal._bitstream import Bitstream
    from fpgahal._contract import KernelContract
    from fpgahal._info import DeviceInfo
    from fpgahal._types import KernelInfo

GROUP = "fpgahal.schemes"


class Job(Protocol):
    """A run that was handed over."""

    def wait(self, seconds: float) -> bool:
        """Wait for the end, that long at most; whether it has ended."""

    def failure(self) -> FpgaError | None:
        """Why it ended badly; None if it has not ended, or ended well."""


class Owner(Protocol):
    """Who owns the boards, and runs on them what others ask for.  Threads share it."""

    def allocate(self, nbytes: int) -> npt.NDArray[np.uint8]:
        """Memory that kernels can be given; it goes back with the array."""

    def kernels(self) -> tuple[KernelInfo, ...]:
        """What can be run."""

    def kernel(self, name: str | KernelContract) -> KernelInfo:
        """One of them.

        Raises
        ------
        KernelNotFoundError, ArgumentError
        """

    def start(self, kernel: KernelInfo, arguments: list[Any]) -> Job:
        """Run it; arrays of :meth:`allocate` and numbers, in order."""

    def check_image(self, image: Bitstream, force: bool) -> None:
        """Raise unless the boards run what this image holds whenever they are asked for it.

        Raises
        ------
        UnsupportedError
        """

    def unsupported(self, what: str) -> UnsupportedError:
        """Say why something is not to be had of these boards."""

    def close(self) -> None:
        """Hang up.  Runs that have not begun are not run."""


class Scheme(Protocol):
    """How owners of a kind are found."""

    def info(self, address: str) -> DeviceInfo:
        """What ``name:address`` stands for; its `driver` is the scheme's name."""

    def connect(self, info: DeviceInfo) -> Owner:
        """Call the owner.

        Raises
        ------
        DeviceNotFoundError, DeviceBusyError, AccessError
        """


@cache
def _known() -> dict[str, Any]:
    from importlib.metadata import entry_points  # slow to import, and most programs need none

    return {point.name: point for point in entry_points(group=GROUP)}


def is_scheme(name: str) -> bool:
    """Whether there is a scheme of this name."""
    return name in _known()


def scheme(name: str) -> Scheme:
    """Load a scheme."""
    point = _known()[name]
    try:
        found: Scheme = point.load()
    except Exception as error:
        raise LibraryError(f"The scheme {name}: can't be loaded: {type(error).__name__}: {error}.") from error
    return found


def split(text: str) -> tuple[str, str] | None:
    """Take ``scheme:address`` apart; None if it is a PCI address, or no scheme.

    Raises
    ------
    DeviceNotFoundError
        There is no such scheme.
    """
    name, colon, rest = text.partition(":")
    if not colon or not name or not set(name.lower()) - set("0123456789abcdef"):
        return None
    if not is_scheme(name):
        raise DeviceNotFoundError(
            f"{text!r} is neither a PCI address nor of a known scheme ({', '.join(sorted(_known())) or 'none'}).",
            hint="Right are 0000:3b:00.0, 3b:00.0, 0000:3b:00.0/1 and manager:.",
        )
    return name, rest


__all__ = ["GROUP", "Job", "Owner", "Scheme", "is_scheme", "scheme", "split"]
