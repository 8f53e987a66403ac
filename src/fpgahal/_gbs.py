# SPDX-License-Identifier: Apache-2.0
"""GBS, the file that OPAE programs: magic, JSON metadata, raw bitstream (RBF).

Parsed and checked to the letter, because the vendor's library trusts it: it reads past the end of a file
whose JSON length lies, copies names into fixed buffers, and takes an empty RBF.
"""

from __future__ import annotations

import json
import math
import re
import struct
import uuid
from collections.abc import Mapping
from typing import Any

from fpgahal._bitstream import GBS_MAGIC, Bitstream
from fpgahal._image import check_emulated
from fpgahal._reader import NULL_UUID, Reader, shown
from fpgahal._strict_json import load_object

MAGIC_NUMBER = 488605312
_LENGTH = struct.Struct("<I")
_JSON_AT = 20
_MAX_JSON = 8191  # libxfpga refuses 8192 and more
_MAX_NAME = 511  # libxfpga copies a cluster's name into 512 bytes
_MAX_MHZ = 10_000
_VERSIONS = (1, 640, 650)  # 640 and 650 are aliases of 1
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_AUTO = re.compile(r"auto(-[0-9]+(\.[0-9]+)?)?")
_CLOCKS = ("clock-frequency-high", "clock-frequency-low")


def parse_gbs(data: bytes, name: str) -> Bitstream:
    """Check a GBS and say what is in it.

    Raises
    ------
    BitstreamError
        It is not sound.
    """
    file = Reader(data, name)
    (length,) = file.unpack(_LENGTH, len(GBS_MAGIC), "the length of the JSON text")
    if not 0 < length <= _MAX_JSON:
        raise file.error(f"the JSON length at offset 16 is {length}, expected 1..{_MAX_JSON}")
    payload_at = _JSON_AT + length
    if payload_at > len(data):
        raise file.error(
            f"the JSON text should end at byte {payload_at}, but the file ends at {len(data)}",
            hint="The file was cut: copy it again.",
        )
    if payload_at == len(data):
        raise file.error("the RBF is empty: the file ends right after the JSON text")

    part = file.sub(_JSON_AT, length, "metadata")
    metadata = _Fields(part, load_object(part), "")
    if metadata.integer("version") not in _VERSIONS:
        raise part.error(f"version is {shown(metadata.values['version'])}, expected 1")
    platform = metadata.text("platform-name") if "platform-name" in metadata.values else ""
    image = _Fields(part, metadata.mapping("afu-image"), "afu-image.")
    if image.integer("magic-no") != MAGIC_NUMBER:
        raise part.error(f"afu-image.magic-no is {shown(image.values['magic-no'])}, expected {MAGIC_NUMBER}")
    interface_id = image.uuid("interface-uuid")
    if "power" in image.values:
        image.number("power", 1e6)
    if "afu-top-interface" in image.values:
        _check_interface(_Fields(part, image.mapping("afu-top-interface"), "afu-image.afu-top-interface."))
    afu_id = _clusters(image)
    check_emulated(file.sub(payload_at, len(data) - payload_at, "RBF"), afu_id, interface_id)
    return Bitstream(
        kind="gbs",
        data=data,
        name=name,
        afu_id=afu_id,
        interface_id=interface_id,
        platform=platform,
        clocks=_clocks(image),
        metadata=metadata.values,
        payload_span=(payload_at, len(data) - payload_at),
    )


