# SPDX-License-Identifier: Apache-2.0
"""Make an xclbin from a description of its kernels.  Debian's xclbinutil does not run, so this is our own."""

from __future__ import annotations

import json
import struct
import uuid as _uuid
from collections.abc import Iterable, Mapping, Sequence
from xml.etree import ElementTree

from fpgahal._fdt import build_fdt
from fpgahal._reader import NULL_UUID
from fpgahal._types import ArgInfo, ArgKind, BankInfo, KernelInfo
from fpgahal._xclbin import parse_xclbin
from fpgahal._xclbin_format import (
    CLOCK,
    CONNECTION,
    COUNT16,
    COUNT32,
    HEADER,
    IP,
    IP_KERNEL,
    KINDS,
    MAGIC,
    MEMORY,
    MEMORY_TYPES,
    SECTION,
)

_VERSION = (466, 2, 13)  # patch, major, minor: the release whose rules these files follow
_INTERRUPT = 1
_FIRST_CU, _CU_STEP = 0x1800000, 0x10000
_CLOCK_TYPES = {"DATA_CLK": 1, "KERNEL_CLK": 2}
_QUALIFIERS = {ArgKind.SCALAR: 0, ArgKind.BUFFER: 1, ArgKind.STREAM: 4}
Connection = tuple[int, int, int]


def build_xclbin(
    kernels: Sequence[KernelInfo],
    *,
    platform: str,
    banks: Sequence[BankInfo],
    interface_id: _uuid.UUID | None = None,
    timestamp: int = 0,
    uuid: _uuid.UUID | None = None,
    clocks: Iterable[tuple[str, float]] = (("KERNEL_CLK", 300.0),),
    payload: bytes = b"",
    key_values: Mapping[str, str] | None = None,
    connectivity: Iterable[Connection] | None = None,
    sections: Mapping[str, bytes] | None = None,
    created: int = 0,
) -> bytes:
    """Make an xclbin.

    Parameters
    ----------
    kernels : sequence of KernelInfo
        Each with its arguments (offset, size, type, banks) and compute units.
    platform : str
        The shell's VBNV, at most 63 ASCII characters.
    banks : sequence of BankInfo
        Every memory of the board; `index` must be the position.
    interface_id : uuid.UUID, optional
        Two-stage shells: written to PARTITION_METADATA.
    timestamp : int
        One-stage shells: feature ROM time stamp; 0 is "not checked".
    uuid : uuid.UUID, optional
        The image's id; random if not given.
    clocks : iterable of (str, float)
        Name and MHz; KERNEL_CLK is the kernels' clock.
    payload : bytes
        BITSTREAM; no such section if empty.
    key_values : mapping, optional
        KEYVALUE_METADATA.
    connectivity : iterable of (argument, IP, memory), optional
        Indices; by default every compute unit's buffers are connected to ``ArgInfo.banks``.
    sections : mapping, optional
        More sections by the name of their kind (``"GROUP_TOPOLOGY"``), raw; they replace those made here.
    created : int
        Creation time, seconds since 1970; 0 keeps the file reproducible.

    Raises
    ------
    BitstreamError
        The values make no sound xclbin.
    ValueError
        A value has no place in the format.
    """
    clocks = list(clocks)
    if connectivity is None:
        connectivity = default_connectivity(kernels)
    contents = {
        "EMBEDDED_METADATA": kernel_xml(kernels, platform, clocks),
        "MEM_TOPOLOGY": memory_table(banks),
        "IP_LAYOUT": ip_table(kernels),
        "CONNECTIVITY": connection_table(connectivity),
        "CLOCK_FREQ_TOPOLOGY": clock_table(clocks),
    }
    if payload:
        contents["BITSTREAM"] = payload
    if interface_id is not None:
        contents["PARTITION_METADATA"] = partition_tree([interface_id])
    if key_values:
        pairs = [{"key": key, "value": value} for key, value in key_values.items()]
        contents["KEYVALUE_METADATA"] = json.dumps({"key_values": pairs}).encode()
    data = assemble(
        contents | dict(sections or {}),
        platform=platform,
        rom=NULL_UUID,
        timestamp=timestamp,
        uuid=uuid or _uuid.uuid4(),
        created=created,
    )
    parse_xclbin(data, "the new xclbin")
    return data


def assemble(
    contents: Mapping[str, bytes], *, platform: str, rom: _uuid.UUID, timestamp: int, uuid: _uuid.UUID, created: int
) -> bytes:
    """Lay out header, table and sections; nothing is checked."""
    vbnv = platform.encode("ascii")
    if len(vbnv) > 63:
        raise ValueError(f"the platform's name {platform!r} has {len(vbnv)} characters; at most 63 fit")
    at = _aligned(HEADER.size + len(contents) * SECTION.size)
    table, body = [], []
    for kind, raw in contents.items():
        table.append(SECTION.pack(KINDS.index(kind), kind.lower().encode()[:15], at, len(raw)))
        body.append(raw.ljust(_aligned(len(raw)), b"\0"))
        at += len(body[-1])
    header = HEADER.pack(
        MAGIC,
        -1,
        b"\xff" * 28,
        b"\xff" * 256,
        created,
        at,
        created,
        timestamp,
        *_VERSION,
        0,
        0,
        rom.bytes,
        vbnv,
        uuid.bytes,
        b"",
        len(contents),
    )
    start = header + b"".join(table)
    return b"".join((start.ljust(_aligned(len(start)), b"\0"), *body))


