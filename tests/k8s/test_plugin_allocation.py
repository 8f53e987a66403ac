# SPDX-License-Identifier: Apache-2.0
"""What a container gets (cases D7, D8), and which units kubelet is told to prefer."""

from __future__ import annotations

import itertools
import uuid
from pathlib import Path

import node_trees as trees
import pytest
from hypothesis import given
from hypothesis import strategies as st
from node_trees import CARD1, CARD2, NLB0, NLB3, Node

import fpgahal
from fpgahal import DeviceInfo, DeviceStateError
from fpgahal.k8s.plugin.allocation import Allocation, allocate
from fpgahal.k8s.plugin.inventory import Settings, take
from fpgahal.k8s.plugin.preference import prefer
from fpgahal.k8s.plugin.unit import DeviceNode, Mount, Unit


def units(devices: list[DeviceInfo], settings: Settings) -> dict[str, Unit]:
    inventory = take(devices, settings)
    return {id: unit for found in inventory.resources.values() for id, unit in found.items()}


def share(node: Node, settings: Settings, *ids: str) -> Allocation:
    offered = units(node.devices(), settings)
    return allocate([offered[id] for id in ids], settings)


def node_of(name: str) -> DeviceNode:
    return DeviceNode(f"/dev/{name}", f"/dev/{name}", "rw")


def test_D7_a_function(tmp_path: Path) -> None:
    got = share(trees.opae2(tmp_path), Settings(("intel",)), "intel-fpga-port.0")
    assert got == Allocation(
        env={"FPGAHAL_VISIBLE_DEVICES": f"{CARD1}/0", "FPGAHAL_DEVICE_0000_06_00_0": f"{CARD1}/0"},
        nodes=(node_of("intel-fpga-port.0"),),
    )


def test_D8_a_region(tmp_path: Path) -> None:
    settings = Settings(("intel",), mode="region", intel_annotation=True)
    got = share(trees.opae2(tmp_path), settings, "intel-fpga-fme.0")
    assert got.nodes == (node_of("intel-fpga-port.0"),)
    assert got.annotations == {"com.intel.fpga.mode": "fpga.intel.com/region"}
    assert got.cdi == ("fpgahal.dev/fpga=intel-fpga-fme.0",)


def test_D8_the_annotation_is_for_those_who_ask(tmp_path: Path) -> None:
    got = share(trees.opae2(tmp_path), Settings(("intel",), mode="region"), "intel-fpga-fme.0")
    assert got.annotations == {}
    assert got.cdi == ("fpgahal.dev/fpga=intel-fpga-fme.0",)


def test_D8_development_has_no_hook(tmp_path: Path) -> None:
    settings = Settings(("intel",), mode="regiondevel", intel_annotation=True)
    got = share(trees.opae2(tmp_path), settings, "intel-fpga-fme.0")
    assert got.nodes == (node_of("intel-fpga-port.0"), node_of("intel-fpga-fme.0"))
    assert (got.annotations, got.cdi) == ({}, ())


def test_cdi_for_all_if_so_configured(tmp_path: Path) -> None:
    settings = Settings(("intel", "bcom-counter"), cdi=True)
    assert share(trees.opae2(tmp_path), settings, "intel-fpga-port.1").cdi == ("fpgahal.dev/fpga=intel-fpga-port.1",)
    assert share(Node(tmp_path), settings, "3").cdi == ()  # it stands for no board


def test_mode_region_is_intels(tmp_path: Path) -> None:
    settings = Settings(("intel", "own"), mode="region")
    assert share(trees.x200(tmp_path), settings, "0000:65:00.1").cdi == ()


def test_several_units_in_any_order(tmp_path: Path) -> None:
    node = trees.opae2(tmp_path)
    offered = units(node.devices(), Settings())
    results = [allocate(order, Settings()) for order in itertools.permutations(offered.values())]
    assert all(got == results[0] for got in results)
    assert results[0].env == {
        "FPGAHAL_VISIBLE_DEVICES": f"{CARD1}/0,{CARD2}/0",
        "FPGAHAL_DEVICE_0000_06_00_0": f"{CARD1}/0",
        "FPGAHAL_DEVICE_0000_42_00_0": f"{CARD2}/0",
    }
    assert results[0].nodes == (node_of("intel-fpga-port.0"), node_of("intel-fpga-port.1"))


