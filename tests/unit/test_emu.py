# SPDX-License-Identifier: Apache-2.0
"""Emulated racks: specs, board files, trees, faults, sharing between processes."""

from __future__ import annotations

import gc
import json
import os
import pickle
import stat
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from fpgahal import _sysfs, emu
from fpgahal._errors import AccessError, ClosedError, DeviceNotFoundError
from fpgahal.emu import _tree as tree
from fpgahal.emu._spec import place

ALL = ("pac-a10", "d5005", "n3000", "u200", "u250", "u280", "aws-f1", "aws-f2")
NLB0 = uuid.UUID("d8424dc4-a4a3-c413-f89e-433683f9040b")


@pytest.fixture(autouse=True)
def surroundings(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No variable of the person who runs the tests gets in; racks go to a folder that is deleted."""
    for name in ("FPGAHAL_EMU_RACK", "FPGAHAL_EMULATE", "FPGAHAL_BOARDS"):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path_factory.mktemp("run")
    home.chmod(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(home))
    yield
    left = [name for name in os.listdir(home) if name.startswith("fpgahal-rack-")]
    assert not left, "a rack was left behind"


def python(code: str, **environment: str) -> subprocess.Popen[str]:
    """Run code in another process that finds what this one finds."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), **environment}
    return subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, text=True)


def output(process: subprocess.Popen[str]) -> str:
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return text.strip()


# ---- boards ----------------------------------------------------------------------------------------------------


def test_boards() -> None:
    boards = emu.boards()
    assert tuple(boards) == ALL
    assert {board.family for board in boards.values()} == {"opae", "xrt"}
    assert all(name == board.name for name, board in boards.items())
    assert (boards["pac-a10"].vendor_id, boards["pac-a10"].device_id) == (0x8086, 0x09C4)
    assert boards["pac-a10"].interface_id == uuid.UUID("9926ab6d-6c92-5a68-aabc-a7d84c545738")
    assert boards["pac-a10"].default_afu == NLB0
    assert len({board.interface_id for board in boards.values() if board.interface_id}) == 4
    assert boards["aws-f1"].timestamp == 0xABCD


def test_banks() -> None:
    banks = emu.boards()["u280"].banks
    hbm = [bank for bank in banks if bank.kind == "hbm"]
    ddr = [bank for bank in banks if bank.kind == "ddr4"]
    assert [bank.name for bank in hbm] == [f"HBM[{i}]" for i in range(32)]
    assert {bank.size for bank in hbm} == {256 << 20}
    assert [bank.size for bank in ddr] == [16 << 30] * 2
    assert any(bank.name == "PLRAM[0]" for bank in banks)
    assert [bank.index for bank in banks] == list(range(len(banks)))
    assert emu.boards()["pac-a10"].banks == ()


GOOD = """
[tiny]
title = "A tiny board"
layout = "dfl"
vendor_id = 0x1234
device_id = 0x5678
interface_id = "11111111-2222-4333-8444-555555555555"
"""


def test_own_board_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(GOOD)
    monkeypatch.setenv("FPGAHAL_BOARDS", f"{file}{os.pathsep}")
    assert tuple(emu.boards()) == (*ALL, "tiny")
    with emu.rack("tiny:2", "pac-a10") as rack:
        found = rack.devices()
    assert [info.platform for info in found] == ["tiny", "tiny", "pac-a10"]
    assert found[0].name == "EMULATED A tiny board"
    assert (found[0].vendor_id, found[0].afu_id, found[0].health.ok) == (0x1234, None, True)


