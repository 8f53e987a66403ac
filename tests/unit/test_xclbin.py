# SPDX-License-Identifier: Apache-2.0
"""xclbin files: what is built can be read, and each way to break one has its own message."""

from __future__ import annotations

import contextlib
import struct
import uuid
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fpgahal._bitstream import Bitstream
from fpgahal._errors import BitstreamError
from fpgahal._image import build_emulated
from fpgahal._types import ArgInfo, ArgKind, BankInfo, KernelInfo
from fpgahal._xclbin_build import (
    assemble,
    build_xclbin,
    clock_table,
    connection_table,
    default_connectivity,
    ip_table,
    kernel_xml,
    memory_table,
    partition_tree,
)
from fpgahal._xclbin_format import KINDS

VBNV = "xilinx_u250_gen3x16_xdma_shell_4_1"
IDENT = uuid.UUID("6faff5fc-3a01-55a6-9de1-667c1fe9559b")
INTERFACE = uuid.UUID("f2c1ee39-c5b9-4a4e-9de6-5a8f1de0b16d")
OTHER = uuid.UUID(int=7)
CLOCKS = [("DATA_CLK", 300.0), ("KERNEL_CLK", 500.0)]
DDR = (0, 1)

VADD = KernelInfo(
    "vadd",
    (
        ArgInfo(0, "a", ArgKind.BUFFER, "uint*", 8, 0x10, DDR),
        ArgInfo(1, "b", ArgKind.BUFFER, "uint*", 8, 0x1C, DDR),
        ArgInfo(2, "out", ArgKind.BUFFER, "uint*", 8, 0x28, DDR),
        ArgInfo(3, "n", ArgKind.SCALAR, "uint", 4, 0x34),
    ),
    ("vadd_1", "vadd_2"),
    0x1000,
)
COPY = KernelInfo(
    "passthrough",
    (
        ArgInfo(0, "src", ArgKind.BUFFER, "void*", 8, 0x10, (0,)),
        ArgInfo(1, "dst", ArgKind.BUFFER, "void*", 8, 0x1C, (1,)),
        ArgInfo(2, "bytes", ArgKind.SCALAR, "ulong", 8, 0x28),
        ArgInfo(3, "pipe", ArgKind.STREAM, "stream", 8, 0),
    ),
    ("passthrough_1",),
    0x1000,
)
KERNELS = (VADD, COPY)
BANKS = (
    BankInfo(0, "DDR[0]", "ddr4", 0, 16 << 30),
    BankInfo(1, "DDR[1]", "ddr4", 16 << 30, 16 << 30),
    BankInfo(2, "PLRAM[0]", "plram", 32 << 30, 128 << 10, used=False),
    BankInfo(3, "HOST[0]", "host", 1 << 40, 16 << 30, used=False),
)
PAYLOAD = b"\x5a" * 1000

SECTIONS = {
    "EMBEDDED_METADATA": kernel_xml(KERNELS, VBNV, CLOCKS),
    "MEM_TOPOLOGY": memory_table(BANKS),
    "IP_LAYOUT": ip_table(KERNELS),
    "CONNECTIVITY": connection_table(default_connectivity(KERNELS)),
    "CLOCK_FREQ_TOPOLOGY": clock_table(CLOCKS),
    "BITSTREAM": PAYLOAD,
    "PARTITION_METADATA": partition_tree([INTERFACE]),
    "KEYVALUE_METADATA": b'{"key_values": [{"key": "k", "value": "v"}]}',
}


def xclbin(sections: dict[str, bytes | None] | None = None) -> bytes:
    """Put an xclbin together without looking at it; None leaves a section out."""
    contents = {kind: raw for kind, raw in (SECTIONS | (sections or {})).items() if raw is not None}
    return assemble(contents, platform=VBNV, rom=uuid.UUID(int=0), timestamp=0x5D14FBE6, uuid=IDENT, created=1)


GOOD = xclbin()


def poked(offset: int, layout: str, *values: object, data: bytes = GOOD) -> bytes:
    broken = bytearray(data)
    struct.pack_into(layout, broken, offset, *values)
    return bytes(broken)


def entry(kind: str, data: bytes = GOOD) -> int:
    """Where a section's header is."""
    (count,) = struct.unpack_from("<I", data, 448)
    return next(
        at for at in range(456, 456 + 40 * count, 40) if struct.unpack_from("<I", data, at)[0] == KINDS.index(kind)
    )


def starts(kind: str) -> int:
    """Where a section is."""
    return int(struct.unpack_from("<Q", GOOD, entry(kind) + 24)[0])


def section(kind: str, offset: int, layout: str, *values: object) -> bytes:
    """Give the good file with something poked into one section."""
    return xclbin({kind: poked(offset, layout, *values, data=SECTIONS[kind])})


