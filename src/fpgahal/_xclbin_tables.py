# SPDX-License-Identifier: Apache-2.0
"""The sections of an xclbin that are plain tables: memories, IPs, connections, clocks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from fpgahal._reader import Reader, shown
from fpgahal._types import BankInfo
from fpgahal._xclbin_format import (
    ADDRESSED,
    CLOCK,
    CONNECTION,
    COUNT16,
    COUNT32,
    IP,
    IP_KERNEL,
    IP_PS_KERNEL,
    MAX_MEMORIES,
    MAX_SECTIONS,
    MEMORY,
    MEMORY_KINDS,
    NOT_USED,
    TABLE_AT,
    memory_kind,
)

_CU_NAME = re.compile(r"[A-Za-z0-9_]+:[A-Za-z0-9_]+")


@dataclass(frozen=True, slots=True)
class Ip:
    """One entry of IP_LAYOUT."""

    name: str
    type: int
    base: int
    interrupt: int

    @property
    def kernel(self) -> str:
        """The kernel's name; empty if this is no compute unit."""
        return self.name.partition(":")[0] if self.type in (IP_KERNEL, IP_PS_KERNEL) else ""


def parse_memories(part: Reader) -> tuple[BankInfo, ...]:
    """Read MEM_TOPOLOGY or GROUP_TOPOLOGY."""
    (count,) = part.unpack(COUNT32, 0, "the count")
    raw = part.entries(count, TABLE_AT["MEM"], MEMORY, MAX_MEMORIES)
    return tuple(_memory(part, index, *fields) for index, fields in enumerate(MEMORY.iter_unpack(raw)))


def _memory(part: Reader, index: int, kind: int, used: int, size: int, base: int, tag: bytes) -> BankInfo:
    if kind >= len(MEMORY_KINDS):
        raise part.error(f"memory {index} has type {kind}, expected 0..{len(MEMORY_KINDS) - 1}")
    if used > 1:
        raise part.error(f'memory {index} has {used} in its field "used", expected 0 or 1')
    name = part.text(tag, f"the tag of memory {index}")
    if kind not in ADDRESSED:  # streams keep route and flow ids in these fields
        return BankInfo(index, name, memory_kind(kind, name), 0, 0, bool(used))
    size <<= 10
    if used and not size:
        raise part.error(f"memory {index} ({name}) is in use but has no size")
    if used and base + size > 1 << 64:
        raise part.error(f"memory {index} ({name}) has {size:#x} bytes at {base:#x}, beyond the 64-bit address space")
    return BankInfo(index, name, memory_kind(kind, name), base, size, bool(used))


def parse_ips(part: Reader) -> tuple[Ip, ...]:
    """Read IP_LAYOUT."""
    (count,) = part.unpack(COUNT32, 0, "the count")
    raw = part.entries(count, TABLE_AT["IP"], IP, MAX_SECTIONS)
    ips = []
    names: set[str] = set()
    bases: dict[int, str] = {}
    for index, (kind, properties, base, tag) in enumerate(IP.iter_unpack(raw)):
        ip = Ip(part.text(tag, f"the name of IP {index}"), kind, base, properties >> 1 & 0x7F)
        ips.append(ip)
        if not ip.kernel:
            continue
        if not _CU_NAME.fullmatch(ip.name):
            raise part.error(f'IP {index} is named {shown(ip.name)}, expected "kernel:instance"')
        if ip.name in names:
            raise part.error(f"two IPs are named {ip.name!r}")
        names.add(ip.name)
        if kind == IP_KERNEL and base != NOT_USED:
            if base in bases:
                raise part.error(f"{ip.name} and {bases[base]} are both at address {base:#x}")
            bases[base] = ip.name
    return tuple(ips)


def in_index_order(ips: tuple[Ip, ...]) -> list[Ip]:
    """Sort PL compute units as XRT numbers them: by interrupt id, or by address if all ids are 0.

    Free-running ones (no address) come last.  PS kernels, which are numbered on their own, follow.
    """
    units = [ip for ip in ips if ip.type == IP_KERNEL]
    by_interrupt = any(ip.interrupt for ip in units)
    units.sort(key=lambda ip: (ip.base == NOT_USED, ip.interrupt if by_interrupt else ip.base))
    return units + [ip for ip in ips if ip.type == IP_PS_KERNEL]


def parse_connections(
    part: Reader, ips: tuple[Ip, ...], memories: int, arguments: dict[str, int]
) -> Iterator[tuple[int, Ip, int]]:
    """Read CONNECTIVITY or GROUP_CONNECTIVITY: argument index, IP, memory index.

    `memories` is the number of memories, `arguments` the number of arguments of each kernel.
    """
    (count,) = part.unpack(COUNT32, 0, "the count")
    raw = part.entries(count, TABLE_AT["CONNECTION"], CONNECTION, 1 << 20)
    for number, (argument, index, memory) in enumerate(CONNECTION.iter_unpack(raw)):
        if not 0 <= index < len(ips):
            raise part.error(f"connection {number} names IP {index}, but IP_LAYOUT has {len(ips)}")
        if not 0 <= memory < memories:
            raise part.error(f"connection {number} names memory {memory}, but there are {memories}")
        ip = ips[index]
        limit = arguments.get(ip.kernel, MAX_SECTIONS)
        if not 0 <= argument < limit:
            raise part.error(f"connection {number} names argument {argument} of {ip.name}, which has {limit}")
        yield argument, ip, memory


def parse_clocks(part: Reader) -> tuple[tuple[str, float], ...]:
    """Read CLOCK_FREQ_TOPOLOGY: name and MHz."""
    (count,) = part.unpack(COUNT16, 0, "the count")
    raw = part.entries(count, TABLE_AT["CLOCK"], CLOCK, 1 << 15)
    return tuple(
        (part.text(name, f"the name of clock {index}"), float(mhz))
        for index, (mhz, _, name) in enumerate(CLOCK.iter_unpack(raw))
    )
