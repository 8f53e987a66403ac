# SPDX-License-Identifier: Apache-2.0
"""From sysfs trees to what a node offers: Intel's modes (cases B), and what no scheme may get wrong."""

from __future__ import annotations

import uuid
from pathlib import Path

import node_trees as trees
import pytest
from hypothesis import given
from hypothesis import strategies as st
from node_trees import CARD1, CARD2, IF12, NLB0, NLB3, Node

import fpgahal
from fpgahal import ArgumentRangeError, DeviceInfo, Health, HealthStatus
from fpgahal.k8s.names import check_device_id, check_resource
from fpgahal.k8s.plugin.inventory import Settings, driver_problems, take
from fpgahal.k8s.plugin.unit import Inventory, Skipped
from fpgahal.k8s.schemes.settings import MODES, NAMES

AF_NLB0 = "fpga.intel.com/af-695.d84.aVKNtusxV3qMNmj5-qCB9thCTcSko8QT-J5DNoP5BAs"
AF_NLB3 = "fpga.intel.com/af-695.f7d.aVKNtusxV3qMNmj5-qCB9vffQFy9es9yIvFEsLk6zRg"
REGION = f"fpga.intel.com/region-{IF12}"


def intel(mode: str = "af", **more: object) -> Settings:
    return Settings(("intel",), mode=mode, **more)  # type: ignore[arg-type]


def offered(inventory: Inventory) -> dict[str, list[str]]:
    return {resource: list(units) for resource, units in inventory.resources.items()}


def nodes(inventory: Inventory) -> dict[str, list[tuple[str, str, str]]]:
    """Device id -> its device nodes: path in the container, on the host, permissions."""
    return {
        id: [(node.path, node.host_path, node.permissions) for node in unit.nodes]
        for units in inventory.resources.values()
        for id, unit in units.items()
    }


def rw(*names: str) -> list[tuple[str, str, str]]:
    return [(f"/dev/{name}", f"/dev/{name}", "rw") for name in names]


def test_B1_functions(tmp_path: Path) -> None:
    inventory = take(trees.opae2(tmp_path).devices(), intel())
    assert offered(inventory) == {AF_NLB0: ["intel-fpga-port.0"], AF_NLB3: ["intel-fpga-port.1"]}
    assert nodes(inventory) == {
        "intel-fpga-port.0": rw("intel-fpga-port.0"),
        "intel-fpga-port.1": rw("intel-fpga-port.1"),
    }
    assert inventory.skipped == ()
    unit = inventory.resources[AF_NLB3]["intel-fpga-port.1"]
    assert (unit.healthy, unit.wanted, unit.programmed_by_pod, unit.numa_nodes) == (True, NLB3, False, (1,))


def test_B2_regions(tmp_path: Path) -> None:
    inventory = take(trees.opae2(tmp_path).devices(), intel("region"))
    assert offered(inventory) == {REGION: ["intel-fpga-fme.0", "intel-fpga-fme.1"]}
    assert nodes(inventory) == {
        "intel-fpga-fme.0": rw("intel-fpga-port.0"),
        "intel-fpga-fme.1": rw("intel-fpga-port.1"),
    }
    assert [unit.programmed_by_pod for unit in inventory.resources[REGION].values()] == [True, True]


def test_B3_regions_for_development(tmp_path: Path) -> None:
    inventory = take(trees.opae2(tmp_path).devices(), intel("regiondevel"))
    assert offered(inventory) == {REGION: ["intel-fpga-fme.0", "intel-fpga-fme.1"]}
    assert nodes(inventory) == {
        "intel-fpga-fme.0": rw("intel-fpga-port.0", "intel-fpga-fme.0"),
        "intel-fpga-fme.1": rw("intel-fpga-port.1", "intel-fpga-fme.1"),
    }
    assert not any(unit.programmed_by_pod for unit in inventory.resources[REGION].values())


def test_B4_ports_on_virtual_functions(tmp_path: Path) -> None:
    node = trees.opae_vf(tmp_path)
    assert offered(take(node.devices(), intel())) == {
        AF_NLB0: ["intel-fpga-port.0"],
        AF_NLB3: ["intel-fpga-port.2"],  # with the interface of the second card's physical function
    }
    inventory = take(node.devices(), intel("region"))
    assert offered(inventory) == {REGION: ["intel-fpga-fme.0", "intel-fpga-fme.1"]}
    assert nodes(inventory)["intel-fpga-fme.1"] == rw("intel-fpga-port.2")