def test_own_board_replaces_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(GOOD.replace("[tiny]", "[pac-a10]"))
    monkeypatch.setenv("FPGAHAL_BOARDS", str(file))
    assert emu.boards()["pac-a10"].title == "A tiny board"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[tiny", "not a TOML file"),
        ("\udcff", "not a TOML file"),
        ("x = 1", "x stands outside"),
        (GOOD.replace('title = "A tiny board"', ""), "has no title"),
        (GOOD.replace('"A tiny board"', "7"), "title of .* is 7"),
        (GOOD.replace("A tiny board", "A" * 64), "at most 63"),
        (GOOD.replace("A tiny board", "A\\nbdf=0"), "plain characters"),
        (GOOD.replace('"dfl"', '"isa"'), "layout of .tiny. is 'isa', expected one of dfl"),
        (GOOD.replace("0x1234", "0x12345"), "vendor_id of .tiny. is 74565"),
        (GOOD.replace("0x1234", "true"), "vendor_id"),
        (GOOD.replace("0x5678", '"5678"'), "device_id"),
        (
            GOOD.replace("11111111-2222-4333-8444-555555555555", "1111"),
            "interface_id of .tiny. is '1111', expected a UUID",
        ),
        (GOOD.replace("interface_id", "default_afu"), "interface_id .* which OPAE boards need"),
        (GOOD.replace('"dfl"', '"xocl"'), "vbnv"),
        (GOOD + "colour = 3", "no field called colour"),
        (GOOD + "program_ms = -1", "program_ms"),
        (GOOD + "link_gbps = nan", "link_gbps"),
        (GOOD + "banks = 3", "banks of .tiny. is 3"),
        (GOOD + "banks = [{tag='A', kind='ddr4', base=0}]", r"\[tiny.banks\[0\]\] has no size"),
        (GOOD + "banks = [{tag='A', kind='ddr9', base=0, size=4096}]", "kind of .* is 'ddr9'"),
        (GOOD + "banks = [{tag='A', kind='ddr4', base=0, size=4096, count=49}]", "count"),
        (GOOD + "banks = [{tag='A', kind='ddr4', base=0, size=4096, colour=1}]", "colour"),
        (
            GOOD + "banks = [{tag='A', kind='ddr4', base=0, size=4096}, {tag='B', kind='ddr4', base=4095, size=4096}]",
            "overlapping",
        ),
        (GOOD.replace("[tiny]", '["ti ny"]'), "the name"),
        (GOOD.replace("[tiny]", f"[{'x' * 32}]"), "the name"),
    ],
)
def test_broken_board_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, reason: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_bytes(content.encode("utf-8", "surrogateescape"))
    monkeypatch.setenv("FPGAHAL_BOARDS", str(file))
    with pytest.raises(emu.BoardFileError, match=reason) as caught:
        emu.boards()
    assert isinstance(caught.value, ValueError)
    assert str(file) in str(caught.value)


def test_missing_board_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FPGAHAL_BOARDS", "/no/such/file.toml")
    with pytest.raises(emu.BoardFileError, match=r"/no/such/file\.toml.*No such file"):
        emu.boards()


# ---- specs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "specs",
    [
        (),
        ("",),
        (",",),
        ("pac-a10,",),
        ("pac",),
        ("PAC-A10",),
        ("pac-a10:",),
        ("pac-a10:0",),
        ("pac-a10:-1",),
        ("pac-a10:two",),
        ("pac-a10:1:1",),
        ("pac-a10;u250",),
        ("pac-a10:99999",),
        ("pac-a10:600", "u250:600"),
        (3,),
        ("pac-a10\0",),
        ("../../x",),
    ],
)
def test_bad_spec(specs: tuple[str, ...]) -> None:
    with pytest.raises(emu.SpecError) as caught:
        emu.rack(*specs)
    assert isinstance(caught.value, ValueError)
    assert "Try pac-a10, pac-a10:2 or pac-a10:2,u250; known boards: pac-a10, d5005" in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize("option", ["program_ms", "link_gbps", "launch_us"])
@pytest.mark.parametrize("value", [-1, "fast", float("nan"), 1e12])
def test_bad_option(option: str, value: object) -> None:
    with pytest.raises(emu.SpecError, match=option):
        emu.rack("pac-a10", **{option: value})  # type: ignore[arg-type]


def test_addresses() -> None:
    boards = emu.boards()
    wanted = [board for board in boards.values() for _ in range(120)]
    placed = place(wanted)
    functions = [bdf for one in placed for bdf in (one.bdf, one.management_bdf) if bdf]
    assert len(set(functions)) == len(functions)
    with emu.rack("pac-a10:2,u250", "d5005, aws-f1") as rack:
        assert [info.bdf for info in rack.devices()] == [
            "0000:00:1d.0",
            "0000:3b:00.0",
            "0000:3c:00.0",
            "0000:3d:00.0",
            "0000:5e:00.1",
        ]


# ---- the tree --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_round_trip(name: str) -> None:
    """What the description says is what the scanner reads."""
    board = emu.boards()[name]
    with emu.rack(f"{name}:2") as rack:
        found = rack.devices()
        assert len(found) == 2
        for info in found:
            assert info.emulated
            assert info.health.ok
            assert info.name == f"EMULATED {board.title}"
            assert (info.driver, info.vendor_id, info.device_id) == (board.family, board.vendor_id, board.device_id)
            assert (info.subvendor_id, info.subdevice_id) == (board.subvendor_id, board.subdevice_id)
            assert (info.interface_id, info.afu_id) == (board.interface_id, board.default_afu)
            assert (info.platform, info.timestamp) == (board.vbnv or name, board.timestamp)
            assert bool(info.management_bdf) == bool(board.management_device_id)
            assert all(os.path.exists(node) for node in info.device_nodes)
            assert rack.status(info).afu_id == board.default_afu
        assert len({node for info in found for node in info.device_nodes}) == 2 * len(found[0].device_nodes)


