# SPDX-License-Identifier: Apache-2.0
"""Numbers and layouts of the xclbin (axlf) format, shared by the parser and the builder.

Source: XRT's public header xclbin.h; all fields are little endian.
"""

from __future__ import annotations

import struct

MAGIC = b"xclbin2\0"
# magic, signature length, reserved, key block, unique id, file length, creation time, feature ROM time stamp,
# version (patch, major, minor), mode, action mask, feature ROM UUID, VBNV, xclbin UUID, debug name, sections
HEADER = struct.Struct("<8si28s256sQQQQHBBHH16s64s16s16sI4x")
SECTION = struct.Struct("<I16s4xQQ")  # kind, name, offset, size
COUNT32 = struct.Struct("<i")
COUNT16 = struct.Struct("<h")
MEMORY = struct.Struct("<BB6xQQ16s")  # type, used, size in KiB or route id, base or flow id, tag
CONNECTION = struct.Struct("<iii")  # argument, index into IP_LAYOUT, memory
IP = struct.Struct("<IIQ64s")  # type, properties, base, "kernel:instance"
CLOCK = struct.Struct("<HB5x128s")  # MHz, type, name
TABLE_AT = {"MEM": 8, "IP": 8, "CONNECTION": 4, "CLOCK": 2}  # where a section's entries start

MAX_SECTIONS = 0x10000
MAX_MEMORIES = 0x10000  # a buffer's flags hold the bank in 16 bits
MAX_CUS_OF_KERNEL = 128  # what one open kernel may hold
COMMAND_BYTES = 4096  # the buffer in which XRT writes a run's command and its register file
NOT_USED = 0xFFFF_FFFF_FFFF_FFFF  # base address of what has no AXI-lite port
FIRST_REGISTER = 0x10  # below are the control registers of ap_ctrl_hs

KINDS = (
    "BITSTREAM",
    "CLEARING_BITSTREAM",
    "EMBEDDED_METADATA",
    "FIRMWARE",
    "DEBUG_DATA",
    "SCHED_FIRMWARE",
    "MEM_TOPOLOGY",
    "CONNECTIVITY",
    "IP_LAYOUT",
    "DEBUG_IP_LAYOUT",
    "DESIGN_CHECK_POINT",
    "CLOCK_FREQ_TOPOLOGY",
    "MCS",
    "BMC",
    "BUILD_METADATA",
    "KEYVALUE_METADATA",
    "USER_METADATA",
    "DNA_CERTIFICATE",
    "PDI",
    "BITSTREAM_PARTIAL_PDI",
    "PARTITION_METADATA",
    "EMULATION_DATA",
    "SYSTEM_METADATA",
    "SOFT_KERNEL",
    "ASK_FLASH",
    "AIE_METADATA",
    "GROUP_TOPOLOGY",
    "GROUP_CONNECTIVITY",
    "SMARTNIC",
    "AIE_RESOURCES",
    "OVERLAY",
    "VENDER_METADATA",
    "AIE_PARTITION",
    "IP_METADATA",
    "AIE_RESOURCES_BIN",
    "AIE_TRACE_METADATA",
    "DTBO",
)
REPEATABLE = {"SOFT_KERNEL", "ASK_FLASH", "VENDER_METADATA"} | set(KINDS[32:])  # of the newest we don't know better
MODES = ("flat", "pr", "tandem_stage2", "tandem_stage2_pr", "hw_emu", "sw_emu", "hw_emu_pr")

IP_KERNEL, IP_PS_KERNEL = 1, 7
MEMORY_KINDS = (
    "ddr3",
    "ddr4",
    "dram",
    "stream",
    "preallocated",
    "are",
    "hbm",
    "bram",
    "uram",
    "stream",
    "host",
    "ps_kernel",
)
# What a bank's kind is written as; host memory and PLRAM are DRAM and known by their tags.
MEMORY_TYPES = {"ddr3": 0, "ddr4": 1, "dram": 2, "stream": 3, "hbm": 6, "bram": 7, "uram": 8, "host": 2, "plram": 2}
ADDRESSED = {0, 1, 2, 6, 7, 8, 10}  # memory types whose size and base are bytes in the board's address space
TAGGED_KINDS = {"HOST[": "host", "PLRAM[": "plram"}


def memory_kind(kind: int, tag: str) -> str:
    """Name of a bank's kind; some are told only by their tag."""
    for prefix, name in TAGGED_KINDS.items():
        if kind in (2, 7, 8) and tag.startswith(prefix):
            return name
    return MEMORY_KINDS[kind]
