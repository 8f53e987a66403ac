# SPDX-License-Identifier: Apache-2.0
"""Sysfs trees of nodes, as the drivers lay them out: with real links, below a temporary folder.

Device nodes are plain files: only root could make real ones, and the scanner asks for their presence only.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import fpgahal
from fpgahal import DeviceInfo

IF10 = "ce48969398f05f33946d560708be108a"
IF12 = "69528db6eb31577a8c3668f9faa081f6"
IFD5 = "bfac4d851ee856fe8c95865ce1bbaa2d"
NLB0 = "d8424dc4a4a3c413f89e433683f9040b"
NLB3 = "f7df405cbd7acf7222f144b0b93acd18"
FF = "f" * 32

CARD1, CARD2 = "0000:06:00.0", "0000:42:00.0"


class Node:
    """A node's root folder; boards are plugged in one by one."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("sys/bus/pci/devices", "sys/bus/pci/drivers", "sys/class", "sys/dev/char", "dev"):
            (root / name).mkdir(parents=True, exist_ok=True)

    def devices(self) -> list[DeviceInfo]:
        """What the library finds here."""
        return fpgahal.devices(str(self.root))

    def file(self, path: Path, content: str) -> Path:
        """Write an attribute."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
        return path

    def link(self, path: str, target: Path) -> None:
        """Make a link from below the root, relative as sysfs has them."""
        whole = self.root / path
        whole.parent.mkdir(parents=True, exist_ok=True)
        whole.symlink_to(os.path.relpath(target, whole.parent))

    def dev(self, name: str, owner: Path, number: str) -> None:
        """Make a device node, and the link by which its number leads back to its owner."""
        self.file(owner / "dev", number)
        self.link(f"sys/dev/char/{number}", owner)
        path = self.root / "dev" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    def pci(
        self,
        bdf: str,
        vendor: int = 0x8086,
        device: int = 0x09C4,
        *,
        kind: int = 0x120000,
        numa: int = 0,
        driver: str = "intel-fpga-pci",
    ) -> Path:
        """A PCI function; returns its folder."""
        domain, bus, _ = bdf.split(":")
        folder = self.root / f"sys/devices/pci{domain}:{bus}/{domain}:{bus}:02.0/{bdf}"
        attributes = {
            "vendor": f"{vendor:#06x}",
            "device": f"{device:#06x}",
            "subsystem_vendor": f"{vendor:#06x}",
            "subsystem_device": "0x0000",
            "class": f"{kind:#08x}",
            "numa_node": str(numa),
            "local_cpulist": f"{8 * numa}-{8 * numa + 7}",
            "sriov_numvfs": "0",
            "sriov_totalvfs": "1",
            "current_link_width": "8",
            "max_link_width": "8",
            "aer_dev_fatal": "Undefined 0\nDLP 0\nTOTAL_ERR_FATAL 0",
            "uevent": f"DRIVER={driver}\nPCI_CLASS={kind:X}\nPCI_ID={vendor:04X}:{device:04X}\n"
            f"PCI_SUBSYS_ID={vendor:04X}:0000\nPCI_SLOT_NAME={bdf}",
        }
        for name, content in attributes.items():
            self.file(folder / name, content)
        (folder / "config").write_bytes(
            vendor.to_bytes(2, "little") + device.to_bytes(2, "little") + b"\x06\x04\x10\x00"
        )
        self.file(folder.parent / "max_link_width", "16")
        self.link(f"sys/bus/pci/devices/{bdf}", folder)
        self.link(f"sys/bus/pci/drivers/{driver}/{bdf}", folder)
        return folder

    def opae(
        self,
        bdf: str,
        number: int,
        *,
        numa: int = 0,
        interface: str = IF12,
        afu: str = NLB0,
        ports: tuple[int, ...] | None = None,
        fme: bool = True,
        kind: int = 0x120000,
        device: int = 0x09C4,
    ) -> Path:
        """A board of the older driver: ``intel-fpga-dev.<number>``; returns its container."""
        pci = self.pci(bdf, device=device, numa=numa, kind=kind)
        container = pci / f"fpga/intel-fpga-dev.{number}"
        container.mkdir(parents=True)
        self.link(f"sys/class/fpga/{container.name}", container)
        self.link(str((container / "device").relative_to(self.root)), pci)
        if fme:
            manager = container / f"intel-fpga-fme.{number}"
            self.file(manager / "pr/interface_id", interface)
            self._attributes(manager, bitstream_id="0x63000023b637277", ports_num="1", socket_id="0")
            self.dev(manager.name, manager, f"243:{2 * number + 1}")
        for position, n in enumerate((number,) if ports is None else ports):
            port = container / f"intel-fpga-port.{n}"
            self._attributes(port, afu_id=afu, id=str(position))
            self.dev(port.name, port, f"243:{2 * n}")
        return container

    def dfl(
        self, bdf: str, number: int, *, numa: int = 0, interface: str = IF12, afu: str = NLB0, device: int = 0x09C4
    ) -> Path:
        """A board of the kernel's own driver: ``region<number>``; returns its container."""
        pci = self.pci(bdf, device=device, numa=numa, driver="dfl-pci")
        region = pci / f"fpga_region/region{number}"
        manager, port = region / f"dfl-fme.{number}", region / f"dfl-port.{number}"
        inner = manager / f"dfl-fme-region.{number}/fpga_region/region{number}"
        self._attributes(port, afu_id=afu, id="0")
        self._attributes(manager, bitstream_id="0x23000110010310", ports_num="1", socket_id="0")
        self.file(inner / "compat_id", interface)
        self.link(f"sys/class/fpga_region/{region.name}", region)
        self.link(str((region / "device").relative_to(self.root)), pci)
        self.dev(port.name, port, f"241:{2 * number}")
        self.dev(manager.name, manager, f"241:{2 * number + 1}")
        return region

    def virtual(self, physical: str, bdf: str, number: int, *, numa: int = 0, afu: str = NLB3) -> Path:
        """A virtual function with a port, of the board at `physical`; returns its container."""
        container = self.opae(bdf, number, numa=numa, fme=False, afu=afu, device=0x09C5)
        own, of = self.folder(bdf), self.folder(physical)
        (own / "physfn").symlink_to(os.path.relpath(of, own))
        (of / "virtfn0").symlink_to(os.path.relpath(own, of))
        self.file(of / "sriov_numvfs", "1")
        return container

    def xrt_management(self, bdf: str, *, vendor: int = 0x10EE, device: int = 0x5000, instance: int) -> Path:
        """A management function of AMD's driver."""
        folder = self.pci(bdf, vendor, device, driver="xclmgmt")
        self._attributes(folder, mgmt_pf="", instance=str(instance), mfg="0")
        self.dev(f"xclmgmt{instance}", folder / "cdev", f"240:{instance & 0xFF}")
        return folder

    def xrt_user(
        self,
        bdf: str,
        *,
        vendor: int = 0x10EE,
        device: int = 0x5001,
        vbnv: str,
        timestamp: int,
        serial: str = "",
        render: int = 128,
        logic: str = "",
        numa: int = 0,
    ) -> Path:
        """A user function of AMD's driver."""
        folder = self.pci(bdf, vendor, device, driver="xocl", numa=numa)
        self._attributes(folder, user_pf="", ready="0x1", dev_offline="0", xclbinuuid="")
        self._attributes(folder / "rom.u.1", VBNV=vbnv, timestamp=str(timestamp))
        if serial:
            self._attributes(folder / "xmc.u.1", serial_num=serial)
        if logic:
            self._attributes(folder, logic_uuids=logic)
        self.dev(f"dri/renderD{render}", folder / f"drm/renderD{render}", f"226:{render}")
        return folder

    def folder(self, bdf: str) -> Path:
        """A PCI function's folder."""
        return (self.root / "sys/bus/pci/devices" / bdf).resolve()

    def unplug(self, bdf: str) -> None:
        """Take a PCI function out, with all that leads to it."""
        folder = self.folder(bdf)
        names = {path.name for path in folder.rglob("*")}
        for base in ("sys/class", "sys/dev/char", "sys/bus/pci"):
            for path in list((self.root / base).rglob("*")):
                if path.is_symlink() and (path.resolve() == folder or folder in path.resolve().parents):
                    path.unlink()
        for path in list((self.root / "dev").rglob("*")):
            if path.is_file() and path.name in names:
                path.unlink()
        shutil.rmtree(folder)

    def _attributes(self, folder: Path, **attributes: str) -> None:
        for name, content in attributes.items():
            self.file(folder / name, content)