def test_B6_the_kernels_own_driver(tmp_path: Path) -> None:
    node = trees.dfl2(tmp_path)
    assert offered(take(node.devices(), intel())) == {AF_NLB3: ["dfl-port.1"], AF_NLB0: ["dfl-port.0"]}
    inventory = take(node.devices(), intel("region"))
    assert {*inventory.resources[REGION]} == {"dfl-fme.0", "dfl-fme.1"}
    assert nodes(inventory) == {"dfl-fme.0": rw("dfl-port.0"), "dfl-fme.1": rw("dfl-port.1")}


@pytest.mark.parametrize("mode", MODES)
def test_B9_no_driver(tmp_path: Path, mode: str) -> None:
    Node(tmp_path)
    (problem,) = driver_problems(fpgahal.kernel_drivers(str(tmp_path)), intel(mode))
    assert "driver not loaded" in problem
    assert "dfl or intel-fpga" in problem
    (tmp_path / "sys/class/fpga").mkdir()
    assert driver_problems(fpgahal.kernel_drivers(str(tmp_path)), intel(mode)) == ()
    assert take(fpgahal.devices(str(tmp_path)), intel(mode)) == Inventory()


def test_drivers_are_asked_for_by_scheme(tmp_path: Path) -> None:
    trees.x200(tmp_path)
    loaded = fpgahal.kernel_drivers(str(tmp_path))
    assert loaded == ["xocl"]
    assert driver_problems(loaded, Settings(("own", "xilinx", "inaccel", "bcom", "bcom-counter"))) == ()
    assert len(driver_problems(loaded, Settings(("intel", "own")))) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"mode": "unparsable"},
        {"mode": ""},
        {"intel_names": "2019"},
        {"schemes": ()},
        {"schemes": ("own", "intels")},
        {"schemes": ("own", "own")},
        {"bcom_units": -1},
        {"bcom_units": 10**9},
    ],
)
def test_B10_settings_that_make_no_sense(wrong: dict[str, object]) -> None:
    with pytest.raises(ArgumentRangeError):
        Settings(**wrong)  # type: ignore[arg-type]


def test_B13_a_port_without_device_node(tmp_path: Path) -> None:
    node = trees.opae2(tmp_path)
    (tmp_path / "dev/intel-fpga-port.0").unlink()
    for mode, left in (
        ("af", "intel-fpga-port.1"),
        ("region", "intel-fpga-fme.1"),
        ("regiondevel", "intel-fpga-fme.1"),
    ):
        inventory = take(node.devices(), intel(mode))
        assert [*nodes(inventory)] == [left]
        (skipped,) = inventory.skipped
        assert skipped.address == f"{CARD1}/0"
        assert "device node /dev/intel-fpga-port.0 is missing" in skipped.reason


def test_B15_another_class_of_device(tmp_path: Path) -> None:
    node = trees.opae2(tmp_path)
    node.opae("0000:99:00.0", 7, kind=0x030000)
    inventory = take(node.devices(), intel())
    assert {*nodes(inventory)} == {"intel-fpga-port.0", "intel-fpga-port.1"}
    (skipped,) = inventory.skipped
    assert (skipped.address, "0x030000" in skipped.reason) == ("0000:99:00.0/0", True)


def test_B15_the_class_without_uevent(tmp_path: Path) -> None:
    node = trees.opae2(tmp_path)
    node.file(node.folder(CARD1) / "uevent", "")
    node.file(node.folder(CARD1) / "class", "0x030000")
    assert [skipped.address for skipped in take(node.devices(), intel()).skipped] == [f"{CARD1}/0"]


def test_B16_other_things_in_the_class_folder(tmp_path: Path) -> None:
    node = trees.opae2(tmp_path)
    for name in ("intel-fpga-dev.0x", "region0", "fpga"):
        (tmp_path / "sys/class/fpga" / name).mkdir()
    assert {*nodes(take(node.devices(), intel()))} == {"intel-fpga-port.0", "intel-fpga-port.1"}
    assert len(node.devices()) == 2


