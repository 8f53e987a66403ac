# SPDX-License-Identifier: Apache-2.0
"""What the scanner tells of a card's state and kind beside its ids: for those who hand cards out."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trees import NLB0, Machine, drop, put, self_link

import fpgahal
from fpgahal._info import DeviceInfo, HealthStatus
from fpgahal._sysfs import kernel_drivers, scan

PAC, DFL, ALVEO, AWS = "0000:3b:00.0", "0000:3c:00.0", "0000:5e:00.1", "0000:00:1d.0"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "root").all()


def by_bdf(machine: Machine) -> dict[str, DeviceInfo]:
    return {info.bdf: info for info in scan(machine.root)}


def test_families_and_classes(machine: Machine) -> None:
    for bdf in (PAC, ALVEO):
        put(machine.folder(bdf) / "class", "0x120000\n")
    found = by_bdf(machine)
    assert {bdf: info.board for bdf, info in found.items()} == {
        AWS: "aws-f1",
        PAC: "pac-a10",
        DFL: "d5005",
        ALVEO: "u250",
    }
    assert (found[PAC].pci_class, found[ALVEO].pci_class, found[DFL].pci_class) == (0x120000, 0x120000, 0)


def test_uevent_says_the_same_as_five_files(machine: Machine) -> None:
    folder = machine.folder(PAC)
    put(folder / "class", "0x120000\n")
    put(folder / "subsystem_device", "0x1770\n")
    before = by_bdf(machine)
    put(
        folder / "uevent",
        "DRIVER=intel-fpga-pci\nPCI_CLASS=120000\nPCI_ID=8086:09C4\nPCI_SUBSYS_ID=8086:1770\nPCI_SLOT_NAME=x\n",
    )
    assert by_bdf(machine) == before
    for name in ("vendor", "device", "class", "subsystem_vendor", "subsystem_device"):
        drop(folder / name)
    assert by_bdf(machine) == before
    put(folder / "uevent", "PCI_ID=8086:09C4\n")  # not whole: not used
    assert "PCI vendor id can't be read" in by_bdf(machine)[PAC].health.reason


@pytest.mark.parametrize("bdf", [PAC, DFL, ALVEO, AWS])
def test_off_the_bus(machine: Machine, bdf: str) -> None:
    put(machine.folder(bdf) / "config", b"\xff" * 64)
    found = by_bdf(machine)
    assert found[bdf].health.status is HealthStatus.FAILED
    assert "off the bus" in found[bdf].health.reason
    assert [info.bdf for info in found.values() if not info.answers] == [bdf]
    put(machine.folder(bdf) / "config", b"\x86\x80\xc4\x09\x06\x04\x10\x00")
    assert by_bdf(machine)[bdf].health.ok


def test_pcie_errors_and_lanes(machine: Machine) -> None:
    folder = machine.folder(DFL)
    put(folder / "aer_dev_fatal", "Undefined 0\nDLP 0\nTOTAL_ERR_FATAL 0\n")
    put(folder / "current_link_width", "8\n")
    put(folder / "max_link_width", "16\n")
    put(folder.parent / "max_link_width", "8\n")
    assert by_bdf(machine)[DFL].health.ok
    put(folder / "aer_dev_fatal", "Undefined 0\nDLP 3\nTOTAL_ERR_FATAL 3\n")
    put(folder.parent / "max_link_width", "16\n")
    info = by_bdf(machine)[DFL]
    assert info.health.status is HealthStatus.DEGRADED
    assert "3 fatal PCIe errors" in info.health.reason
    assert "8 of 16 possible lanes" in info.health.reason
    assert info.answers


def test_missing_nodes(machine: Machine) -> None:
    assert [info.missing_nodes for info in by_bdf(machine).values()] == [()] * 4
    drop(machine.root / "dev/dfl-fme.0")
    drop(machine.root / "dev/dri/renderD128")
    found = by_bdf(machine)
    assert found[DFL].missing_nodes == ("/dev/dfl-fme.0",)
    assert found[ALVEO].missing_nodes == ("/dev/dri/renderD128",)
    assert found[AWS].missing_nodes == ()


def port(machine: Machine) -> Path:
    return machine.folder(DFL) / "fpga_region/region0/dfl-port.0"


@pytest.mark.parametrize(
    ("damage", "needs_image", "answers"),
    [
        (lambda machine: self_link(port(machine) / "afu_id"), True, True),  # stands for EBUSY
        (lambda machine: put(port(machine) / "afu_id", "f" * 32), False, False),
        (lambda machine: put(port(machine) / "afu_id", "garbage"), False, True),
        (lambda machine: drop(port(machine) / "afu_id"), False, True),
        (lambda machine: (self_link(port(machine) / "afu_id"), drop(machine.root / "dev/dfl-port.0")), False, True),
    ],
)
def test_what_an_image_would_mend(
    machine: Machine, damage: Callable[[Machine], object], needs_image: bool, answers: bool
) -> None:
    damage(machine)
    info = by_bdf(machine)[DFL]
    assert info.health.status is HealthStatus.FAILED
    assert (info.health.needs_image, info.answers) == (needs_image, answers)


def test_the_shells_own_id(machine: Machine) -> None:
    put(machine.folder(ALVEO) / "logic_uuids", f"{'1' * 32}\n{NLB0.replace('-', '')}\n")
    found = by_bdf(machine)
    assert found[ALVEO].logic_id == uuid.UUID(NLB0)
    assert found[AWS].logic_id is None
    put(machine.folder(ALVEO) / "logic_uuids", "none\n")
    assert by_bdf(machine)[ALVEO].logic_id is None


def test_kernel_drivers(tmp_path: Path) -> None:
    assert kernel_drivers(tmp_path / "nothing") == []
    root = Machine(tmp_path / "root").root
    assert kernel_drivers(root) == []
    for folder, name in (
        ("sys/class/fpga_region", "dfl"),
        ("sys/class/fpga", "intel-fpga"),
        ("sys/bus/pci/drivers/xrt-user", "xocl"),
    ):
        (root / folder).mkdir()
        assert kernel_drivers(root)[-1] == name
    assert fpgahal.kernel_drivers(str(root)) == ["dfl", "intel-fpga", "xocl"]
    with fpgahal.emu.rack("n3000"):
        assert fpgahal.kernel_drivers() == ["dfl"]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=300) | st.from_regex(rb"TOTAL_ERR_FATAL .*|PCI_CLASS=[0-9A-F]*\n.*"))
def test_any_content(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    machine = Machine(tmp_path_factory.mktemp("any") / "root").all()
    for bdf in (PAC, DFL, ALVEO, AWS):
        for name in (
            "config",
            "uevent",
            "aer_dev_fatal",
            "class",
            "current_link_width",
            "max_link_width",
            "logic_uuids",
        ):
            put(machine.folder(bdf) / name, content)
    put(machine.folder(PAC) / "fpga/intel-fpga-dev.0/intel-fpga-fme.0/thermal_mgmt/threshold1_reached", content)
    put(machine.folder(DFL) / "fpga_region/region0/dfl-fme.0/hwmon/hwmon0/temp1_crit_alarm", content)
    assert len(by_bdf(machine)) == 4
