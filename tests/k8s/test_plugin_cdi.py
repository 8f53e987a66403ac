# SPDX-License-Identifier: Apache-2.0
"""CDI files (case D12): what they say, and that a container never runs without the hook because one is missing."""

from __future__ import annotations

import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import node_trees as trees
import pytest
from cdi_schema import SCHEMA, minimum_version
from node_trees import CARD1, NLB0

import fpgahal
from fpgahal import AccessError, DeviceInfo, FpgaError
from fpgahal.k8s.plugin.cdi import CdiFolder, qualified_name, spec
from fpgahal.k8s.plugin.inventory import Settings, take
from fpgahal.k8s.plugin.unit import DeviceNode, Unit
from fpgahal.k8s.schemes.settings import MODES

HOOK = "/opt/fpgahal/bin/fpgahal-hook"


def units(devices: list[DeviceInfo], settings: Settings) -> list[Unit]:
    inventory = take(devices, settings)
    return [unit for found in inventory.resources.values() for unit in found.values()]


def hook_args(document: dict[str, Any]) -> list[str]:
    (device,) = document["devices"]
    (hook,) = device["containerEdits"]["hooks"]
    assert (hook["hookName"], hook["path"]) == ("createRuntime", HOOK)
    found: list[str] = hook["args"]
    return found


@pytest.fixture
def umask() -> Any:
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
@pytest.mark.parametrize("scheme", ["own", "intel", "bcom", "inaccel"])
@pytest.mark.parametrize("mode", MODES)
def test_D12_files(tmp_path: Path, scheme: str, mode: str) -> None:
    settings = Settings((scheme,), mode=mode, cdi=True)
    folder = CdiFolder(str(tmp_path / "run/cdi"))
    for unit in units(trees.opae2(tmp_path / "node").devices(), settings):
        name = folder.write(unit, HOOK)
        assert name == qualified_name(unit)
    files = sorted((tmp_path / "run/cdi").iterdir())
    assert len(files) == 2
    for file in files:
        assert stat.S_IMODE(file.stat().st_mode) == 0o644
        document = json.loads(file.read_text())
        jsonschema.validate(document, SCHEMA)
        assert document["cdiVersion"] == minimum_version(document)
        assert f"{document['kind']}={document['devices'][0]['name']}" in {
            qualified_name(unit) for unit in units(trees.Node(tmp_path / "node").devices(), settings)
        }


def test_D12_the_version_is_the_lowest_possible(tmp_path: Path) -> None:
    """Intel's names begin with a letter, so that even old runtimes take them; addresses need 0.5.0."""
    devices = trees.opae2(tmp_path).devices()
    assert spec(units(devices, Settings(("intel",)))[0])["cdiVersion"] == "0.3.0"
    assert spec(units(devices, Settings())[0])["cdiVersion"] == "0.5.0"
    elsewhere = replace(units(devices, Settings(("intel",)))[0], nodes=(DeviceNode("/dev/a", "/dev/b"),))
    assert spec(elsewhere)["cdiVersion"] == minimum_version(spec(elsewhere)) == "0.5.0"


def test_D12_emulated(tmp_path: Path) -> None:
    with fpgahal.emu.rack("pac-a10,u250") as rack:
        for unit in units(fpgahal.devices(), Settings()):
            document = spec(unit, HOOK)
            jsonschema.validate(document, SCHEMA)
            assert document["cdiVersion"] == minimum_version(document)
            edits = document["devices"][0]["containerEdits"]
            assert f"FPGAHAL_EMU_RACK={rack.dir}" in edits["env"]
            assert edits["mounts"] == [
                {"hostPath": rack.dir, "containerPath": rack.dir, "options": ["rw", "nosuid", "nodev", "bind"]}
            ]
            assert "deviceNodes" not in edits
            assert hook_args(document)[-2:] == ["--rack", rack.dir]