def test_all_boards_together() -> None:
    with emu.rack(*(f"{name}:5" for name in ALL)) as rack:
        found = rack.devices()
        assert len(found) == 5 * len(ALL)
        assert all(info.health.ok for info in found)
        assert len({node for info in found for node in info.device_nodes}) == sum(len(i.device_nodes) for i in found)
        for path in Path(rack.dir).rglob("*"):
            if path.is_symlink():
                assert not os.readlink(path).startswith("/")
                assert path.resolve().is_relative_to(rack.dir)
                assert path.exists()


def test_big_rack() -> None:
    with emu.rack("d5005:256,u250:256") as rack:
        assert len(rack.devices()) == 512


def test_reprogramming_in_progress_is_seen() -> None:
    """The emulator makes the identity file a link to itself; a driver answers EBUSY."""
    with emu.rack("n3000") as rack:
        identity = next(Path(rack.dir).rglob("afu_id"))
        identity.unlink()
        identity.symlink_to("afu_id")
        info = rack.devices()[0]
        assert info.afu_id is None
        assert "program a known good image" in info.health.reason


# ---- faults ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pac-a10", "u250"])
def test_come_back_while_another_process_hides_the_id(name: str) -> None:
    """Who opens a vanished board puts a link to itself there, at any time."""
    with emu.rack(name) as rack:
        shown = rack.devices()[0].afu_id
        rack.fault(0, "vanish")
        (one,) = rack._boards
        path = Path(rack.dir, tree.identity(one))
        path.parent.mkdir(parents=True)
        path.symlink_to(path.name)
        rack.clear(0)
        assert rack.devices()[0].afu_id == shown


@pytest.mark.parametrize("name", ALL)
def test_vanish_and_come_back(name: str) -> None:
    with emu.rack(f"{name}:3") as rack:
        before = rack.devices()
        rack.fault(1, "vanish")
        assert rack.devices() == [before[0], before[2]]
        assert rack.status(1).vanished
        assert not rack.status(0).vanished
        assert not any(os.path.lexists(node) for node in before[1].device_nodes)
        assert not list(Path(rack.dir).rglob(f"*{before[1].bdf}*"))
        rack.fault(1, "vanish")  # again: it stays away
        rack.clear(0)
        assert len(rack.devices()) == 2
        rack.clear(before[1])
        assert rack.devices() == before
        assert not rack.status(1).vanished
        for i in range(3):
            rack.fault(i, "vanish")
        assert rack.devices() == []
        rack.clear()
        assert rack.devices() == before


def test_faults_are_checked() -> None:
    with emu.rack("pac-a10", "u250") as rack:
        for kind in emu.FAULTS:
            if kind not in ("call", "vanish"):
                rack.fault(0, kind, count=1)
        rack.fault("0000:5e:00.1", "call", call="xrtBOAlloc", code=12)
        rack.fault("0000:5e:00.0", "hang")  # by its management function
        rack.clear()
        with pytest.raises(ValueError, match="no fault 'fire'"):
            rack.fault(0, "fire")
        with pytest.raises(ValueError, match="needs the function's name"):
            rack.fault(0, "call")
        with pytest.raises(ValueError, match="code other than 0"):
            rack.fault(0, "call", call="fpgaOpen")
        with pytest.raises(ValueError, match="'hang' with call="):
            rack.fault(0, "hang", call="fpgaOpen")
        for nobody in (2, -1, "0000:99:00.0", "", rack.devices()[0].name):
            with pytest.raises(DeviceNotFoundError, match="the rack has no board"):
                rack.fault(nobody, "hang")


def test_status() -> None:
    with emu.rack("pac-a10") as rack:
        status = rack.status(rack.devices()[0])
        assert status == emu.Status(emu.SlotState.READY, NLB0, 0, False)
        assert rack.status("0000:3b:00.0") == rack.status("0000:3b:00.0/0") == status


# ---- life of a rack --------------------------------------------------------------------------------------------


def test_folder_goes_with_the_rack() -> None:
    with emu.rack("pac-a10") as rack:
        assert os.path.isdir(rack.dir)
        assert stat.S_IMODE(os.stat(rack.dir).st_mode) == 0o700
        assert "EMULATED" in repr(rack)
        assert "pac-a10" in repr(rack)
    assert not os.path.exists(rack.dir)
    rack.close()
    for use in (rack.devices, rack.__enter__, lambda: rack.status(0)):
        with pytest.raises(ClosedError):
            use()


