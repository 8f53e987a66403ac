# SPDX-License-Identifier: Apache-2.0
"""The scanner: every layout, and every kind of damage that we could think of."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trees import A10, D5005, NLB0, NLB3, XCLBIN, Machine, drop, link, put, self_link

from fpgahal._info import DeviceInfo, HealthStatus
from fpgahal._sysfs import read, scan

PAC, DFL, ALVEO, AWS = "0000:3b:00.0", "0000:3c:00.0", "0000:5e:00.1", "0000:00:1d.0"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "root")


def by_bdf(machine: Machine) -> dict[str, DeviceInfo]:
    return {info.bdf: info for info in scan(str(machine.root))}


def only(machine: Machine) -> DeviceInfo:
    found = scan(str(machine.root))
    assert len(found) == 1
    return found[0]


# ---- the layouts -----------------------------------------------------------------------------------------------


def test_all_layouts_in_order(machine: Machine) -> None:
    found = scan(machine.all().root)
    assert [info.bdf for info in found] == [AWS, PAC, DFL, ALVEO]
    assert [info.kernel_driver for info in found] == ["xocl", "intel-fpga", "dfl", "xocl"]
    assert all(info.health.ok and not info.emulated for info in found)
    assert all(info.root == str(machine.root) for info in found)


def test_intel_fpga(machine: Machine) -> None:
    machine.intel(PAC, 0)
    info = only(machine)
    assert (info.driver, info.name, info.platform) == ("opae", "Intel PAC Arria 10 GX", "pac-a10")
    assert (info.vendor_id, info.device_id, info.numa_node, info.slot) == (0x8086, 0x09C4, 0, 0)
    assert (str(info.afu_id), str(info.interface_id)) == (NLB0, A10)
    assert info.device_nodes == ("/dev/intel-fpga-port.0", "/dev/intel-fpga-fme.0")


def test_dfl(machine: Machine) -> None:
    machine.dfl(DFL, 3)
    info = only(machine)
    assert (info.name, info.platform, str(info.interface_id)) == ("Intel FPGA PAC D5005", "d5005", D5005)
    assert info.device_nodes == ("/dev/dfl-port.30", "/dev/dfl-fme.3")
    assert info.management_bdf == ""


def test_dfl_several_ports(machine: Machine) -> None:
    region = machine.dfl(DFL, 1, ports=3)
    put(region / "dfl-port.11/afu_id", NLB3.replace("-", ""))
    found = scan(machine.root)
    assert [info.slot for info in found] == [0, 1, 2]
    assert [str(info.afu_id) for info in found] == [NLB0, NLB3, NLB0]
    assert [info.device_nodes[0] for info in found] == [f"/dev/dfl-port.1{i}" for i in range(3)]
    assert {str(info.interface_id) for info in found} == {D5005}


def test_port_numbers_are_the_drivers(machine: Machine) -> None:
    region = machine.dfl(DFL, 1, ports=2)
    put(region / "dfl-port.10/id", "1\n")
    put(region / "dfl-port.11/id", "0\n")
    assert [info.device_nodes[0] for info in scan(machine.root)] == ["/dev/dfl-port.11", "/dev/dfl-port.10"]


def test_sriov_takes_the_interface_of_the_physical_function(machine: Machine) -> None:
    physical = machine.dfl(DFL, 0, ports=0)
    machine.virtual(physical, "0000:3c:00.1", 1)
    info = only(machine)  # the physical function has no slot of its own
    assert (info.bdf, info.management_bdf, info.device_id) == ("0000:3c:00.1", DFL, 0x0B2C)
    assert (str(info.interface_id), info.health.ok) == (D5005, True)
    assert info.device_nodes == ("/dev/dfl-port.10", "/dev/dfl-fme.0")


def test_sriov_port_stays_on_the_physical_function_too(machine: Machine) -> None:
    physical = machine.dfl(DFL, 0, ports=1)
    machine.virtual(physical, "0000:3c:00.1", 1)
    assert [info.bdf for info in scan(machine.root)] == [DFL, "0000:3c:00.1"]


def test_virtual_function_alone(machine: Machine) -> None:
    """In a virtual machine: usable, but its FME is the host's."""
    machine.dfl(DFL, 0, fme=False)
    info = only(machine)
    assert info.health.status is HealthStatus.DEGRADED
    assert "can't be programmed from here" in info.health.reason
    assert str(info.afu_id) == NLB0