def test_a_containers_devices_do_not_overwrite_each_others_variables(tmp_path: Path) -> None:
    documents = [spec(unit) for unit in units(trees.opae2(tmp_path).devices(), Settings())]
    names = [text.partition("=")[0] for d in documents for text in d["devices"][0]["containerEdits"]["env"]]
    assert names == ["FPGAHAL_DEVICE_0000_06_00_0", "FPGAHAL_DEVICE_0000_42_00_0"]


def test_the_hook_is_told_what_to_look_at(tmp_path: Path) -> None:
    devices = trees.opae2(tmp_path).devices()
    (function, _) = units(devices, Settings(("intel",)))
    assert hook_args(spec(function, HOOK)) == ["fpgahal-hook", "--device", f"{CARD1}/0={NLB0}"]
    (board, _) = units(devices, Settings())
    assert hook_args(spec(board, HOOK, ["--program"])) == ["fpgahal-hook", "--program", "--device", f"{CARD1}/0"]
    # a container of mode region must say itself what it wants: without --device the hook insists
    (region, _) = units(devices, Settings(("intel",), mode="region"))
    assert hook_args(spec(region, HOOK)) == ["fpgahal-hook"]
    (region, _) = units(devices, Settings(("intel",), mode="region", intel_annotation=True))
    assert hook_args(spec(region, HOOK)) == ["fpgahal-hook"]
    assert "hooks" not in spec(region)["devices"][0]["containerEdits"]


def test_names_of_files_and_devices_are_plain() -> None:
    info = DeviceInfo("0000:3b:00.0", slot=1)
    document = spec(Unit("a/b c:1", "r/r", (info,)))
    jsonschema.validate(document, SCHEMA)
    assert document["devices"][0]["name"] == "a_b_c:1"


# --- the folder ---------------------------------------------------------------------------------------------------


@pytest.fixture
def pair(tmp_path: Path) -> list[Unit]:
    return units(trees.opae2(tmp_path / "node").devices(), Settings())


def test_a_file_that_is_right_is_left_alone(tmp_path: Path, pair: list[Unit]) -> None:
    """Container runtimes watch the folder and read everything again after each change."""
    folder = CdiFolder(str(tmp_path / "cdi"))
    folder.write(pair[0], HOOK)
    (file,) = (tmp_path / "cdi").iterdir()
    before = file.stat()
    folder.write(pair[0], HOOK)
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    folder.write(pair[0], "/elsewhere/fpgahal-hook")
    assert file.stat().st_ino != before.st_ino
    assert "/elsewhere/fpgahal-hook" in file.read_text()


def test_a_file_that_was_changed_is_put_right(tmp_path: Path, pair: list[Unit]) -> None:
    folder = CdiFolder(str(tmp_path / "cdi"))
    folder.write(pair[0], HOOK)
    (file,) = (tmp_path / "cdi").iterdir()
    right = file.read_bytes()
    for damage in (lambda: file.write_bytes(right[:10]), lambda: file.write_bytes(b"\xff"), lambda: file.chmod(0o600)):
        damage()
        folder.write(pair[0], HOOK)
        assert file.read_bytes() == right
        assert stat.S_IMODE(file.stat().st_mode) == 0o644


def test_no_link_is_followed(tmp_path: Path, pair: list[Unit]) -> None:
    folder = CdiFolder(str(tmp_path / "cdi"))
    folder.write(pair[0], HOOK)
    (file,) = (tmp_path / "cdi").iterdir()
    target = tmp_path / "precious"
    target.write_text("kept")
    file.unlink()
    file.symlink_to(target)
    folder.write(pair[0], HOOK)
    assert target.read_text() == "kept"
    assert not file.is_symlink()
    file.rename(target)  # its own text, but where others may write
    target.chmod(0o644)
    file.symlink_to(target)
    folder.write(pair[0], HOOK)
    assert not file.is_symlink()


