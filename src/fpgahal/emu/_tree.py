# SPDX-License-Identifier: Apache-2.0
"""The sysfs tree and the device nodes of an emulated board, as the real drivers show theirs.

Layouts: Intel's two drivers as libxfpga reads them, AMD's xocl and xclmgmt as XRT reads them.  The scanner needs a
part of the files only; the rest is there because other programs that read sysfs look for it.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterable

from fpgahal.emu._spec import Placed

Files = dict[str, str]  # path below the board's folder -> content, without the final newline


def write(rack: str, placed: Iterable[Placed]) -> None:
    """Write what `placed` boards show after power-up."""
    for one in placed:
        _Writer(rack, one).write(one.board.default_afu)


def remove(rack: str, one: Placed) -> None:
    """Take a board's entries away: first what makes it found, then the rest."""
    writer = _Writer(rack, one)
    for link, _ in writer.links():
        _unlink(f"{rack}/{link}")
    for node in writer.nodes():
        _unlink(f"{rack}/dev/{node}")
    for folder in writer.folders():
        delete(f"{rack}/{folder}")


def delete(folder: str) -> None:
    """Delete a folder and all that is in it, as far as that goes."""
    import shutil  # not at import time, as in _boards

    shutil.rmtree(folder, ignore_errors=True)


def identity(one: Placed) -> str:
    """Return the file, below the rack, that shows what is loaded; the emulator rewrites it."""
    return _Writer("", one).identity


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _digits(value: uuid.UUID | None) -> str:
    return (value or uuid.UUID(int=0)).hex


# Performance counters as the old driver names them; their values come from the emulated board (opae_sysobject.c).
CACHE_COUNTERS = (
    "freeze",
    "read_hit",
    "write_hit",
    "read_miss",
    "write_miss",
    "hold_request",
    "tx_req_stall",
    "rx_req_stall",
    "rx_eviction",
    "data_write_port_contention",
    "tag_write_port_contention",
)
FABRIC_COUNTERS = (
    "enable",
    "freeze",
    "mmio_read",
    "mmio_write",
    "pcie0_read",
    "pcie0_write",
    "pcie1_read",
    "pcie1_write",
    "upi_read",
    "upi_write",
)