def xml(old: str, new: str, count: int = 1) -> bytes:
    text = SECTIONS["EMBEDDED_METADATA"].decode()
    assert old in text
    return xclbin({"EMBEDDED_METADATA": text.replace(old, new, count).encode()})


def last_argument(offset: int) -> bytes:
    """Give a file whose slave range allows the last argument of vadd at any offset."""
    text = SECTIONS["EMBEDDED_METADATA"].decode().replace('range="0x1000"', 'range="0x100000"')
    return xclbin({"EMBEDDED_METADATA": text.replace('offset="0x34"', f'offset="{offset:#x}"').encode()})


def many(units: int) -> bytes:
    """Give a file of one kernel with many compute units and an argument at the very end."""
    arg = ArgInfo(0, "n", ArgKind.SCALAR, "uint", 4, 0xFF4)
    kernel = KernelInfo("k", (arg,), tuple(f"k_{i}" for i in range(units)))
    return xclbin(
        {
            "EMBEDDED_METADATA": kernel_xml([kernel], VBNV, CLOCKS),
            "IP_LAYOUT": ip_table([kernel]),
            "CONNECTIVITY": connection_table([]),
        }
    )


def tree(old: bytes, new: bytes) -> bytes:
    assert old in SECTIONS["PARTITION_METADATA"]
    return xclbin({"PARTITION_METADATA": SECTIONS["PARTITION_METADATA"].replace(old, new)})


def twice(kind: str) -> bytes:
    return poked(entry("KEYVALUE_METADATA"), "<I", KINDS.index(kind))


ALL_ONES = 0xFFFFFFFFFFFFFFFF
XML, IPS, MEMS = "EMBEDDED_METADATA", "IP_LAYOUT", "MEM_TOPOLOGY"

