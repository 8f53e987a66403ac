# SPDX-License-Identifier: Apache-2.0
"""How to start and watch an accelerator that is driven by registers.

An xclbin says in its metadata how each kernel is called.  A GBS does not: it only names the AFU.  A
RegisterContract says it instead: what to write, in which order, and how the accelerator reports the end.  With
it ``dev.kernel(...)`` works on an OPAE board as it does on an XRT board, and start and wait run in C.

Contracts are found by AFU id through the entry-point group ``fpgahal.accelerators`` (so another package can add
one), or are passed to ``dev.kernel`` themselves.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from functools import cache

from fpgahal._types import ArgInfo, KernelInfo

GROUP = "fpgahal.accelerators"


@dataclass(frozen=True, slots=True)
class Write:
    """One register write.

    Attributes
    ----------
    offset : int
        Byte offset in the AFU's register space.
    value : int or str
        A constant, or the name of an argument (a buffer's device address, a scalar's value), or ``"dsm"``: the
        address of the memory in which the accelerator reports.
    bits : {32, 64}
    shift : int
        Right shift of an argument's value (6 turns a byte address into a cache-line index).
    """

    offset: int
    value: int | str
    bits: int = 32
    shift: int = 0


@dataclass(frozen=True, slots=True)
class Word:
    """A 32-bit word of the DSM: done when ``word & mask == value``."""

    offset: int
    mask: int = 0xFFFF_FFFF
    value: int = 1


@dataclass(frozen=True, slots=True)
class RegisterContract:
    """A kernel behind registers; it runs one job at a time.

    Attributes
    ----------
    name : str
        What ``dev.kernel(name)`` calls it.
    afu_id : uuid.UUID
        The AFU that it fits.
    args : tuple of ArgInfo
    start : tuple of Write
        In order; the last one sets it off.
    done : Word
        Where in the DSM the end shows.
    error : Word or None
        A word of the DSM that is ``value`` under ``mask`` when all went well.
    finish : tuple of Write
        After the end.
    dsm_bytes : int
        Size of the memory in which it reports.
    """

    name: str
    afu_id: uuid.UUID
    args: tuple[ArgInfo, ...]
    start: tuple[Write, ...]
    done: Word
    error: Word | None = None
    finish: tuple[Write, ...] = field(default=())
    dsm_bytes: int = 4096

    @property
    def info(self) -> KernelInfo:
        """The same as a KernelInfo."""
        return KernelInfo(self.name, self.args, (f"{self.name}_0",))


@cache
def contracts_for(afu_id: uuid.UUID | None) -> tuple[RegisterContract, ...]:
    """Contracts that installed packages offer for an AFU."""
    from importlib.metadata import entry_points  # slow to import, and most programs need none

    found = [point.load() for point in entry_points(group=GROUP) if point.name == str(afu_id)]
    return tuple(contract for contract in found if isinstance(contract, RegisterContract))


__all__ = ["GROUP", "RegisterContract", "Word", "Write", "contracts_for"]
