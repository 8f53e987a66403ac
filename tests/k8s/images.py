# SPDX-License-Identifier: Apache-2.0
"""Boards and images with the ids of the conformance cases, and AOCX files."""

from __future__ import annotations

import gzip
import struct
import uuid
from pathlib import Path

import pytest

import fpgahal

IF10 = "ce48969398f05f33946d560708be108a"
IF12 = "69528db6eb31577a8c3668f9faa081f6"
NLB0 = "d8424dc4a4a3c413f89e433683f9040b"
NLB3 = "f7df405cbd7acf7222f144b0b93acd18"
HASH = "40007c0623210742000ebc58df6f5343e668b03a"
GBS_MAGIC = bytes.fromhex("58656f6e46504741b747425376303031")

BOARDS = "".join(
    f"""
[{name}]
title = "PAC with {name}"
layout = "intel-fpga"
vendor_id = 0x8086
device_id = 0x09c4
interface_id = "{uuid.UUID(interface)}"
default_afu = "{uuid.UUID(NLB0)}"
"""
    for name, interface in (("dcp10", IF10), ("dcp12", IF12))
)


def boards_of_the_cases(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make ``dcp10`` and ``dcp12`` known to the emulator."""
    file = folder / "boards.toml"
    file.write_text(BOARDS)
    monkeypatch.setenv("FPGAHAL_BOARDS", str(file))


def image(afu: str, board: str) -> bytes:
    """An image for an emulated board."""
    return fpgahal.emu.build_image(afu, fpgahal.emu.boards()[board])


def gbs(interface: str = IF12, afu: str = NLB0, payload: bytes = b"\1", json_bytes: int = 405) -> bytes:
    """A GBS for a real board, whose JSON text has so many bytes."""
    text = (
        '{"version": 640, "platform-name": "DCP", "afu-image": {"magic-no": 488605312, '
        f'"interface-uuid": "{uuid.UUID(interface)}", "power": 0, "accelerator-clusters": '
        f'[{{"name": "nlb", "total-contexts": 1, "accelerator-type-uuid": "{uuid.UUID(afu)}"}}]}}}}'
    ).ljust(json_bytes)
    return GBS_MAGIC + struct.pack("<I", len(text)) + text.encode() + payload


def elf(sections: dict[str, bytes], *, bits: int = 64) -> bytes:
    """An ELF file with these sections."""
    names, body, entries = b"\0", b"", [(0, 0, 0, 0)]
    start = 64 if bits == 64 else 52
    for name, content in {**sections, ".shstrtab": b""}.items():
        at = len(names)
        names += name.encode() + b"\0"
        content = names if name == ".shstrtab" else content
        entries.append((at, 1, start + len(body), len(content)))
        body += content
    table = start + len(body)
    if bits == 64:
        head = struct.pack("<4sBB34xQ10xHHH", b"\x7fELF", 2, 1, table, 64, len(entries), len(entries) - 1)
        rows = (struct.pack("<II16xQQ24x", *entry) for entry in entries)
    else:
        head = struct.pack("<4sBB26xI10xHHH", b"\x7fELF", 1, 1, table, 40, len(entries), len(entries) - 1)
        rows = (struct.pack("<II8xII16x", *entry) for entry in entries)
    return head + body + b"".join(rows)


def aocx(inner: bytes, *, hash: str = HASH, bits: int = 64) -> bytes:
    """An AOCX around a GBS."""
    fpga = elf({".acl.gbs.gz": gzip.compress(inner)}, bits=bits)
    return elf({".acl.board": b"pac_a10\0", ".acl.rand_hash": hash.encode() + b"\0", ".acl.fpga.bin": fpga}, bits=bits)
