# SPDX-License-Identifier: Apache-2.0
"""Sysfs trees of all the layouts that the scanner reads, as the real drivers lay them out.

Written apart from fpgahal.emu on purpose: the scanner is checked against the drivers, not against our emulator.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

NLB0 = "d8424dc4-a4a3-c413-f89e-433683f9040b"
NLB3 = "f7df405c-bd7a-cf72-22f1-44b0b93acd18"
A10 = "9926ab6d-6c92-5a68-aabc-a7d84c545738"
D5005 = "bfac4d85-1ee8-56fe-8c95-865ce1bbaa2d"
XCLBIN = "0a1b2c3d-0001-4002-8003-0123456789ab"


def put(path: Path, content: str | bytes = "") -> Path:
    """Write a file and its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def link(path: Path, target: Path) -> Path:
    """Make a relative link, as sysfs does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(os.path.relpath(target, path.parent))
    return path


def self_link(path: Path) -> None:
    """Make reading `path` fail: a link to itself (ELOOP) stands for the EBUSY of a port in reset."""
    path.unlink(missing_ok=True)
    path.symlink_to(path.name)


class Machine:
    """A root folder to put boards in; each method returns the folder that a test may damage."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.sys = root / "sys"
        for name in ("sys/bus/pci/drivers", "sys/class", "dev"):
            (root / name).mkdir(parents=True)

    def pci(self, bdf: str, device: int, vendor: int = 0x8086, *, subdevice: int = 0, numa: int = 0) -> Path:
        domain, bus, _ = bdf.split(":")
        folder = self.sys / f"devices/pci{domain}:{bus}" / f"{domain}:{bus}:1f.0" / bdf
        put(folder / "vendor", f"{vendor:#06x}\n")
        put(folder / "device", f"{device:#06x}\n")
        put(folder / "subsystem_vendor", f"{vendor:#06x}\n")
        put(folder / "subsystem_device", f"{subdevice:#06x}\n")
        put(folder / "numa_node", f"{numa}\n")
        put(folder / "sriov_numvfs", "0\n")
        return folder

    def node(self, name: str) -> Path:
        return put(self.root / "dev" / name)

    def dfl(
        self,
        bdf: str,
        number: int,
        *,
        device: int = 0x0B2B,
        ports: int = 1,
        fme: bool = True,
        afu: str = NLB0,
        interface: str = D5005,
    ) -> Path:
        """A board of the DFL driver: region `number`, ports from 10 * `number`; returns its container."""
        pci = self.pci(bdf, device)
        region = pci / "fpga_region" / f"region{number}"
        region.mkdir(parents=True)
        link(region / "device", pci)
        link(self.sys / "class/fpga_region" / region.name, region)
        for i in range(ports):
            port = region / f"dfl-port.{10 * number + i}"
            put(port / "afu_id", afu.replace("-", "") + "\n")
            put(port / "id", f"{i}\n")
            self.node(port.name)
        if fme:
            nested = region / f"dfl-fme.{number}/dfl-fme-region.{number}/fpga_region/region{number + 500}"
            put(nested / "compat_id", interface.replace("-", "") + "\n")
            link(nested / "device", nested.parent.parent)
            link(self.sys / "class/fpga_region" / nested.name, nested)
            self.node(f"dfl-fme.{number}")
        return region

    def virtual(self, physical: Path, bdf: str, number: int, *, device: int = 0x0B2C) -> Path:
        """A virtual function of the board whose container is `physical`, with a port and no FME."""
        container = self.dfl(bdf, number, device=device, fme=False)
        pci = container.parent.parent
        link(pci / "physfn", physical.parent.parent)
        link(physical.parent.parent / "virtfn0", pci)
        put(physical.parent.parent / "sriov_numvfs", "1\n")
        return container

    def intel(
        self, bdf: str, number: int, *, device: int = 0x09C4, ports: int = 1, fme: bool = True, afu: str = NLB0
    ) -> Path:
        """A board of the old intel-fpga driver; returns its container."""
        pci = self.pci(bdf, device)
        container = pci / "fpga" / f"intel-fpga-dev.{number}"
        container.mkdir(parents=True)
        link(container / "device", pci)
        link(self.sys / "class/fpga" / container.name, container)
        for i in range(ports):
            port = container / f"intel-fpga-port.{10 * number + i}"
            put(port / "afu_id", afu.replace("-", "") + "\n")
            put(port / "id", f"{i}\n")
            self.node(port.name)
        if fme:
            put(container / f"intel-fpga-fme.{number}/pr/interface_id", A10.replace("-", "") + "\n")
            self.node(f"intel-fpga-fme.{number}")
        return container

    def user(
        self,
        bdf: str,
        render: int,
        *,
        device: int = 0x5005,
        vendor: int = 0x10EE,
        driver: str = "xocl",
        vbnv: str = "xilinx_u250_gen3x16_xdma_shell_3_1",
        loaded: str = XCLBIN,
    ) -> Path:
        """A user function of AMD's driver; returns its folder."""
        pci = self.pci(bdf, device, vendor)
        put(pci / "user_pf")
        put(pci / "ready", "0x1\n")
        put(pci / "dev_offline", "0\n")
        put(pci / "xclbinuuid", f"{loaded}\n")
        put(pci / "interface_uuids", "b7ac1abe1e3f4e3a9a5b70a7b0d3c8a2\n862c7020a250293e32036f19956669e5\n")
        if vbnv:
            put(pci / "rom.u.24064/VBNV", f"{vbnv}\n")
            put(pci / "rom.u.24064/timestamp", "1561465320\n")
        put(pci / "xmc.u.24064/serial_num", "21320621V01M\n")
        put(pci / f"drm/renderD{render}/dev", f"226:{render}\n")
        self.node(f"dri/renderD{render}")
        link(self.sys / "bus/pci/drivers" / driver / bdf, pci)
        return pci

    def management(self, bdf: str, *, device: int = 0x5004, driver: str = "xclmgmt", golden: bool = False) -> Path:
        """A management function of AMD's driver; returns its folder."""
        pci = self.pci(bdf, device, 0x10EE)
        put(pci / "mgmt_pf")
        put(pci / "instance", "24064\n")
        put(pci / "mfg", f"{int(golden)}\n")
        put(pci / "mfg_ver", "9\n")
        put(pci / "board_name", "u250\n")
        self.node("xclmgmt24064")
        link(self.sys / "bus/pci/drivers" / driver / bdf, pci)
        return pci

    def all(self) -> Machine:
        """One board of each layout: 00:1d.0 AWS F1, 3b intel-fpga, 3c DFL, 5e an Alveo U250."""
        self.intel("0000:3b:00.0", 0)
        self.dfl("0000:3c:00.0", 0)
        self.management("0000:5e:00.0")
        self.user("0000:5e:00.1", 128)
        self.user("0000:00:1d.0", 129, device=0xF010, vendor=0x1D0F, vbnv="", loaded="")
        return self

    def folder(self, bdf: str) -> Path:
        """The PCI function's folder."""
        domain, bus, _ = bdf.split(":")
        return self.sys / f"devices/pci{domain}:{bus}" / f"{domain}:{bus}:1f.0" / bdf


def drop(path: Path) -> None:
    """Delete a file or a folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