BROKEN: list[tuple[str, bytes, str]] = [
    # header
    ("half a magic", b"xclb", "ends inside the magic, after 4 bytes"),
    ("xclbin0", b"xclbin0\0" + GOOD[8:], "obsolete magic 'xclbin0'"),
    ("xclbin1", b"xclbin1\0" + GOOD[8:], "obsolete magic 'xclbin1'"),
    ("xclbin3", b"xclbin3\0" + GOOD[8:], "it starts with b'xclbin3"),
    ("only the magic", GOOD[:8], "the header is missing: it takes 456 bytes"),
    ("header cut", GOOD[:455], "there are only 455"),
    ("cut in half", GOOD[: len(GOOD) // 2], f"but the file has {len(GOOD) // 2}: it was cut"),
    ("last byte missing", GOOD[:-1], f"but the file has {len(GOOD) - 1}: it was cut"),
    ("byte appended", GOOD + b"\0", "something was appended"),
    ("m_length too small", poked(304, "<Q", 500), "the header claims 500 bytes"),
    ("m_length too large", poked(304, "<Q", ALL_ONES), f"the header claims {ALL_ONES} bytes"),
    ("signature length absurd", poked(8, "<i", 0x7FFFFFFF), "the signature length is 2147483647"),
    ("signature length negative", poked(8, "<i", -2), "the signature length is -2"),
    ("signature over the content", poked(8, "<i", 1200), "beyond the content's end at"),
    ("unknown mode", poked(332, "<H", 7), "mode is 7 (offset 332), expected 0..6"),
    ("VBNV unterminated", poked(352, "64s", b"v" * 64), "the platform VBNV (offset 352) has no terminating NUL"),
    ("VBNV unprintable", poked(352, "8s", b"x\xffy"), "VBNV (offset 352) is not printable"),
    ("null UUID", poked(416, "16s", bytes(16)), "the xclbin UUID (offset 416) is the null UUID"),
    # table of sections
    ("no sections", poked(448, "<I", 0), "the header counts 0 sections"),
    ("too many sections", poked(448, "<I", 0x10001), "the header counts 65537 sections (offset 448), expected"),
    ("sections without end", poked(448, "<I", 0xFFFFFFFF), "the header counts 4294967295 sections"),
    ("table beyond the file", poked(448, "<I", 0xFFFF), "the table of 65535 sections ends at byte 2621856"),
    ("unknown kind", poked(entry("KEYVALUE_METADATA"), "<I", 37), "is of unknown kind 37, expected 0..36"),
    ("kind -1", poked(entry("KEYVALUE_METADATA"), "<I", 0xFFFFFFFF), "of unknown kind 4294967295"),
    ("two XML sections", twice(XML), "section EMBEDDED_METADATA appears twice"),
    ("two memories", twice(MEMS), "section MEM_TOPOLOGY appears twice"),
    ("two BITSTREAMs", twice("BITSTREAM"), "section BITSTREAM appears twice"),
    ("section misaligned", poked(entry("BITSTREAM") + 24, "<Q", 1001), "section BITSTREAM starts at byte 1001"),
    ("section in the header", poked(entry("BITSTREAM") + 24, "<Q", 8), "starts at byte 8, inside the table"),
    ("section beyond the file", poked(entry("BITSTREAM") + 24, "<Q", 1 << 40), "1000 bytes at 1099511627776"),
    ("section too large", poked(entry(XML) + 32, "<Q", 1 << 33), "section EMBEDDED_METADATA has 8589934592 bytes"),
    (
        "offset and size overflow",
        poked(entry("BITSTREAM") + 24, "<QQ", ALL_ONES - 7, 16),
        "section BITSTREAM has 16 bytes at 18446744073709551608",
    ),
    (
        "sections overlap",
        poked(entry(MEMS) + 24, "<Q", starts(XML) + 8),
        "section MEM_TOPOLOGY at byte 784 overlaps section EMBEDDED_METADATA",
    ),
    ("one section inside another", poked(entry(IPS) + 24, "<Q", starts("BITSTREAM")), "overlaps section IP_LAYOUT"),
    ("no XML section", xclbin({XML: None}), "section EMBEDDED_METADATA is missing"),
    ("no memories", xclbin({MEMS: None}), "section MEM_TOPOLOGY is missing"),
    ("no IPs", xclbin({IPS: None}), "section IP_LAYOUT is missing"),
    (
        "no connections",
        xclbin({"CONNECTIVITY": None}),
        "section CONNECTIVITY is missing, but kernel vadd has buffer arguments",
    ),
    ("BITSTREAM empty", poked(entry("BITSTREAM") + 32, "<Q", 0), "section BITSTREAM is empty"),
    # memories
    ("memories empty", xclbin({MEMS: b""}), "MEM_TOPOLOGY: the count is missing"),
    ("memories negative", section(MEMS, 0, "<i", -1), "MEM_TOPOLOGY: the count of entries is negative: -1"),
    ("memories huge", section(MEMS, 0, "<i", 0x7FFFFFFF), "MEM_TOPOLOGY: the count of entries is absurd: 2147483647"),
    ("one memory too many", section(MEMS, 0, "<i", 5), "5 entries of 40 bytes need 208 bytes, but there are 168"),
    ("one memory too few", section(MEMS, 0, "<i", 3), "the count says 3, but there is room for 4"),
    ("memory type", section(MEMS, 8, "B", 12), "memory 0 has type 12"),
    ("memory used", section(MEMS, 9, "B", 2), "memory 0 has 2 in its field"),
    ("memory without size", section(MEMS, 8 + 8, "<Q", 0), "memory 0 (DDR[0]) is in use but has no size"),
    ("memory without end", section(MEMS, 48 + 8, "<Q", 1 << 60), "memory 1 (DDR[1]) has 0x400000000000000000 bytes"),
    ("memory base", section(MEMS, 48 + 16, "<Q", ALL_ONES), "at 0xffffffffffffffff, beyond the 64-bit"),
    ("memory tag unterminated", section(MEMS, 8 + 24, "16s", b"D" * 16), "the tag of memory 0 has no terminating NUL"),
    ("memory tag unprintable", section(MEMS, 48 + 24, "16s", b"\x01"), "the tag of memory 1 is not printable"),
    (
        "groups negative",
        xclbin({"GROUP_TOPOLOGY": poked(0, "<i", -9, data=SECTIONS[MEMS])}),
        "GROUP_TOPOLOGY: the count of entries is negative: -9",
    ),
    # IPs
    ("IPs huge", section(IPS, 0, "<i", 0x10000000), "IP_LAYOUT: the count of entries is absurd: 268435456"),
    ("IPs negative", section(IPS, 0, "<i", -2147483648), "IP_LAYOUT: the count of entries is negative"),
    ("IPs cut", section(IPS, 0, "<i", 4), "4 entries of 80 bytes need 328 bytes"),
    ("IP name unterminated", section(IPS, 8 + 16, "64s", b"vadd:" + b"v" * 59), "the name of IP 0 has no terminating"),
    ("IP name without colon", section(IPS, 8 + 16, "64s", b"vadd_1"), "IP 0 is named 'vadd_1', expected \"kernel:"),
    ("IP name a pattern", section(IPS, 8 + 16, "64s", b"vadd:.*"), "IP 0 is named 'vadd:.*'"),
    ("IP twice", section(IPS, 88 + 16, "64s", b"vadd:vadd_1"), "two IPs are named 'vadd:vadd_1'"),
    ("IPs at one address", section(IPS, 88 + 8, "<Q", 0x1800000), "vadd:vadd_2 and vadd:vadd_1 are both at address"),
    ("instance without IP", section(IPS, 88 + 16, "64s", b"vadd:vadd_3"), "instance vadd:vadd_2 is not in IP_LAYOUT"),
    # connections
    (
        "connections negative",
        section("CONNECTIVITY", 0, "<i", -3),
        "CONNECTIVITY: the count of entries is negative: -3",
    ),
    ("connections huge", section("CONNECTIVITY", 0, "<i", 1 << 21), "CONNECTIVITY: the count of entries is absurd"),
    ("connection memory", section("CONNECTIVITY", 12, "<i", 4), "connection 0 names memory 4, but there are 4"),
    ("connection memory -1", section("CONNECTIVITY", 12, "<i", -1), "connection 0 names memory -1"),
    ("connection IP", section("CONNECTIVITY", 16 + 4, "<i", 3), "connection 1 names IP 3, but IP_LAYOUT has 3"),
    ("connection IP -1", section("CONNECTIVITY", 16 + 4, "<i", -1), "connection 1 names IP -1"),
    ("connection argument", section("CONNECTIVITY", 4, "<i", 4), "names argument 4 of vadd:vadd_1, which has 4"),
    ("connection argument -1", section("CONNECTIVITY", 4, "<i", -1), "names argument -1 of vadd:vadd_1"),
    (
        "bad plain connection behind good groups",
        xclbin(
            {
                "CONNECTIVITY": poked(12, "<i", 77, data=SECTIONS["CONNECTIVITY"]),
                "GROUP_CONNECTIVITY": SECTIONS["CONNECTIVITY"],
            }
        ),
        "section CONNECTIVITY: connection 0 names memory 77",
    ),
    (
        "group connection memory",
        xclbin({"GROUP_CONNECTIVITY": connection_table([(0, 0, 9)])}),
        "GROUP_CONNECTIVITY: connection 0 names memory 9",
    ),
    # clocks
    (
        "clocks negative",
        section("CLOCK_FREQ_TOPOLOGY", 0, "<h", -1),
        "CLOCK_FREQ_TOPOLOGY: the count of entries is neg",
    ),
    ("clocks cut", section("CLOCK_FREQ_TOPOLOGY", 0, "<h", 3), "3 entries of 136 bytes need 410"),
    ("clock name", section("CLOCK_FREQ_TOPOLOGY", 10, "128s", b"c" * 128), "the name of clock 0 has no terminating"),
    # XML
    ("XML empty", xclbin({XML: b""}), "not XML: no element found"),
    ("XML is JSON", xclbin({XML: b"{}"}), "not XML: not well-formed"),
    ("XML cut", xclbin({XML: SECTIONS[XML][:-20]}), "not XML: unclosed token"),
    (
        "XML in another encoding",
        xml('name="vadd"', 'name="\u0176"').replace("\u0176".encode(), b"\xc9\xc9"),
        "(invalid token): line 2",
    ),
    ("XML DOCTYPE", xml("<project", '<!DOCTYPE p [<!ENTITY a "b">]><project'), "line 2 declares a DOCTYPE"),
    ("XML entity", xml('name="vadd"', 'name="&lol;"'), "not XML: undefined entity"),
    ("XML root", xml("<project", "<html", 1).replace(b"</project>", b"</html>   "), "the root element is <html>"),
    ("XML without core", xclbin({XML: b"<project><platform/></project>"}), "no project/platform/device/core"),
    ("XML nested", xclbin({XML: b"<project>" + b"<a>" * 50}), "elements are nested deeper than 32"),
    ("kernel without name", xml('<kernel name="vadd"', "<kernel"), "<kernel> has no attribute 'name'"),
    ("kernel name a pattern", xml('<kernel name="vadd"', '<kernel name="v.*"'), "<kernel> is named 'v.*'"),
    ("kernel name empty", xml('<kernel name="vadd"', '<kernel name=""'), "<kernel> is named ''"),
    ("kernel type", xml('<kernel name="vadd"', '<kernel type="x" name="vadd"'), "kernel vadd has type 'x'"),
    ("kernel twice", xml('<kernel name="passthrough"', '<kernel name="vadd"'), "there are two kernels named 'vadd'"),
    ("instance twice", xml('name="vadd_2"', 'name="vadd_1"'), "vadd has two instances of the same name"),
    ("instance name", xml('name="vadd_2"', 'name="vadd 2"'), "<instance> is named 'vadd 2'"),
    ("no instance", xml("instance", "insect", 99), "kernel vadd has no instance"),
    (
        "129 instances",
        xml("<instance", "".join(f'<instance name="x{i}"/>' for i in range(127)) + "<instance"),
        "vadd has 129 instances, XRT takes at most 128",
    ),
    ("range a word", xml('range="0x1000"', 'range="all"'), "range='all' of <port> is not a number"),
    ("no range", xml(' range="0x1000"', ""), "<port> has no attribute 'range'"),
    ("range negative", xml('range="0x1000"', 'range="-4096"'), "range='-4096' of <port> is negative"),
    (
        "range too small",
        xml('range="0x1000"', 'range="0x20"'),
        "ends at register offset 0x24, beyond the register range",
    ),
    *(
        (f"arg without {key}", xml(f" {key}=", f" x{key}="), f"<{tag}> has no attribute '{key}'")
        for key, tag in (("addressQualifier", "arg"), ("id", "arg"), ("offset", "arg"), ("hostSize", "arg"))
    ),
    ("arg without size", xml(' size="0x8"', ""), "<arg> has no attribute 'size'"),
    ("arg without name", xml('<arg name="a"', "<arg"), "<arg> has no attribute 'name'"),
    ("arg name empty", xml('<arg name="a"', '<arg name=""'), "an argument of kernel vadd has the name ''"),
    ("qualifier 5", xml('addressQualifier="1"', 'addressQualifier="5"'), "addressQualifier of vadd.a is 5"),
    (
        "qualifier a word",
        xml('addressQualifier="1"', 'addressQualifier="global"'),
        "addressQualifier='global' of <arg>",
    ),
    ("size negative", xml(' size="0x8"', ' size="-8"'), "size='-8' of <arg> is negative"),
    ("size 0", xml(' size="0x8"', ' size="0"'), "vadd.a has size 0"),
    (
        "size huge",
        xml(' size="0x8"', ' size="0xffffffffffffffff"'),
        "vadd.a ends at register offset 0x1000000000000000f",
    ),
    ("hostSize octal", xml('hostSize="0x8"', 'hostSize="010"'), "hostSize='010' of <arg> is not a number"),
    ("offset a word", xml('offset="0x10"', 'offset="ten"'), "offset='ten' of <arg> is not a number"),
    ("offset negative", xml('offset="0x10"', 'offset="-0x10"'), "offset='-0x10' of <arg> is negative"),
    ("offset 70 bits", xml('offset="0x10"', 'offset="99999999999999999999"'), "does not fit in 64 bits"),
    (
        "offset odd",
        xml('offset="0x10"', 'offset="0x11"'),
        "vadd.a is at register offset 0x11, expected a multiple of 4",
    ),
    ("offset on control", xml('offset="0x10"', 'offset="0x8"'), "vadd.a is at register offset 0x8, on the control"),
    (
        "arguments overlap",
        xml('offset="0x1c"', 'offset="0x14"'),
        "arguments a and b of kernel vadd overlap at offset 0x14",
    ),
    ("id missing", xml('id="1"', 'id="7"'), "argument ids of kernel vadd are not contiguous: 1 is missing"),
    ("id not from 0", xml('id="0"', 'id=""'), "argument ids of kernel vadd are not contiguous: 0 is missing"),
    ("id of two kinds", xml('id="3"', 'id="2"'), "vadd.n has the same id 2 as out, but another addressQualifier"),
    ("id a word", xml('id="0"', 'id="first"'), "id='first' of <arg>"),
    ("argument beyond the range", xml('offset="0x34"', 'offset="0x1000"'), "vadd.n ends at register offset 0x1004"),
    ("argument just beyond the command", last_argument(0xFF8), "8 + 4088 + 4 bytes, at most 4096"),
    ("argument far beyond the command", last_argument(0x80000), "argument n of kernel vadd at register offset 0x80000"),
    ("33 compute units need a second mask", many(33), "12 + 4084 + 4 bytes, at most 4096"),
    ("clock frequency", xml('frequency="500MHz"', 'frequency="fast"'), "frequency='fast' of <clock>"),
    # partition metadata
    ("tree magic", section("PARTITION_METADATA", 0, ">I", 1), "the device tree has magic 0x00000001"),
    ("tree cut", xclbin({"PARTITION_METADATA": SECTIONS["PARTITION_METADATA"][:30]}), "the header of the device tree"),
    ("tree size", section("PARTITION_METADATA", 4, ">I", 1 << 20), "the device tree claims 1048576 bytes"),
    ("tree structure", section("PARTITION_METADATA", 36, ">I", 0xFFFFFFFF), "the device tree's structure ends at"),
    ("tree strings", section("PARTITION_METADATA", 12, ">I", 0xFFFFFFF0), "the device tree's strings ends at"),
    (
        "tree property",
        tree(struct.pack(">III", 3, 33, 12), struct.pack(">III", 3, 1 << 30, 12)),
        "has 1073741824 bytes, beyond the end",
    ),
    (
        "tree name",
        tree(struct.pack(">III", 3, 33, 12), struct.pack(">III", 3, 33, 999)),
        "a property's name in the device tree has no terminating NUL",
    ),
    ("tree token", tree(struct.pack(">II", 2, 9), struct.pack(">II", 2, 8)), "has the token 8 at"),
    (
        "tree without end",
        tree(struct.pack(">II", 2, 9), struct.pack(">II", 4, 4)),
        "a token of the device tree is missing",
    ),
    ("tree ends too often", tree(struct.pack(">II", 2, 9), struct.pack(">II", 2, 2)), "has the token 2 at"),
    (
        "interface null",
        xclbin({"PARTITION_METADATA": partition_tree([uuid.UUID(int=0)])}),
        "interfaces/@0/interface_uuid is the null UUID",
    ),
    ("interface a word", tree(INTERFACE.hex.encode(), b"x" * 32), "interface_uuid is b'xxxx"),
    # key values
    ("keys not JSON", xclbin({"KEYVALUE_METADATA": b"k=v"}), "KEYVALUE_METADATA: not JSON"),
    ("keys an array", xclbin({"KEYVALUE_METADATA": b"[]"}), "KEYVALUE_METADATA: the JSON text is not an object"),
    ("keys an object", xclbin({"KEYVALUE_METADATA": b'{"key_values": {}}'}), "key_values is mappingproxy({})"),
    (
        "key a number",
        xclbin({"KEYVALUE_METADATA": b'{"key_values": [{"key": 1, "value": ""}]}'}),
        "key_values[0] is mappingproxy({'key': 1",
    ),
    # emulated image
    (
        "emulated image of another xclbin",
        xclbin({"BITSTREAM": build_emulated(INTERFACE, OTHER)}),
        "BITSTREAM: the emulated image holds AFU id",
    ),
    (
        "emulated image of another board",
        xclbin({"BITSTREAM": build_emulated(OTHER, IDENT)}),
        "BITSTREAM: the emulated image holds interface id",
    ),
]


@pytest.mark.parametrize(("data", "fragment"), [pytest.param(d, f, id=name) for name, d, f in BROKEN])
def test_broken(data: bytes, fragment: str) -> None:
    with pytest.raises(BitstreamError) as caught:
        Bitstream.parse(data, "some.xclbin")
    assert caught.value.message.startswith("some.xclbin: ")
    assert fragment in caught.value.message
    assert type(caught.value) is BitstreamError


def test_every_case_has_its_own_message() -> None:
    fragments = [fragment for _, _, fragment in BROKEN]
    assert len(set(fragments)) == len(BROKEN) >= 45
    messages = set()
    for _, data, _ in BROKEN:
        with pytest.raises(BitstreamError) as caught:
            Bitstream.parse(data, "x")
        messages.add(caught.value.message)
    assert len(messages) == len(BROKEN)


def test_good_file() -> None:
    found = Bitstream.parse(GOOD, "good.xclbin")
    assert (found.kind, found.name, found.platform) == ("xclbin", "good.xclbin", VBNV)
    assert (found.afu_id, found.interface_id, found.timestamp) == (IDENT, INTERFACE, 0x5D14FBE6)
    assert found.kernels == KERNELS
    assert found.banks == BANKS
    assert found.clocks == tuple(CLOCKS)
    assert bytes(found.payload) == PAYLOAD
    assert found.metadata["key_values"] == {"k": "v"}
    assert (found.metadata["version"], found.metadata["mode"], found.metadata["signed"]) == ("2.13.466", "flat", False)
    assert [kind for kind, *_ in found.metadata["sections"]] == list(SECTIONS)
    assert found.metadata["compute_units"][2] == ("passthrough:passthrough_1", 0x1820000)
    assert not found.emulated


def test_layout() -> None:
    # xclbin.h: 0xff fill, no signature, aligned sections, the length of the file
    assert GOOD[:8] == b"xclbin2\0"
    assert GOOD[8:296] == b"\xff" * 288
    assert struct.unpack_from("<Q", GOOD, 304) == (len(GOOD),)
    assert GOOD[328:332] == bytes((0xD2, 0x01, 2, 13))
    assert all(offset % 8 == 0 for _, _, offset, _ in Bitstream.parse(GOOD).metadata["sections"])


def test_signed_file_and_mirror_data() -> None:
    # xclbinutil appends a copy of the header as JSON; a signature follows the content.
    data = GOOD + b"XCLBIN_MIRROR_DATA_START{}XCLBIN_MIRROR_DATA_END" + b"S" * 100
    data = poked(304, "<Q", len(data), data=poked(8, "<i", 100, data=data))
    assert Bitstream.parse(data).metadata["signed"]


def test_groups_win() -> None:
    group = BankInfo(4, "group0", "ddr4", 0, 32 << 30)
    connections = default_connectivity(KERNELS)
    data = xclbin(
        {
            "GROUP_TOPOLOGY": memory_table((*BANKS, group)),
            "GROUP_CONNECTIVITY": connection_table([*connections, (0, 0, 4), (0, 1, 4)]),
        }
    )
    found = Bitstream.parse(data)
    assert found.banks == (*BANKS, group)
    assert found.kernels[0].args[0].banks == (0, 1, 4)
    assert found.kernels[0].args[1].banks == (0, 1)


def test_bank_must_suit_every_compute_unit() -> None:
    found = Bitstream.parse(xclbin({"CONNECTIVITY": connection_table([(0, 0, 0), (0, 0, 1), (0, 1, 1)])}))
    assert found.kernels[0].args[0].banks == (1,)
    assert found.metadata["connections"]["vadd:vadd_1"][0] == (0, 1)
    apart = Bitstream.parse(xclbin({"CONNECTIVITY": connection_table([(0, 0, 0), (0, 1, 1)])}))
    assert apart.kernels[0].args[0].banks == (0,)


def test_compute_units_in_the_order_of_xrt() -> None:
    ids = bytearray(SECTIONS["IP_LAYOUT"])
    struct.pack_into("<I", ids, 8 + 4, 1 | 5 << 1)  # vadd_1 gets interrupt 5, after vadd_2's 1
    assert Bitstream.parse(xclbin({"IP_LAYOUT": bytes(ids)})).kernels[0].compute_units == ("vadd_2", "vadd_1")
    for at in (8, 88, 168):
        struct.pack_into("<I", ids, at + 4, 1)  # no ids: by address
    struct.pack_into("<Q", ids, 8 + 8, ALL_ONES)  # free-running: last
    found = Bitstream.parse(xclbin({"IP_LAYOUT": bytes(ids)}))
    assert found.kernels[0].compute_units == ("vadd_2", "vadd_1")


def test_arguments_of_one_id_are_merged() -> None:
    found = Bitstream.parse(
        xml(
            '<arg name="n"',
            '<arg name="high" addressQualifier="0" id="3" size="0x4" offset="0x38" hostSize="0x4" /><arg name="n"',
        )
    )
    assert (found.kernels[0].args[3].size, found.kernels[0].args[3].offset) == (8, 0x34)


def test_argument_without_id_is_hidden() -> None:
    assert len(Bitstream.parse(xml('id="3"', 'id=""')).kernels[0].args) == 3


def test_last_register_that_fits() -> None:
    assert Bitstream.parse(last_argument(0xFF4)).kernels[0].args[3].offset == 0xFF4
    assert len(Bitstream.parse(many(32)).kernels[0].compute_units) == 32


def test_xml_clocks_where_there_is_no_topology() -> None:
    assert Bitstream.parse(xclbin({"CLOCK_FREQ_TOPOLOGY": None})).clocks == tuple(CLOCKS)


def test_streams_have_no_address() -> None:
    bank = Bitstream.parse(section(MEMS, 8 + 80, "<BB6xQQ", 9, 1, ALL_ONES, ALL_ONES)).banks[2]
    assert (bank.kind, bank.base, bank.size) == ("stream", 0, 0)


def test_builder_is_reproducible() -> None:
    def build() -> bytes:
        return build_xclbin(
            KERNELS,
            platform=VBNV,
            banks=BANKS,
            interface_id=INTERFACE,
            timestamp=5,
            uuid=IDENT,
            clocks=CLOCKS,
            payload=build_emulated(INTERFACE, IDENT),
            key_values={"a": "b"},
        )

    found = Bitstream.parse(build())
    assert build() == found.data
    assert found.emulated
    assert (found.kernels, found.interface_id) == (KERNELS, INTERFACE)
    assert found.metadata["key_values"] == {"a": "b"}


def test_builder_draws_a_uuid() -> None:
    ids = {Bitstream.parse(build_xclbin([VADD], platform=VBNV, banks=BANKS)).afu_id for _ in range(2)}
    assert len(ids) == 2


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        ({"platform": "x" * 64}, "at most 63 fit"),
        ({"banks": BANKS[1:]}, "has index 1 at position 0"),
        ({"banks": [replace(BANKS[0], kind="tape")]}, "is of kind 'tape'"),
        ({"banks": [replace(BANKS[0], size=1000)]}, "whole KiB"),
        ({"clocks": [("KERNEL_CLK", 1e6)]}, "16 bits"),
        ({"kernels": [replace(VADD, name="v-add")]}, "expected 1 to 63 letters"),
        ({"kernels": [replace(VADD, compute_units=())]}, "has no instance"),
        ({"kernels": [replace(VADD, compute_units=tuple(f"v{i}" for i in range(129)))]}, "at most 128"),
        ({"connectivity": [(0, 0, 99)]}, "names memory 99"),
    ],
)
def test_builder_refuses(change: dict[str, Any], fragment: str) -> None:
    with pytest.raises(ValueError, match=fragment):
        build_xclbin(**({"kernels": [VADD], "platform": VBNV, "banks": BANKS} | change))


