# SPDX-License-Identifier: Apache-2.0
"""The plain values that the API hands out of images and runs: frozen, comparable, printable; a board's is `_info`'s."""

from __future__ import annotations

import enum
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BankInfo:
    """One memory bank of a board.

    Attributes
    ----------
    index : int
        Position in the image's MEM_TOPOLOGY (XRT), or 0 for pinned host memory (OPAE).
    name : str
        The bank's tag: ``"DDR[0]"``, ``"HBM[3]"``, ``"host"``.
    kind : str
        ``"ddr4"``, ``"hbm"``, ``"host"``, ...
    base, size : int
        Bytes, in the device's address space.
    used : bool
        Whether the loaded image has a connection to it.
    """

    index: int
    name: str
    kind: str
    base: int
    size: int
    used: bool = True


class ArgKind(enum.Enum):
    """What a kernel argument is."""

    SCALAR = "scalar"
    BUFFER = "buffer"
    STREAM = "stream"  #: connected in the fabric; the host passes None


@dataclass(frozen=True, slots=True)
class ArgInfo:
    """One argument of a kernel.

    Attributes
    ----------
    index : int
        Position in the call.
    name : str
    kind : ArgKind
    type : str
        The C type that the image names: ``"uint"``, ``"float"``, ``"float*"``, ``"ulong"``, ...
    size : int
        Bytes that it takes in the register file.
    offset : int
        Byte offset in the register file (XRT), or -1.
    banks : tuple of int
        Memory banks (BankInfo.index) that a buffer argument is connected to; empty for scalars and where
        every buffer will do.
    """

    index: int
    name: str
    kind: ArgKind
    type: str = ""
    size: int = 8
    offset: int = -1
    banks: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class KernelInfo:
    """One kernel of an image: its arguments and its compute units.

    Attributes
    ----------
    name : str
    args : tuple of ArgInfo
    compute_units : tuple of str
        Instance names, ``("vadd_1",)``.
    register_bytes : int
        Size of a compute unit's register space, bytes; 0 if unknown.
    """

    name: str
    args: tuple[ArgInfo, ...] = ()
    compute_units: tuple[str, ...] = ()
    register_bytes: int = 0


class RunState(enum.Enum):
    """Where a run stands."""

    RUNNING = "running"
    COMPLETED = "completed"
    ERROR = "error"
    ABORTED = "aborted"


__all__ = [
    "ArgInfo",
    "ArgKind",
    "BankInfo",
    "KernelInfo",
    "RunState",
]
