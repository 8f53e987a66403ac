# SPDX-License-Identifier: Apache-2.0
"""Which binding opens an Intel board: libopae-c, or the kernel driver itself."""

from __future__ import annotations

import types
from typing import Any

import pytest

import fpgahal
from fpgahal import _device

REAL = fpgahal.DeviceInfo("0000:3b:00.0", driver="opae", kernel_driver="dfl", device_nodes=("/dev/dfl-port.0",))
EMULATED = fpgahal.DeviceInfo("0000:3b:00.0", driver="opae", kernel_driver="dfl", emulated=True)
XRT = fpgahal.DeviceInfo("0000:5e:00.1", driver="xrt")


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (_device.OPAE_BINDING, "FPGAHAL_OPAE_LIBRARY"):
        monkeypatch.delenv(name, raising=False)


def library(monkeypatch: pytest.MonkeyPatch, failure: Exception | None) -> None:
    """Make libopae-c load, or fail to."""

    def load() -> None:
        if failure:
            raise failure

    def module(info: fpgahal.DeviceInfo, driver: str) -> Any:
        assert driver == "opae"
        return types.SimpleNamespace(library=load)

    monkeypatch.setattr(_device, "_module", module)


def test_libopae_if_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    library(monkeypatch, None)
    assert _device._binding(REAL, None) == "opae"
    assert _device._binding(REAL, "opae") == "opae"
    assert _device._binding(REAL, "dfl") == "dfl"


def test_the_driver_itself_if_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    library(monkeypatch, fpgahal.LibraryNotFoundError("none"))
    assert _device._binding(REAL, None) == "dfl"
    assert _device._binding(REAL, "opae") == "dfl"


def test_a_named_or_broken_library_is_not_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    library(monkeypatch, fpgahal.LibraryError("broken"))
    with pytest.raises(fpgahal.LibraryError, match="broken"):
        _device._binding(REAL, None)
    library(monkeypatch, fpgahal.LibraryNotFoundError("none"))
    monkeypatch.setenv("FPGAHAL_OPAE_LIBRARY", "/nowhere/libopae-c.so.2")
    with pytest.raises(fpgahal.LibraryNotFoundError):
        _device._binding(REAL, None)


def test_an_emulated_board_has_its_emulated_library(monkeypatch: pytest.MonkeyPatch) -> None:
    library(monkeypatch, fpgahal.LibraryNotFoundError("none"))
    assert _device._binding(EMULATED, None) == "opae"
    monkeypatch.setenv(_device.OPAE_BINDING, "dfl")
    assert _device._binding(EMULATED, None) == "dfl"


def test_the_variable_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    library(monkeypatch, fpgahal.LibraryNotFoundError("none"))
    monkeypatch.setenv(_device.OPAE_BINDING, "opae")
    assert _device._binding(REAL, None) == "opae"  # and opening it says what is missing
    monkeypatch.setenv(_device.OPAE_BINDING, "libopae")
    with pytest.raises(fpgahal.UnsupportedError, match="libopae"):
        _device._binding(REAL, None)
    assert _device._binding(XRT, None) == "xrt"


def test_xrt_boards_have_one() -> None:
    with pytest.raises(fpgahal.UnsupportedError, match="dfl"):
        _device._binding(XRT, "dfl")


def test_without_the_interposer_the_files_of_a_rack_are_plain_files() -> None:
    with fpgahal.emu.rack("d5005"), pytest.raises(fpgahal.DriverError, match="no device of the dfl driver") as caught:
        fpgahal.open(driver="dfl")
    assert "LD_PRELOAD" in caught.value.hint