NAMES = st.from_regex(r"[A-Za-z0-9_]{1,20}", fullmatch=True)


@st.composite
def kernel_lists(draw: st.DrawFn) -> tuple[KernelInfo, ...]:
    kernels = []
    for name in draw(st.lists(NAMES, unique=True, max_size=4)):
        args, offset = [], 0x10
        for index in range(draw(st.integers(0, 8))):
            buffer = draw(st.booleans())
            size = 8 if buffer else draw(st.sampled_from([4, 8]))
            banks = tuple(sorted(draw(st.sets(st.integers(0, 1), min_size=1)))) if buffer else ()
            kind = ArgKind.BUFFER if buffer else ArgKind.SCALAR
            args.append(
                ArgInfo(index, f"arg{index}", kind, draw(st.sampled_from(["uint", "float*", ""])), size, offset, banks)
            )
            offset += size + 4 * draw(st.integers(0, 3))
        units = tuple(f"{name}_{number}" for number in range(draw(st.integers(1, 4))))
        kernels.append(KernelInfo(name, tuple(args), units, 0x1000))
    return tuple(kernels)


@given(
    kernels=kernel_lists(),
    ident=st.uuids(),
    interface=st.none() | st.uuids(),
    timestamp=st.integers(0, 2**64 - 1),
    payload=st.binary(max_size=100).map(lambda raw: raw and b"\xff" + raw),
    pairs=st.dictionaries(st.text(max_size=10), st.text(max_size=10), max_size=3),
)
def test_round_trip(
    kernels: tuple[KernelInfo, ...],
    ident: uuid.UUID,
    interface: uuid.UUID | None,
    timestamp: int,
    payload: bytes,
    pairs: dict[str, str],
) -> None:
    pairs = {key.encode("ascii", "ignore").decode().replace("\0", ""): "v" for key in pairs}
    found = Bitstream.parse(
        build_xclbin(
            kernels,
            platform=VBNV,
            banks=BANKS,
            interface_id=interface,
            uuid=ident,
            timestamp=timestamp,
            payload=payload,
            key_values=pairs,
        )
    )
    assert (found.kernels, found.afu_id, found.interface_id) == (kernels, ident, interface)
    assert (found.timestamp, bytes(found.payload), found.metadata["key_values"]) == (timestamp, payload, pairs)