def test_files_of_others_stay(tmp_path: Path, pair: list[Unit]) -> None:
    folder = CdiFolder(str(tmp_path / "cdi"))
    for unit in pair:
        folder.write(unit, HOOK)
    for other in ("nvidia.yaml", "fpgahal.dev-claim-1.json", ".fpgahal.dev-fpga-dead.json.77.new"):
        (tmp_path / "cdi" / other).write_text("{}")
    assert folder.remove_others([pair[1]]) == [
        ".fpgahal.dev-fpga-dead.json.77.new",
        "fpgahal.dev-fpga-0000_06_00.0.json",
    ]
    assert sorted(path.name for path in (tmp_path / "cdi").iterdir()) == [
        "fpgahal.dev-claim-1.json",
        "fpgahal.dev-fpga-0000_42_00.0.json",
        "nvidia.yaml",
    ]
    assert folder.remove_others([pair[1]]) == []


def test_nothing_to_remove_where_there_is_no_folder(tmp_path: Path) -> None:
    assert CdiFolder(str(tmp_path / "none")).remove_others([]) == []


def test_a_failure_is_an_error(tmp_path: Path, pair: list[Unit]) -> None:
    """Intel's plugin only logs it, and the container then runs without the hook."""
    (tmp_path / "cdi").write_text("a file")
    folder = CdiFolder(str(tmp_path / "cdi"))
    with pytest.raises(FpgaError, match="can't be written"):
        folder.write(pair[0], HOOK)


def test_a_folder_that_may_not_be_written(tmp_path: Path, pair: list[Unit], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **more: object) -> int:
        raise PermissionError(13, "Permission denied")

    folder = CdiFolder(str(tmp_path / "cdi"))
    folder.write(pair[0], HOOK)
    with monkeypatch.context() as patch:  # root may write everywhere
        patch.setattr(os, "replace", refuse)
        with pytest.raises(AccessError, match="can't be written: Permission denied"):
            folder.write(pair[1], HOOK)
        patch.setattr(os, "unlink", refuse)
        with pytest.raises(AccessError, match="can't be removed: Permission denied"):
            folder.remove_others([])
    assert [path.name for path in (tmp_path / "cdi").iterdir()] == ["fpgahal.dev-fpga-0000_06_00.0.json"]


def test_a_reader_never_sees_half_a_file(tmp_path: Path, pair: list[Unit], monkeypatch: pytest.MonkeyPatch) -> None:
    """It appears under its name when it is whole, and on the disk."""
    seen: list[str] = []
    replace_file, fsync = os.replace, os.fsync

    def spy_sync(fd: int) -> None:
        fsync(fd)
        seen.append("synced")

    def spy(source: str, target: str) -> None:
        seen.append(Path(source).read_text())
        assert not Path(target).exists()
        assert not Path(source).name.endswith((".json", ".yaml"))
        replace_file(source, target)

    monkeypatch.setattr(os, "replace", spy)
    monkeypatch.setattr(os, "fsync", spy_sync)
    CdiFolder(str(tmp_path / "cdi")).write(pair[0], HOOK)
    (file,) = (tmp_path / "cdi").iterdir()
    assert seen == ["synced", file.read_text(), "synced"]  # the file, and then the folder


def test_several_threads(tmp_path: Path, pair: list[Unit]) -> None:
    """Kubelet's calls and the node's loop see to the same files at the same time."""
    folder = CdiFolder(str(tmp_path / "cdi"))
    folder.write(pair[0], HOOK)
    (file,) = (tmp_path / "cdi").iterdir()

    def work(number: int) -> None:
        for turn in range(30):
            folder.write(pair[0], f"/opt/{number}/{turn}")
            folder.remove_others(pair)
            jsonschema.validate(json.loads(file.read_text()), SCHEMA)

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(work, number) for number in range(4)]:
            done.result()
    assert [*(tmp_path / "cdi").iterdir()] == [file]
