# SPDX-License-Identifier: Apache-2.0
"""A part of a file under test: every read is checked against its end, every complaint names the file."""

from __future__ import annotations

import struct
import uuid
from typing import Any

from fpgahal._errors import BitstreamError

NULL_UUID = uuid.UUID(int=0)


def shown(value: object) -> str:
    """Text of a value from a file, short enough for a message."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


class Reader:
    """Bounded access to bytes that nobody has checked yet.

    Parameters
    ----------
    data : bytes or memoryview
        Never copied as a whole.
    name : str
        The file, for messages.
    part : str
        Which part of the file `data` is, for messages; empty for all of it.
    """

    __slots__ = ("name", "part", "view")

    def __init__(self, data: bytes | memoryview, name: str, part: str = "") -> None:
        self.view = memoryview(data)
        self.name = name
        self.part = part

    def __len__(self) -> int:
        return len(self.view)

    def error(self, problem: str, *, hint: str = "") -> BitstreamError:
        """Make the exception that says what is wrong with this part."""
        return BitstreamError(f"{self.name}: {self.part}{': ' if self.part else ''}{problem}.", hint=hint)

    def sub(self, offset: int, size: int, part: str) -> Reader:
        """Give a reader of a smaller part; the caller has checked the bounds."""
        return Reader(self.view[offset : offset + size], self.name, part)

    def unpack(self, layout: struct.Struct, offset: int, field: str) -> tuple[Any, ...]:
        """Read `layout` at `offset`; `field` names it if the data ends before."""
        if offset < 0 or offset + layout.size > len(self.view):
            raise self.error(
                f"{field} is missing: it takes {layout.size} bytes at offset {offset}, "
                f"but there are only {len(self.view)}"
            )
        return layout.unpack_from(self.view, offset)

    def entries(self, count: int, header: int, entry: struct.Struct, limit: int) -> memoryview:
        """Check a table's count against its size and return the bytes of its entries.

        A table without entries may still have room for one: the vendor's C structs end in a one-element array.
        """
        if count < 0:
            raise self.error(f"the count of entries is negative: {count}")
        if count > limit:
            raise self.error(f"the count of entries is absurd: {count}, at most {limit} make sense")
        end = header + count * entry.size
        if end > len(self.view):
            raise self.error(f"{count} entries of {entry.size} bytes need {end} bytes, but there are {len(self.view)}")
        if count and len(self.view) - end >= entry.size:
            raise self.error(
                f"the count says {count}, but there is room for {(len(self.view) - header) // entry.size} "
                f"entries in {len(self.view)} bytes"
            )
        return self.view[header:end]

    def text(self, raw: bytes, field: str) -> str:
        """Decode a NUL-terminated field of printable ASCII characters."""
        head, nul, _ = raw.partition(b"\0")
        if not nul:
            raise self.error(f"{field} has no terminating NUL in its {len(raw)} bytes: {shown(raw)}")
        text = head.decode("latin-1")
        if not (text.isascii() and text.isprintable()):
            raise self.error(f"{field} is not printable ASCII text: {shown(head)}")
        return text

    def uuid(self, raw: bytes, field: str) -> uuid.UUID:
        """Make a UUID of 16 bytes in text order; the null UUID is an error."""
        if not any(raw):
            raise self.error(f"{field} is the null UUID, which names nothing")
        return uuid.UUID(bytes=raw)
