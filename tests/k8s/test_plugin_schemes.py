# SPDX-License-Identifier: Apache-2.0
"""Names of the other vendors' plugins: b<>com (cases I), AMD (cases J), InAccel; and our own."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import node_trees as trees
import pytest
from node_trees import Node

import fpgahal
from fpgahal import ArgumentRangeError, DeviceInfo
from fpgahal.k8s.names import check_resource, name_part
from fpgahal.k8s.plugin.allocation import allocate
from fpgahal.k8s.plugin.inventory import Settings, take
from fpgahal.k8s.plugin.unit import DeviceNode, Unit
from fpgahal.k8s.schemes import inaccel, own, xilinx

U200 = "amd.com/xilinx_u200_xdma_201830_1-1542252769"


def resources(devices: list[DeviceInfo], *schemes: str, **more: object) -> dict[str, list[str]]:
    inventory = take(devices, Settings(schemes, **more))  # type: ignore[arg-type]
    return {resource: list(units) for resource, units in inventory.resources.items()}


def units(devices: list[DeviceInfo], *schemes: str, **more: object) -> list[Unit]:
    inventory = take(devices, Settings(schemes, **more))  # type: ignore[arg-type]
    return [unit for found in inventory.resources.values() for unit in found.values()]


# --- b<>com -------------------------------------------------------------------------------------------------------


def test_I1_boards_by_address(tmp_path: Path) -> None:
    devices = trees.opae2(tmp_path).devices()
    assert resources(devices, "bcom") == {"b-com.com/accelerator": ["06:00.0", "42:00.0"]}
    share = allocate(units(devices, "bcom")[::-1], Settings(("bcom",)))  # kubelet's order is any
    assert share.env["ACCELERATOR_DEVICES"] == "06:00.0,42:00.0"
    assert share.env["ACCELERATOR_UNITS"] == "06:00.0,42:00.0"
    assert [node.path for node in share.nodes] == ["/dev/intel-fpga-port.0", "/dev/intel-fpga-port.1"]


def test_I1_addresses_are_hexadecimal(tmp_path: Path) -> None:
    """Theirs reads 0000:af:00.0 as 00:00.0, and so may give two cards one id."""
    node = Node(tmp_path)
    node.opae("0000:af:00.0", 0)
    node.opae("0000:1a:00.0", 1)
    node.opae("0001:1a:00.0", 2)
    assert resources(node.devices(), "bcom") == {"b-com.com/accelerator": ["1a:00.0", "af:00.0", "0001:1a:00.0"]}


def test_a_board_with_several_ports_is_one_unit(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.opae(trees.CARD1, 0, ports=(0, 1))
    (unit,) = units(node.devices(), "bcom")
    assert [node.path for node in unit.nodes] == ["/dev/intel-fpga-port.0", "/dev/intel-fpga-port.1"]
    assert len(unit.slots) == 2


def test_I3_counted_units(tmp_path: Path) -> None:
    assert resources([], "bcom-counter") == {"b-com.com/accelerator": [str(n) for n in range(40)]}
    counted = {unit.id: unit for unit in units([], "bcom-counter")}
    settings = Settings(("bcom-counter",))
    assert allocate([counted["17"], counted["3"]], settings).env == {"ACCELERATOR_UNITS": "3,17"}
    assert "40" not in counted
    assert resources([], "bcom-counter", bcom_units=0) == {}
    assert resources(trees.opae2(tmp_path).devices(), "bcom-counter", "own", bcom_units=1) == {
        "b-com.com/accelerator": ["0"],
        "fpgahal.dev/pac-a10": [trees.CARD1, trees.CARD2],
    }


# --- AMD ----------------------------------------------------------------------------------------------------------


def test_J1_names(tmp_path: Path) -> None:
    devices = trees.x200(tmp_path).devices()
    assert resources(devices, "xilinx") == {U200: ["0000:65:00.1"]}
    assert resources(devices, "xilinx", xilinx_legacy=True) == {
        "xilinx.com/fpga-xilinx_u200_xdma_201830_1-1542252769": ["0000:65:00.1"]
    }
    (unit,) = units(devices, "xilinx")
    assert unit.healthy


def test_J2_no_management_node(tmp_path: Path) -> None:
    devices = trees.x200(tmp_path).devices()
    share = allocate(units(devices, "xilinx"), Settings(("xilinx",)))
    assert share.nodes == (DeviceNode("/dev/dri/renderD128", "/dev/dri/renderD128", "rw"),)
    assert share.mounts == ()
    compatible = allocate(units(devices, "xilinx", xilinx_management=True), Settings(("xilinx",)))
    assert [(node.path, node.permissions) for node in compatible.nodes] == [
        ("/dev/dri/renderD128", "rw"),
        ("/dev/xclmgmt25856", "rw"),
    ]


def test_J2_streaming_shells_have_a_node_more(tmp_path: Path) -> None:
    node = trees.x200(tmp_path)
    user = node.folder("0000:65:00.1")
    node.dev("xfpga/dma.qdma.u25857.0", user / "dma.qdma.u.25857", "242:0")
    (unit,) = units(node.devices(), "xilinx")
    assert [found.path for found in unit.nodes] == ["/dev/dri/renderD128", "/dev/xfpga/dma.qdma.u25857.0"]


def test_J4_aws(tmp_path: Path) -> None:
    devices = trees.xf1(tmp_path).devices()
    assert resources(devices, "xilinx") == {"amd.com/xilinx_aws-vu9p-f1_dynamic_5_0-43981": ["0000:00:1d.0"]}
    assert resources(devices, "xilinx", xilinx_legacy=True) == {
        "xilinx.com/fpga-xilinx_aws-vu9p-f1_dynamic_5_0-43981": ["0000:00:1d.0"]
    }
    assert resources(devices, "inaccel") == {"xilinx/aws-vu9p-f1": ["0000:00:1d.0"]}
    assert inaccel.shell_label(devices[0]) == "dynamic-shell"
    assert units(devices, "inaccel")[0].healthy


@pytest.mark.parametrize("vendor", [0x10EE, 0x1D0F, 0x13FE, 0x3475])
def test_J6_vendors(tmp_path: Path, vendor: int) -> None:
    node = Node(tmp_path)
    node.xrt_user("0000:65:00.1", vendor=vendor, vbnv="xilinx_u200_xdma_201830_1", timestamp=7)
    assert [*resources(node.devices(), "xilinx")] == ["amd.com/xilinx_u200_xdma_201830_1-7"]


def test_J6_not_intel(tmp_path: Path) -> None:
    node = trees.opae2(tmp_path)
    node.xrt_user("0000:65:00.1", vendor=0x8086, vbnv="xilinx_u200_xdma_201830_1", timestamp=7)
    inventory = take(node.devices(), Settings(("xilinx",)))
    assert inventory.resources == {}
    assert len(inventory.skipped) == 3


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({"u200-*-*": "deviceType+'-prod'"}, "amd.com/u200-prod"),
        ({"U200-*-1542252769": "deviceType+'-'+timestamp"}, "amd.com/u200-1542252769"),
        ({"*-xilinx_u200_xdma_201830_1-*": "'shell-'+shellVer"}, "amd.com/shell-xilinx_u200_xdma_201830_1"),
        ({"*-*-abcdef": "'by-'+uuid"}, "amd.com/by-abcdef"),
        ({"u250-*-*": "'other'"}, U200),
        ({"*-*-123456": "'other'"}, U200),
        ({"u250-*-*": "'other'", "*-*-*": "'any'"}, "amd.com/any"),
    ],
)
def test_J9_names_of_ones_own(tmp_path: Path, names: dict[str, str], expected: str) -> None:
    assert [*resources(trees.x200(tmp_path).devices(), "xilinx", xilinx_names=names)] == [expected]


@pytest.mark.parametrize(
    ("names", "why"),
    [
        ({"u200-*-*": f"'{'x' * 61}'"}, "longer than 60 characters"),
        ({"u200": "'short'"}, "three parts"),
        ({"a-b-c-d": "'short'"}, "three parts"),
        ({"*-*-*": "deviceName"}, "deviceType, shellVer, timestamp, uuid"),
        ({"*-*-*": "'open"}, "deviceType"),
        ({"*-*-*": "'not a name'"}, "no resource name"),
        ({"*-*-*": ""}, "deviceType"),
    ],
)
def test_J9_names_that_can_not_be_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, names: dict[str, str], why: str
) -> None:
    xilinx._warn.cache_clear()
    devices = trees.x200(tmp_path).devices()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):  # a warning in every scan would fill the log
            assert [*resources(devices, "xilinx", xilinx_names=names)] == [U200]
    assert [why in record.getMessage() for record in caplog.records] == [True]


def test_J9_a_bad_key_does_not_hide_a_good_one(tmp_path: Path) -> None:
    names = {"bad": "'x'", "u200-*-*": "'good'"}
    assert [*resources(trees.x200(tmp_path).devices(), "xilinx", xilinx_names=names)] == ["amd.com/good"]


def test_a_card_with_its_factory_image_is_skipped(tmp_path: Path) -> None:
    node = Node(tmp_path)
    folder = node.xrt_management("0000:65:00.0", instance=25856)
    node.file(folder / "mfg", "1")
    for scheme in ("xilinx", "own", "inaccel", "bcom"):
        inventory = take(node.devices(), Settings((scheme,)))
        assert inventory.resources == {}
        assert "golden" in inventory.skipped[0].reason


# --- InAccel, own -------------------------------------------------------------------------------------------------

VBNV = [
    ("xilinx_u250_xdma_201830_2", "xilinx/u250", "xdma_201830.2"),
    ("xilinx_u250_gen3x16_xdma_shell_2_1", "xilinx/u250", "gen3x16_xdma_shell_2.1"),
    ("xilinx_aws-vu9p-f1_shell-v04261818_201920_2", "xilinx/aws-vu9p-f1", "shell-v04261818_201920.2"),
    ("xilinx_aws-vu9p-f1-04261818_dynamic_5_0", "xilinx/aws-vu9p-f1", "dynamic-shell"),
    ("xilinx_aws-vu9p-f1_dynamic-shell", "xilinx/aws-vu9p-f1", "dynamic-shell"),
    ("xilinx_aws-vu47p-f2_201920_1", "xilinx/aws-vu47p-f2", "201920.1"),
]


@pytest.mark.parametrize(("vbnv", "resource", "shell"), VBNV)
def test_inaccel_names_of_amd_boards(vbnv: str, resource: str, shell: str) -> None:
    info = DeviceInfo("0000:65:00.1", driver="xrt", vendor_id=0x10EE, platform=vbnv)
    assert (inaccel.resource(info), inaccel.shell_label(info)) == (resource, shell)


def test_inaccel_names_of_intel_boards(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.opae(trees.CARD1, 0, interface="38d782e3b6125343b9342433e348ac4c")
    (info,) = node.devices()
    assert resources([info], "inaccel") == {"intel/pac_a10": [trees.CARD1]}
    assert inaccel.shell_label(info) == "38d782e3b6125343b9342433e348ac4c"
    assert inaccel.shell_label(replace(info, interface_id=None)) == ""
    assert inaccel.resource(replace(info, vendor_id=0x1C2C)) == ""  # Silicom's are in no catalogue of theirs


def test_own_names_do_not_change_with_shell_or_image(tmp_path: Path) -> None:
    node = trees.x200(tmp_path)
    (before,) = node.devices()
    node.file(node.folder("0000:65:00.1") / "rom.u.1/VBNV", "xilinx_u200_gen3x16_xdma_base_2")
    node.file(node.folder("0000:65:00.1") / "xclbinuuid", trees.NLB0)
    (after,) = node.devices()
    assert before.platform != after.platform
    assert own.resource(before) == own.resource(after) == "fpgahal.dev/u200"


def test_own_names_of_unknown_boards() -> None:
    assert own.resource(DeviceInfo("0000:06:00.0", vendor_id=0x1234, device_id=0xAB)) == "fpgahal.dev/fpga-1234-00ab"
    assert own.resource(DeviceInfo("0000:06:00.0", board="My board: n°5!")) == "fpgahal.dev/My-board-n-5"


@pytest.mark.parametrize("name", [*fpgahal.emu.boards()])
def test_every_emulated_board_has_a_name_in_our_scheme(name: str) -> None:
    with fpgahal.emu.rack(name):
        (info,) = fpgahal.devices()
    assert info.board
    check_resource(own.resource(info))
    assert own.resource(info) == f"fpgahal.dev/{name_part(info.board)}"


@pytest.mark.parametrize(
    "name",
    ["x", "/x", "a b/x", "A.b/x", "-a/x", "a/-x", "a/x-", "a/" + "x" * 64, "a/x/y", "a/", f"{'a' * 64}/x", "a/x\n"],
)
def test_names_that_kubelet_refuses(name: str) -> None:
    with pytest.raises(ArgumentRangeError, match="resource name"):
        check_resource(name)
