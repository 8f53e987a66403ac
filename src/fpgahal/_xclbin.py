# SPDX-License-Identifier: Apache-2.0
"""xclbin, the file that XRT loads: a header, a table of sections, the sections.

Parsed and checked to the letter: XRT itself crashes on a huge count, copies as many bytes as the header
claims, and writes arguments past its command buffer.
"""

from __future__ import annotations

import re
import struct
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from fpgahal._bitstream import Bitstream
from fpgahal._fdt import parse_fdt
from fpgahal._image import check_emulated
from fpgahal._reader import NULL_UUID, Reader, shown
from fpgahal._strict_json import load_object
from fpgahal._types import ArgKind, BankInfo, KernelInfo
from fpgahal._xclbin_format import (
    COMMAND_BYTES,
    HEADER,
    KINDS,
    MAX_SECTIONS,
    MODES,
    REPEATABLE,
    SECTION,
)
from fpgahal._xclbin_tables import Ip, in_index_order, parse_clocks, parse_connections, parse_ips, parse_memories
from fpgahal._xclbin_xml import parse_metadata

_LENGTH = struct.Struct("<Q")
_LENGTH_AT = 304
_MAX_JSON = 1 << 20
_HEX_UUID = re.compile(rb"[0-9a-fA-F]{32}\0?")
_INTERFACE = re.compile(r"interfaces/[^/]*/interface_uuid")

Connections = dict[str, dict[int, dict[str, set[int]]]]  # kernel, argument, "kernel:instance": memories


@dataclass(frozen=True, slots=True)
class _Section:
    kind: str
    name: str
    offset: int
    size: int


def parse_xclbin(data: bytes, name: str) -> Bitstream:
    """Check an xclbin and say what is in it.

    Raises
    ------
    BitstreamError
        It is not sound.
    """
    file = Reader(data, name)
    (
        _,
        signature,
        _,
        _,
        unique,
        length,
        created,
        timestamp,
        patch,
        major,
        minor,
        mode,
        _,
        rom,
        vbnv,
        ident,
        _,
        count,
    ) = file.unpack(HEADER, 0, "the header")
    if length != len(data):
        raise file.error(
            f"the header claims {length} bytes (offset {_LENGTH_AT}), but the file has {len(data)}: "
            + ("it was cut" if length > len(data) else "something was appended"),
            hint="Copy the file again.",
        )
    if mode >= len(MODES):
        raise file.error(f"mode is {mode} (offset 332), expected 0..{len(MODES) - 1}")
    platform = file.text(vbnv, "the platform VBNV (offset 352)")
    xclbin_id = file.uuid(ident, "the xclbin UUID (offset 416)")
    table = _sections(file, count, _signed_from(file, signature))
    parts = {
        section.kind: file.sub(section.offset, section.size, f"section {section.kind}") for section in reversed(table)
    }
    for kind in ("EMBEDDED_METADATA", "MEM_TOPOLOGY", "IP_LAYOUT"):
        if kind not in parts:
            raise file.error(f"section {kind} is missing")

    kernels, xml_clocks = parse_metadata(parts["EMBEDDED_METADATA"])
    ips = parse_ips(parts["IP_LAYOUT"])
    units = in_index_order(ips)
    _check_units(parts["EMBEDDED_METADATA"], kernels, units)
    banks, connections = _memories(file, parts, ips, kernels)
    interfaces, logic = _partition(parts["PARTITION_METADATA"]) if "PARTITION_METADATA" in parts else ((), None)
    interface_id = interfaces[0] if interfaces else None
    clocks = parse_clocks(parts["CLOCK_FREQ_TOPOLOGY"]) if "CLOCK_FREQ_TOPOLOGY" in parts else tuple(xml_clocks)
    span = (0, 0)
    if "BITSTREAM" in parts:
        if not len(parts["BITSTREAM"]):
            raise file.error("section BITSTREAM is empty")
        check_emulated(parts["BITSTREAM"], xclbin_id, interface_id)
        span = next((section.offset, section.size) for section in table if section.kind == "BITSTREAM")
    metadata = {
        "version": f"{major}.{minor}.{patch}",
        "mode": MODES[mode],
        "signed": signature > 0,
        "created": created,
        "unique_id": unique,
        "rom_uuid": uuid.UUID(bytes=rom),
        "sections": tuple((section.kind, section.name, section.offset, section.size) for section in table),
        "key_values": _key_values(parts["KEYVALUE_METADATA"]) if "KEYVALUE_METADATA" in parts else MappingProxyType({}),
        "interfaces": interfaces,
        "logic_uuid": logic,
        "compute_units": tuple((ip.name, ip.base) for ip in units),
        "connections": _by_unit(connections),
    }
    return Bitstream(
        kind="xclbin",
        data=data,
        name=name,
        afu_id=xclbin_id,
        interface_id=interface_id,
        platform=platform,
        timestamp=timestamp,
        kernels=tuple(_connected(kernel, units, connections) for kernel in kernels),
        banks=banks,
        clocks=clocks,
        metadata=MappingProxyType(metadata),
        payload_span=span,
    )


