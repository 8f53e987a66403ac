# SPDX-License-Identifier: Apache-2.0
"""The catalogue of images: which accelerators each has, for which boards, and who may use it.

Three forms are read: our own (TOML, or the same as JSON), InAccel's ``bitstream.json``, and a folder with such files
anywhere below it (InAccel's repository).  Whatever is not understood is an error that names the file and the field:
an entry that is skipped in silence would be an accelerator that is silently missing.

Our own form::

    [images.xgboost-u250]
    board = "xilinx/u250"                                  # what nodes offer such boards as
    accelerators = { "com.inaccel.xgboost.exact" = 4 }     # replicas
    namespaces = ["*"]                                     # who may have it; absent: nobody
    node_selector = { "xilinx/u250" = "xdma_201830.2" }    # labels of the nodes whose shell it is for
    interface_id = "..."                                   # what the node loads: both, afu_id alone, or neither
    afu_id = "..."

    [images.other]
    bitstream = "repository/other/bitstream.json"          # board, accelerators and shell are read from there
    namespaces = ["team-a", "team-b"]

    [groups.f1-4xlarge]                                    # what the autoscaler can add
    instance_type = "f1.4xlarge"                           # or boards = { "xilinx/aws-vu9p-f1" = 2 }
    scheme = "inaccel"                                     # how the nodes name them; or "own"
    labels = { "xilinx/aws-vu9p-f1" = "dynamic-shell" }
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fpgahal import ArgumentRangeError, FpgaError
from fpgahal.k8s.autoscaler import boards_of_instance
from fpgahal.k8s.names import AFU_DIGITS, INTEL_DOMAIN, INTERFACE_DIGITS, canonical_id, check_resource, region_resource
from fpgahal.k8s.planner import Image, Offer

MAX_BYTES = 4 << 20  # of one file
MAX_ACCELERATORS = 20  # of one image: a device of a ResourceSlice has room for no more
MAX_REPLICAS = 256  # of one accelerator in one image; XRT knows 128 compute units

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?")
_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")  # of an accelerator; a label's value
_BUILD_DATE = re.compile(r"-\d{8}")  # InAccel's oldest files have F1's shell build in the board's name


class CatalogueError(FpgaError, ValueError):
    """A catalogue can't be used; the message names the file and the field."""


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Images, and the groups of nodes that can be added; both sorted by name."""

    images: tuple[Image, ...] = ()
    groups: tuple[Offer, ...] = ()

    def permitted(self, namespace: str) -> tuple[Image, ...]:
        """Give the images that pods of a namespace may have."""
        return tuple(image for image in self.images if image.permitted(namespace))


class CatalogueFile:
    """A catalogue whose file may be exchanged, as a mounted ConfigMap's is.

    Attributes
    ----------
    catalogue : Catalogue
        As it was when it could last be used.

    Raises
    ------
    CatalogueError
        It can't be used at first.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._stamp = path, _stamp(path)
        self.catalogue = load(path)

    def refresh(self) -> bool:
        """Read the file if it is another one; tell whether it was.

        Raises
        ------
        CatalogueError
            It can't be used: the former one stays.  This is said once for each exchange.
        """
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        self.catalogue = load(self._path)
        return True


def load(path: str | Path) -> Catalogue:
    """Read a catalogue: a file of our own form, a ``bitstream.json``, or a folder of these.

    Raises
    ------
    CatalogueError
        It can't be read, or an entry is wrong.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(path.rglob("bitstream.json"))
        if not files:
            raise CatalogueError(f"{path}: there is no bitstream.json in it, or below.")
        return _catalogue(path, [_bitstream(file, _json(file)) for file in files], [])
    document = _toml(path) if path.suffix == ".toml" else _json(path)
    if "bitstreamId" in document:
        return _catalogue(path, [_bitstream(path, document)], [])
    _known(path, document, {"images", "groups"})
    images = [
        _image(f"{path}: images.{name}", name, entry, path.parent) for name, entry in _of(path, document, "images")
    ]
    groups = [_group(f"{path}: groups.{name}", name, entry) for name, entry in _of(path, document, "groups")]
    return _catalogue(path, images, groups)


def _catalogue(path: Path, images: Iterable[Image], groups: Iterable[Offer]) -> Catalogue:
    found = sorted(images, key=lambda image: image.name)
    for image in found:
        if len(image.accelerators) > MAX_ACCELERATORS:
            raise CatalogueError(f"{path}: the image {image.name} has more than {MAX_ACCELERATORS} accelerators.")
    _once(path, "name", [(image.name, image.name) for image in found])
    _once(path, "ids", [(f"{image.interface_id}/{image.afu_id}", image.name) for image in found if image.afu_id])
    return Catalogue(tuple(found), tuple(sorted(groups, key=lambda group: group.name)))


def _once(path: Path, what: str, named: Iterable[tuple[str, str]]) -> None:
    """Refuse what two images have: a pod's variables, for one, must say which image is meant."""
    seen: dict[str, str] = {}
    for key, name in named:
        if key in seen:
            raise CatalogueError(f"{path}: the images {seen[key]} and {name} have the same {what}: {key}.")
        seen[key] = name


