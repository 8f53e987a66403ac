# SPDX-License-Identifier: Apache-2.0
"""Bitstream repositories as InAccel's Coral has them: folders with an image, and a ``bitstream.json`` that says what is
in it.  Each kernel becomes an accelerator ``bitstreamId.kernelId``; those with the same name, of several boards or in
several copies, become one.

The format is that of https://docs.inaccel.com/reference/bitstream; what that leaves out, a manager needs for safety:
how large arrays are.  It comes from the contract of an installed package with the same kernel, or from an extra key
``shape`` of an argument: ``"shape": ["size"]``, names of integer arguments, or numbers.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from fpgahal import (
    ArgInfo,
    ArgKind,
    ArgumentRangeError,
    Bitstream,
    BitstreamError,
    Device,
    DeviceInfo,
    FpgaError,
    IncompatibleBitstreamError,
    Kernel,
    KernelContract,
    KernelInfo,
    KernelNotFoundError,
    Scalar,
)
from fpgahal import Array as ArrayArgument
from fpgahal.k8s.schemes import inaccel
from fpgahal.manager.accelerators import Accelerator, Plain, contracts
from fpgahal.manager.memory import Array

_LOG = logging.getLogger(__name__)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,63}")  # what goes over the wire
_DTYPES = {
    "char": "int8",
    "signed char": "int8",
    "unsigned char": "uint8",
    "uchar": "uint8",
    "bool": "uint8",
    "short": "int16",
    "unsigned short": "uint16",
    "ushort": "uint16",
    "int": "int32",
    "unsigned": "uint32",
    "unsigned int": "uint32",
    "uint": "uint32",
    "long": "int64",
    "unsigned long": "uint64",
    "ulong": "uint64",
    "size_t": "uint64",
    "half": "float16",
    "float": "float32",
    "double": "float64",
} | {f"{kind}{bits}_t": f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)}
_SCALARS = {"uint32", "int32", "uint64", "int64", "float32", "float64"}
_ACCESS = {"r", "w", "rw"}
_HEX = re.compile(r"[0-9a-f]{32}")


# --- sizes that no contract can say -----------------------------------------------------------------------------------


def _exact(numbers: Mapping[str, int | float]) -> dict[str, int]:
    """Bytes of the arrays of com.inaccel.xgboost.exact v0, which come in beats of 8 (best_splits: of 2)."""
    rows, features, nodes, batch = (max(0, int(value)) for value in list(numbers.values())[:4])
    return {
        "gpairs": -(-rows // 8) * 64,
        "node_idxs": -(-rows // 8) * 16,
        "entries": -(-features // 8) * batch * 64,
        "fvalid": -(-features // 8),
        "node_stats": -(-nodes // 8) * 64,
        "node_root_gain": -(-nodes // 8) * 32,
        "best_splits": -(-nodes // 2) * 64,
    }


Sizes = Callable[[Mapping[str, int | float]], dict[str, int]]
#: By the contract's name; what they give is in the order of its arrays.
_SIZES: dict[str, Sizes] = {"com_inaccel_xgboost_exact": _exact}


# --- what is in a folder ----------------------------------------------------------------------------------------------


class Place:
    """A value of a bitstream.json, and where it stands: what is wrong there is an error that says so."""

    def __init__(self, value: Any, where: str) -> None:
        self.value = value
        self.where = where

    def wrong(self, expected: str) -> ArgumentRangeError:
        """Make the error."""
        return ArgumentRangeError(f"{self.where} is {json.dumps(self.value)[:80]}, expected {expected}.")

    def text(self, key: str, default: str | None = None) -> str:
        """A text of an object."""
        found = self.get(key, default)
        if not isinstance(found.value, str) or (not found.value and default is None):
            raise found.wrong("a text")
        return found.value

    def get(self, key: str, default: Any = None) -> Place:
        """A value of an object; without a default, it has to be there."""
        if not isinstance(self.value, dict):
            raise self.wrong("an object { }")
        if key not in self.value and default is None:
            raise ArgumentRangeError(f"{self.where} has no {key!r}; it has {', '.join(self.value) or 'nothing'}.")
        return Place(self.value.get(key, default), f"{self.where}.{key}")

    def items(self) -> Iterator[Place]:
        """The values of a list, at least one."""
        if not isinstance(self.value, list) or not self.value:
            raise self.wrong("a list [ ] that is not empty")
        return (Place(value, f"{self.where}[{at}]") for at, value in enumerate(self.value))


class Kind(NamedTuple):
    """An image, as far as it is kept: the file is read again when a board wants it."""

    path: Path
    image: Bitstream  # without its data
    vendor: str
    board: str
    version: str

    def unfit(self, info: DeviceInfo) -> str:
        """Why bitstream.json says that it is not for a board; empty if it is."""
        ours, theirs = f"{self.vendor}/{self.board}", inaccel.resource(info)
        dated = re.sub(r"-[0-9]{8}$", "", ours)
        if theirs not in (ours, dated):
            return f"is for {ours}, this is {theirs or 'another board'}"
        if info.driver != "xrt":
            fits = not _HEX.fullmatch(self.version) or self.version == inaccel.shell_label(info)
        else:
            shell = self.version.replace(".", "_")
            fits = self.version == inaccel.shell_label(info) or info.platform.endswith(f"_{shell}")
        return "" if fits else f"is for shell {self.version}, this board has {inaccel.shell_label(info)}"


class Part(NamedTuple):
    """A kernel of an image, under the accelerator's argument names."""

    kind: Kind
    kernel: str
    original: KernelContract | None  # None: by name
    contract: KernelContract
    sizes: Sizes | None


