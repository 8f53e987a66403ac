# SPDX-License-Identifier: Apache-2.0
"""FPGAHAL_VISIBLE_DEVICES and FPGAHAL_DEVICE_...: a process sees what it was given."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from trees import Machine

import fpgahal
from fpgahal import DeviceNotFoundError

PAC1, PAC2, U250 = "0000:3b:00.0", "0000:3c:00.0", "0000:5e:00.1"


@pytest.fixture(autouse=True)
def rack() -> Iterator[fpgahal.emu.Rack]:
    with fpgahal.emu.rack("pac-a10:2,u250") as made:
        yield made


def listed() -> list[str]:
    return [info.bdf for info in fpgahal.devices()]


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        (PAC2, [PAC2]),
        (f"{PAC2}/0", [PAC2]),
        ("3c:00.0", [PAC2]),
        ("3C:00.0", [PAC2]),
        (f" {U250} ,{PAC1},, {PAC1}", [PAC1, U250]),
        ("", [PAC1, PAC2, U250]),
        (" ", [PAC1, PAC2, U250]),
    ],
)
def test_only_those_named_are_listed(monkeypatch: pytest.MonkeyPatch, value: str, seen: list[str]) -> None:
    monkeypatch.setenv("FPGAHAL_VISIBLE_DEVICES", value)
    assert listed() == seen


def test_open_and_find_see_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FPGAHAL_VISIBLE_DEVICES", PAC2)
    with fpgahal.open() as dev:  # the only one: no need to name it
        assert dev.info.bdf == PAC2
    with pytest.raises(DeviceNotFoundError, match="No device matches") as caught:
        fpgahal.find(bdf=PAC1)
    assert "hides all others" in caught.value.hint


@pytest.mark.parametrize("value", [f"{PAC1},0000:99:00.0", f"{PAC1}/1,{PAC1}", "third"])
def test_one_that_is_not_there_is_an_error_that_lists_what_there_is(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("FPGAHAL_VISIBLE_DEVICES", value)
    with pytest.raises(DeviceNotFoundError) as caught:
        fpgahal.devices()
    for text in ("FPGAHAL_VISIBLE_DEVICES", PAC1, PAC2, U250, "EMULATED", "unset"):
        assert text in str(caught.value)


def test_each_given_device_may_have_its_own_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FPGAHAL_DEVICE_0000_3b_00_0", f"{PAC1}/0")
    monkeypatch.setenv("FPGAHAL_DEVICE_0000_5e_00_1", f"{U250}/0")
    assert listed() == [PAC1, U250]
    monkeypatch.setenv("FPGAHAL_VISIBLE_DEVICES", PAC2)  # what a user says goes before what a container was given
    assert listed() == [PAC2]
    monkeypatch.setenv("FPGAHAL_DEVICE_0000_99_00_0", "0000:99:00.0/0")
    assert listed() == [PAC2]
    monkeypatch.delenv("FPGAHAL_VISIBLE_DEVICES")
    with pytest.raises(DeviceNotFoundError, match="FPGAHAL_DEVICE_0000_99_00_0 names"):
        fpgahal.devices()


def test_a_function_stands_for_all_its_slots(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine = Machine(tmp_path / "root")
    machine.dfl(PAC1, 0, ports=3)
    monkeypatch.setenv("FPGAHAL_VISIBLE_DEVICES", PAC1)
    assert len(fpgahal.devices(str(machine.root))) == 3
    monkeypatch.setenv("FPGAHAL_VISIBLE_DEVICES", f"{PAC1}/1,{PAC1}/2")
    assert [info.slot for info in fpgahal.devices(str(machine.root))] == [1, 2]


def test_a_machine_without_boards(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FPGAHAL_VISIBLE_DEVICES", PAC1)
    with pytest.raises(DeviceNotFoundError, match="There are: none"):
        fpgahal.devices(str(tmp_path))


def test_doctor_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FPGAHAL_VISIBLE_DEVICES", "0000:99:00.0")
    run = subprocess.run(
        [sys.executable, "-m", "fpgahal", "doctor"], capture_output=True, text=True, check=False, timeout=60
    )
    assert run.returncode == 1
    assert "FPGAHAL_VISIBLE_DEVICES names 0000:99:00.0" in " ".join(run.stdout.split())