def _signed_from(file: Reader, signature: int) -> int:
    """Where the content ends: at the PKCS7 blob of a signed file, else at the end."""
    if signature < -1 or signature > len(file) - HEADER.size:
        raise file.error(
            f"the signature length is {signature} (offset 8), expected -1 for none, "
            f"or at most {len(file) - HEADER.size}"
        )
    return len(file) - max(signature, 0)


def _sections(file: Reader, count: int, content_end: int) -> list[_Section]:
    """Check the table of sections and return it in the order of the file."""
    if not 0 < count <= MAX_SECTIONS:
        raise file.error(f"the header counts {count} sections (offset 448), expected 1..{MAX_SECTIONS}")
    table_end = HEADER.size + count * SECTION.size
    if table_end > content_end:
        raise file.error(f"the table of {count} sections ends at byte {table_end}, beyond the content's {content_end}")
    table = []
    seen: set[str] = set()
    for index, (number, raw, offset, size) in enumerate(SECTION.iter_unpack(file.view[HEADER.size : table_end])):
        if number >= len(KINDS):
            raise file.error(f"section {index} is of unknown kind {number}, expected 0..{len(KINDS) - 1}")
        kind = KINDS[number]
        if kind in seen and kind not in REPEATABLE:
            raise file.error(f"section {kind} appears twice")
        seen.add(kind)
        if offset % 8:
            raise file.error(f"section {kind} starts at byte {offset}, expected a multiple of 8")
        if offset < table_end:
            raise file.error(f"section {kind} starts at byte {offset}, inside the table that ends at {table_end}")
        if offset + size > content_end:
            raise file.error(f"section {kind} has {size} bytes at {offset}, beyond the content's end at {content_end}")
        # Names only inform; tools cut them to 16 bytes without a NUL.
        table.append(_Section(kind, raw.partition(b"\0")[0].decode("ascii", "replace"), offset, size))
    end, last = table_end, ""
    for section in sorted(table, key=lambda section: (section.offset, section.size)):
        if section.size and section.offset < end:
            raise file.error(
                f"section {section.kind} at byte {section.offset} overlaps section {last}, which ends at {end}"
            )
        if section.size:
            end, last = section.offset + section.size, section.kind
    return table


