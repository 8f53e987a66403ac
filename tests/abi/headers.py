# SPDX-License-Identifier: Apache-2.0
"""What the headers promise and the libraries export, for both ABI tests."""

from __future__ import annotations

import re
import struct
from pathlib import Path

from fpgahal import _library

HEADERS = Path(__file__).parents[2] / "native" / "include"


def table(header: str) -> list[str]:
    """Names of the functions in a header's X-macro."""
    text = (HEADERS / header).read_text().replace("\\\n", " ")
    body = text[text.index("_FUNCTIONS(F)") : text.index("typedef struct", text.index("_FUNCTIONS(F)"))]
    return re.findall(r"\bF\([01],\s*[^,()]+,\s*(\w+),", body)


def control() -> list[str]:
    """The emulator's own functions."""
    return re.findall(r"^FPGAHAL_EMU_API [^;(]*?\b(\w+)\(", (HEADERS / "emu_control.h").read_text(), re.MULTILINE)


def exported(driver: str) -> set[str]:
    """Defined dynamic symbols of an emulated library, read from its ELF tables (no nm on a user's machine)."""
    data = Path(_library.emulator(driver)).read_bytes()
    assert data[:6] == b"\x7fELF\x02\x01", "a 64-bit little-endian library"
    at, size, count = struct.unpack_from("<Q", data, 0x28)[0], *struct.unpack_from("<HH", data, 0x3A)
    sections = [struct.unpack_from("<IIQQQQIIQQ", data, at + i * size) for i in range(count)]
    names = set()
    for _, kind, _, _, offset, length, link, _, _, entry in sections:
        if kind != 11:  # SHT_DYNSYM
            continue
        strings = sections[link][4]
        for where in range(offset, offset + length, entry):
            name, info, _, section = struct.unpack_from("<IBBH", data, where)
            if section != 0 and info >> 4 in (1, 2):  # defined, global or weak
                start = strings + name
                names.add(data[start : data.index(b"\0", start)].decode())
    return names


def needed(driver: str) -> set[str]:
    """Libraries that it asks the loader for."""
    data = Path(_library.emulator(driver)).read_bytes()
    at, size, count = struct.unpack_from("<Q", data, 0x28)[0], *struct.unpack_from("<HH", data, 0x3A)
    sections = [struct.unpack_from("<IIQQQQIIQQ", data, at + i * size) for i in range(count)]
    found = set()
    for _, kind, _, _, offset, length, link, _, _, _ in sections:
        if kind != 6:  # SHT_DYNAMIC
            continue
        strings = sections[link][4]
        for where in range(offset, offset + length, 16):
            tag, value = struct.unpack_from("<QQ", data, where)
            if tag == 1:
                start = strings + value
                found.add(data[start : data.index(b"\0", start)].decode())
    return found