class Packed(Plain):
    """An accelerator of a repository.

    Parameters
    ----------
    name : str
    parts : list of Part
        Images that have it, for different boards; all with the same arguments.
    """

    def __init__(self, name: str, parts: list[Part]) -> None:
        first = parts[0]
        self._unsized = first.sizes is None and not all(
            arg.shape for arg in first.contract.args if isinstance(arg, ArrayArgument)
        )
        self._sizes = first.sizes
        args = (
            replace(arg, shape=arg.shape or (0,)) if isinstance(arg, ArrayArgument) else arg
            for arg in first.contract.args
        )
        super().__init__(replace(first.contract, args=tuple(args)))
        self.name = name
        self._parts = parts

    def _needed(self, arg: ArrayArgument, value: Array, numbers: Mapping[str, int | float]) -> int:
        if self._sizes is not None:
            names = [one.name for one in self._arrays]
            return list(self._sizes(numbers).values())[names.index(arg.name)]
        return value.nbytes if self._unsized else super()._needed(arg, value, numbers)

    def outputs(self, arguments: Any) -> Any:
        """Describe the outputs, if it is known how large they are; else they have to be given."""
        return () if self._unsized or self._sizes is not None else super().outputs(arguments)

    def _told(self, name: str, arguments: Any) -> int | None:
        return None if self._unsized or self._sizes is not None else super()._told(name, arguments)

    def image(self, info: DeviceInfo) -> Bitstream:
        """The image for a board, read and checked now.

        Raises
        ------
        KernelNotFoundError
            There is none; the message says why not, of each.
        """
        seen = []
        for part in self._parts:
            kind = part.kind
            try:
                why = kind.unfit(info)
                if not why:
                    image = Bitstream.load(kind.path)
                    image.check_compatible(info)
                    if image.afu_id == kind.image.afu_id:
                        return image
                    why = f"has changed: it is {image.afu_id} now, and was {kind.image.afu_id}"
            except (IncompatibleBitstreamError, BitstreamError, OSError) as error:
                why = str(getattr(error, "message", error))
            seen.append(f"{kind.path}: {why}")
        raise KernelNotFoundError(f"{info.address}: no image with {self.name}: {'; '.join(seen)}.")

    def kernel(self, dev: Device) -> Kernel:
        """The kernel of the loaded image."""
        loaded = dev.afu_id
        part = next(part for part in self._parts if part.kind.image.afu_id == loaded)
        return dev.kernel(part.kernel if part.original is None else part.original)


def read(folder: Path, *, unsized: bool = False) -> dict[str, Accelerator]:
    """Find the accelerators of a repository.

    Parameters
    ----------
    folder : Path
        Searched with all below it for ``bitstream.json``.
    unsized : bool
        Take kernels, too, of which nobody says how large their arrays are: they may read and write past the end of
        them, in what belongs to others.

    Raises
    ------
    ArgumentRangeError
        The folder can't be read, or a bitstream.json is broken; the message says where.
    """
    if not folder.is_dir():
        raise ArgumentRangeError(f"{folder} is no folder.", hint="Name one with bitstream.json files in or below it.")
    known = list(contracts())
    found: dict[str, list[Part]] = {}
    for path in sorted(folder.rglob("bitstream.json")):
        for name, part in _package(path, known):
            sized = part.sizes or all(arg.shape for arg in part.contract.args if isinstance(arg, ArrayArgument))
            if not sized and not unsized:
                _LOG.warning(
                    "not offered: nobody says how large its arrays are",
                    extra={"accelerator": name, "file": str(path), "hint": 'add "shape" to them, or use --unsized'},
                )
                continue
            others = found.setdefault(name, [])
            if others and others[0].contract.args != part.contract.args:
                raise ArgumentRangeError(f"{path}: {name} has other arguments than in {others[0].kind.path.parent}.")
            if all(other.kind.path != part.kind.path for other in others):  # else another compute unit of the image
                others.append(part)
    return {name: Packed(name, parts) for name, parts in found.items()}