def default_connectivity(kernels: Iterable[KernelInfo]) -> list[Connection]:
    """Connect each compute unit's buffers to the banks that the arguments name."""
    found = []
    for ip, (kernel, _) in enumerate(_units(kernels)):
        found += [(arg.index, ip, bank) for arg in kernel.args if arg.kind is ArgKind.BUFFER for bank in arg.banks]
    return found


def kernel_xml(kernels: Iterable[KernelInfo], platform: str, clocks: Iterable[tuple[str, float]]) -> bytes:
    """Make EMBEDDED_METADATA."""
    project = ElementTree.Element("project", name="fpgahal")
    shell = ElementTree.SubElement(project, "platform", vendor="xilinx", boardid="", name=platform, featureRomTime="0")
    device = ElementTree.SubElement(shell, "device", name="fpga0", fpgaDevice="")
    core = ElementTree.SubElement(device, "core", name="OCL_REGION_0")
    frequencies = ElementTree.SubElement(core, "kernelClocks")
    for name, mhz in clocks:
        ElementTree.SubElement(frequencies, "clock", port=name, frequency=f"{mhz:g}MHz")
    base = _FIRST_CU
    for kernel in kernels:
        registers = kernel.register_bytes or 0x1000
        node = ElementTree.SubElement(
            core, "kernel", name=kernel.name, language="c", hwControlProtocol="ap_ctrl_hs", interrupt="true"
        )
        ElementTree.SubElement(
            node,
            "port",
            name="M_AXI",
            mode="master",
            range="0xFFFFFFFFFFFFFFFF",
            dataWidth="512",
            portType="addressable",
        )
        ElementTree.SubElement(
            node, "port", name="S_AXI", mode="slave", range=hex(registers), dataWidth="32", portType="addressable"
        )
        for arg in kernel.args:
            _arg_xml(node, arg)
        for unit in kernel.compute_units:
            instance = ElementTree.SubElement(node, "instance", name=unit)
            ElementTree.SubElement(instance, "addrRemap", base=hex(base), range=hex(_CU_STEP), port="S_AXI")
            base += _CU_STEP
    xml: bytes = ElementTree.tostring(project, encoding="utf-8", xml_declaration=True)
    return xml


def _arg_xml(node: ElementTree.Element, arg: ArgInfo) -> None:
    size = hex(arg.size)
    ElementTree.SubElement(
        node,
        "arg",
        name=arg.name,
        addressQualifier=str(_QUALIFIERS[arg.kind]),
        id=str(arg.index),
        port="S_AXI" if arg.kind is ArgKind.SCALAR else "M_AXI",
        size=size,
        offset=hex(max(arg.offset, 0)),
        hostOffset="0x0",
        hostSize=size,
        type=arg.type,
    )


def memory_table(banks: Sequence[BankInfo]) -> bytes:
    """Make MEM_TOPOLOGY or GROUP_TOPOLOGY."""
    entries = []
    for position, bank in enumerate(banks):
        if bank.index != position:
            raise ValueError(f"bank {bank.name!r} has index {bank.index} at position {position}")
        if bank.kind not in MEMORY_TYPES:
            raise ValueError(f"bank {bank.name!r} is of kind {bank.kind!r}, expected one of {', '.join(MEMORY_TYPES)}")
        if bank.size % 1024 or len(bank.name) > 15:
            raise ValueError(f"bank {bank.name!r}: sizes are whole KiB, names have at most 15 characters")
        entries.append(MEMORY.pack(MEMORY_TYPES[bank.kind], bank.used, bank.size >> 10, bank.base, bank.name.encode()))
    return COUNT32.pack(len(entries)) + bytes(4) + b"".join(entries)


def ip_table(kernels: Iterable[KernelInfo]) -> bytes:
    """Make IP_LAYOUT: interrupt ids and addresses ascend together, so XRT's index order is this order."""
    entries = []
    for number, (kernel, unit) in enumerate(_units(kernels)):
        name = f"{kernel.name}:{unit}".encode()
        if len(name) > 63 or number > 127:
            raise ValueError(f"{name.decode()}: names have at most 63 characters, images at most 128 compute units")
        entries.append(IP.pack(IP_KERNEL, _INTERRUPT | number << 1, _FIRST_CU + number * _CU_STEP, name))
    return COUNT32.pack(len(entries)) + bytes(4) + b"".join(entries)


def connection_table(connections: Iterable[Connection]) -> bytes:
    """Make CONNECTIVITY or GROUP_CONNECTIVITY."""
    entries = [CONNECTION.pack(*connection) for connection in connections]
    return COUNT32.pack(len(entries)) + b"".join(entries)


def clock_table(clocks: Iterable[tuple[str, float]]) -> bytes:
    """Make CLOCK_FREQ_TOPOLOGY; whole MHz."""
    try:
        entries = [CLOCK.pack(round(mhz), _CLOCK_TYPES.get(name, 3), name.encode()) for name, mhz in clocks]
    except struct.error as error:
        raise ValueError(f"a clock does not fit its field of 16 bits: {error}") from None
    return COUNT16.pack(len(entries)) + b"".join(entries)


def partition_tree(interfaces: Sequence[_uuid.UUID]) -> bytes:
    """Make PARTITION_METADATA."""
    return build_fdt(
        {"schema_version/major": bytes((0, 0, 0, 1)), "schema_version/minor": bytes(4)}
        | {
            f"interfaces/@{index}/interface_uuid": interface.hex.encode() + b"\0"
            for index, interface in enumerate(interfaces)
        }
    )


def _units(kernels: Iterable[KernelInfo]) -> list[tuple[KernelInfo, str]]:
    return [(kernel, unit) for kernel in kernels for unit in kernel.compute_units]


def _aligned(size: int) -> int:
    return (size + 7) & ~7