def test_alveo(machine: Machine) -> None:
    machine.management("0000:5e:00.0")
    machine.user(ALVEO, 128)
    info = only(machine)
    assert (info.driver, info.name, info.platform) == ("xrt", "AMD Alveo U250", "xilinx_u250_gen3x16_xdma_shell_3_1")
    assert (str(info.afu_id), info.timestamp, info.serial) == (XCLBIN, 1561465320, "21320621V01M")
    assert info.interface_id == uuid.UUID("b7ac1abe-1e3f-4e3a-9a5b-70a7b0d3c8a2")
    assert info.device_nodes == ("/dev/dri/renderD128", "/dev/xclmgmt24064")
    assert info.management_bdf == "0000:5e:00.0"


def test_newer_driver_names(machine: Machine) -> None:
    machine.management("0000:5e:00.0", driver="xrt-mgmt")
    machine.user(ALVEO, 128, driver="xrt-user")
    assert only(machine).management_bdf == "0000:5e:00.0"


def test_container_without_management_node(machine: Machine) -> None:
    machine.all()
    drop(machine.root / "dev/xclmgmt24064")
    info = by_bdf(machine)[ALVEO]
    assert info.health.ok
    assert info.device_nodes == ("/dev/dri/renderD128",)


def test_golden_image(machine: Machine) -> None:
    machine.management("0000:5e:00.0", device=0xD004, golden=True)
    info = only(machine)
    assert (info.bdf, info.name, info.health.status) == ("0000:5e:00.0", "xilinx_u250_GOLDEN_9", HealthStatus.FAILED)
    assert "factory (golden) image" in info.health.reason
    assert "xbmgmt" in info.health.reason


def test_management_without_user_function(machine: Machine) -> None:
    machine.management("0000:5e:00.0")
    info = only(machine)
    assert info.health.status is HealthStatus.FAILED
    assert "without user function" in info.health.reason


def test_aws(machine: Machine) -> None:
    machine.user(AWS, 129, device=0xF010, vendor=0x1D0F, vbnv="", loaded="")
    info = only(machine)
    assert (info.name, info.platform, info.timestamp) == (
        "AWS F1",
        "xilinx_aws-vu9p-f1_shell-v04261818_201920_3",
        0xABCD,
    )
    assert (info.afu_id, info.health.ok, info.management_bdf) == (None, True, "")


def test_aws_f2(machine: Machine) -> None:
    machine.user(AWS, 129, device=0xF010, vendor=0x1D0F, vbnv="xilinx_aws-vu47p-f2_202420_2")
    assert (only(machine).name, only(machine).platform) == ("AWS F2", "xilinx_aws-vu47p-f2_202420_2")


def test_unknown_board_has_a_generic_name(machine: Machine) -> None:
    machine.dfl(DFL, 0, device=0xABCD)
    assert (only(machine).name, only(machine).health.ok) == ("FPGA board 8086:abcd", True)


def test_subsystem_tells_boards_apart(machine: Machine) -> None:
    machine.dfl(DFL, 0, device=0xBCCE)
    assert only(machine).name == "Open FPGA Stack board"
    put(machine.folder(DFL) / "subsystem_device", "0x1771\n")
    assert only(machine).name == "Intel FPGA SmartNIC N6001"


def test_emulated(machine: Machine) -> None:
    put(machine.all().root / "rack.bin")
    for info in scan(machine.root):
        assert info.emulated
        assert info.name.startswith("EMULATED ")
        assert all(os.path.exists(node) for node in info.device_nodes)
        assert all(node.startswith(f"{machine.root}/dev/") for node in info.device_nodes)


def test_order_with_long_domains(machine: Machine) -> None:
    machine.dfl("10000:01:00.0", 0)
    machine.dfl("0001:02:00.0", 1)
    assert [info.bdf for info in scan(machine.root)] == ["0001:02:00.0", "10000:01:00.0"]


def test_roots() -> None:
    assert scan("/does/not/exist") == []
    assert scan("/dev/null") == []
    assert scan("a\0b") == []
    assert isinstance(scan(), list)  # this machine, whatever it has


def test_empty_root(tmp_path: Path) -> None:
    assert scan(tmp_path) == []


