# SPDX-License-Identifier: Apache-2.0
"""The checks of `fpgahal doctor`, over made-up machines."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

import fpgahal
from fpgahal import DeviceInfo, Health, HealthStatus
from fpgahal.cli import checks
from fpgahal.cli.holders import holders


def card(root: Path, bdf: str, vendor: str, device: str, driver: str = "", kind: str = "0x120000") -> None:
    folder = root / "sys/bus/pci/devices" / bdf
    folder.mkdir(parents=True)
    for name, text in (("vendor", vendor), ("device", device), ("class", kind)):
        (folder / name).write_text(text + "\n")
    if driver:
        target = root / "sys/bus/pci/drivers" / driver
        target.mkdir(parents=True, exist_ok=True)
        (folder / "driver").symlink_to(target)


def module(root: Path, name: str, version: str = "") -> None:
    folder = root / "sys/module" / name
    folder.mkdir(parents=True)
    if version:
        (folder / "version").write_text(version + "\n")


def test_cards_of_both_families_are_recognised(tmp_path: Path) -> None:
    card(tmp_path, "0000:3b:00.0", "0x8086", "0x09c4", "dfl-pci")
    card(tmp_path, "0000:5e:00.1", "0x10ee", "0x5001")
    card(tmp_path, "0000:00:1d.0", "0x1d0f", "0xf010", "xocl")
    card(tmp_path, "0000:00:03.0", "0x1d0f", "0xec20", "ena", kind="0x020000")
    card(tmp_path, "0000:00:1f.0", "0x8086", "0x1234", kind="0x060100")
    assert checks.pci_cards(str(tmp_path)) == [
        ("0000:00:1d.0", "xrt", "xocl"),
        ("0000:3b:00.0", "opae", "dfl-pci"),
        ("0000:5e:00.1", "xrt", ""),
    ]


@pytest.mark.parametrize(
    ("cards", "loaded", "status"),
    [
        ([], [], "absent"),
        ([], ["dfl_pci"], "ok"),
        ([("0000:3b:00.0", "opae", "dfl-pci")], ["dfl_pci"], "ok"),
        ([("0000:3b:00.0", "opae", "")], [], "fail"),
        ([("0000:3b:00.0", "opae", "")], ["dfl_pci"], "fail"),
        ([("0000:5e:00.1", "xrt", "")], [], "absent"),
    ],
)
def test_kernel_modules(tmp_path: Path, cards: list[tuple[str, str, str]], loaded: list[str], status: str) -> None:
    for name in loaded:
        module(tmp_path, name, "1.2")
    check = checks.modules(str(tmp_path), "opae", cards)
    assert check.status == status
    assert (status == "ok") or "modprobe" in check.advice


def test_a_board_given_to_vfio_is_pointed_out() -> None:
    found = list(checks.bound_elsewhere([("0000:3b:00.0", "opae", "vfio-pci"), ("0000:5e:00.1", "xrt", "xocl")]))
    assert [(check.name, check.status) for check in found] == [("driver of 0000:3b:00.0", "warn")]


@pytest.mark.parametrize(
    ("answer", "board", "status"),
    [
        ({"path": "/usr/lib/libopae-c.so.2", "via": "system loader", "version": "2.14.0"}, False, "ok"),
        ({"error": "not found", "hint": "install", "type": "LibraryNotFoundError"}, False, "absent"),
        ({"error": "not found", "hint": "install", "type": "LibraryNotFoundError"}, True, "fail"),
        ({"error": "symbols missing", "hint": "", "type": "LibraryError"}, False, "fail"),
    ],
)
def test_vendor_library(monkeypatch: pytest.MonkeyPatch, answer: dict[str, str], board: bool, status: str) -> None:
    monkeypatch.setattr(checks, "probe", lambda what, timeout: answer)
    assert checks.library("opae", board, 1.0).status == status


def test_a_library_that_aborts_does_not_take_the_doctor_down(monkeypatch: pytest.MonkeyPatch) -> None:
    real_run = subprocess.run
    monkeypatch.setattr(
        checks.subprocess,
        "run",
        lambda *a, **k: real_run(
            [sys.executable, "-c", "import os; os.abort()"], capture_output=True, text=True, check=False
        ),
    )
    assert "signal 6" in checks.probe("xrt", 10.0)["error"]


def test_a_library_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def hangs(*args: object, **kwargs: object) -> None:
        raise subprocess.TimeoutExpired("probe", 1.0)

    monkeypatch.setattr(checks.subprocess, "run", hangs)
    assert "more than 1 s" in checks.probe("xrt", 1.0)["error"]


def test_xilinx_xrt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XCL_EMULATION_MODE", raising=False)
    monkeypatch.delenv("XILINX_XRT", raising=False)
    assert checks.xilinx_xrt(False).status == "absent"
    assert checks.xilinx_xrt(True).status == "warn"
    monkeypatch.setenv("XILINX_XRT", str(tmp_path))
    assert checks.xilinx_xrt(False).status == "fail"
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/libxrt_core.so.2").touch()
    assert checks.xilinx_xrt(True).status == "ok"
    monkeypatch.setenv("XCL_EMULATION_MODE", "")
    assert checks.xilinx_xrt(True).status == "warn"


def test_hugepages(tmp_path: Path) -> None:
    root = str(tmp_path)
    assert checks.hugepages(root, 2048, True).status == "absent"
    folder = tmp_path / "sys/kernel/mm/hugepages/hugepages-2048kB"
    folder.mkdir(parents=True)
    (folder / "nr_hugepages").write_text("0\n")
    (folder / "free_hugepages").write_text("0\n")
    assert checks.hugepages(root, 2048, False).status == "absent"
    assert "nr_hugepages" in checks.hugepages(root, 2048, True).advice
    (folder / "nr_hugepages").write_text("64\n")
    assert checks.hugepages(root, 2048, True).status == "warn"  # all taken
    (folder / "free_hugepages").write_text("3\n")
    assert checks.hugepages(root, 2048, True).found == "64 reserved, 3 free"


def test_hugepages_from_meminfo_where_sysfs_has_none(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("HugePages_Total:  8\nHugePages_Free:  2\nHugepagesize:  2048 kB\n")
    assert checks.hugepages(str(tmp_path), 2048, True).status == "ok"
    assert checks.hugepages(str(tmp_path), 1048576, True).status == "absent"


@pytest.mark.parametrize(
    ("limit", "board", "status"),
    [(resource.RLIM_INFINITY, True, "ok"), (64 << 10, True, "warn"), (64 << 10, False, "ok")],
)
def test_memlock(monkeypatch: pytest.MonkeyPatch, limit: int, board: bool, status: str) -> None:
    monkeypatch.setattr(checks.resource, "getrlimit", lambda which: (limit, limit))
    assert checks.memlock(board).status == status


def test_node_permissions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dev").mkdir()
    nodes = str(tmp_path / "dev/port"), str(tmp_path / "dev/fme")
    info = DeviceInfo("0000:3b:00.0", device_nodes=nodes, root=str(tmp_path))
    assert checks.permissions(info).status == "fail"
    (tmp_path / "dev/port").touch()
    assert checks.permissions(info).status == "warn"  # it can be used, not programmed
    (tmp_path / "dev/fme").touch()
    assert checks.permissions(info).status == "ok"
    monkeypatch.setattr(checks.os, "access", lambda path, mode: not path.endswith("port"))
    assert checks.permissions(info).status == "fail"


def test_health_of_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = DeviceInfo("0000:3b:00.0", health=Health(HealthStatus.FAILED, "held in reset"), emulated=True)
    monkeypatch.setattr(fpgahal, "devices", lambda: [broken])
    found = {check.name: check for check in checks.devices()}
    assert found["health of 0000:3b:00.0/0 EMULATED"].status == "fail"
    assert "held in reset" in found["health of 0000:3b:00.0/0 EMULATED"].found


def test_holders_of_an_open_file(tmp_path: Path) -> None:
    node = tmp_path / "node"
    node.touch()
    assert holders([str(node), str(tmp_path / "missing")])[0] == []
    with node.open():
        found, _ = holders([str(node)])
    assert [holder.node for holder in found] == [str(node)]


def test_holders_says_when_it_may_not_see_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = tmp_path / "node"
    node.touch()

    def listdir(path: str) -> list[str]:
        if path.endswith("/fd"):
            raise PermissionError(13, "Permission denied", path)
        return ["1", "self"]

    monkeypatch.setattr("fpgahal.cli.holders.os.listdir", listdir)
    assert holders([str(node)]) == ([], False)