def opae2(root: Path) -> Node:
    """T-OPAE2: two boards of the older driver, and things in its class folder that are none."""
    node = Node(root)
    node.opae(CARD1, 0, numa=0)
    node.opae(CARD2, 1, numa=1, afu=NLB3)
    (root / "sys/class/fpga/dir").mkdir()
    node.file(root / "sys/class/fpga/intel-fpga-dev.x", "")
    return node


def opae_vf(root: Path) -> Node:
    """T-OPAE-VF: the second card's port is on a virtual function."""
    node = Node(root)
    node.opae(CARD1, 0)
    node.opae(CARD2, 1, numa=1, ports=())
    node.virtual(CARD2, "0000:42:00.1", 2, numa=1)
    return node


def dfl2(root: Path) -> Node:
    """T-DFL2: two boards of the kernel's own driver."""
    node = Node(root)
    node.dfl("0000:81:00.0", 0)
    node.dfl(CARD2, 1, afu=NLB3, numa=1)
    return node


def dead(root: Path) -> Node:
    """T-DEAD: a card that answers all ones."""
    node = Node(root)
    node.opae(CARD1, 0, interface=FF, afu=FF)
    return node


def x200(root: Path) -> Node:
    """T-X200: an Alveo U200 with both its functions."""
    node = Node(root)
    node.xrt_management("0000:65:00.0", instance=25856)
    node.xrt_user(
        "0000:65:00.1",
        vbnv="xilinx_u200_xdma_201830_1",
        timestamp=1542252769,
        serial="21320",
        logic="00112233445566778899aabbccabcdef",
    )
    return node


def xf1(root: Path, render: int = 128) -> Node:
    """T-XF1: an AWS F1 instance: no management function, no serial number."""
    node = Node(root)
    node.xrt_user(
        "0000:00:1d.0",
        vendor=0x1D0F,
        device=0xF010,
        vbnv="xilinx_aws-vu9p-f1_dynamic_5_0",
        timestamp=43981,
        render=render,
    )
    return node