def test_forgotten_rack_is_deleted() -> None:
    rack = emu.rack("pac-a10")
    folder = rack.dir
    del rack
    gc.collect()
    assert not os.path.exists(folder)


def test_forked_child_leaves_the_rack(tmp_path: Path) -> None:
    code = (
        "import os, sys, fpgahal.emu\nrack = fpgahal.emu.rack('pac-a10')\nchild = os.fork()\n"
        "if child == 0: sys.exit()\nos.waitpid(child, 0)\nprint(len(rack.devices()))"
    )
    assert output(python(code)) == "1"


def test_kept_rack_is_opened_again(tmp_path: Path) -> None:
    folder = tmp_path / "rack"
    with emu.rack("pac-a10,u250", dir=folder, keep=True) as rack:
        rack.fault(0, "vanish")
    with emu.rack(dir=folder) as again:
        assert [info.bdf for info in again.devices()] == ["0000:5e:00.1"]
        assert again.status(0).vanished
        again.clear()
        assert len(again.devices()) == 2
    assert folder.exists()
    with pytest.raises(emu.SpecError, match="is not empty"):
        emu.rack("pac-a10", dir=folder)


@pytest.mark.parametrize("content", [None, "", "[]x", '[{"colour": 1}]', "3"])
def test_opening_what_is_no_rack(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "boards.json").write_text(content)
    with pytest.raises(emu.SpecError, match="is no rack"):
        emu.rack(dir=tmp_path)


def test_path_too_long(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 200) / ("y" * 200) / ("z" * 100)
    with pytest.raises(emu.SpecError, match="longer than"):
        emu.rack("pac-a10", dir=folder)