@pytest.mark.parametrize("spelling", [str.upper, lambda text: str(uuid.UUID(text)), lambda text: f" {text}\n"])
def test_B20_ids_in_other_spellings(tmp_path: Path, spelling: object) -> None:
    node = Node(tmp_path)
    node.opae(CARD1, 0, interface=spelling(IF12), afu=spelling(NLB0))  # type: ignore[operator]
    assert offered(take(node.devices(), intel())) == {AF_NLB0: ["intel-fpga-port.0"]}
    assert offered(take(node.devices(), intel("region"))) == {REGION: ["intel-fpga-fme.0"]}


def test_names_of_2018(tmp_path: Path) -> None:
    node = trees.opae2(tmp_path)
    inventory = take(node.devices(), intel(intel_names="2018"))
    assert offered(inventory) == {
        f"fpga.intel.com/af-{NLB0}": ["intel-fpga-port.0"],
        f"fpga.intel.com/af-{NLB3}": ["intel-fpga-port.1"],
    }
    (tmp_path / "sys/class/fpga/intel-fpga-dev.0/intel-fpga-fme.0/pr/interface_id").unlink()
    assert offered(take(node.devices(), intel(intel_names="2018"))) == offered(inventory)  # it takes no part in them
    assert offered(take(node.devices(), intel("region", intel_names="2018"))) == {REGION: ["intel-fpga-fme.1"]}


def test_every_port_of_an_fme(tmp_path: Path) -> None:
    """Intel's plugin appends the others to a copy, and so loses them."""
    node = Node(tmp_path)
    container = node.opae(CARD1, 0, ports=(3, 4, 5))
    node.file(container / "intel-fpga-port.4/afu_id", NLB3)
    assert offered(take(node.devices(), intel())) == {
        AF_NLB0: ["intel-fpga-port.3", "intel-fpga-port.5"],
        AF_NLB3: ["intel-fpga-port.4"],
    }
    inventory = take(node.devices(), intel("region"))
    assert nodes(inventory) == {"intel-fpga-fme.0": rw("intel-fpga-port.3", "intel-fpga-port.4", "intel-fpga-port.5")}
    (unit,) = inventory.resources[REGION].values()
    assert [info.slot for info in unit.slots] == [0, 1, 2]
    assert [*take(node.devices(), Settings()).resources["fpgahal.dev/pac-a10"]] == [CARD1, f"{CARD1}-1", f"{CARD1}-2"]


def test_a_hash_as_id_is_skipped(tmp_path: Path) -> None:
    """Its name would have 59 characters and Intel's socket for it 111; a port answers UUIDs only."""
    node = trees.opae2(tmp_path)
    node.file(tmp_path / "sys/class/fpga/intel-fpga-dev.0/intel-fpga-port.0/afu_id", NLB0 + "12345678")
    inventory = take(node.devices(), intel())
    assert [*nodes(inventory)] == ["intel-fpga-port.1"]
    (skipped,) = inventory.skipped
    assert "not an id of 32 hex digits" in skipped.reason


def test_a_missing_interface_id_is_skipped_not_named(tmp_path: Path) -> None:
    """Intel's plugin offered ``region-``, which kubelet refuses, and so it exited for ever."""
    node = trees.dfl2(tmp_path)
    (tmp_path / "sys/class/fpga_region/region0/dfl-fme.0/dfl-fme-region.0/fpga_region/region0/compat_id").unlink()
    for mode in MODES:
        inventory = take(node.devices(), intel(mode))
        assert len(nodes(inventory)) == 1
        (skipped,) = inventory.skipped
        assert "interface id" in skipped.reason
        assert "dfl-fme-region" in skipped.reason  # which module to load


def test_a_too_long_name_is_skipped(tmp_path: Path) -> None:
    node = trees.x200(tmp_path)
    node.xrt_user("0000:66:00.1", vbnv="xilinx_u200_" + "x" * 52, timestamp=1, render=129)
    inventory = take(node.devices(), Settings(("xilinx",)))
    assert offered(inventory) == {"amd.com/xilinx_u200_xdma_201830_1-1542252769": ["0000:65:00.1"]}
    (skipped,) = inventory.skipped
    assert skipped.address == "0000:66:00.1/0"
    assert "too long" in skipped.reason