# --- our own form ---------------------------------------------------------------------------------------------


def _image(where: str, name: str, entry: Mapping[str, Any], folder: Path) -> Image:
    _known(
        where,
        entry,
        {"board", "accelerators", "namespaces", "node_selector", "interface_id", "afu_id", "bitstream"},
    )
    if not _LABEL.fullmatch(name):
        raise CatalogueError(f"{where}: a name has at most 40 of a-z, 0-9 and -, as in a DNS label.")
    if "bitstream" in entry:
        if "accelerators" in entry:
            raise CatalogueError(f"{where}: has accelerators, and a bitstream that says them: remove one of them.")
        file = folder / _text(where, entry, "bitstream")
        given = _text(where, entry, "board") if "board" in entry else ""
        image = replace(_bitstream(file, _json(file), given), name=name)
    else:
        accelerators = {}
        for accelerator, count in _table(where, entry, "accelerators").items():
            accelerators[_accelerator(where, accelerator)] = _count(f"{where}.accelerators", accelerator, count)
        if not accelerators:
            raise CatalogueError(f"{where}: an image has at least one accelerator.")
        image = Image(name, _resource(where, _text(where, entry, "board")), accelerators)
    namespaces = entry.get("namespaces", [])
    if not isinstance(namespaces, list) or not all(isinstance(item, str) and item for item in namespaces):
        raise CatalogueError(f'{where}.namespaces: a list of namespaces was expected, or ["*"].')
    interface, afu = _ids(where, entry)
    image = replace(
        image,
        namespaces=tuple(namespaces),
        node_selector=_labels(where, entry, "node_selector") if "node_selector" in entry else image.node_selector,
        interface_id=interface,
        afu_id=afu,
    )
    _check_intel(where, image)
    return image


def _check_intel(where: str, image: Image) -> None:
    """Intel's names say what is on a board, or which shell: only the latter can be the board of an image."""
    region = f"{INTEL_DOMAIN}/{region_resource(image.interface_id)}" if image.interface_id else ""
    if image.board.startswith(f"{INTEL_DOMAIN}/") and image.board != region:
        raise CatalogueError(
            f"{where}: the board {image.board!r} of Intel's scheme must be {INTEL_DOMAIN}/region-INTERFACE_ID, with "
            "the interface_id and the afu_id of the image."
        )


def _ids(where: str, entry: Mapping[str, Any]) -> tuple[str, str]:
    def found(key: str, digits: tuple[int, ...], what: str) -> str:
        try:
            return canonical_id(_text(where, entry, key), digits, what) if key in entry else ""
        except ArgumentRangeError as error:
            raise CatalogueError(f"{where}.{key}: {error.message}") from None

    interface, afu = found("interface_id", INTERFACE_DIGITS, "interface id"), found("afu_id", AFU_DIGITS, "AFU id")
    if interface and not afu:
        raise CatalogueError(f"{where}: an interface_id without an afu_id says nothing of what is to be loaded.")
    return interface, afu


def _group(where: str, name: str, entry: Mapping[str, Any]) -> Offer:
    _known(where, entry, {"instance_type", "scheme", "boards", "labels"})
    labels = _labels(where, entry, "labels") if "labels" in entry else {}
    if ("instance_type" in entry) == ("boards" in entry) or {"boards", "scheme"} <= entry.keys():
        raise CatalogueError(f"{where}: either instance_type (and scheme) or boards was expected.")
    if "boards" in entry:
        boards = {
            _resource(where, board): _count(f"{where}.boards", board, count)
            for board, count in _table(where, entry, "boards").items()
        }
        return Offer(name, boards, labels, new=True)
    kind = _text(where, entry, "instance_type")
    try:
        boards = boards_of_instance(kind, _text(where, entry, "scheme") if "scheme" in entry else "inaccel")
    except ArgumentRangeError as error:
        raise CatalogueError(f"{where}: {error.message}", hint=error.hint) from None
    return Offer(name, boards, {"node.kubernetes.io/instance-type": kind, **labels}, new=True)


# --- InAccel's form ---------------------------------------------------------------------------------------------