class _Writer:
    def __init__(self, rack: str, one: Placed) -> None:
        self.rack = rack
        self.one = one
        self.board = one.board
        self.pci = _pci_folder(one.bdf)
        self.management = _pci_folder(one.management_bdf) if one.management_bdf else ""
        if self.board.layout == "dfl":
            self.container = f"fpga_region/region{2 * one.ordinal}"
            self.identity = f"{self.pci}/{self.container}/dfl-port.{one.ordinal}/afu_id"
        elif self.board.layout == "intel-fpga":
            self.container = f"fpga/intel-fpga-dev.{one.ordinal}"
            self.identity = f"{self.pci}/{self.container}/intel-fpga-port.{one.ordinal}/afu_id"
        else:
            self.identity = f"{self.pci}/xclbinuuid"

    def write(self, loaded: uuid.UUID | None) -> None:
        made: set[str] = set()
        for folder, files in self.files(loaded).items():
            for name, content in files.items():
                path = f"{self.rack}/{folder}/{name}"
                self._write_file(path, content, made)
        for node in self.nodes():
            self._write_file(f"{self.rack}/dev/{node}", "", made)
        for link, target in self.links():  # last: from here on the board is found
            parent = os.path.dirname(link)
            os.makedirs(f"{self.rack}/{parent}", exist_ok=True)
            with contextlib.suppress(FileExistsError):  # another process brings the same board back
                os.symlink(os.path.relpath(target, parent), f"{self.rack}/{link}")

    @staticmethod
    def _write_file(path: str, content: str, made: set[str]) -> None:
        folder = os.path.dirname(path)
        if folder not in made:
            os.makedirs(folder, exist_ok=True)
            made.add(folder)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)  # a counter is mapped: never shorten it
        try:
            os.ftruncate(fd, os.write(fd, content.encode() + b"\n") if content else 0)
        finally:
            os.close(fd)

    def folders(self) -> list[str]:
        return [self.pci, self.management] if self.management else [self.pci]

    def links(self) -> list[tuple[str, str]]:
        """Return pairs (link, what it leads to), both below the rack; those that enumeration starts from first."""
        one = self.one
        found = []
        if self.board.layout == "dfl":
            region = f"{self.pci}/{self.container}"
            nested = f"{region}/dfl-fme.{one.ordinal}/dfl-fme-region.{one.ordinal}"
            inner = f"region{2 * one.ordinal + 1}"
            found += [
                (f"sys/class/fpga_region/region{2 * one.ordinal}", region),
                (f"sys/class/fpga_region/{inner}", f"{nested}/fpga_region/{inner}"),
                (f"{region}/device", self.pci),
            ]
            driver = "dfl-pci"
        elif self.board.layout == "intel-fpga":
            device = f"{self.pci}/{self.container}"
            found += [(f"sys/class/fpga/intel-fpga-dev.{one.ordinal}", device), (f"{device}/device", self.pci)]
            driver = "intel-fpga-pci"
        else:
            driver = "xocl"
        functions = [(one.bdf, self.pci, driver)]
        if self.management:
            functions.append((one.management_bdf, self.management, "xclmgmt"))
        for bdf, folder, name in functions:
            found += [
                (f"sys/bus/pci/drivers/{name}/{bdf}", folder),
                (f"sys/bus/pci/devices/{bdf}", folder),
                (f"{folder}/driver", f"sys/bus/pci/drivers/{name}"),
            ]
        return found

    def nodes(self) -> list[str]:
        ordinal = self.one.ordinal
        if self.board.layout == "dfl":
            return [f"dfl-port.{ordinal}", f"dfl-fme.{ordinal}"]
        if self.board.layout == "intel-fpga":
            return [f"intel-fpga-port.{ordinal}", f"intel-fpga-fme.{ordinal}"]
        nodes = [f"dri/{self._render()}"]
        if self.management:
            nodes.append(f"xclmgmt{_number(self.one.management_bdf)}")
        return nodes

    def _render(self) -> str:
        # Both XRT layouts draw from one series of render nodes: even numbers for cards with management function.
        return f"renderD{128 + 2 * self.one.ordinal + (self.board.layout == 'xocl-user')}"

    def files(self, loaded: uuid.UUID | None) -> dict[str, Files]:
        """Return the board's files: folder below the rack -> files."""
        if self.board.layout == "dfl":
            return {self.pci: self._pci_files(self.board.device_id, "0x120000"), **self._dfl(loaded)}
        if self.board.layout == "intel-fpga":
            return {self.pci: self._pci_files(self.board.device_id, "0x120000"), **self._intel_fpga(loaded)}
        found = {self.pci: self._pci_files(self.board.device_id, "0x120000") | self._user(loaded)}
        if self.management:
            found[self.management] = self._pci_files(self.board.management_device_id, "0x120000") | self._manager()
        return found

    def _pci_files(self, device_id: int, kind: str) -> Files:
        board = self.board
        ids = f"{board.vendor_id:04X}:{device_id:04X}", f"{board.subvendor_id:04X}:{board.subdevice_id:04X}"
        return {
            "uevent": f"PCI_CLASS={kind[2:]}\nPCI_ID={ids[0]}\nPCI_SUBSYS_ID={ids[1]}",
            "vendor": f"{board.vendor_id:#06x}",
            "device": f"{device_id:#06x}",
            "class": kind,
            "numa_node": "0",
            "subsystem_vendor": f"{board.subvendor_id:#06x}",
            "subsystem_device": f"{board.subdevice_id:#06x}",
            "local_cpulist": "0",
            "sriov_totalvfs": "0",
            "sriov_numvfs": "0",
            "fpgahal_board": f"{board.name} {board.title}",  # for boards whose ids no table knows
        }

    def _dfl(self, loaded: uuid.UUID | None) -> dict[str, Files]:
        n = self.one.ordinal
        region = f"{self.pci}/{self.container}"
        fme = f"{region}/dfl-fme.{n}"
        return {
            f"{region}/dfl-port.{n}": {
                "afu_id": _digits(loaded),
                "id": "0",
                "dev": f"241:{2 * n}",
                "power_state": "0",
                "ltr": "1",
                "ap1_event": "0",
                "ap2_event": "0",
                "errors/errors": "0x0",
                "errors/first_error": "0x0",
                "errors/first_malformed_req": "0x0",
                "uevent": f"DEVNAME=dfl-port.{n}",
            },
            fme: {
                "bitstream_id": "0x222000200567bfb",
                "bitstream_metadata": "0x2019051600000000",
                "ports_num": "1",
                "socket_id": "0",
                "cache_size": "0",
                "fabric_version": "0",
                "dev": f"241:{2 * n + 1}",
                "errors/fme_errors": "0x0",
                "errors/pcie0_errors": "0x0",
                "errors/pcie1_errors": "0x0",
                "errors/nonfatal_errors": "0x0",
                "errors/catfatal_errors": "0x0",
                "errors/inject_errors": "0x0",
                "uevent": f"DEVNAME=dfl-fme.{n}",
                f"dfl-fme-region.{n}/fpga_region/region{2 * n + 1}/compat_id": _digits(self.board.interface_id),
            },
        }

    def _intel_fpga(self, loaded: uuid.UUID | None) -> dict[str, Files]:
        n = self.one.ordinal
        device = f"{self.pci}/{self.container}"
        return {
            f"{device}/intel-fpga-port.{n}": {
                "afu_id": _digits(loaded),
                "id": "0",
                "dev": f"243:{2 * n}",
                "power_state": "0x0",
                "ltr": "0x0",
                "ap1_event": "0x0",
                "ap2_event": "0x0",
                "errors/errors": "0x0",
                "errors/first_error": "0x0",
                "errors/first_malformed_req": "0x0",
                "errors/clear": "",
                "errors/revision": "1",
                "uevent": f"DEVNAME=intel-fpga-port.{n}",
            },
            f"{device}/intel-fpga-fme.{n}": {
                "pr/interface_id": _digits(self.board.interface_id),
                "pr/revision": "1",
                "bitstream_id": "0x113000200000177",
                "bitstream_metadata": "0x1808152",
                "ports_num": "1",
                "socket_id": "0",
                "cache_size": "0",
                "version": "0",
                "dev": f"243:{2 * n + 1}",
                "errors/fme-errors/errors": "0x0",
                "errors/fme-errors/first_error": "0x0",
                "errors/pcie0_errors": "0x0",
                "errors/pcie1_errors": "0x0",
                "errors/inject_error": "0x0",
                "uevent": f"DEVNAME=intel-fpga-fme.{n}",
                "dperf/revision": "0",
                "dperf/clock": "0x0",
                # of the width that native/emu/counters.c writes
                **{f"dperf/cache/{name}": f"0x{0:016x}" for name in CACHE_COUNTERS},
                **{f"dperf/fabric/{name}": f"0x{0:016x}" for name in FABRIC_COUNTERS},
            },
        }

    def _user(self, loaded: uuid.UUID | None) -> Files:
        board, number = self.board, _number(self.one.bdf)
        files = {
            "user_pf": "",
            "ready": "0x1",
            "xclbinuuid": str(loaded) if loaded else "",
            "dev_offline": "0",
            "nodma": "0",
            "host_mem_size": "0",
            "mig_calibration": "1",
            "userbar": "0",
            "board_name": board.name,
            f"rom.u.{number}/VBNV": board.vbnv,
            f"rom.u.{number}/timestamp": str(board.timestamp),
            f"rom.u.{number}/FPGA": "AWS VU9P" if board.layout == "xocl-user" else board.title,
            f"rom.u.{number}/uuid": "",
            f"drm/{self._render()}/dev": f"226:{self._render()[7:]}",
        }
        if board.interface_id:
            files["interface_uuids"] = board.interface_id.hex
            files["logic_uuids"] = uuid.uuid5(board.interface_id, board.vbnv).hex  # any fixed id will do
        if board.layout == "xocl":  # AWS shows no serial number
            files[f"xmc.u.{number}/serial_num"] = f"EMU{self.one.index:06d}"
            files[f"xmc.u.{number}/bd_name"] = board.title
        return files

    def _manager(self) -> Files:
        number = _number(self.one.management_bdf)
        return {
            "mgmt_pf": "",
            "ready": "0x1",
            "instance": str(number),
            "mfg": "0",
            "mfg_ver": "0",
            "slot": "0",
            "board_name": self.board.name,
            "flash_type": "spi",
            f"rom.m.{number}/VBNV": self.board.vbnv,
            f"rom.m.{number}/timestamp": str(self.board.timestamp),
        }


def _pci_folder(bdf: str) -> str:
    """Return where a function sits in the device tree: below a root port of its own, on bus 3a."""
    domain, bus, _ = bdf.split(":")
    if bus == "00":  # AWS cards are on the root bus
        return f"sys/devices/pci{domain}:00/{bdf}"
    port = int(bus, 16)
    return f"sys/devices/pci{domain}:3a/{domain}:3a:{port >> 3:02x}.{port & 7}/{bdf}"


def _number(bdf: str) -> int:
    """Return XRT's number of a function: domain, bus, device and function in one integer."""
    domain, bus, rest = bdf.split(":")
    device, function = rest.split(".")
    return int(domain, 16) << 16 | int(bus, 16) << 8 | int(device, 16) << 3 | int(function)