def survives(data: bytes) -> None:
    """Parse: any outcome but an exception of another class is right."""
    with contextlib.suppress(BitstreamError):
        Bitstream.parse(data)


@settings(max_examples=300)
@given(st.binary(max_size=600))
def test_any_bytes(tail: bytes) -> None:
    survives(b"xclbin2\0" + tail)
    survives(poked(456, f"{len(tail)}s", tail))


@settings(max_examples=300)
@given(kind=st.sampled_from(sorted(SECTIONS)), raw=st.binary(max_size=300))
def test_any_bytes_in_any_section(kind: str, raw: bytes) -> None:
    survives(xclbin({kind: raw}))
    survives(xclbin({kind: SECTIONS[kind][:8] + raw}))


@settings(max_examples=500)
@given(st.data())
def test_mutations(data: st.DataObject) -> None:
    broken = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(296, len(GOOD) - 8))
        layout = data.draw(st.sampled_from(["<B", "<I", "<Q", ">I"]))
        edges = st.sampled_from([0, 1, 0x7F, 0xFF, 0x7FFFFFFF, 0xFFFFFFFF, ALL_ONES])
        value = data.draw(edges | st.integers(0, ALL_ONES))
        struct.pack_into(layout, broken, at, value & (1 << 8 * struct.calcsize(layout)) - 1)
    survives(bytes(broken))


@settings(max_examples=200)
@given(st.integers(0, len(GOOD) - 1))
def test_truncations_even_when_the_header_agrees(end: int) -> None:
    with pytest.raises(BitstreamError):
        Bitstream.parse(GOOD[:end])
    if end > 312:
        survives(poked(304, "<Q", end, data=GOOD[:end]))