def test_ports_of_one_function_have_variables_of_their_own(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.opae(CARD1, 0, ports=(0, 1))
    got = allocate([*units(node.devices(), Settings()).values()], Settings())
    assert got.env == {
        "FPGAHAL_VISIBLE_DEVICES": f"{CARD1}/0,{CARD1}/1",
        "FPGAHAL_DEVICE_0000_06_00_0": f"{CARD1}/0",
        "FPGAHAL_DEVICE_0000_06_00_0_1": f"{CARD1}/1",
    }


def test_an_unhealthy_unit_is_refused(tmp_path: Path) -> None:
    node = trees.opae2(tmp_path)
    (node.folder(CARD1) / "config").write_bytes(b"\xff" * 64)
    with pytest.raises(DeviceStateError, match=r"intel-fpga-port.0 of fpga.intel.com/af-695.* off the bus"):
        share(node, Settings(("intel",)), "intel-fpga-port.1", "intel-fpga-port.0")


def test_an_emulated_board_is_a_folder() -> None:
    with fpgahal.emu.rack("pac-a10:2") as rack, pytest.MonkeyPatch.context() as monkeypatch:
        offered = units(fpgahal.devices(), Settings())
        got = allocate([*offered.values()], Settings())
        assert got.mounts == (Mount(rack.dir, rack.dir),)
        assert got.nodes == ()
        assert got.env["FPGAHAL_EMU_RACK"] == rack.dir
        assert got.annotations == {"fpgahal.dev/emulated": "true"}
        one = allocate([offered["0000:3c:00.0"]], Settings())
        for name, value in one.env.items():
            monkeypatch.setenv(name, value)
        assert [info.bdf for info in fpgahal.devices()] == ["0000:3c:00.0"]  # what the container will see


# --- preference ---------------------------------------------------------------------------------------------------


def unit(id: str, numa: int, afu: str = NLB0) -> Unit:
    info = DeviceInfo(id, afu_id=uuid.UUID(afu) if afu else None)
    return Unit(id, "r/r", (info,), numa_nodes=(numa,) if numa >= 0 else ())


def test_programmed_boards_come_first() -> None:
    free = [unit("a", 0), unit("b", 0), unit("c", 1, NLB3)]
    assert prefer(free, [], 1, NLB3) == ["c"]
    assert prefer(free, [], 1, str(uuid.UUID(NLB3)).upper()) == ["c"]
    assert prefer(free, [], 2, NLB3) == ["c", "a"]  # before the two on one NUMA node
    assert prefer(free, [], 2) == ["a", "b"]


def test_numa_nodes_are_kept_together() -> None:
    free = [unit("a", 0), unit("b", 1), unit("c", 1), unit("d", 0), unit("e", 0)]
    assert prefer(free, [], 2) == ["b", "c"]  # leaves three together
    assert prefer(free, [], 3) == ["a", "d", "e"]
    assert prefer(free, [], 4) == ["a", "d", "e", "b"]
    assert prefer(free, [free[1]], 2) == ["b", "c"]
    assert prefer(free, [unit("x", 1)], 4) == ["x", "b", "c", "a"]


def test_boards_with_any_image_come_before_empty_ones() -> None:
    free = [unit("a", 0, ""), unit("b", 0), unit("c", 1), unit("d", 1, "")]
    assert prefer(free, [], 1) == ["b"]
    assert prefer(free, [], 2) == ["b", "a"]  # but the NUMA node counts for more
    assert prefer(free, [], 2, NLB3) == ["b", "a"]


def test_boards_that_do_not_say_where_they_are() -> None:
    assert prefer([unit("a", -1), unit("b", -1)], [], 2) == ["a", "b"]


def test_too_few() -> None:
    assert prefer([unit("a", 0)], [], 3) == ["a"]
    assert prefer([], [unit("a", 0)], 0) == ["a"]


some_units = st.lists(
    st.builds(unit, st.integers(0, 7).map(str), st.integers(-1, 2), st.sampled_from([NLB0, NLB3, ""])),
    max_size=7,
    unique_by=lambda unit: unit.id,
)


@given(some_units, st.integers(0, 3), st.integers(0, 7), st.sampled_from(["", NLB0, NLB3]))
def test_no_choice_is_better(units: list[Unit], musts: int, size: int, wanted: str) -> None:
    must = units[:musts]
    chosen = prefer(units, must, size, wanted)
    assert len(chosen) == len(set(chosen)) == max(min(size, len(units)), len(must))
    assert chosen[: len(must)] == [unit.id for unit in must]
    assert prefer(units, must, size, wanted) == chosen

    def ready(choice: tuple[Unit, ...]) -> int:
        return sum(1 for unit in choice if wanted and unit.slots[0].afu_id == uuid.UUID(wanted))

    by_id = {unit.id: unit for unit in units}
    own = tuple(by_id[id] for id in chosen)
    others = [c for c in itertools.combinations(units, len(chosen)) if {*chosen[: len(must)]} <= {u.id for u in c}]
    assert ready(own) == max(map(ready, others), default=0)
    if not wanted:
        spread = [len({unit.numa_nodes for unit in choice}) for choice in others]
        assert len({unit.numa_nodes for unit in own}) == min(spread, default=0)
