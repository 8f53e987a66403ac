# SPDX-License-Identifier: Apache-2.0
"""The emulated fabric image: what stands where a vendor's RBF or BITSTREAM would stand.

Layout (the emulator reads the same, see native/include/board.h): bytes 0..15 the text "FPGAHAL EMULATED",
16..31 the interface id, 32..47 the AFU id (or the xclbin's UUID), both in text order, 48..51 the CRC-32
of all that, little endian.
"""

from __future__ import annotations

import struct
import uuid
import zlib

from fpgahal._errors import BitstreamError
from fpgahal._reader import NULL_UUID, Reader

_MAGIC = b"FPGAHAL EMULATED"
_LAYOUT = struct.Struct("<16s16s16sI")


def build_emulated(interface_id: uuid.UUID | None, afu_id: uuid.UUID) -> bytes:
    """Make the image of an accelerator for an emulated board; boards without an interface id take None."""
    ids = _MAGIC + (interface_id or NULL_UUID).bytes + afu_id.bytes
    return ids + zlib.crc32(ids).to_bytes(4, "little")


def is_emulated(payload: memoryview) -> bool:
    """Whether a payload is an image for emulated boards, whole or not."""
    return payload[: len(_MAGIC)] == _MAGIC


def check_emulated(part: Reader, afu_id: uuid.UUID, interface_id: uuid.UUID | None) -> None:
    """Raise if a payload claims to be an emulated image but is damaged or is another one than the file says."""
    if not is_emulated(part.view):
        return
    _, interface, afu, crc = part.unpack(_LAYOUT, 0, "the emulated image")
    wanted = zlib.crc32(part.view[: _LAYOUT.size - 4])
    if crc != wanted:
        raise part.error(
            f"the emulated image is damaged: CRC {crc:#010x}, expected {wanted:#010x}",
            hint="Build it again with `fpgahal build-image`.",
        )
    _same(part, "AFU id", afu, afu_id)
    if interface_id is not None:
        _same(part, "interface id", interface, interface_id)


def _same(part: Reader, what: str, raw: bytes, expected: uuid.UUID) -> None:
    if raw != expected.bytes:
        error: BitstreamError = part.error(
            f"the emulated image holds {what} {uuid.UUID(bytes=raw)}, but the file around it says {expected}"
        )
        raise error
