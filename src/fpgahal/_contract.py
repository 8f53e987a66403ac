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
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

from fpgahal._errors import ArgumentError, ArgumentRangeError, LibraryError
from fpgahal._types import ArgInfo, ArgKind, KernelInfo

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

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
class Register:
    """A 32-bit register of the AFU: done when ``register & mask == value``."""

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
    done : Word or Register
        Where the end shows: a word of the DSM, or a register.
    error : Word, Register or None
        What is ``value`` under ``mask`` when all went well.
    finish : tuple of Write
        After the end.
    dsm_bytes : int
        Size of the memory in which it reports; none is allocated if nothing uses it.
    """

    name: str
    afu_id: uuid.UUID
    args: tuple[ArgInfo, ...]
    start: tuple[Write, ...]
    done: Word | Register
    error: Word | Register | None = None
    finish: tuple[Write, ...] = field(default=())
    dsm_bytes: int = 4096

    @property
    def info(self) -> KernelInfo:
        """The same as a KernelInfo."""
        return KernelInfo(self.name, self.args, (f"{self.name}_0",))


# --- kernels as HLS builds them -----------------------------------------------------------------------------------

_TYPES = {  # dtype -> how an xclbin names it
    "int8": "char",
    "uint8": "uchar",
    "int16": "short",
    "uint16": "ushort",
    "int32": "int",
    "uint32": "uint",
    "int64": "long",
    "uint64": "ulong",
    "float16": "half",
    "float32": "float",
    "float64": "double",
}
_SCALARS = ("uint32", "int32", "uint64", "int64", "float32", "float64")
_FIRST = 0x10  # HLS: arguments follow the four control registers
_STATUS = 0x20  # a wrapped kernel's result lies that far below its control block: native/include/fpgahal_emu.h
_START, _IDLE = 1, 4  # bits of CTRL (ap_ctrl_hs)


@dataclass(frozen=True, slots=True)
class Array:
    """A buffer argument.

    Attributes
    ----------
    name : str
    dtype : str
        NumPy's name, ``"float32"``; ``"void"``: any, bytes.
    shape : tuple of int and str
        A text is the name of a scalar argument.  ``()``: one element.
    access : {"r", "w", "rw"}
        What the kernel does with it.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...] = ()
    access: str = "r"

    @property
    def type(self) -> str:
        """As an xclbin names it: ``"float*"``."""
        return f"{_TYPES.get(self.dtype, 'void')}*"


@dataclass(frozen=True, slots=True)
class Scalar:
    """An argument passed by value: uint32, int32, uint64, int64, float32 or float64."""

    name: str
    dtype: str

    @property
    def type(self) -> str:
        """As an xclbin names it: ``"uint"``."""
        return _TYPES[self.dtype]