def test_failed_creation_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(folder: str, placed: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("fpgahal.emu._control.create", fail)
    with pytest.raises(OSError, match="disk full"):
        emu.rack("pac-a10")  # the fixture looks for leftovers


def test_nested_racks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert emu.active() is None
    with emu.rack("pac-a10") as outer:
        assert emu.active() == os.environ["FPGAHAL_EMU_RACK"] == outer.dir
        with emu.rack("u250") as inner:
            assert emu.active() == os.environ["FPGAHAL_EMU_RACK"] == inner.dir
            with outer:
                assert emu.active() == outer.dir
            assert emu.active() == os.environ["FPGAHAL_EMU_RACK"] == inner.dir
        assert emu.active() == os.environ["FPGAHAL_EMU_RACK"] == outer.dir
        assert outer.devices()
    assert emu.active() is None
    assert "FPGAHAL_EMU_RACK" not in os.environ
    kept = emu.rack("pac-a10")
    monkeypatch.setenv("FPGAHAL_EMU_RACK", kept.dir)
    with emu.rack("u250"):
        pass
    assert os.environ["FPGAHAL_EMU_RACK"] == emu.active() == kept.dir
    kept.close()


def test_close_inside_with_restores() -> None:
    with emu.rack("pac-a10") as outer, emu.rack("u250") as inner:
        inner.close()
        assert emu.active() == os.environ["FPGAHAL_EMU_RACK"] == outer.dir


def test_children_see_the_rack() -> None:
    with emu.rack("pac-a10:2"):
        assert output(python("import fpgahal.emu as e, fpgahal._sysfs as s; print(len(s.scan(e.active())))")) == "2"


def test_a_look_at_a_rack_loads_neither_the_emulator_nor_what_opens_boards() -> None:
    """Somebody waits for those who only look: kubelet for the plugin, a container for the hook."""
    code = (
        "import sys, fpgahal\n"
        "print(len(fpgahal.devices()), fpgahal.kernel_drivers(), 'fpgahal.emu' in sys.modules)\n"
        "print([name for name in ('_device', '_contract', '_bitstream', '_types') if f'fpgahal.{name}' in sys.modules])"
    )
    with emu.rack("pac-a10:2"):
        assert output(python(code)).splitlines() == ["2 ['intel-fpga'] False", "[]"]


def test_every_public_name_is_there() -> None:
    code = "import fpgahal\nfor name in fpgahal.__all__: assert getattr(fpgahal, name) is getattr(fpgahal, name), name"
    assert output(python(code)) == ""


def test_active_never_falls_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FPGAHAL_EMU_RACK", str(tmp_path))
    with pytest.raises(emu.SpecError, match="is no emulated rack"):
        emu.active()
    monkeypatch.delenv("FPGAHAL_EMU_RACK")
    monkeypatch.setenv("FPGAHAL_EMULATE", "pac-b10")
    with pytest.raises(emu.SpecError, match="no emulated board 'pac-b10'"):
        emu.active()


# ---- the shared rack -------------------------------------------------------------------------------------------

SHOW = "import fpgahal.emu as e; print(e.active())"


def test_shared_rack_persists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FPGAHAL_EMULATE", "pac-a10:2,u250")
    first = emu.active()
    assert first is not None
    assert len(_sysfs.scan(first)) == 3
    home = os.path.dirname(first)
    assert os.path.basename(home) == f"fpgahal-{os.getuid()}"
    assert stat.S_IMODE(os.stat(home).st_mode) == stat.S_IMODE(os.stat(first).st_mode) == 0o700
    assert output(python(SHOW)) == output(python(SHOW)) == first
    with emu.rack(dir=first) as rack:  # faults reach a shared rack, too
        rack.fault(0, "vanish")
    assert output(python("import fpgahal.emu as e, fpgahal._sysfs as s; print(len(s.scan(e.active())))")) == "2"
    assert emu.discard("pac-a10:2,u250")
    assert not os.path.exists(first)
    assert not emu.discard("pac-a10:2,u250")
    again = emu.active()
    assert again == first
    assert len(_sysfs.scan(again)) == 3


def test_spelling_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    found = set()
    for spec in ("pac-a10:2,u250", "pac-a10, pac-a10 ,u250", "pac-a10,pac-a10:1,u250:1"):
        monkeypatch.setenv("FPGAHAL_EMULATE", spec)
        found.add(emu.active())
    assert len(found) == 1
    monkeypatch.setenv("FPGAHAL_EMULATE", "pac-a10:3")
    assert emu.active() not in found


def test_precedence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FPGAHAL_EMULATE", "pac-a10")
    shared = emu.active()
    with emu.rack("u250") as rack:
        assert emu.active() == rack.dir
    assert emu.active() == shared


@pytest.mark.parametrize("round", range(3))
def test_four_processes_make_it_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, round: int) -> None:
    start = tmp_path / "start"
    code = (
        f"import os, time, json, fpgahal.emu as e, fpgahal._sysfs as s\nprint('ready', flush=True)\n"
        f"while not os.path.exists({str(start)!r}): time.sleep(0.001)\n"
        "d = e.active(); print(json.dumps([d, os.stat(d + '/rack.bin').st_ino, len(s.scan(d))]))"
    )
    racers = [python(code, FPGAHAL_EMULATE="d5005:20,u250:20,pac-a10") for _ in range(4)]
    try:
        for racer in racers:
            assert racer.stdout is not None
            assert racer.stdout.readline() == "ready\n"
        start.touch()
        results = [json.loads(output(racer)) for racer in racers]
    finally:
        for racer in racers:
            racer.kill()
            racer.communicate()
    assert results[0][2] == 41
    assert all(result == results[0] for result in results)
    home = Path(results[0][0]).parent
    assert sorted(p.suffix for p in home.iterdir()) == ["", ".lock"]  # nothing half built


def test_killed_builder_is_cleaned_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FPGAHAL_EMULATE", "pac-a10")
    folder = emu.active()
    assert folder is not None
    os.rename(folder, f"{folder}.new")  # as a builder leaves it that was killed before the rename
    os.unlink(f"{folder}.new/rack.bin")
    assert emu.active() == folder
    assert len(_sysfs.scan(folder)) == 1
    assert not os.path.exists(f"{folder}.new")


def test_foreign_folder_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    home = Path(os.environ["XDG_RUNTIME_DIR"]) / f"fpgahal-{os.getuid()}"
    monkeypatch.setenv("FPGAHAL_EMULATE", "pac-a10")
    home.symlink_to(tmp_path)
    with pytest.raises(AccessError, match="is not a folder of this user"):
        emu.active()
    home.unlink()
    home.mkdir(mode=0o700)
    home.chmod(0o777)
    with pytest.raises(PermissionError, match="open to other users"):
        emu.active()
    home.chmod(0o700)
    assert emu.active()
    if os.getuid() == 0:
        emu.discard("pac-a10")
        os.chown(home, 12345, 12345)
        with pytest.raises(AccessError, match="is not a folder of this user"):
            emu.active()
        os.chown(home, 0, 0)


def test_board_file_changes_make_another_rack(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(GOOD)
    monkeypatch.setenv("FPGAHAL_BOARDS", str(file))
    monkeypatch.setenv("FPGAHAL_EMULATE", "tiny")
    first = output(python(SHOW))
    file.write_text(GOOD + "program_ms = 5")
    assert output(python(SHOW)) != first
