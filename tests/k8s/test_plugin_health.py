# SPDX-License-Identifier: Apache-2.0
"""What makes a board unhealthy (case C1), that each reason is told, and that it recovers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import node_trees as trees
import pytest
from node_trees import CARD1, CARD2, FF, IF12, NLB0, Node

from fpgahal import DeviceInfo, Health, HealthStatus
from fpgahal.k8s.plugin.health import reason
from fpgahal.k8s.plugin.inventory import Settings, take
from fpgahal.k8s.plugin.unit import Unit

DEAD_AF = "fpga.intel.com/af-fff.fff.__________________________________________8"


def units(node: Node, mode: str = "af", scheme: str = "intel") -> dict[str, Unit]:
    inventory = take(node.devices(), Settings((scheme,), mode=mode))
    return {id: unit for found in inventory.resources.values() for id, unit in found.items()}


def test_C1_a_dead_card(tmp_path: Path) -> None:
    node = trees.dead(tmp_path)
    for mode, resource, id in (
        ("af", DEAD_AF, "intel-fpga-port.0"),
        ("region", f"fpga.intel.com/region-{FF}", "intel-fpga-fme.0"),
        ("regiondevel", f"fpga.intel.com/region-{FF}", "intel-fpga-fme.0"),
    ):
        inventory = take(node.devices(), Settings(("intel",), mode=mode))
        assert {resource: [id]} == {name: [*found] for name, found in inventory.resources.items()}
        unit = inventory.resources[resource][id]
        assert not unit.healthy
        assert "all ones" in unit.reason


@pytest.mark.parametrize(("interface", "afu"), [(FF, NLB0), (IF12, FF)])
@pytest.mark.parametrize("scheme", ["intel", "own", "bcom", "inaccel"])
@pytest.mark.parametrize("mode", ["af", "region"])
def test_C1_a_half_dead_card(tmp_path: Path, interface: str, afu: str, scheme: str, mode: str) -> None:
    node = Node(tmp_path)
    node.opae(CARD1, 0, interface=interface, afu=afu)
    (unit,) = units(node, mode, scheme).values()
    assert "all ones" in unit.reason


def test_C1_recovery(tmp_path: Path) -> None:
    node = trees.opae2(tmp_path)
    before = units(node, "region")
    attribute = tmp_path / "sys/class/fpga/intel-fpga-dev.0/intel-fpga-port.0/afu_id"
    node.file(attribute, FF)
    assert [unit.healthy for unit in units(node, "region").values()] == [False, True]
    node.file(attribute, NLB0)
    assert units(node, "region") == before


# --- what sysfs tells beside the ids ------------------------------------------------------------------------------

Damage = Callable[[Node, Path, Path], None]  # the node, the card's PCI folder, its FME


def off_the_bus(node: Node, pci: Path, fme: Path) -> None:
    (pci / "config").write_bytes(b"\xff" * 256)


def too_hot(node: Node, pci: Path, fme: Path) -> None:
    node.file(fme / "thermal_mgmt/threshold1_reached", "1")
    node.file(fme / "thermal_mgmt/threshold2_reached", "1")


def hot(node: Node, pci: Path, fme: Path) -> None:
    node.file(fme / "thermal_mgmt/threshold1_reached", "1")
    node.file(fme / "thermal_mgmt/threshold2_reached", "0")


def pcie_errors(node: Node, pci: Path, fme: Path) -> None:
    node.file(pci / "aer_dev_fatal", "Undefined 0\nDLP 2\nTOTAL_ERR_FATAL 2")


def few_lanes(node: Node, pci: Path, fme: Path) -> None:
    node.file(pci / "current_link_width", "4")


def few_lanes_in_a_short_slot(node: Node, pci: Path, fme: Path) -> None:
    few_lanes(node, pci, fme)
    node.file(pci.parent / "max_link_width", "4")


@pytest.mark.parametrize(
    ("damage", "status", "text"),
    [
        (off_the_bus, HealthStatus.FAILED, "off the bus"),
        (too_hot, HealthStatus.FAILED, "too hot: intel-fpga-fme.0 reports its critical"),
        (hot, HealthStatus.DEGRADED, "hot: intel-fpga-fme.0 reports its upper"),
        (pcie_errors, HealthStatus.DEGRADED, "2 fatal PCIe errors"),
        (few_lanes, HealthStatus.DEGRADED, "4 of 8 possible lanes"),
        (few_lanes_in_a_short_slot, HealthStatus.OK, ""),
    ],
)
def test_state_of_a_card(tmp_path: Path, damage: Damage, status: HealthStatus, text: str) -> None:
    node = trees.opae2(tmp_path)
    pci = node.folder(CARD1)
    damage(node, pci, pci / "fpga/intel-fpga-dev.0/intel-fpga-fme.0")
    first, second = node.devices()
    assert first.health.status is status
    assert text in first.health.reason
    assert second.health.ok
    for mode, ids in (("af", "intel-fpga-port"), ("region", "intel-fpga-fme"), ("regiondevel", "intel-fpga-fme")):
        found = units(node, mode)
        assert found[f"{ids}.1"].healthy
        if status is HealthStatus.FAILED:
            assert text in found[f"{ids}.0"].reason
        else:
            assert found[f"{ids}.0"].healthy  # worth telling, but it works


def test_heat_of_the_kernels_own_driver(tmp_path: Path) -> None:
    node = trees.dfl2(tmp_path)
    monitor = node.folder(CARD2) / "fpga_region/region1/dfl-fme.1/hwmon/hwmon3"
    node.file(monitor / "temp1_max_alarm", "1")
    node.file(monitor / "temp1_crit_alarm", "0")
    assert [info.health.status for info in node.devices()] == [HealthStatus.DEGRADED, HealthStatus.OK]
    node.file(monitor / "temp1_crit_alarm", "1")
    assert "critical temperature" in units(node)["dfl-port.1"].reason
    node.file(monitor / "temp1_crit_alarm", "0")
    assert units(node)["dfl-port.1"].healthy


def test_a_virtual_function_has_no_link_of_its_own(tmp_path: Path) -> None:
    node = trees.opae_vf(tmp_path)
    virtual = node.folder("0000:42:00.1")
    node.file(virtual / "current_link_width", "0")
    (virtual / "config").write_bytes(b"\xff\xff\xff\xff\x06\x00\x10\x00")  # its ids read all ones, as SR-IOV has it
    assert [info.health.ok for info in node.devices()] == [True, True]


def test_an_xrt_card_off_the_bus(tmp_path: Path) -> None:
    node = trees.x200(tmp_path)
    (node.folder("0000:65:00.1") / "config").write_bytes(b"\xff" * 64)
    (unit,) = units(node, scheme="own").values()
    assert "off the bus" in unit.reason


def test_an_xrt_card_being_reset_is_unhealthy_not_gone(tmp_path: Path) -> None:
    node = trees.x200(tmp_path)
    before = units(node, scheme="xilinx")
    node.file(node.folder("0000:65:00.1") / "dev_offline", "1")
    after = units(node, scheme="xilinx")
    assert before.keys() == after.keys()
    assert "being reset" in after["0000:65:00.1"].reason
    node.file(node.folder("0000:65:00.1") / "dev_offline", "0")
    assert units(node, scheme="xilinx") == before


# --- a port in reset ----------------------------------------------------------------------------------------------


def in_reset(node: Node, port: Path) -> None:
    """Reading afu_id fails: a link to itself (ELOOP) stands for EBUSY, which no plain file gives."""
    (port / "afu_id").unlink()
    (port / "afu_id").symlink_to("afu_id")


def test_a_port_in_reset_can_be_mended_by_programming_it(tmp_path: Path) -> None:
    """After a failed reconfiguration, or during one: were it unhealthy, nothing would ever program it again."""
    node = trees.opae2(tmp_path)
    in_reset(node, tmp_path / "sys/class/fpga/intel-fpga-dev.0/intel-fpga-port.0")
    assert node.devices()[0].health.needs_image
    assert all(unit.healthy for unit in units(node, "region").values())
    assert all(unit.healthy for unit in units(node, scheme="own").values())
    assert "held in reset" in units(node, "regiondevel")["intel-fpga-fme.0"].reason
    inventory = take(node.devices(), Settings(("intel",)))
    assert "held in reset" in inventory.skipped[0].reason  # which function it has, and so its name, is not known


def test_a_port_in_reset_with_another_fault_is_unhealthy(tmp_path: Path) -> None:
    node = trees.opae2(tmp_path)
    in_reset(node, tmp_path / "sys/class/fpga/intel-fpga-dev.0/intel-fpga-port.0")
    too_hot(node, tmp_path, node.folder(CARD1) / "fpga/intel-fpga-dev.0/intel-fpga-fme.0")
    assert not node.devices()[0].health.needs_image
    assert "too hot" in units(node, "region")["intel-fpga-fme.0"].reason


def test_a_region_without_the_node_that_programs_it(tmp_path: Path) -> None:
    node = trees.opae2(tmp_path)
    (tmp_path / "dev/intel-fpga-fme.0").unlink()
    for mode in ("region", "regiondevel"):
        found = units(node, mode)
        assert "/dev/intel-fpga-fme.0 is missing" in found["intel-fpga-fme.0"].reason
        assert found["intel-fpga-fme.1"].healthy
    assert all(unit.healthy for unit in units(node, "af").values())  # nothing is programmed there


@pytest.mark.parametrize(
    ("info", "to_be_programmed", "expected"),
    [
        (DeviceInfo("x"), False, ""),
        (DeviceInfo("x", health=Health(HealthStatus.DEGRADED, "warm")), False, ""),
        (DeviceInfo("x", health=Health(HealthStatus.FAILED, "broken")), False, "broken"),
        (DeviceInfo("x", health=Health(HealthStatus.FAILED, "broken")), True, "broken"),
        (DeviceInfo("x", health=Health(HealthStatus.FAILED, "reset", True)), False, "reset"),
        (DeviceInfo("x", health=Health(HealthStatus.FAILED, "reset", True)), True, ""),
        (DeviceInfo("x", health=Health(HealthStatus.DEGRADED, "ones"), answers=False), True, "ones"),
        (DeviceInfo("x", answers=False), False, "the card does not answer"),
        (DeviceInfo("x", health=Health(HealthStatus.FAILED)), False, "failed, for a reason that sysfs does not tell"),
    ],
)
def test_reasons(info: DeviceInfo, to_be_programmed: bool, expected: str) -> None:
    assert reason(info, to_be_programmed=to_be_programmed) == expected