@dataclass(frozen=True)
class KernelContract:
    """A kernel with HLS's control block (ap_ctrl_hs), for XRT and for OPAE boards.

    On XRT boards the image describes its kernels, and ``dev.kernel(contract)`` compares.  On OPAE boards the block
    lies at `base` of the AFU that has `afu_id`; below it, at ``base - 0x20``, is a 32-bit status: 0, or an error
    number of the last run (fpgahal's wrapper; HLS itself reports no errors).

    Attributes
    ----------
    name : str
        The kernel's name, letters, digits and ``_``.
    args : tuple of Array and Scalar
        Their registers: from 0x10 on; an array or 64-bit scalar takes 0xC bytes, a 32-bit scalar 8.
    afu_id : uuid.UUID, optional
        None: there is no such AFU; the kernel is for XRT boards only.
    summary : str
    base : int
        Byte offset of the control block in the AFU's registers; 0x40 on emulated boards.

    Raises
    ------
    ArgumentRangeError
        The description makes no sense.  (Is a ValueError.)
    """

    name: str
    args: tuple[Array | Scalar, ...]
    afu_id: uuid.UUID | None = None
    summary: str = ""
    base: int = 0x40

    def __post_init__(self) -> None:
        """Check it."""
        object.__setattr__(self, "args", tuple(self.args))
        if not (self.name.isascii() and self.name.isidentifier()):
            raise ArgumentRangeError(f"Kernel name {self.name!r}: expected letters, digits and _.")
        names = [arg.name for arg in self.args]
        scalars = {arg.name for arg in self.args if isinstance(arg, Scalar) and not arg.dtype.startswith("float")}
        for arg in self.args:
            where = f"Contract {self.name}, argument {arg.name!r}"
            if not arg.name.isidentifier() or names.count(arg.name) > 1:
                raise ArgumentRangeError(f"{where}: a name should be an identifier, and there once.")
            known = _SCALARS if isinstance(arg, Scalar) else (*_TYPES, "void")
            if arg.dtype not in known:
                raise ArgumentRangeError(f"{where}: dtype {arg.dtype!r}, expected one of {', '.join(known)}.")
            if isinstance(arg, Array):
                if arg.access not in ("r", "w", "rw"):
                    raise ArgumentRangeError(f"{where}: access {arg.access!r}, expected r, w or rw.")
                for extent in arg.shape:
                    if extent not in scalars if isinstance(extent, str) else extent < 0:
                        raise ArgumentRangeError(
                            f"{where}: extent {extent!r} of its shape is neither a size nor an integer argument."
                        )

    @cached_property
    def info(self) -> KernelInfo:
        """The same as a KernelInfo."""
        found, offset = [], _FIRST
        for index, arg in enumerate(self.args):
            array = isinstance(arg, Array)
            size = 8 if array or arg.dtype.endswith("64") else 4
            found.append(ArgInfo(index, arg.name, ArgKind.BUFFER if array else ArgKind.SCALAR, arg.type, size, offset))
            offset += size + 4
        return KernelInfo(self.name, tuple(found), (f"{self.name}_1",), register_bytes=0x1000)

    @cached_property
    def registers(self) -> RegisterContract:
        """How it is driven on an OPAE board.

        Raises
        ------
        ArgumentError
            It has no AFU id.
        """
        if self.afu_id is None:
            raise ArgumentError(
                f"Contract {self.name} has no afu_id: the kernel is for XRT boards only.",
                hint="Give the contract the id of the AFU that holds the kernel.",
            )
        start = []
        for arg in self.info.args:
            start.append(Write(self.base + arg.offset, arg.name))
            if arg.size == 8:
                start.append(Write(self.base + arg.offset + 4, arg.name, shift=32))
        return RegisterContract(
            self.name,
            self.afu_id,
            self.info.args,
            start=(*start, Write(self.base, _START)),
            done=Register(self.base, mask=_START | _IDLE, value=_IDLE),
            error=Register(self.base - _STATUS, value=0),
            dsm_bytes=0,
        )

    def difference(self, kernel: KernelInfo) -> str:
        """In which arguments an image's kernel differs from this; empty if it fits."""
        ours, theirs = [_describe(arg) for arg in self.info.args], [_describe(arg) for arg in kernel.args]
        found = [
            f"argument {index} is {theirs[index] if index < len(theirs) else 'missing'}, expected "
            f"{ours[index] if index < len(ours) else 'none'}"
            for index in range(max(len(ours), len(theirs)))
            if ours[index : index + 1] != theirs[index : index + 1]
        ]
        return "; ".join(found)


def _describe(arg: ArgInfo) -> str:
    number = {"float": "float ", "double": "float "}.get(arg.type, "") if arg.kind is ArgKind.SCALAR else ""
    return f"{number}{arg.kind.value} {arg.name!r} of {arg.size} bytes at {arg.offset:#x}"


# --- which contracts there are ------------------------------------------------------------------------------------

_added: list[KernelContract] = []  # by this process: Rack.accelerator


def add_contract(contract: KernelContract) -> None:
    """Let this process know a contract that no package offers."""
    _added.append(contract)


def remove_contract(contract: KernelContract) -> None:
    """Forget what :func:`add_contract` added."""
    _added.remove(contract)


@cache
def _points() -> tuple[EntryPoint, ...]:
    from importlib.metadata import entry_points  # slow to import, and most programs need none

    return tuple(entry_points(group=GROUP))


def _load(point: EntryPoint) -> Any:
    try:
        return point.load()
    except Exception as error:
        package = point.dist.name if point.dist else "a package"
        raise LibraryError(
            f"The accelerator {point.value} of {package} can't be loaded: {type(error).__name__}: {error}.",
            hint=f"Repair or uninstall {package}; its entry point in {GROUP} names a contract.",
        ) from error


def kernel_contracts() -> Iterator[KernelContract]:
    """Kernels that installed packages and this process offer; of the same name, the later one counts."""
    for point in _points():
        contract = _load(point)
        if isinstance(contract, KernelContract):
            yield contract
    yield from _added


def contracts_for(afu_id: uuid.UUID | None) -> tuple[RegisterContract, ...]:
    """Contracts for an AFU: those of this process, then those of installed packages."""
    if afu_id is None:
        return ()
    found: list[Any] = [contract for contract in reversed(_added) if contract.afu_id == afu_id]
    found += [_load(point) for point in _points() if point.name == str(afu_id)]
    return tuple(
        contract.registers if isinstance(contract, KernelContract) else contract
        for contract in found
        if isinstance(contract, RegisterContract | KernelContract)
    )


__all__ = [
    "GROUP",
    "Array",
    "KernelContract",
    "Register",
    "RegisterContract",
    "Scalar",
    "Word",
    "Write",
    "add_contract",
    "contracts_for",
    "kernel_contracts",
    "remove_contract",
]
