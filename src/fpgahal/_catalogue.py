# SPDX-License-Identifier: Apache-2.0
"""What can be built for emulated boards: kernels that have a contract, the accelerators of data/accelerators.toml, and
those of the user's files."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from fpgahal._contract import KernelContract, kernel_contracts
from fpgahal._errors import ArgumentRangeError, FpgaError, IncompatibleBitstreamError
from fpgahal._image import build_emulated
from fpgahal._types import ArgInfo, ArgKind, BankInfo, KernelInfo

ENVIRONMENT = "FPGAHAL_ACCELERATORS"
_OURS = Path(__file__).with_name("data") / "accelerators.toml"
_NAMESPACE = uuid.UUID("5b3c1f0e-7a44-5d0b-9c55-6670676168a1")  # of the ids of emulated xclbins
_REGISTER_BYTES = 0x1000
_KERNEL = re.compile(r"([A-Za-z0-9_]+)(?:\*([1-9][0-9]{0,2}))?")
_UNITS = re.compile(r"(.+)\*([1-9][0-9]{0,2})")
_SCALARS = {
    "bool": 1,
    "char": 1,
    "uchar": 1,
    "int8_t": 1,
    "uint8_t": 1,
    "short": 2,
    "ushort": 2,
    "int16_t": 2,
    "uint16_t": 2,
    "half": 2,
    "int": 4,
    "uint": 4,
    "int32_t": 4,
    "uint32_t": 4,
    "float": 4,
    "long": 8,
    "ulong": 8,
    "int64_t": 8,
    "uint64_t": 8,
    "size_t": 8,
    "double": 8,
}


class Board(Protocol):
    """What an image depends on."""

    @property
    def family(self) -> str:
        """``"opae"`` or ``"xrt"``."""

    @property
    def interface_id(self) -> uuid.UUID | None:
        """The shell's interface id; XRT's one-stage shells have none."""

    @property
    def vbnv(self) -> str:
        """The platform's name."""

    @property
    def timestamp(self) -> int:
        """Feature ROM time stamp, or 0."""

    @property
    def banks(self) -> Sequence[BankInfo]:
        """The memories, by index."""


@dataclass(frozen=True, slots=True)
class Accelerator:
    """One entry: an AFU id (OPAE), kernels (XRT), or both."""

    name: str
    summary: str = ""
    afu_id: uuid.UUID | None = None
    kernels: tuple[KernelInfo, ...] = ()

    @property
    def families(self) -> tuple[str, ...]:
        """Which boards it is for: of ``"opae"`` and ``"xrt"``."""
        return ("opae",) * (self.afu_id is not None) + ("xrt",) * bool(self.kernels)

    @classmethod
    def of(cls, contract: KernelContract) -> Accelerator:
        """The one that a contract describes."""
        return cls(contract.name, contract.summary, contract.afu_id, (contract.info,))


def accelerators() -> dict[str, Accelerator]:
    """Read the catalogue: the kernels that have a contract, ours, then the files that FPGAHAL_ACCELERATORS names.

    Of two entries with the same name, the later one counts.

    Raises
    ------
    ArgumentRangeError
        A file can't be read, is not TOML, or an entry makes no sense; the message names both.
    """
    import tomllib  # here, and the builders below: `import fpgahal` should not wait for parsers it may never need

    texts = []
    for path in (str(_OURS), *filter(None, os.environ.get(ENVIRONMENT, "").split(os.pathsep))):
        try:
            texts.append((path, Path(path).read_text("utf-8")))
        except (OSError, ValueError) as error:
            raise ArgumentRangeError(f"{path}: can't be read: {error}.", hint=f"Is {ENVIRONMENT} right?") from error
    entries: dict[str, tuple[str, Any]] = {}
    contracts = {contract.name: contract for contract in kernel_contracts()}
    kernels = {name: contract.info for name, contract in contracts.items()}
    for path, text in texts:
        try:
            document = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ArgumentRangeError(f"{path}: is not TOML: {error}.") from error
        for key in document.keys() - {"accelerators", "kernels"}:
            raise ArgumentRangeError(f"{path}: has [{key}], expected [accelerators.NAME] and [kernels.NAME].")
        for name, entry in _tables(path, document, "kernels"):
            kernels[name] = _kernel(path, name, entry)
        entries |= {name: (path, entry) for name, entry in _tables(path, document, "accelerators")}
    return {name: Accelerator.of(contract) for name, contract in contracts.items()} | {
        name: _accelerator(path, name, entry, kernels) for name, (path, entry) in entries.items()
    }


