# SPDX-License-Identifier: Apache-2.0
"""Images as the store knows them: their records, and what a file's own bytes say that it must be called."""

from __future__ import annotations

import os
import stat
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from fpgahal._aocx import ELF_MAGIC, parse_aocx
from fpgahal._bitstream import MAX_BYTES, Bitstream
from fpgahal._errors import AccessError, ArgumentRangeError, BitstreamError
from fpgahal._reader import NULL_UUID
from fpgahal._store_index import checked

SUFFIXES = {"gbs": 32, "aocx": 40, "xclbin": 32}  # in the order of looking; digits of their ids


@dataclass(frozen=True, slots=True)
class StoredImage:
    """One image of a store.

    Attributes
    ----------
    path : str
    interface_id : str
        32 hex digits; zeros: an xclbin for a shell without interface id, which a time stamp ties to its board.
    afu_id : str
        32 hex digits: the AFU id, or the xclbin's UUID.  40: the hash of an AOCX.
    sha256 : str
        Of the whole file, 64 hex digits: what the index says.
    size : int
        Bytes.
    namespaces : tuple of str or None
        Who may use it; None: everybody.
    """

    path: str
    interface_id: str
    afu_id: str
    sha256: str
    size: int
    namespaces: tuple[str, ...] | None = None

    def check_allowed(self, namespace: str | None) -> None:
        """Raise unless a namespace may use it.

        Parameters
        ----------
        namespace : str or None
            None: it is not known, or there is none.

        Raises
        ------
        AccessError
            It is not on the list.
        """
        if self.namespaces is None or namespace in self.namespaces:
            return
        who = f"Namespace {namespace}" if namespace else "A container whose namespace is not known"
        raise AccessError(
            f"{who} may not use {self.interface_id}/{self.afu_id}: it is for {', '.join(self.namespaces) or 'nobody'}.",
            hint="`fpgahal images add --force --namespace NS FILE` changes the list.",
        )


@dataclass(frozen=True, slots=True)
class StoreProblem:
    """Something wrong in a store.

    Attributes
    ----------
    path : str
        Below the store's folder.
    kind : str
        ``"changed"`` (another digest than the index has), ``"missing"``, or ``"foreign"`` (not in the index).
    message : str
    """

    path: str
    kind: str
    message: str


def names_of(interface_id: uuid.UUID | str | None, afu_id: uuid.UUID | str) -> list[str]:
    """Names of files that an image can have, in the order of looking."""
    interface = _digits(NULL_UUID if interface_id is None else interface_id, "interface id", 32)
    afu = _digits(afu_id, "AFU id", *set(SUFFIXES.values()))
    return [f"{interface}/{afu}.{suffix}" for suffix, digits in SUFFIXES.items() if digits == len(afu)]


def _digits(value: uuid.UUID | str, what: str, *lengths: int) -> str:
    text = value.hex if isinstance(value, uuid.UUID) else value.strip().replace("-", "").lower()
    if len(text) not in lengths or not set(text) <= set("0123456789abcdef"):
        expected = " or ".join(map(str, sorted(lengths)))
        raise ArgumentRangeError(f"{value!r} is no {what}: {expected} hex digits were expected.")
    return text


def sha256(data: bytes) -> str:
    """Give the digest in hexadecimal."""
    import hashlib  # here: it loads OpenSSL, and a look at the index needs none

    return hashlib.sha256(data).hexdigest()


def allow_list(namespaces: Sequence[str] | None) -> tuple[str, ...] | None:
    """Check the names of namespaces; None stays None."""
    if namespaces is None:
        return None
    try:
        return checked(namespaces)
    except ValueError as error:
        raise ArgumentRangeError(f"{error}.") from None


def read(image: str | os.PathLike[str] | bytes | Bitstream) -> tuple[bytes, str]:
    """Give the bytes that somebody wants to add, and what messages call them."""
    if isinstance(image, Bitstream):
        return image.data, image.name
    if isinstance(image, bytes):
        return image, "<bytes>"
    path = os.fspath(image)
    suffix = os.path.splitext(path)[1].removeprefix(".")
    if suffix not in SUFFIXES:
        raise BitstreamError(f"{path}: {suffix or 'no suffix'} is no kind of image; known are {', '.join(SUFFIXES)}.")
    if suffix != "aocx":
        return Bitstream.load(path).data, path
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise BitstreamError(f"{path}: is no regular file.")
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise BitstreamError(f"{path}: more than {MAX_BYTES} bytes make no sense.")
    return data, path


def identify(data: bytes, name: str) -> tuple[Bitstream, str]:
    """Give what is to be programmed, and where it belongs below a store's folder."""
    if data.startswith(ELF_MAGIC):
        aocx = parse_aocx(data, name)
        bitstream, afu, suffix = aocx.gbs, aocx.hash, "aocx"
    else:
        bitstream = Bitstream.parse(data, name)
        afu, suffix = bitstream.afu_id.hex, bitstream.kind
    return bitstream, f"{(bitstream.interface_id or NULL_UUID).hex}/{afu}.{suffix}"
