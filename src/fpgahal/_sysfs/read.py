# SPDX-License-Identifier: Apache-2.0
"""Small files of sysfs, read with as few system calls as it takes.

Nothing here raises: a value comes back, or an :class:`Unreadable` that says why there is none.  The last path
component is never followed when it is a link: sysfs attributes are plain files, and a link could lead out of the tree.
"""

from __future__ import annotations

import errno
import functools
import os
import re
import uuid
from typing import NamedTuple

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
_LIMIT = 4096  # a sysfs attribute is at most one page
_HEX_ID = re.compile(r"[0-9a-fA-F]{32}")
_BLANK = " \t\r\n\0"
_NONE, _ONES = 0, (1 << 128) - 1


class Unreadable(NamedTuple):
    """Why a file gave no value: an errno, or 0 and a text when its content made no sense."""

    number: int
    detail: str = ""
    dead: bool = False  # an id of all ones

    @property
    def reason(self) -> str:
        """``"EBUSY: Device or resource busy"``, or what is wrong with the content."""
        return self.detail or f"{self.name}: {os.strerror(self.number)}"

    @property
    def name(self) -> str:
        """``"EBUSY"``."""
        return errno.errorcode.get(self.number, f"errno {self.number}") if self.number else "garbled"

    @property
    def missing(self) -> bool:
        """Whether there is no such file."""
        return self.number in (errno.ENOENT, errno.ENOTDIR)


def start(path: str, size: int = _LIMIT) -> bytes | Unreadable:
    """Return the first bytes of a file."""
    try:
        fd = os.open(path, _FLAGS)
    except OSError as error:
        return Unreadable(error.errno or errno.EIO)
    try:
        return os.read(fd, size)
    except OSError as error:
        return Unreadable(error.errno or errno.EIO)
    finally:
        os.close(fd)


def text(path: str) -> str | Unreadable:
    """Return what a file holds, without NULs, control characters and surrounding blanks."""
    data = start(path)
    if isinstance(data, Unreadable):
        return data
    value = data.decode("ascii", "replace").strip(_BLANK)
    if value.isprintable():
        return value
    return "".join(c for c in value if c.isprintable() or c == "\n").strip()


def line(path: str, default: str = "") -> str:
    """Return the first line of a file, or `default` when it can't be read."""
    value = text(path)
    return value.partition("\n")[0].strip() if isinstance(value, str) else default


def number(path: str, base: int = 0) -> int | Unreadable:
    """Return the integer in a file; `base` as for :class:`int` (0: decimal, or hex after ``0x``)."""
    value = text(path)
    if isinstance(value, Unreadable):
        return value
    try:
        return int(value, base)
    except ValueError:
        return Unreadable(0, f"it holds {_short(value)}, not a number")


def guid(path: str) -> uuid.UUID | Unreadable | None:
    """Return the id in a file: 32 hex digits, dashes or not; None for an empty file or an all-zero id.

    All ones is what a read from a device that no longer answers gives, so it is no id either.
    """
    value = text(path)
    if isinstance(value, Unreadable):
        return value
    return parse_guid(value.partition("\n")[0])


@functools.lru_cache(256)  # boards of a kind have the same ids, and each scan reads them again
def parse_guid(value: str) -> uuid.UUID | Unreadable | None:
    """Return the id that `value` spells; see :func:`guid`."""
    digits = value.strip().replace("-", "")
    if not digits:
        return None
    if not _HEX_ID.fullmatch(digits):
        return Unreadable(0, f"it holds {_short(value)}, not an id of 32 hex digits")
    whole = int(digits, 16)
    if whole == _NONE:
        return None
    if whole == _ONES:
        return Unreadable(0, "it reads all ones: the card does not answer", dead=True)
    return uuid.UUID(int=whole)


def _short(value: str) -> str:
    return "nothing" if not value else repr(value if len(value) <= 40 else value[:37] + "...")
