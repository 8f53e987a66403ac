# SPDX-License-Identifier: Apache-2.0
"""Flattened device tree, as far as PARTITION_METADATA needs it: a tree of named byte strings, big endian."""

from __future__ import annotations

import struct

from fpgahal._reader import Reader, shown

MAX_BYTES = 1 << 20
_MAGIC = 0xD00DFEED
_VERSION = 17
# magic, total size, offsets (structure, strings, reserve map), version, last compatible, boot cpu,
# sizes (strings, structure)
_HEADER = struct.Struct(">10I")
_U32 = struct.Struct(">I")
_PROPERTY = struct.Struct(">II")  # length, offset of the name
_BEGIN, _END, _PROP, _NOP, _FINISH = 1, 2, 3, 4, 9
_RESERVE_MAP = 16  # one empty entry
_MAX_DEPTH = 8
_MAX_NAME = 64


def build_fdt(properties: dict[str, bytes]) -> bytes:
    """Make a tree from paths: ``{"interfaces/@0/interface_uuid": b"..."}``; paths of one node side by side."""
    structure, strings, names = bytearray(_begin("")), bytearray(), dict[str, int]()
    opened: list[str] = []
    for path, value in properties.items():
        *nodes, name = path.split("/")
        common = 0
        while common < min(len(nodes), len(opened)) and nodes[common] == opened[common]:
            common += 1
        structure += _U32.pack(_END) * (len(opened) - common)
        for node in nodes[common:]:
            structure += _begin(node)
        opened = nodes
        if name not in names:
            names[name] = len(strings)
            strings += name.encode() + b"\0"
        structure += _U32.pack(_PROP) + _PROPERTY.pack(len(value), names[name]) + _padded(value)
    structure += _U32.pack(_END) * (len(opened) + 1) + _U32.pack(_FINISH)
    at = _HEADER.size + _RESERVE_MAP
    total = at + len(structure) + len(strings)
    header = _HEADER.pack(
        _MAGIC, total, at, at + len(structure), _HEADER.size, _VERSION, 0, 0, len(strings), len(structure)
    )
    return header + bytes(_RESERVE_MAP) + bytes(structure) + bytes(strings)


def parse_fdt(part: Reader) -> dict[str, bytes]:
    """Return every property by its path, ``"interfaces/@0/interface_uuid"``.

    Raises
    ------
    BitstreamError
        It is no whole device tree.
    """
    if len(part) > MAX_BYTES:
        raise part.error(f"the device tree has {len(part)} bytes; more than {MAX_BYTES} make no sense")
    magic, total, structure_at, strings_at, _, _, _, _, strings_size, structure_size = part.unpack(
        _HEADER, 0, "the header of the device tree"
    )
    if magic != _MAGIC:
        raise part.error(f"the device tree has magic {magic:#010x}, expected {_MAGIC:#010x}")
    if not _HEADER.size <= total <= len(part):
        raise part.error(f"the device tree claims {total} bytes, there are {len(part)}")
    for what, at, size in (("structure", structure_at, structure_size), ("strings", strings_at, strings_size)):
        if at + size > total:
            raise part.error(f"the device tree's {what} ends at {at + size}, beyond its {total} bytes")
    structure = part.sub(structure_at, structure_size, part.part)
    return _walk(structure, bytes(part.view[strings_at : strings_at + strings_size]))


def _walk(part: Reader, strings: bytes) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    path: list[str] = []
    at = 0
    while True:
        (token,) = part.unpack(_U32, at, "a token of the device tree")
        at += 4
        if token == _BEGIN:
            raw = bytes(part.view[at : at + _MAX_NAME])
            name = part.text(raw, "a node's name in the device tree")
            path.append(name)
            if len(path) > _MAX_DEPTH:
                raise part.error(f"the device tree is deeper than {_MAX_DEPTH} levels")
            at += _aligned(len(name) + 1)
        elif token == _PROP:
            size, name_at = part.unpack(_PROPERTY, at, "a property of the device tree")
            at += _PROPERTY.size
            if at + size > len(part):
                raise part.error(f"a property of the device tree at {at} has {size} bytes, beyond the end")
            name = part.text(strings[name_at : name_at + _MAX_NAME], "a property's name in the device tree")
            found["/".join((*path[1:], name))] = bytes(part.view[at : at + size])
            at += _aligned(size)
        elif token == _END and path:
            path.pop()
        elif token == _FINISH and not path:
            return found
        elif token != _NOP:
            raise part.error(f"the device tree has the token {shown(token)} at {at - 4}, where it may not be")


def _begin(name: str) -> bytes:
    return _U32.pack(_BEGIN) + _padded(name.encode() + b"\0")


def _padded(data: bytes) -> bytes:
    return data.ljust(_aligned(len(data)), b"\0")


def _aligned(size: int) -> int:
    return (size + 3) & ~3