def build_image(afu: str | KernelContract, board: Board) -> bytes:
    """Make the image of an accelerator for an emulated board: the same bytes each time.

    Parameters
    ----------
    afu : str or KernelContract
        A name of the catalogue, ``"nlb3"`` or ``"vadd"``; ``"vadd*4"`` has four compute units of it (XRT).  Or the
        contract of a kernel that need not be in the catalogue.
    board : Board
        What it is for.

    Raises
    ------
    ArgumentRangeError
        No such accelerator; the message lists those that there are.
    IncompatibleBitstreamError
        The accelerator is for another kind of board.
    """
    entry = Accelerator.of(afu) if isinstance(afu, KernelContract) else _named(afu, board)
    afu = afu.name if isinstance(afu, KernelContract) else afu
    if board.family not in entry.families:
        raise IncompatibleBitstreamError(
            f"Accelerator {afu} is for {' and '.join(entry.families).upper()} boards, "
            f"{board.vbnv or 'this board'} is an {board.family.upper()} board."
        )
    if board.family == "opae" and entry.afu_id is not None:
        if board.interface_id is None:
            raise IncompatibleBitstreamError(f"{board.vbnv or 'This board'} has no interface id; a GBS needs one.")
        from fpgahal._gbs import build_gbs

        return build_gbs(
            entry.afu_id,
            board.interface_id,
            build_emulated(board.interface_id, entry.afu_id),
            name=afu,
            platform=board.vbnv or None,
        )
    from fpgahal._xclbin_build import build_xclbin

    banks, connected = _connect(board)
    kernels = [
        replace(
            kernel,
            args=tuple(replace(arg, banks=connected) if arg.kind is ArgKind.BUFFER else arg for arg in kernel.args),
        )
        for kernel in entry.kernels
    ]
    # Whatever changes the image changes its id: XRT takes equal ids for equal images.
    description = repr((kernels, banks, board.interface_id, board.vbnv, board.timestamp))
    ident = uuid.uuid5(_NAMESPACE, f"{afu}\n{description}")
    return build_xclbin(
        kernels,
        platform=board.vbnv,
        banks=banks,
        interface_id=board.interface_id,
        timestamp=board.timestamp,
        uuid=ident,
        payload=build_emulated(board.interface_id, ident),
        key_values={"accelerator": afu, "built_by": "fpgahal"},
    )


def _named(afu: str, board: Board) -> Accelerator:
    known = accelerators()
    units = _UNITS.fullmatch(afu) if board.family == "xrt" else None
    name, count = (units[1], int(units[2])) if units else (afu, 1)
    entry = known.get(name) or known.get(name.replace(".", "_"))
    if entry is None:
        fitting = ", ".join(sorted(name for name, entry in known.items() if board.family in entry.families))
        raise ArgumentRangeError(
            f"There is no accelerator {afu!r}; for this board there are: {fitting}.",
            hint=f"Name files with more of them in {ENVIRONMENT}.",
        )
    return replace(entry, kernels=tuple(_several(kernel, count) for kernel in entry.kernels)) if units else entry


def _several(kernel: KernelInfo, count: int) -> KernelInfo:
    units = tuple(f"{kernel.name}_{number}" for number in range(1, count + 1))
    return replace(kernel, compute_units=units)


def _connect(board: Board) -> tuple[list[BankInfo], tuple[int, ...]]:
    """Choose the banks for buffers: all HBM if there is any, else all DDR."""
    for family in ("hbm", "ddr"):
        indices = tuple(bank.index for bank in board.banks if bank.kind.startswith(family))
        if indices:
            return [replace(bank, used=bank.index in indices) for bank in board.banks], indices
    raise IncompatibleBitstreamError(f"{board.vbnv or 'This board'} has neither HBM nor DDR banks for buffers.")


def _tables(path: str, document: dict[str, Any], key: str) -> list[tuple[str, dict[str, Any]]]:
    tables = document.get(key, {})
    if not isinstance(tables, dict) or not all(isinstance(entry, dict) for entry in tables.values()):
        raise ArgumentRangeError(f"{path}: {key} should hold tables [{key}.NAME].")
    return list(tables.items())


def _accelerator(path: str, name: str, entry: dict[str, Any], kernels: dict[str, KernelInfo]) -> Accelerator:
    where = f"{path}: [accelerators.{name}]"
    for key in entry.keys() - {"summary", "afu_id", "kernels"}:
        raise ArgumentRangeError(f"{where} has the key {key!r}, expected summary, afu_id or kernels.")
    if ("afu_id" in entry) == ("kernels" in entry):
        raise ArgumentRangeError(f"{where} needs either afu_id (OPAE) or kernels (XRT).")
    summary = str(entry.get("summary", ""))
    if "afu_id" in entry:
        try:
            return Accelerator(name, summary, afu_id=uuid.UUID(entry["afu_id"]))
        except (ValueError, AttributeError, TypeError) as error:
            raise ArgumentRangeError(f"{where}: afu_id = {entry['afu_id']!r} is no UUID.") from error
    if not isinstance(entry["kernels"], list) or not entry["kernels"]:
        raise ArgumentRangeError(f"{where}: kernels should be a list of names.")
    found = []
    for text in entry["kernels"]:
        match = _KERNEL.fullmatch(str(text))
        if not match or match[1] not in kernels:
            raise ArgumentRangeError(f"{where} names the kernel {text!r}; there are: {', '.join(sorted(kernels))}.")
        found.append(_several(kernels[match[1]], int(match[2] or 1)))
    return Accelerator(name, summary, kernels=tuple(found))


def _kernel(path: str, name: str, entry: dict[str, Any]) -> KernelInfo:
    try:
        args = tuple(_argument(index, **values) for index, values in enumerate(entry["arguments"]))
    except FpgaError as error:
        raise ArgumentRangeError(f"{path}: [kernels.{name}]: {error.message}") from None
    except (KeyError, TypeError) as error:
        raise ArgumentRangeError(
            f"{path}: [kernels.{name}] should have arguments = [{{ name, type, offset, size }}, ...]: {error}."
        ) from None
    return KernelInfo(name, args, register_bytes=_REGISTER_BYTES)


def _argument(index: int, *, name: str, type: str, offset: int, size: int = 0) -> ArgInfo:
    buffer = type.endswith("*")
    size = size or (8 if buffer else _SCALARS.get(type, 0))
    if not size:
        raise ArgumentRangeError(f"argument {name} is of type {type!r}, whose size is not known: give size = BYTES.")
    return ArgInfo(index, name, ArgKind.BUFFER if buffer else ArgKind.SCALAR, type, size, offset)
