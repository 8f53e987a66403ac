# SPDX-License-Identifier: Apache-2.0
"""``fpgahal.open(pyxrt_device)``: the same board, shared.  A stand-in where pyxrt is not installed, as in CI."""

from __future__ import annotations

import sys
from enum import Enum
from types import ModuleType

import pytest

import fpgahal
from fpgahal import _xrt_library, emu


class xrt_info_device(Enum):  # noqa: N801 - pyxrt's name
    bdf = 0


class device:  # noqa: N801 - pyxrt's name
    """As much of pyxrt.device as there is: a number that it was opened with, and texts about it."""

    def __init__(self, bdf: str) -> None:
        self._bdf = bdf

    def get_info(self, key: xrt_info_device) -> str:
        if not self._bdf:
            raise RuntimeError("device is gone")
        return self._bdf


@pytest.fixture
def pyxrt(monkeypatch: pytest.MonkeyPatch) -> type[device]:
    module = ModuleType("pyxrt")
    monkeypatch.setattr(module, "xrt_info_device", xrt_info_device, raising=False)
    monkeypatch.setitem(sys.modules, "pyxrt", module)
    monkeypatch.setattr(device, "__module__", "pyxrt")
    monkeypatch.setattr(_xrt_library, "emulated_driver_loaded", lambda: True)
    return device


def test_opens_the_same_board(pyxrt: type[device]) -> None:
    with emu.rack("u250:2") as rack:
        second = rack.devices()[1]
        with fpgahal.open(pyxrt(second.bdf)) as dev:
            assert dev.info.bdf == second.bdf
            assert dev.shared  # pyxrt has it open: nobody has it alone
            with fpgahal.open(second, shared=True):
                pass


def test_held_alone(pyxrt: type[device]) -> None:
    with emu.rack("u250") as rack, fpgahal.open(), pytest.raises(fpgahal.DeviceBusyError):
        fpgahal.open(pyxrt(rack.devices()[0].bdf))


def test_other_keywords_still_hold(pyxrt: type[device]) -> None:
    with emu.rack("u250") as rack, pytest.raises(fpgahal.DeviceNotFoundError, match="name=u280"):
        fpgahal.open(pyxrt(rack.devices()[0].bdf), name="u280")


def test_not_a_board_of_this_machine(pyxrt: type[device]) -> None:
    with emu.rack("u250"), pytest.raises(fpgahal.DeviceNotFoundError, match=r"0000:99:00\.1"):
        fpgahal.open(pyxrt("0000:99:00.1"))


def test_a_real_board_is_not_the_emulated_one_of_its_address(
    pyxrt: type[device], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_xrt_library, "emulated_driver_loaded", lambda: False)
    with emu.rack("u250") as rack, pytest.raises(fpgahal.UnsupportedError, match="FPGAHAL_EMU_XRT=real"):
        fpgahal.open(pyxrt(rack.devices()[0].bdf))


def test_gone(pyxrt: type[device]) -> None:
    with emu.rack("u250"), pytest.raises(fpgahal.DeviceLostError, match="device is gone"):
        fpgahal.open(pyxrt(""))


@pytest.mark.parametrize("thing", [7, object(), ["0000:5e:00.1"]])
def test_other_things_are_type_errors(thing: object) -> None:
    with emu.rack("u250"), pytest.raises(TypeError, match=r"pyxrt\.device"):
        fpgahal.open(thing)
