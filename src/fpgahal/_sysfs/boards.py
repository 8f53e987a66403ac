# SPDX-License-Identifier: Apache-2.0
"""Names of boards by PCI id.

Sources: the built-in device table of libopae-c 2.14 and the device tables of XRT's xocl and xclmgmt drivers.
A plain dictionary: reading a data file would cost every scan more than the scan itself.
"""

from __future__ import annotations

# (vendor, device) -> (short name, name for people)
_BOARDS: dict[tuple[int, int], tuple[str, str]] = {
    (0x8086, 0x09C4): ("pac-a10", "Intel PAC Arria 10 GX"),
    (0x8086, 0x09C5): ("pac-a10", "Intel PAC Arria 10 GX"),
    (0x8086, 0x0B2B): ("d5005", "Intel FPGA PAC D5005"),
    (0x8086, 0x0B2C): ("d5005", "Intel FPGA PAC D5005"),
    (0x8086, 0x0B30): ("n3000", "Intel FPGA PAC N3000"),
    (0x8086, 0x0B31): ("n3000", "Intel FPGA PAC N3000"),
    (0x8086, 0xBCBD): ("mcp", "Intel Xeon with integrated FPGA"),
    (0x8086, 0xBCC0): ("mcp", "Intel Xeon with integrated FPGA"),
    (0x8086, 0xBCC1): ("mcp", "Intel Xeon with integrated FPGA"),
    (0x8086, 0xBCCE): ("ofs", "Open FPGA Stack board"),
    (0x8086, 0xBCCF): ("ofs", "Open FPGA Stack board"),
    (0x8086, 0xAF00): ("ofs", "Open FPGA Stack board"),
    (0x8086, 0xAF01): ("ofs", "Open FPGA Stack board"),
    (0x8086, 0x0DDB): ("cmc", "Intel CMC"),
    (0x1C2C, 0x1000): ("n5010", "Silicom N5010"),
    (0x1C2C, 0x1001): ("n5011", "Silicom N5011"),
    (0x1C2C, 0x1002): ("n5013", "Silicom N5013"),
    (0x1C2C, 0x1003): ("n5014", "Silicom N5014"),
    (0x1DED, 0x8103): ("f5", "F5 FPGA board"),
    (0x10EE, 0x5000): ("u200", "AMD Alveo U200"),
    (0x10EE, 0x5001): ("u200", "AMD Alveo U200"),
    (0x10EE, 0x5004): ("u250", "AMD Alveo U250"),
    (0x10EE, 0x5005): ("u250", "AMD Alveo U250"),
    (0x10EE, 0x5008): ("u280-es", "AMD Alveo U280 ES"),
    (0x10EE, 0x5009): ("u280-es", "AMD Alveo U280 ES"),
    (0x10EE, 0x500C): ("u280", "AMD Alveo U280"),
    (0x10EE, 0x500D): ("u280", "AMD Alveo U280"),
    (0x10EE, 0x5020): ("u50", "AMD Alveo U50"),
    (0x10EE, 0x5021): ("u50", "AMD Alveo U50"),
    (0x10EE, 0x5050): ("u25", "AMD Alveo U25"),
    (0x10EE, 0x5051): ("u25", "AMD Alveo U25"),
    (0x10EE, 0x5058): ("u55n", "AMD Alveo U55N"),
    (0x10EE, 0x5059): ("u55n", "AMD Alveo U55N"),
    (0x10EE, 0x505C): ("u55c", "AMD Alveo U55C"),
    (0x10EE, 0x505D): ("u55c", "AMD Alveo U55C"),
    (0x10EE, 0x5060): ("u50lv", "AMD Alveo U50LV"),
    (0x10EE, 0x5061): ("u50lv", "AMD Alveo U50LV"),
    (0x10EE, 0xD000): ("u200", "AMD Alveo U200"),
    (0x10EE, 0xD004): ("u250", "AMD Alveo U250"),
    (0x10EE, 0xD00C): ("u280", "AMD Alveo U280"),
    (0x10EE, 0xD020): ("u50", "AMD Alveo U50"),
    (0x1D0F, 0x1042): ("aws-f1", "AWS F1"),
    (0x1D0F, 0xF010): ("aws-f1", "AWS F1"),
    (0x1D0F, 0xF011): ("aws-f1", "AWS F1"),
}

# Boards that share their ids with others and are told apart by the subsystem: (vendor, device, subdevice)
_BY_SUBSYSTEM: dict[tuple[int, int, int], tuple[str, str]] = {
    (0x8086, device, sub): (short, name)
    for device in (0xBCCE, 0xBCCF)
    for sub, short, name in (
        (0x138D, "d5005", "Intel FPGA PAC D5005"),
        (0x1770, "n6000", "Intel FPGA SmartNIC N6000"),
        (0x1771, "n6001", "Intel FPGA SmartNIC N6001"),
        (0x17D4, "c6100", "Intel C6100"),
    )
}

# AWS cards have no feature ROM; the xocl driver supplies these names.
AWS_VBNV: dict[int, str] = {
    0xF010: "xilinx_aws-vu9p-f1_shell-v04261818_201920_3",
    0xF011: "xilinx_aws-vu9p-f1_nodma-shell-v09142114_202120_1",
    0x1042: "xilinx_aws-vu9p-f1_dynamic-shell",
}
AWS = 0x1D0F


def lookup(vendor: int, device: int, subdevice: int = 0, vbnv: str = "") -> tuple[str, str]:
    """Return a board's short name and its name for people; ``("", "")`` if the ids are unknown."""
    if vendor == AWS and "-f2_" in vbnv:  # F2 keeps F1's ids: only the shell's name tells
        return "aws-f2", "AWS F2"
    return _BY_SUBSYSTEM.get((vendor, device, subdevice)) or _BOARDS.get((vendor, device), ("", ""))


def generic(vendor: int, device: int) -> str:
    """Return a name for a board that the tables don't know."""
    return f"FPGA board {vendor:04x}:{device:04x}" if vendor or device else "FPGA board"