def test_relative_root(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(machine.all().root.parent)
    assert len(scan("root")) == 4
    assert len(scan("root/")) == 4


def test_fpga_region_that_is_no_pci_board_is_no_device(machine: Machine) -> None:
    region = machine.sys / "devices/platform/fpga-full/fpga_region/region0"
    region.mkdir(parents=True)
    link(machine.sys / "class/fpga_region/region0", region)
    assert scan(machine.root) == []


@pytest.mark.parametrize("code", [errno.EBUSY, errno.EIO, errno.ENODEV, errno.ETIMEDOUT])
@pytest.mark.parametrize("file", ["afu_id", "xclbinuuid"])
def test_identity_that_the_driver_refuses(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, code: int, file: str
) -> None:
    machine.all()
    really_open = os.open

    def refuse(path: str, flags: int, mode: int = 0o777) -> int:
        if path.endswith(f"/{file}"):
            raise OSError(code, os.strerror(code))
        return really_open(path, flags, mode)

    monkeypatch.setattr(os, "open", refuse)
    found = by_bdf(machine)
    for bdf in (PAC, DFL) if file == "afu_id" else (ALVEO, AWS):
        assert found[bdf].health.status is HealthStatus.FAILED
        assert found[bdf].afu_id is None
        assert f"held in reset ({errno.errorcode[code]} from" in found[bdf].health.reason
        assert "program a known good image" in found[bdf].health.reason
    assert sum(info.health.ok for info in found.values()) == 2


# ---- damage: name, what is done to the machine of all layouts, whom it hits, how bad, what the reason says ------

Damage = Callable[[Machine], object]
FAILED, DEGRADED, OK = HealthStatus.FAILED, HealthStatus.DEGRADED, HealthStatus.OK


def pac(m: Machine) -> Path:
    return m.folder(PAC) / "fpga/intel-fpga-dev.0"


def dfl(m: Machine) -> Path:
    return m.folder(DFL) / "fpga_region/region0"


def compat(m: Machine) -> Path:
    return dfl(m) / "dfl-fme.0/dfl-fme-region.0/fpga_region/region500/compat_id"


def alveo(m: Machine) -> Path:
    return m.folder(ALVEO)


def to_fifo(path: Path) -> None:
    drop(path)
    os.mkfifo(path)


def to_folder(path: Path) -> None:
    drop(path)
    path.mkdir()


def to_link(path: Path, target: str) -> None:
    drop(path)
    path.symlink_to(target)


DAMAGE: list[tuple[str, Damage, str, HealthStatus, str]] = [
    ("afu_id loops", lambda m: self_link(pac(m) / "intel-fpga-port.0/afu_id"), PAC, FAILED, r"held in reset \(ELOOP"),
    ("dfl afu_id loops", lambda m: self_link(dfl(m) / "dfl-port.0/afu_id"), DFL, FAILED, "program a known good image"),
    ("xclbinuuid loops", lambda m: self_link(alveo(m) / "xclbinuuid"), ALVEO, FAILED, "program a known good image"),
    ("afu_id missing", lambda m: drop(pac(m) / "intel-fpga-port.0/afu_id"), PAC, FAILED, "afu_id is missing: is intel"),
    ("dfl afu_id missing", lambda m: drop(dfl(m) / "dfl-port.0/afu_id"), DFL, FAILED, "is dfl-pci with .* loaded"),
    ("xclbinuuid missing", lambda m: drop(alveo(m) / "xclbinuuid"), ALVEO, FAILED, "xclbinuuid is missing"),
    ("afu_id garbled", lambda m: put(pac(m) / "intel-fpga-port.0/afu_id", "hello\n"), PAC, FAILED, "garbled .*'hello'"),
    ("afu_id short", lambda m: put(dfl(m) / "dfl-port.0/afu_id", "d8424dc4\n"), DFL, FAILED, "not an id of 32 hex"),
    ("afu_id binary", lambda m: put(dfl(m) / "dfl-port.0/afu_id", bytes(range(256)) * 40), DFL, FAILED, "garbled"),
    ("afu_id all ones", lambda m: put(dfl(m) / "dfl-port.0/afu_id", "f" * 32), DFL, FAILED, "does not answer"),
    ("afu_id all zero", lambda m: put(dfl(m) / "dfl-port.0/afu_id", "0" * 32), DFL, OK, ""),
    ("afu_id empty", lambda m: put(dfl(m) / "dfl-port.0/afu_id", ""), DFL, OK, ""),
    ("afu_id only NULs", lambda m: put(dfl(m) / "dfl-port.0/afu_id", bytes(4096)), DFL, OK, ""),
    ("afu_id is a folder", lambda m: to_folder(dfl(m) / "dfl-port.0/afu_id"), DFL, FAILED, "EISDIR"),
    ("afu_id is a pipe", lambda m: to_fifo(dfl(m) / "dfl-port.0/afu_id"), DFL, OK, ""),  # reads as empty, at once
    ("afu_id leads out", lambda m: to_link(dfl(m) / "dfl-port.0/afu_id", "/etc/hostname"), DFL, FAILED, "ELOOP"),
    ("FME gone", lambda m: drop(dfl(m) / "dfl-fme.0"), DFL, DEGRADED, "no management engine"),
    ("old FME gone", lambda m: drop(pac(m) / "intel-fpga-fme.0"), PAC, DEGRADED, "no management engine"),
    ("port gone", lambda m: drop(dfl(m) / "dfl-port.0"), DFL, FAILED, "FME.* without port: is dfl-pci"),
    ("old port gone", lambda m: drop(pac(m) / "intel-fpga-port.0"), PAC, FAILED, "without port: is intel-fpga-pci"),
    (
        "port lent out",
        lambda m: (drop(dfl(m) / "dfl-port.0"), put(m.folder(DFL) / "sriov_numvfs", "2\n")),
        DFL,
        FAILED,
        "2 virtual functions",
    ),
    (
        "port and FME gone",
        lambda m: (drop(dfl(m) / "dfl-port.0"), drop(dfl(m) / "dfl-fme.0")),
        DFL,
        FAILED,
        "no port and no management engine",
    ),
    ("two FMEs", lambda m: (dfl(m) / "dfl-fme.9").mkdir(), DFL, DEGRADED, "2 management engines"),
    ("compat_id missing", lambda m: drop(compat(m)), DFL, DEGRADED, "interface id of dfl-fme.0 can't be read .ENOENT"),
    ("compat_id garbled", lambda m: put(compat(m), "?"), DFL, DEGRADED, "images can't be checked"),
    ("compat_id all ones", lambda m: put(compat(m), "f" * 32), DFL, DEGRADED, "all ones"),
    ("compat_id all zero", lambda m: put(compat(m), "0" * 32), DFL, DEGRADED, "empty or all zero"),
    ("FME region gone", lambda m: drop(dfl(m) / "dfl-fme.0/dfl-fme-region.0"), DFL, DEGRADED, "no dfl-fme-region"),
    ("interface_id missing", lambda m: drop(pac(m) / "intel-fpga-fme.0/pr"), PAC, DEGRADED, "ENOENT"),
    ("interface_id loops", lambda m: self_link(pac(m) / "intel-fpga-fme.0/pr/interface_id"), PAC, DEGRADED, "ELOOP"),
    ("port node missing", lambda m: drop(m.root / "dev/dfl-port.0"), DFL, FAILED, "dfl-port.0 is missing: in a con"),
    ("FME node missing", lambda m: drop(m.root / "dev/dfl-fme.0"), DFL, DEGRADED, "can't be programmed"),
    ("render node missing", lambda m: drop(m.root / "dev/dri/renderD128"), ALVEO, FAILED, "renderD128 is missing"),
    ("no /dev/dri entry", lambda m: drop(alveo(m) / "drm"), ALVEO, FAILED, "no render node"),
    ("drm empty", lambda m: drop(alveo(m) / "drm/renderD128"), ALVEO, FAILED, "no render node"),
    ("vendor missing", lambda m: drop(m.folder(DFL) / "vendor"), DFL, DEGRADED, "PCI vendor id can't be read"),
    ("vendor garbled", lambda m: put(m.folder(DFL) / "vendor", "Intel"), DFL, DEGRADED, "'Intel', not a number"),
    ("device out of range", lambda m: put(m.folder(DFL) / "device", "0x12345"), DFL, DEGRADED, "not a PCI id"),
    ("device negative", lambda m: put(m.folder(DFL) / "device", "-1"), DFL, DEGRADED, "not a PCI id"),
    ("device huge", lambda m: put(m.folder(DFL) / "device", "9" * 4096), DFL, DEGRADED, "PCI device id"),
    ("subsystem missing", lambda m: drop(m.folder(DFL) / "subsystem_device"), DFL, OK, ""),
    ("numa_node missing", lambda m: drop(m.folder(DFL) / "numa_node"), DFL, OK, ""),
    ("numa_node garbled", lambda m: put(m.folder(DFL) / "numa_node", "two"), DFL, OK, ""),
    (
        "all PCI files gone",
        lambda m: [drop(m.folder(DFL) / n) for n in ("vendor", "device", "numa_node")],
        DFL,
        DEGRADED,
        "vendor .*; .* device",
    ),
    ("device gone", lambda m: drop(m.folder(DFL)), DFL, FAILED, "is the device gone"),
    ("old device gone", lambda m: drop(m.folder(PAC)), PAC, FAILED, "intel-fpga-dev.0 can't be read .ENOENT"),
    ("user function gone", lambda m: drop(alveo(m)), ALVEO, FAILED, "is the device gone"),
    ("container is a file", lambda m: (drop(dfl(m)), put(dfl(m))), DFL, FAILED, "ENOTDIR"),
    ("container loops", lambda m: (drop(dfl(m)), self_link(dfl(m))), DFL, FAILED, "is a link"),
    ("PCI folder leads out", lambda m: to_link(m.folder(DFL), "/sys/devices"), DFL, FAILED, "is a link"),
    ("user folder leads out", lambda m: to_link(alveo(m), "/etc"), ALVEO, FAILED, "is a link"),
    ("not ready", lambda m: put(alveo(m) / "ready", "0x0\n"), ALVEO, FAILED, "not ready"),
    ("ready garbled", lambda m: put(alveo(m) / "ready", "maybe\n"), ALVEO, DEGRADED, "'maybe'"),
    ("ready absent", lambda m: drop(alveo(m) / "ready"), ALVEO, OK, ""),
    ("offline", lambda m: put(alveo(m) / "dev_offline", "1\n"), ALVEO, FAILED, "offline"),
    ("xclbinuuid garbled", lambda m: put(alveo(m) / "xclbinuuid", "zz\n"), ALVEO, FAILED, "garbled"),
    ("xclbinuuid zero", lambda m: put(alveo(m) / "xclbinuuid", str(uuid.UUID(int=0))), ALVEO, OK, ""),
    ("rom gone", lambda m: drop(alveo(m) / "rom.u.24064"), ALVEO, DEGRADED, "no rom"),
    ("VBNV missing", lambda m: drop(alveo(m) / "rom.u.24064/VBNV"), ALVEO, DEGRADED, "VBNV.*ENOENT"),
    ("VBNV empty", lambda m: put(alveo(m) / "rom.u.24064/VBNV", "\n"), ALVEO, DEGRADED, "it is empty"),
    ("timestamp garbled", lambda m: put(alveo(m) / "rom.u.24064/timestamp", "now"), ALVEO, DEGRADED, "time stamp"),
    ("timestamp huge", lambda m: put(alveo(m) / "rom.u.24064/timestamp", "9" * 30), ALVEO, DEGRADED, "out of range"),
    ("interface_uuids garbled", lambda m: put(alveo(m) / "interface_uuids", "x"), ALVEO, DEGRADED, "interface_uuids"),
    ("interface_uuids missing", lambda m: drop(alveo(m) / "interface_uuids"), ALVEO, OK, ""),
    ("serial missing", lambda m: drop(alveo(m) / "xmc.u.24064"), ALVEO, OK, ""),
    ("instance garbled", lambda m: put(m.folder("0000:5e:00.0") / "instance", "../../etc"), ALVEO, OK, ""),
    ("management folder gone", lambda m: drop(m.folder("0000:5e:00.0")), ALVEO, OK, ""),
    ("AWS xclbinuuid loops", lambda m: self_link(m.folder(AWS) / "xclbinuuid"), AWS, FAILED, "known good image"),
]


@pytest.mark.parametrize(("damage", "bdf", "status", "reason"), [d[1:] for d in DAMAGE], ids=[d[0] for d in DAMAGE])
def test_damage(machine: Machine, damage: Damage, bdf: str, status: HealthStatus, reason: str) -> None:
    before = by_bdf(machine.all())
    damage(machine)
    after = by_bdf(machine)
    hit = after.pop(bdf)
    before.pop(bdf)
    assert after == before  # the others are as they were
    assert hit.health.status is status, hit.health
    if status is OK:
        assert hit.health.reason == ""
    else:
        with pytest.raises(AssertionError, match=reason):
            raise AssertionError(hit.health.reason)
    if "afu_id" in hit.health.reason:
        assert hit.afu_id is None


@pytest.mark.parametrize(
    "folder", ["sys", "sys/class", "sys/class/fpga", "sys/class/fpga_region", "sys/bus/pci/drivers"]
)
@pytest.mark.parametrize("how", [to_folder, to_fifo, lambda path: to_link(path, "/sys"), lambda path: drop(path)])
def test_class_folders_damaged(machine: Machine, folder: str, how: Callable[[Path], None]) -> None:
    """Whole branches missing, of the wrong kind, or links out of the root: nothing raises, nothing foreign shows."""
    before = {info.bdf for info in scan(machine.all().root)}
    how(machine.root / folder)
    assert {info.bdf for info in scan(machine.root)} <= before


def test_absolute_links_count_from_the_root(machine: Machine) -> None:
    region = machine.dfl(DFL, 0)
    entry = machine.sys / "class/fpga_region/region0"
    drop(entry)
    entry.symlink_to("/" + str(region.relative_to(machine.root)))
    assert str(only(machine).afu_id) == NLB0


def test_dots_stop_at_the_root(machine: Machine, tmp_path: Path) -> None:
    machine.dfl(DFL, 0)
    outside = Machine(tmp_path / "outside").dfl(DFL, 0, afu=NLB3)
    entry = machine.sys / "class/fpga_region/region0"
    drop(entry)
    entry.symlink_to("../" * 40 + str(outside)[1:])
    assert all(info.afu_id is None for info in scan(machine.root))


def test_strange_names_in_class_folders(machine: Machine) -> None:
    machine.all()
    for name in ("regionX", "region", "region-1", "region" + "9" * 40, "region\udc80", "region1\n", "region\uff10"):
        put(machine.sys / "class/fpga_region" / name)
    for name in ("bind", "unbind", "new_id", "module", "0000:5e:00.9", "0000:5E:00.1x"):
        put(machine.sys / "bus/pci/drivers/xocl" / name)
    assert len(scan(machine.root)) == 4


def test_control_characters_do_not_reach_the_terminal(machine: Machine) -> None:
    machine.all()
    put(machine.folder(ALVEO) / "xmc.u.24064/serial_num", "\x1b[31mred\x07\n")
    put(machine.folder(ALVEO) / "rom.u.24064/VBNV", "shell\x1b]0;x\x07\0\0\n")
    info = by_bdf(machine)[ALVEO]
    assert info.serial.isprintable()
    assert info.platform.isprintable()


def test_nul_padded_files(machine: Machine) -> None:
    """As in the sysfs recordings that upstream tests with."""
    before = scan(machine.all().root)
    for path in machine.sys.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.write_bytes(path.read_bytes().rstrip(b"\n") + bytes(64))
    put(machine.folder(ALVEO) / "interface_uuids", b"b7ac1abe1e3f4e3a9a5b70a7b0d3c8a2\n" + bytes(64))
    assert scan(machine.root) == before


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=5000))
def test_any_content_anywhere(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    machine = Machine(tmp_path_factory.mktemp("any") / "root").all()
    for path in list(machine.sys.rglob("*")):
        if path.is_file() and not path.is_symlink():
            path.write_bytes(content)
    found = scan(machine.root)
    assert [info.bdf for info in found] == [AWS, PAC, DFL, ALVEO]
    assert all(str(info).isprintable() or "\n" not in str(info) for info in found)


def test_reading_helpers(tmp_path: Path) -> None:
    assert read.text(str(put(tmp_path / "a", b" x\0\n\0"))) == "x"
    assert read.number(str(put(tmp_path / "b", "0x1f\n"))) == 31
    assert read.line(str(put(tmp_path / "c", "one\ntwo\n"))) == "one"
    missing = read.text(str(tmp_path / "none"))
    assert isinstance(missing, read.Unreadable)
    assert missing.missing
    assert missing.name == "ENOENT"
    assert read.line(str(tmp_path / "none"), "default") == "default"


@pytest.mark.skipif(os.getuid() != 0, reason="only root may chroot")
def test_root_itself(machine: Machine) -> None:
    """The tree as ``/``: the path that real machines take."""
    expected = [(info.address, str(info.health)) for info in scan(machine.all().root)]
    code = (
        f"import os, fpgahal._sysfs as s\nos.chroot({str(machine.root)!r})\nos.chdir('/')\n"
        "for info in s.scan(): print((info.address, str(info.health)), info.root)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    text = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert text.stdout.splitlines() == [f"{pair} /" for pair in expected]


def test_descriptors_do_not_leak(machine: Machine) -> None:
    machine.all()
    self_link(dfl(machine) / "dfl-port.0/afu_id")
    to_folder(pac(machine) / "intel-fpga-port.0/afu_id")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        scan(machine.root)
    assert len(os.listdir("/proc/self/fd")) == before


def test_many_boards(machine: Machine) -> None:
    for i in range(128):
        machine.dfl(f"0000:{i + 1:02x}:00.0", i)
    found = scan(machine.root)
    assert len(found) == 128
    assert all(info.health.ok for info in found)