def _check_units(part: Reader, kernels: list[KernelInfo], units: list[Ip]) -> None:
    """Check that kernels have compute units, and that their register files fit XRT's command buffer."""
    positions = {ip.name: index for index, ip in enumerate(units)}
    for kernel in kernels:
        highest = 0
        for instance in kernel.compute_units:
            position = positions.get(f"{kernel.name}:{instance}")
            if position is None:
                raise part.error(f"instance {kernel.name}:{instance} is not in IP_LAYOUT")
            highest = max(highest, position)
        # A command is a header and one mask of compute units for every 32 of them, then the registers.
        before = 4 * (2 + highest // 32)
        for arg in kernel.args:
            if arg.kind is not ArgKind.STREAM and before + arg.offset + arg.size > COMMAND_BYTES:
                raise part.error(
                    f"argument {arg.name} of kernel {kernel.name} at register offset {arg.offset:#x} does "
                    f"not fit XRT's command buffer: {before} + {arg.offset} + {arg.size} bytes, "
                    f"at most {COMMAND_BYTES}",
                    hint="XRT would write past the buffer. Move the argument below offset 0xf00.",
                )


def _memories(
    file: Reader, parts: Mapping[str, Reader], ips: tuple[Ip, ...], kernels: list[KernelInfo]
) -> tuple[tuple[BankInfo, ...], Connections]:
    """Read the topologies and connections; all are checked, the GROUP_ ones count where they exist."""
    arguments = {kernel.name: len(kernel.args) for kernel in kernels}
    plain = banks = parse_memories(parts["MEM_TOPOLOGY"])
    if "GROUP_TOPOLOGY" in parts:
        banks = parse_memories(parts["GROUP_TOPOLOGY"])
    found: Connections = {}
    if "CONNECTIVITY" in parts:
        found = _collect(parts["CONNECTIVITY"], ips, len(plain), arguments)
    if "GROUP_CONNECTIVITY" in parts:
        found = _collect(parts["GROUP_CONNECTIVITY"], ips, len(banks), arguments)
    elif "CONNECTIVITY" not in parts:
        for kernel in kernels:
            if any(arg.kind is ArgKind.BUFFER for arg in kernel.args):
                raise file.error(f"section CONNECTIVITY is missing, but kernel {kernel.name} has buffer arguments")
    return banks, found


def _collect(part: Reader, ips: tuple[Ip, ...], memories: int, arguments: dict[str, int]) -> Connections:
    found: Connections = {}
    for argument, ip, memory in parse_connections(part, ips, memories, arguments):
        found.setdefault(ip.kernel, {}).setdefault(argument, {}).setdefault(ip.name, set()).add(memory)
    return found


def _connected(kernel: KernelInfo, units: list[Ip], connections: Connections) -> KernelInfo:
    """Put compute units in XRT's index order and add the banks of the buffer arguments.

    A run may go to any compute unit, so a bank must be connected to all of them.  Where there is no such
    bank, the first unit's count, as for XRT's group id.
    """
    positions = {ip.name: index for index, ip in enumerate(units)}
    order = sorted(kernel.compute_units, key=lambda instance: positions[f"{kernel.name}:{instance}"])
    args = list(kernel.args)
    for index, by_unit in connections.get(kernel.name, {}).items():
        if args[index].kind is ArgKind.BUFFER:
            first = min(by_unit, key=positions.__getitem__)
            common = set.intersection(*by_unit.values()) or by_unit[first]
            args[index] = replace(args[index], banks=tuple(sorted(common)))
    return replace(kernel, args=tuple(args), compute_units=tuple(order))


def _by_unit(connections: Connections) -> Mapping[str, Mapping[int, tuple[int, ...]]]:
    found: dict[str, dict[int, tuple[int, ...]]] = {}
    for arguments in connections.values():
        for argument, units in arguments.items():
            for unit, memories in units.items():
                found.setdefault(unit, {})[argument] = tuple(sorted(memories))
    return MappingProxyType({unit: MappingProxyType(banks) for unit, banks in found.items()})


def _partition(part: Reader) -> tuple[tuple[uuid.UUID, ...], uuid.UUID | None]:
    """Return the interface UUIDs and the logic UUID of PARTITION_METADATA."""
    interfaces, logic = [], None
    for path, value in parse_fdt(part).items():
        if path == "logic_uuid":
            logic = _hex_uuid(part, path, value)
        elif _INTERFACE.fullmatch(path):
            interfaces.append(_hex_uuid(part, path, value))
    return tuple(interfaces), logic


def _hex_uuid(part: Reader, path: str, value: bytes) -> uuid.UUID:
    if not _HEX_UUID.fullmatch(value):
        raise part.error(f"{path} is {shown(value)}, expected 32 hexadecimal digits")
    found = uuid.UUID(value[:32].decode())
    if found == NULL_UUID:
        raise part.error(f"{path} is the null UUID, which names nothing")
    return found


def _key_values(part: Reader) -> Mapping[str, str]:
    if len(part) > _MAX_JSON:
        raise part.error(f"the JSON text has {len(part)} bytes; more than {_MAX_JSON} make no sense")
    pairs: dict[str, str] = {}
    entries: Any = load_object(part).get("key_values", ())
    if not isinstance(entries, tuple):
        raise part.error(f"key_values is {shown(entries)}, expected an array")
    for index, entry in enumerate(entries):
        if not (
            isinstance(entry, Mapping) and isinstance(entry.get("key"), str) and isinstance(entry.get("value"), str)
        ):
            raise part.error(f"key_values[{index}] is {shown(entry)}, expected an object with the texts key and value")
        pairs[entry["key"]] = entry["value"]
    return MappingProxyType(pairs)
