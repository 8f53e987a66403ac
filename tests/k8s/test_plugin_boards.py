# SPDX-License-Identifier: Apache-2.0
"""The boards' side, on an emulated machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import fpgahal
from fpgahal.k8s.plugin.boards import Boards
from fpgahal.k8s.plugin.cdi import CdiFolder
from fpgahal.k8s.schemes.settings import Settings


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


def test_failures_to_publish_are_told_by_unit(tmp_path: Path) -> None:
    (tmp_path / "cdi").write_text("in the way")
    with fpgahal.emu.rack("pac-a10:2"):
        boards = Boards(Settings(cdi=True), CdiFolder(str(tmp_path / "cdi")))
        units = [unit for units in boards.scan().resources.values() for unit in units.values()]
        failures = boards.publish(units)
        assert set(failures) == {unit.id for unit in units}
        assert all("can't be written" in why for why in failures.values())


def test_a_machine_without_boards_names_the_drivers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fpgahal, "devices", list)
    monkeypatch.setattr(fpgahal, "kernel_drivers", lambda: ["xocl"])
    found = Boards(Settings(schemes=("intel", "xilinx")), CdiFolder(str(tmp_path))).scan()
    assert [skip.reason for skip in found.skipped] == [
        "scheme intel: kernel driver not loaded; expected dfl or intel-fpga"
    ]
