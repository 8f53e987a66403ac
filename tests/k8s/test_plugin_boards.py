# SPDX-License-Identifier: Apache-2.0
"""The boards' side, on an emulated machine."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import pytest

import fpgahal
from fpgahal.k8s.plugin import prestart
from fpgahal.k8s.plugin.boards import Boards
from fpgahal.k8s.plugin.cdi import CdiFolder
from fpgahal.k8s.plugin.pods import Pods, PodsError
from fpgahal.k8s.schemes.settings import Settings
from fpgahal.k8s.unit import Unit


def test_while_the_mode_changes_nobody_gets_a_board_without_its_hook(tmp_path: Path) -> None:
    """Servers still have the units of the old mode when the new one is set already."""
    with fpgahal.emu.rack("pac-a10"):
        boards = Boards(Settings(schemes=("intel",), mode="region"), CdiFolder(str(tmp_path)), "/hook")
        (old,) = (unit for units in boards.scan().resources.values() for unit in units.values())
        assert boards.allocate([old]).cdi
        boards.settings = replace(boards.settings, mode="af")
        assert boards.allocate([old]).cdi
        assert boards.publish([old]) == {}
        assert len(list(tmp_path.iterdir())) == 1
        (new,) = (unit for units in boards.scan().resources.values() for unit in units.values())
        assert boards.allocate([old]).cdi
        assert not boards.allocate([new]).cdi
        boards.retract([new])
        assert list(tmp_path.iterdir()) == []


def test_a_scan_gives_again_what_is_the_same_and_sees_what_is_not(tmp_path: Path) -> None:
    own, intel = Settings(), Settings(schemes=("intel",))
    with fpgahal.emu.rack("pac-a10:2") as rack:
        boards = Boards(own, CdiFolder(str(tmp_path)))
        first = boards.scan()
        assert boards.scan() is first
        assert all(now is then for now, then in zip(fpgahal.devices(), fpgahal.devices(), strict=True))
        with fpgahal.open("0000:3b:00.0") as dev:
            dev.program(fpgahal.emu.build_image("nlb3", rack.board(0)))
        units = boards.scan().resources["fpgahal.dev/pac-a10"]
        (before, other), (now, same) = first.resources["fpgahal.dev/pac-a10"].values(), units.values()
        assert now.slots[0].afu_id not in (None, before.slots[0].afu_id)
        assert same == other
        rack.fault(1, "vanish")
        assert list(boards.scan().resources["fpgahal.dev/pac-a10"]) == [now.id]
        rack.clear()
        assert set(boards.scan().resources["fpgahal.dev/pac-a10"]) == {before.id, other.id}
        boards.settings = intel
        assert all(name.startswith("fpga.intel.com/") for name in boards.scan().resources)
        boards.settings = own
        assert list(boards.scan().resources) == ["fpgahal.dev/pac-a10"]


def test_failures_to_publish_are_told_by_unit(tmp_path: Path) -> None:
    (tmp_path / "cdi").write_text("in the way")
    with fpgahal.emu.rack("pac-a10:2"):
        boards = Boards(Settings(cdi=True), CdiFolder(str(tmp_path / "cdi")))
        units = [unit for units in boards.scan().resources.values() for unit in units.values()]
        failures = boards.publish(units)
        assert set(failures) == {unit.id for unit in units}
        assert all("can't be written" in why for why in failures.values())


def test_who_has_the_hook(tmp_path: Path) -> None:
    with fpgahal.emu.rack("pac-a10"):
        for mode, hook, expected in (("region", "/hook", True), ("region", "", False), ("af", "/hook", False)):
            boards = Boards(Settings(schemes=("intel",), mode=mode), CdiFolder(str(tmp_path)), hook)
            units = [unit for units in boards.scan().resources.values() for unit in units.values()]
            assert boards.hooked(units) == expected


REGION = f"fpga.intel.com/region-{'0' * 32}"


@pytest.mark.parametrize("nobody_to_ask", [False, True])
@pytest.mark.parametrize(
    ("unit", "hook", "refused_if_unknown", "refused_if_silent"),
    [
        (Unit("a", REGION, programmed_by_pod=True), True, False, False),
        (Unit("a", REGION, programmed_by_pod=True), False, True, True),
        (Unit("a", REGION), False, False, False),  # regiondevel: the pod programs it itself
        (Unit("a", "fpgahal.dev/u250", programmed_by_pod=True), False, False, True),
    ],
)
def test_what_nobody_would_see_to_is_refused(
    tmp_path: Path, unit: Unit, hook: bool, refused_if_unknown: bool, refused_if_silent: bool, nobody_to_ask: bool
) -> None:
    """Without API server a pod's wish is never known; with one, a kubelet that does not answer is asked again."""
    pods = None if nobody_to_ask else Pods(None, str(tmp_path / "nobody.sock"))
    prepared = prestart.prepare([unit], store=None, pods=pods, deadline=time.monotonic() + 5, hook=hook)
    if refused_if_unknown if nobody_to_ask else refused_if_silent:
        with pytest.raises(PodsError):
            asyncio.run(prepared)
    else:
        assert asyncio.run(prepared) == []