def _bitstream(path: Path, document: Mapping[str, Any], board: str = "") -> Image:
    """Read a bitstream.json: replicas are the names that share a kernelId (InAccel's file format reference)."""
    where = str(path)
    ident, version = _text(where, document, "bitstreamId"), _text(where, document, "version")
    shell = ""
    if not board:
        if "platform" not in document:
            raise CatalogueError(f"{where}: has no platform, so that its board is not known.", hint="Give it one.")
        platform = _table(where, document, "platform")
        vendor, name, shell = (_text(f"{where}: platform", platform, key) for key in ("vendor", "name", "version"))
        board = f"{vendor}/{_BUILD_DATE.sub('', name)}"
    kernels = document.get("kernels")
    if not isinstance(kernels, list) or not kernels:
        raise CatalogueError(f"{where}: kernels: a list of kernels was expected.")
    accelerators: Counter[str] = Counter()
    for index, kernel in enumerate(kernels):
        at = f"{where}: kernels[{index}]"
        if not isinstance(kernel, dict):
            raise CatalogueError(f"{at}: an object was expected.")
        names = kernel.get("name")
        units = [names] if isinstance(names, str) else names
        if not isinstance(units, list) or not units or not all(isinstance(unit, str) and unit for unit in units):
            raise CatalogueError(f"{at}: name: a name, or a list of names of compute units, was expected.")
        accelerators[_accelerator(at, f"{ident}.{_text(at, kernel, 'kernelId')}")] += len(units)
    for accelerator, count in accelerators.items():
        _count(where, accelerator, count)
    resource = _resource(where, board)
    return Image(
        _slug(f"{ident}-{version}-{board.partition('/')[2]}-{shell}"),
        resource,
        dict(accelerators),
        node_selector={resource: _label_value(where, shell)} if shell else {},
    )


def _slug(text: str) -> str:
    """Make a DNS label; what is too long ends in a hash instead."""
    found = re.sub("[^a-z0-9]+", "-", text.lower()).strip("-")
    return found if len(found) <= 40 else f"{found[:31].rstrip('-')}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


# --- fields -------------------------------------------------------------------------------------------------------


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise CatalogueError(f"{path}: can't be read: {error.strerror}.") from error
    if len(data) > MAX_BYTES:
        raise CatalogueError(f"{path}: is larger than {MAX_BYTES >> 20} MiB.")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise CatalogueError(f"{path}: is not UTF-8: byte {error.start}.") from None


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(_read(path))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise CatalogueError(f"{path}: is not TOML: {error}.") from None


def _json(path: Path) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
            raise ValueError(f"the key {twice!r} appears twice")  # parsers differ in which one counts
        return found

    try:
        document = json.loads(_read(path), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        if isinstance(error, FpgaError):
            raise
        raise CatalogueError(f"{path}: is not JSON: {error}.") from None
    if not isinstance(document, dict):
        raise CatalogueError(f"{path}: a JSON object was expected.")
    return document


def _of(path: Path, document: Mapping[str, Any], key: str) -> list[tuple[str, dict[str, Any]]]:
    tables = document.get(key, {})
    if not isinstance(tables, dict) or not all(isinstance(entry, dict) for entry in tables.values()):
        raise CatalogueError(f"{path}: {key}: tables [{key}.NAME] were expected.")
    return list(tables.items())


def _known(where: object, entry: Mapping[str, Any], keys: set[str]) -> None:
    unknown = sorted(entry.keys() - keys)
    if unknown:
        raise CatalogueError(f"{where}: has {unknown[0]!r}, which means nothing; expected {', '.join(sorted(keys))}.")


def _text(where: str, entry: Mapping[str, Any], key: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value:
        raise CatalogueError(f"{where}: {key} is {'missing' if value is None else repr(value)}: a text was expected.")
    return value


def _table(where: str, entry: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = entry.get(key)
    if not isinstance(value, dict):
        raise CatalogueError(f"{where}: {key} is {'missing' if value is None else repr(value)}: a table was expected.")
    return value


def _count(where: str, name: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_REPLICAS:
        raise CatalogueError(f"{where}: {name} is {value!r}: a number from 1 to {MAX_REPLICAS} was expected.")
    return value


def _accelerator(where: str, name: str) -> str:
    if not _NAME.fullmatch(name):
        raise CatalogueError(
            f"{where}: the accelerator {name!r} can't be asked for: at most 63 of A-Z, a-z, 0-9, '-', '_' and '.', "
            "the first and last a letter or digit."
        )
    return name


def _resource(where: str, name: str) -> str:
    try:
        check_resource(name)
    except ArgumentRangeError as error:
        raise CatalogueError(f"{where}: board: {error.message}", hint="Try xilinx/u250, or fpgahal.dev/u250.") from None
    domain = name.partition("/")[0]
    if domain == "accel.fpgahal.dev" or f".{domain}".endswith(".kubernetes.io"):
        raise CatalogueError(f"{where}: the board {name!r} is of a domain that no board can be of.")
    return name


def _labels(where: str, entry: Mapping[str, Any], key: str) -> dict[str, str]:
    found = {}
    for name, value in _table(where, entry, key).items():
        if not isinstance(value, str):
            raise CatalogueError(f"{where}.{key}: {name!r} = {value!r}: a text was expected.")
        try:
            check_resource(name if "/" in name else f"without.domain/{name}")  # labels are named as resources are
        except ArgumentRangeError:
            raise CatalogueError(f"{where}.{key}: {name!r} is no label.") from None
        found[name] = _label_value(f"{where}.{key}", value)
    return found


def _label_value(where: str, value: str) -> str:
    if not _NAME.fullmatch(value):
        raise CatalogueError(
            f"{where}: {value!r} can't be a label's value: at most 63 of A-Z, a-z, 0-9, '-', '_', '.'."
        )
    return value