def test_two_boards_with_one_id_are_not_one_device() -> None:
    info = DeviceInfo("0000:06:00.0", driver="opae", board="pac-a10", device_nodes=("/dev/dfl-port.0",))
    inventory = take([info, info], Settings())
    assert offered(inventory) == {"fpgahal.dev/pac-a10": ["0000:06:00.0"]}
    assert "already has a device" in inventory.skipped[0].reason


# --- several vendors and schemes on one node ----------------------------------------------------------------------


@pytest.fixture
def mixed(tmp_path: Path) -> Node:
    node = trees.opae2(tmp_path)
    trees.x200(tmp_path)
    trees.xf1(tmp_path, render=129)
    return node


def test_several_vendors(mixed: Node) -> None:
    assert offered(take(mixed.devices(), Settings())) == {
        "fpgahal.dev/aws-f1": ["0000:00:1d.0"],
        "fpgahal.dev/pac-a10": [CARD1, CARD2],
        "fpgahal.dev/u200": ["0000:65:00.1"],
    }
    inventory = take(mixed.devices(), Settings(("intel", "xilinx")))
    assert {resource.partition("/")[0] for resource in inventory.resources} == {"fpga.intel.com", "amd.com"}
    assert inventory.skipped == ()


def test_a_board_is_offered_under_the_first_scheme_that_takes_it(mixed: Node) -> None:
    for schemes in (("own", "intel"), ("intel", "own"), ("bcom", "inaccel", "own"), ("bcom-counter", "inaccel", "own")):
        inventory = take(mixed.devices(), Settings(schemes))
        slots = [info.address for units in inventory.resources.values() for u in units.values() for info in u.slots]
        assert sorted(slots) == sorted(info.address for info in mixed.devices())
    assert offered(take(mixed.devices(), Settings(("intel", "own")))) == {
        AF_NLB0: ["intel-fpga-port.0"],
        AF_NLB3: ["intel-fpga-port.1"],
        "fpgahal.dev/aws-f1": ["0000:00:1d.0"],
        "fpgahal.dev/u200": ["0000:65:00.1"],
    }


def test_a_skipped_board_is_not_left_to_the_next_scheme(mixed: Node) -> None:
    """It may be in a pod's hands already: under another name it would be free for a second one."""
    (mixed.root / "sys/class/fpga/intel-fpga-dev.0/intel-fpga-port.0/afu_id").unlink()
    inventory = take(mixed.devices(), Settings(("intel", "own")))
    assert "fpgahal.dev/pac-a10" not in inventory.resources
    assert [skipped.address for skipped in inventory.skipped] == [f"{CARD1}/0"]


def test_a_board_that_no_scheme_takes(mixed: Node) -> None:
    inventory = take(mixed.devices(), Settings(("xilinx",)))
    assert [skipped.address for skipped in inventory.skipped] == [f"{CARD1}/0", f"{CARD2}/0"]
    assert "no scheme takes it (configured: xilinx)" in inventory.skipped[0].reason


@pytest.mark.parametrize(
    ("scheme", "mode"),
    [
        *((scheme, "regiondevel") for scheme in ("own", "xilinx", "inaccel", "bcom")),
        ("intel", "af"),
        ("intel", "region"),
    ],
)
def test_containers_never_get_a_management_node(mixed: Node, scheme: str, mode: str) -> None:
    given = [node for found in nodes(take(mixed.devices(), Settings((scheme,), mode=mode))).values() for node in found]
    assert given
    assert not [path for path, *_ in given if "fme" in path or "xclmgmt" in path]


def test_a_card_whose_render_node_is_not_there_yet_gives_no_management_node(tmp_path: Path) -> None:
    node = trees.x200(tmp_path)
    (node.folder("0000:65:00.1") / "drm/renderD128/dev").unlink()
    (node.folder("0000:65:00.1") / "drm/renderD128").rmdir()
    (info,) = node.devices()
    assert info.device_nodes == ("/dev/xclmgmt25856",)
    for scheme in ("xilinx", "own", "inaccel", "bcom"):
        ((unit,),) = (found.values() for found in take([info], Settings((scheme,))).resources.values())
        assert unit.nodes == ()
        assert "no render node" in unit.reason


