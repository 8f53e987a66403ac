# SPDX-License-Identifier: Apache-2.0
"""AOCX, what Intel's OpenCL compiler makes: an ELF file, in which an ELF file, in which a compressed GBS.

Only what programming needs is read: the GBS, and the hash that names the whole (all OpenCL images have the AFU id
of the board support package, so that id does not tell them apart).
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass

from fpgahal._bitstream import Bitstream
from fpgahal._reader import Reader

ELF_MAGIC = b"\x7fELF"
MAX_GBS_BYTES = 1 << 30  # the largest devices' images have some 100 MB
_MAX_SECTIONS = 4096
_MAX_NAME = 64  # of a section, in the string table
_NO_BITS = 8  # section type: has a size, but no bytes in the file
_HASH = re.compile("[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where the ELF specification has the fields, in files of one word size."""

    header: struct.Struct  # to its end; of it: offset of the section table, entry size, count, index of the names
    section: struct.Struct  # name, type, offset, size


_LAYOUTS = {
    1: _Layout(struct.Struct("<32xI10xHHH"), struct.Struct("<II8xII16x")),
    2: _Layout(struct.Struct("<40xQ10xHHH"), struct.Struct("<II16xQQ24x")),
}


@dataclass(frozen=True, slots=True)
class Aocx:
    """What is in an AOCX.

    Attributes
    ----------
    hash : str
        ``.acl.rand_hash``, 40 hex digits.
    gbs : Bitstream
        What is programmed.
    """

    hash: str
    gbs: Bitstream


def parse_aocx(data: bytes, name: str) -> Aocx:
    """Check an AOCX and take the GBS out of it.

    Raises
    ------
    BitstreamError
        It is no AOCX, or what is in it is no sound GBS; nothing else is raised, whatever the bytes.
    """
    outer = Reader(data, name)
    raw = bytes(_section(outer, ".acl.rand_hash").view[:64])
    digits = raw.rstrip(b"\0\n ").decode("latin-1").lower()
    if not _HASH.fullmatch(digits):
        raise outer.error(f".acl.rand_hash is {raw!r}, expected 40 hex digits")
    packed = _section(_section(outer, ".acl.fpga.bin"), ".acl.gbs.gz")
    return Aocx(digits, Bitstream.parse(_unpacked(packed), f"{name} (its GBS)"))


def _section(file: Reader, wanted: str) -> Reader:
    """Find a section by name; the file may lie about each of its numbers."""
    head = file.view[:6].tobytes()
    if head[:4] != ELF_MAGIC:
        raise file.error(f"is no ELF file: it starts with {head[:4]!r}, expected {ELF_MAGIC!r}")
    layout = _LAYOUTS.get(head[4]) if len(head) == 6 and head[5] == 1 else None
    if layout is None:
        raise file.error(f"is an ELF file of an unknown kind ({head[4:].hex()}), expected a little-endian one")
    start, size, count, names_at = file.unpack(layout.header, 0, "the ELF header")
    if size != layout.section.size or not 0 < count <= _MAX_SECTIONS or names_at >= count:
        raise file.error(
            f"its section table makes no sense: {count} entries of {size} bytes, names in entry {names_at}; "
            f"expected 1..{_MAX_SECTIONS} entries of {layout.section.size} bytes"
        )
    table = [file.unpack(layout.section, start + i * size, f"section {i}") for i in range(count)]

    def content(entry: tuple[int, ...], part: str) -> Reader:
        _, kind, offset, length = entry
        if kind == _NO_BITS or offset + length > len(file):
            raise file.error(f"{part} should be at bytes {offset}..{offset + length}, but the file has {len(file)}")
        return file.sub(offset, length, part)

    names = content(table[names_at], "the table of section names").view
    key = wanted.encode() + b"\0"
    found = [entry for entry in table if names[entry[0] : entry[0] + _MAX_NAME].tobytes().startswith(key)]
    if len(found) != 1:
        raise file.error(f"has {len(found) or 'no'} sections {wanted}, expected one", hint="Is it an AOCX for a PAC?")
    return content(found[0], wanted)


def _unpacked(packed: Reader) -> bytes:
    unpacker = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)  # gzip, and nothing else
    try:
        data = unpacker.decompress(packed.view, MAX_GBS_BYTES)
    except zlib.error as error:
        raise packed.error(f"can't be decompressed: {error}") from None
    except MemoryError:
        raise packed.error("does not fit into memory when decompressed") from None
    if not unpacker.eof:
        at_limit = len(data) >= MAX_GBS_BYTES
        raise packed.error(f"has more than {MAX_GBS_BYTES} bytes when decompressed" if at_limit else "is cut off")
    return data