def _package(path: Path, known: list[KernelContract]) -> Iterator[tuple[str, Part]]:
    """The accelerators of a bitstream.json."""
    try:
        top = Place(json.loads(path.read_text()), str(path))
    except json.JSONDecodeError as error:
        raise ArgumentRangeError(f"{path}:{error.lineno}:{error.colno}: is no JSON: {error.msg}.") from error
    except (OSError, ValueError) as error:
        raise ArgumentRangeError(f"{path}: can't be read: {error}.") from error
    file, package, platform = top.text("name"), top.text("bitstreamId"), top.get("platform")
    if Path(file).name != file:
        raise top.get("name").wrong("the name of a file beside it")
    kernels = list(top.get("kernels").items())
    vendor, board, version = platform.text("vendor"), platform.text("name"), platform.text("version")
    try:
        image = Bitstream.load(path.parent / file)
    except FileNotFoundError as error:
        raise top.get("name").wrong("an image that is there") from error
    except BitstreamError as error:
        _LOG.warning("not offered: no image that can be loaded", extra={"file": str(path), "error": str(error)})
        return
    kind = Kind(path.parent / file, replace(image, data=b""), vendor, board, version)
    for place in kernels:
        name = f"{package}.{place.text('kernelId')}"
        if not _NAME.fullmatch(name):
            raise place.get("kernelId").wrong(f"letters, digits, '_' and '.': {name!r} is to be a name")
        part = _part(kind, place, known)
        if part is not None:
            yield name, part


def _part(kind: Kind, place: Place, known: list[KernelContract]) -> Part | None:
    """A kernel: its own contract if a package has it, else what the image and bitstream.json say."""
    names = place.get("name")
    units = [names] if isinstance(names.value, str) else list(names.items())
    arguments = list(place.get("arguments").items())
    if kind.image.kernels:
        kernel = _find(kind.image, units[0])
        for unit in units[1:]:
            _find(kind.image, unit)
        fitting = [one for one in known if one.name == kernel.name and not one.difference(kernel)]
    else:
        kernel = None
        fitting = [one for one in known if one.afu_id == kind.image.afu_id]
    if not fitting and kernel is None:
        _LOG.warning(
            "not offered: no contract says how this AFU is driven",
            extra={"file": str(kind.path), "afu_id": str(kind.image.afu_id)},
        )
        return None
    original = fitting[0] if fitting else None
    model = original.info if original is not None else kernel
    assert model is not None
    if len(arguments) != len(model.args):
        raise place.get("arguments").wrong(f"{len(model.args)} arguments, as the kernel has")
    pairs = list(zip(arguments, model.args, strict=True))
    labels = {arg.name: argument.text("name", arg.name) for argument, arg in pairs}
    described = [_argument(argument, labels[arg.name], arg) for argument, arg in pairs]
    try:
        if original is not None:
            for at, (ours, theirs) in enumerate(zip(original.args, described, strict=True)):
                if theirs.dtype not in ("void", ours.dtype) and ours.dtype != "void":
                    raise arguments[at].get("type").wrong(f"{ours.dtype}: the kernel's contract says so")
            described = [_renamed(arg, labels) for arg in original.args]
        contract = KernelContract(model.name, tuple(described), summary=original.summary if original else "")
    except FpgaError as error:
        raise ArgumentRangeError(f"{place.where}: {error.message}") from error
    return Part(kind, model.name, original, contract, _SIZES.get(model.name) if original else None)


def _find(image: Bitstream, unit: Place) -> KernelInfo:
    for kernel in image.kernels:
        if unit.value == kernel.name or unit.value in kernel.compute_units:
            return kernel
    there = ", ".join(f"{kernel.name} ({', '.join(kernel.compute_units)})" for kernel in image.kernels)
    raise unit.wrong(f"a kernel of {image.name}, which has {there}")


def _renamed(arg: ArrayArgument | Scalar, labels: Mapping[str, str]) -> ArrayArgument | Scalar:
    if isinstance(arg, Scalar):
        return replace(arg, name=labels[arg.name])
    shape = tuple(labels[extent] if isinstance(extent, str) else extent for extent in arg.shape)
    return replace(arg, name=labels[arg.name], shape=shape)


def _argument(place: Place, name: str, image: ArgInfo) -> ArrayArgument | Scalar:
    """An argument as bitstream.json has it; the image's type counts where that names none that C knows."""
    array = image.kind is ArgKind.BUFFER
    text = " ".join(place.text("type").replace("const", " ").replace("*", " * ").split())
    if text.endswith("*") != array:
        raise place.get("type").wrong("an array, like float*" if array else "a number, like int")
    if not array:
        dtype = _DTYPES.get(text) or _DTYPES.get(image.type, "")
        if dtype not in _SCALARS:
            raise place.get("type").wrong(f"one of int, unsigned, long, float, ... (the image has {image.type})")
        return Scalar(name, dtype)
    access = place.text("access", "rw")
    if access not in _ACCESS:
        raise place.get("access").wrong("r, w or rw")
    shape = place.get("shape", [])
    if shape.value != [] and not all(isinstance(extent.value, int | str) for extent in shape.items()):
        raise shape.wrong("a list of numbers and names of arguments")
    return ArrayArgument(name, _DTYPES.get(text[:-1].strip(), "void"), tuple(shape.value), access)


__all__ = ["Packed", "read"]
