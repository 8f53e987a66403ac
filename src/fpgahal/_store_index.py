# SPDX-License-Identifier: Apache-2.0
"""The image store's index: which file has which digest, and who may use it.  No I/O here.

A change is written down before it is made, and struck out after: whatever dies in between leaves an index that, with
the file's own digest, still says what is in the store.  (Should somebody else change that very file before the next
writer has looked, the change counts as not made.)
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fpgahal._errors import BitstreamError, ImageStoreError
from fpgahal._reader import Reader, shown
from fpgahal._strict_json import load_object

NAME = "index.json"
MAX_BYTES = 16 << 20
_VERSION = 1
IMAGE = re.compile(r"[0-9a-f]{32}/(?:[0-9a-f]{32}\.(?:gbs|xclbin)|[0-9a-f]{40}\.aocx)")
NAMESPACE = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")  # Kubernetes: a DNS label (RFC 1123)
_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Entry:
    """What the index says of one file; `namespaces` None: everybody may use it."""

    sha256: str
    size: int
    namespaces: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Index:
    """All of it.

    Attributes
    ----------
    images : mapping of str to Entry
        By ``<interface id>/<AFU id>.<suffix>``.
    pending : mapping of str to Entry or None
        Changes that were begun: what a file is to become; None: it is to go.
    """

    images: Mapping[str, Entry] = field(default_factory=dict)
    pending: Mapping[str, Entry | None] = field(default_factory=dict)

    def beginning(self, name: str, entry: Entry | None) -> Index:
        """Give the index to write before a change."""
        return Index(self.images, {**self.pending, name: entry})

    def settled(self, digest: Callable[[str], str]) -> Index:
        """Decide what became of the changes that were begun.

        Parameters
        ----------
        digest : callable
            Takes a name; gives the file's digest now, or "" if there is no such file.
        """
        images = dict(self.images)
        for name, entry in self.pending.items():
            found = digest(name)
            if entry is not None and found == entry.sha256:
                images[name] = entry
            elif entry is None and not found:
                images.pop(name, None)
        return Index(images)

    def dump(self) -> bytes:
        """Give the file's bytes."""

        def plain(entry: Entry | None) -> Any:
            if entry is None:
                return None
            namespaces = None if entry.namespaces is None else list(entry.namespaces)
            return {"sha256": entry.sha256, "size": entry.size, "namespaces": namespaces}

        document = {
            "version": _VERSION,
            "images": {name: plain(entry) for name, entry in sorted(self.images.items())},
            "pending": {name: plain(entry) for name, entry in sorted(self.pending.items())},
        }
        return json.dumps(document, indent=1).encode() + b"\n"


def parse(data: bytes, path: str) -> Index:
    """Read the file's bytes.

    Raises
    ------
    ImageStoreError
        They make no index; nothing of it is used then.
    """
    try:
        document = load_object(Reader(data, path))
        if document.get("version") != _VERSION:
            raise ValueError(f"version is {shown(document.get('version'))}, expected {_VERSION}")
        if document.keys() != {"version", "images", "pending"}:
            raise ValueError(f"it has the members {', '.join(document)}; expected version, images, pending")
        images = {name: _entry(name, value) for name, value in _object(document, "images").items()}
        pending = {
            name: None if value is None else _entry(name, value)
            for name, value in _object(document, "pending").items()
            if _named(name)
        }
        return Index(images, pending)
    except ValueError as error:
        reason = error.message if isinstance(error, BitstreamError) else f"{path}: {error}."
        raise ImageStoreError(
            f"The image store's index can't be used: {reason}  No image is trusted.",
            hint="Restore it, or delete it and add the images again (`fpgahal images add --force`).",
        ) from None


def _object(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = document[key]
    if not isinstance(value, Mapping):
        raise ValueError(f"{key} is {shown(value)}, expected an object")
    return value


def _named(name: str) -> bool:
    if not IMAGE.fullmatch(name):
        raise ValueError(f"{shown(name)} is no image's name")
    return True


def _entry(name: str, value: Any) -> Entry:
    _named(name)
    if not isinstance(value, Mapping) or value.keys() != {"sha256", "size", "namespaces"}:
        raise ValueError(f"{name} has {shown(value)}, expected sha256, size, namespaces")
    sha256, size, namespaces = value["sha256"], value["size"], value["namespaces"]
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise ValueError(f"{name}: sha256 is {shown(sha256)}, expected 64 hex digits")
    if not isinstance(size, int) or isinstance(size, bool) or size <= 0:
        raise ValueError(f"{name}: size is {shown(size)}, expected bytes")
    return Entry(sha256, size, None if namespaces is None else checked(namespaces))


def checked(namespaces: Any) -> tuple[str, ...]:
    """Give an allow-list in order and without doubles.

    Raises
    ------
    ValueError
        One is no namespace's name.
    """
    if isinstance(namespaces, str) or not isinstance(namespaces, (tuple, list, set, frozenset)):
        raise ValueError(f"namespaces are {shown(namespaces)}, expected a list")
    for one in namespaces:
        if not isinstance(one, str) or not NAMESPACE.fullmatch(one):
            raise ValueError(f"{shown(one)} is no namespace: up to 63 of a-z, 0-9 and - were expected")
    return tuple(sorted(set(namespaces)))