class _Fields:
    """A JSON object whose members are asked for by name and type; `where` is its path, for messages."""

    def __init__(self, part: Reader, values: Mapping[str, Any], where: str) -> None:
        self.part = part
        self.values = values
        self.where = where

    def _get(self, key: str, wanted: str, kinds: type | tuple[type, ...]) -> Any:
        if key not in self.values:
            raise self.part.error(f"{self.where}{key} is missing; expected {wanted}")
        value = self.values[key]
        if isinstance(value, bool) or not isinstance(value, kinds):  # bool is an int in Python, not in JSON
            raise self.part.error(f"{self.where}{key} is {shown(value)}, expected {wanted}")
        return value

    def integer(self, key: str) -> int:
        value: int = self._get(key, "an integer", int)
        return value

    def number(self, key: str, largest: float) -> float:
        value = self._get(key, "a number", (int, float))
        if isinstance(value, float) and not math.isfinite(value):
            raise self.part.error(f"{self.where}{key} is too large for a number")
        if not 0 <= value <= largest:
            raise self.part.error(f"{self.where}{key} is {shown(value)}, expected 0..{largest:g}")
        return float(value)

    def text(self, key: str) -> str:
        value: str = self._get(key, "a text", str)
        if not value.isprintable():  # a NUL would end the vendor's copy early
            raise self.part.error(f"{self.where}{key} is {shown(value)}, expected printable characters")
        if len(value.encode()) > _MAX_NAME:
            raise self.part.error(f"{self.where}{key} takes {len(value.encode())} bytes, at most {_MAX_NAME} are safe")
        return value

    def uuid(self, key: str) -> uuid.UUID:
        value = self._get(key, "a UUID as text", str)
        if not _UUID.fullmatch(value):
            raise self.part.error(
                f"{self.where}{key} is {shown(value)}, expected a UUID such as d8424dc4-a4a3-c413-f89e-433683f9040b"
            )
        found = uuid.UUID(value)
        if found == NULL_UUID:
            raise self.part.error(f"{self.where}{key} is the null UUID, which names nothing")
        return found

    def mapping(self, key: str) -> Mapping[str, Any]:
        value: Mapping[str, Any] = self._get(key, "an object", Mapping)
        return value

    def array(self, key: str) -> tuple[Any, ...]:
        value: tuple[Any, ...] = self._get(key, "an array", tuple)
        return value


def _clusters(image: _Fields) -> uuid.UUID:
    """Check accelerator-clusters and return the first one's id."""
    clusters = image.array("accelerator-clusters")
    if not clusters:
        raise image.part.error("afu-image.accelerator-clusters is empty: no accelerator is named")
    ids = []
    for index, values in enumerate(clusters):
        where = f"afu-image.accelerator-clusters[{index}]"
        if not isinstance(values, Mapping):
            raise image.part.error(f"{where} is {shown(values)}, expected an object")
        cluster = _Fields(image.part, values, f"{where}.")
        cluster.text("name")
        contexts = cluster.integer("total-contexts")
        if not 0 <= contexts < 1 << 31:
            raise image.part.error(f"{where}.total-contexts is {shown(contexts)}, expected 0..2147483647")
        ids.append(cluster.uuid("accelerator-type-uuid"))
    return ids[0]


def _clocks(image: _Fields) -> tuple[tuple[str, float], ...]:
    """Return the user clock's two frequencies, MHz; the packager's "auto" counts as not given."""
    clocks = []
    for key in _CLOCKS:
        value = image.values.get(key, "auto")
        if not isinstance(value, str):
            clocks.append((key.rpartition("-")[2], image.number(key, _MAX_MHZ)))
        elif not _AUTO.fullmatch(value):
            raise image.part.error(f'afu-image.{key} is {shown(value)}, expected MHz, "auto" or "auto-NNN"')
    return tuple(clocks)


def _check_interface(top: _Fields) -> None:
    if "class" in top.values:
        top.text("class")
    if "module-ports" in top.values:
        for index, port in enumerate(top.array("module-ports")):
            if not isinstance(port, Mapping):
                raise top.part.error(f"{top.where}module-ports[{index}] is {shown(port)}, expected an object")


def build_gbs(
    afu_id: uuid.UUID | str,
    interface_id: uuid.UUID | str,
    payload: bytes,
    *,
    name: str = "afu",
    platform: str | None = None,
    clock_mhz: float | None = None,
    power: float | None = None,
) -> bytes:
    """Make a GBS.

    Parameters
    ----------
    afu_id, interface_id : uuid.UUID or str
        The accelerator's id, and the PR interface id of the shell it was built for.
    payload : bytes
        The RBF.
    name : str
        The cluster's name.
    platform : str, optional
        platform-name.
    clock_mhz : float, optional
        The user clock; its low half is written as well.
    power : float, optional
        Watts.

    Raises
    ------
    BitstreamError
        The values make no sound GBS.
    """
    image: dict[str, Any] = {}
    if clock_mhz is not None:
        image["clock-frequency-high"] = clock_mhz
        image["clock-frequency-low"] = clock_mhz / 2
    if power is not None:
        image["power"] = power
    image |= {
        "magic-no": MAGIC_NUMBER,
        "interface-uuid": str(interface_id),
        "accelerator-clusters": [{"name": name, "total-contexts": 1, "accelerator-type-uuid": str(afu_id)}],
    }
    metadata: dict[str, Any] = {"version": 1, "afu-image": image}
    if platform:
        metadata["platform-name"] = platform
    text = json.dumps(metadata).encode()
    data = b"".join((GBS_MAGIC, _LENGTH.pack(len(text)), text, payload))
    parse_gbs(data, "the new GBS")
    return data