def test_ids_stay_when_other_boards_come_and_go(mixed: Node) -> None:
    before = take(mixed.devices(), Settings()).resources
    mixed.unplug(CARD1)
    after = take(mixed.devices(), Settings()).resources
    assert after["fpgahal.dev/pac-a10"] == {CARD2: before["fpgahal.dev/pac-a10"][CARD2]}
    assert after["fpgahal.dev/u200"] == before["fpgahal.dev/u200"]


def test_emulated_boards_say_so() -> None:
    with fpgahal.emu.rack("pac-a10,u250") as rack:
        inventory = take(fpgahal.devices(), Settings())
    assert offered(inventory) == {"fpgahal.dev/pac-a10": ["0000:3b:00.0"], "fpgahal.dev/u250": ["0000:5e:00.1"]}
    for units in inventory.resources.values():
        for unit in units.values():
            assert unit.nodes == ()  # they are plain files, in the folder
            assert [(mount.path, mount.host_path, mount.read_only) for mount in unit.mounts] == [
                (rack.dir, rack.dir, False)
            ]
            assert unit.env["FPGAHAL_EMU_RACK"] == rack.dir
            assert unit.annotations == {"fpgahal.dev/emulated": "true"}
            assert "EMULATED" in unit.slots[0].name


# --- any board at all ---------------------------------------------------------------------------------------------

ids = st.none() | st.uuids() | st.just(uuid.UUID(int=0))
infos = st.builds(
    DeviceInfo,
    bdf=st.from_regex(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]", fullmatch=True),
    slot=st.integers(0, 300),
    driver=st.sampled_from(["opae", "xrt", ""]),
    board=st.sampled_from(["pac-a10", "u250", ""]) | st.text(max_size=70),
    platform=st.sampled_from(["", "xilinx_u250_gen3x16_xdma_shell_2_1", "xilinx__", "pac-a10"]) | st.text(max_size=70),
    vendor_id=st.sampled_from([0, 0x8086, 0x10EE, 0x1D0F, 0xFFFF]),
    device_id=st.integers(0, 0xFFFF),
    pci_class=st.sampled_from([0, 0x120000, 0x030000]),
    afu_id=ids,
    interface_id=ids,
    logic_id=ids,
    timestamp=st.integers(0, 1 << 64),
    numa_node=st.integers(-1, 8),
    answers=st.booleans(),
    health=st.builds(Health, st.sampled_from(HealthStatus), st.text(max_size=20), st.booleans()),
    device_nodes=st.lists(
        st.sampled_from(["/dev/dfl-port.0", "/dev/dfl-fme.0", "/dev/dri/renderD128", "/dev/xclmgmt5", "/dev/odd", ""]),
        max_size=3,
    ).map(tuple),
    missing_nodes=st.sampled_from([(), ("/dev/dfl-port.0",), ("/dev/dfl-fme.0",)]),
    emulated=st.booleans(),
)
any_settings = st.builds(
    Settings,
    st.lists(st.sampled_from(NAMES), min_size=1, unique=True).map(tuple),
    st.sampled_from(MODES),
    st.sampled_from(["2020", "2018"]),
    xilinx_legacy=st.booleans(),
    xilinx_names=st.dictionaries(st.sampled_from(["*-*-*", "u250-*-*", "x", ""]), st.text(max_size=70)),
    bcom_units=st.integers(0, 3),
)


@given(st.lists(infos, max_size=6), any_settings)
def test_any_boards_give_an_inventory(devices: list[DeviceInfo], settings: Settings) -> None:
    """Never an exception; each board is offered once or skipped with a reason; kubelet takes every name."""
    inventory = take(devices, settings)
    assert take(devices, settings) == inventory
    told = [skipped.address for skipped in inventory.skipped]
    for resource, units in inventory.resources.items():
        check_resource(resource)
        for id, unit in units.items():
            check_device_id(id)
            assert (unit.id, unit.resource) == (id, resource)
            told += [info.address for info in unit.slots]
            managing = [node.path for node in unit.nodes if "fme" in node.path or "xclmgmt" in node.path]
            assert not managing or settings.mode == "regiondevel"
            if not unit.healthy:
                continue
            assert all(info.answers for info in unit.slots)
    assert {*told} == {info.address for info in devices}
    addresses = [info.address for info in devices]
    if len(set(addresses)) == len(addresses):
        assert len(told) == len(addresses)
    assert all(isinstance(skipped, Skipped) and skipped.reason for skipped in inventory.skipped)
