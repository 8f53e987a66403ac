# SPDX-License-Identifier: Apache-2.0
"""The command `fpgahal`, as a user runs it: one process a command, on emulated boards."""

from __future__ import annotations

import argparse
import json
import os
import pty
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fpgahal
from fpgahal.cli import main
from fpgahal.cli.app import Help
from fpgahal.kernels import NLB0, NLB3

FPGAHAL = [sys.executable, "-m", "fpgahal"]
OPAE, XRT = "0000:3b:00.0", "0000:5e:00.1"


def run(*args: str | os.PathLike[str], code: int = 0, **options: Any) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*FPGAHAL, *map(str, args)], capture_output=True, text=True, timeout=60, check=False, **options
    )
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done


def run_json(*args: str | os.PathLike[str], code: int = 0, **options: Any) -> Any:
    done = run(*args, "--json", code=code, **options)
    assert done.stderr == ""
    return json.loads(done.stdout)


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No state of other tests, or of this machine."""
    runtime = tmp_path / "runtime"
    runtime.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    for name in ("FPGAHAL_EMULATE", "FPGAHAL_EMU_RACK", "FPGAHAL_TRACEBACK"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def rack() -> Iterator[fpgahal.emu.Rack]:
    """A rack that this process and the commands share."""
    with fpgahal.emu.rack("pac-a10", "u250") as made:
        yield made


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Image files by accelerator."""
    folder, found = tmp_path_factory.mktemp("images"), {}
    for afu, board in (("nlb0", "pac-a10"), ("nlb3", "pac-a10"), ("vadd", "u250"), ("passthrough", "u250")):
        found[afu] = folder / f"{afu}.bin"
        assert main(["build-image", "--afu", afu, "--board", board, "-o", str(found[afu])]) == 0
    return found


# --- looking ------------------------------------------------------------------------------------------------------


def test_list_shows_the_boards_asked_for() -> None:
    done = run("list", "--emulate", "pac-a10:2,u250,aws-f1")
    lines = done.stdout.splitlines()
    assert len(lines) == 5
    assert all("EMULATED" in line for line in lines[1:])
    document = run_json("list", "--emulate", "pac-a10:2,u250,aws-f1")
    assert [device["driver"] for device in document["devices"]] == ["xrt", "opae", "opae", "xrt"]
    assert all(device["emulated"] for device in document["devices"])


def test_options_may_stand_before_the_command() -> None:
    assert len(json.loads(run("--emulate", "pac-a10", "--json", "list").stdout)["devices"]) == 1


def test_list_without_boards_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    if fpgahal.devices():
        pytest.skip("this machine has a board")
    assert "--emulate" in run("list").stdout
    assert run_json("list") == {"devices": []}
    assert "doctor" in run("show", code=3).stderr


def test_the_emulate_option_goes_before_the_environment(rack: fpgahal.emu.Rack) -> None:
    assert len(run_json("list", "--emulate", "d5005")["devices"]) == 1


def test_show_prints_every_field(rack: fpgahal.emu.Rack) -> None:
    document = run_json("show", OPAE)
    info = fpgahal.find(OPAE)
    for field in ("bdf", "slot", "driver", "name", "platform", "numa_node", "serial", "kernel_driver"):
        assert document[field] == getattr(info, field)
    assert document["afu_id"] == str(info.afu_id)
    assert document["health"] == {"status": "ok", "reason": "", "needs_image": False}
    text = run("show", "3b:00.0").stdout
    assert "EMULATED" in text
    assert str(info.interface_id) in text
    assert "8086" in text


@pytest.mark.parametrize("address", [OPAE, XRT])
def test_show_lists_who_holds_a_device(rack: fpgahal.emu.Rack, images: dict[str, Path], address: str) -> None:
    assert run_json("show", address)["holders"] == []
    with fpgahal.open(address):
        document = run_json("show", address)
        assert os.getpid() in [holder["pid"] for holder in document["holders"]]
        assert f"pid {os.getpid()}" in run("show", address).stdout
    assert run_json("show", address)["holders"] == []


def test_a_device_must_be_named_when_there_are_several(rack: fpgahal.emu.Rack) -> None:
    error = run_json("show", code=3)["error"]
    assert error["type"] == "AmbiguousDeviceError"
    assert OPAE in error["message"]
    assert run_json("show", "0000:99:00.0", code=3)["error"]["type"] == "DeviceNotFoundError"


# --- images -------------------------------------------------------------------------------------------------------


def test_inspect_a_gbs(images: dict[str, Path]) -> None:
    document = run_json("inspect", images["nlb3"])
    assert document["kind"] == "gbs"
    assert document["afu_id"] == str(NLB3.AFU_ID)
    assert document["emulated"] is True
    text = run("inspect", images["nlb3"]).stdout
    assert str(NLB3.AFU_ID) in text
    assert "EMULATED" in text
    assert document["sha256"] in text


def test_inspect_an_xclbin(images: dict[str, Path]) -> None:
    document = run_json("inspect", images["vadd"])
    assert document["kind"] == "xclbin"
    (kernel,) = document["kernels"]
    assert [arg["name"] for arg in kernel["args"]] == ["a", "b", "out", "n"]
    text = run("inspect", images["vadd"]).stdout
    assert "vadd(uint* a, uint* b, uint* out, uint n)" in text
    assert "DDR[0]" in text


def test_build_image_is_reproducible_and_whole(tmp_path: Path, images: dict[str, Path]) -> None:
    again = tmp_path / "again"
    document = run_json("build-image", "--afu", "nlb3", "--board", "pac-a10", "-o", again)
    assert document["afu_id"] == str(NLB3.AFU_ID)
    assert again.read_bytes() == images["nlb3"].read_bytes()
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")] == []


def test_build_image_lists_what_there_is(tmp_path: Path) -> None:
    error = run_json("build-image", "--afu", "nlb9", "--board", "pac-a10", "-o", tmp_path / "x", code=3)["error"]
    assert "nlb3" in error["message"]
    error = run_json("build-image", "--afu", "nlb3", "--board", "pac", "-o", tmp_path / "x", code=3)["error"]
    assert "pac-a10" in error["message"]
    assert "XRT" in run("build-image", "--afu", "nlb3", "--board", "u250", "-o", tmp_path / "x", code=3).stderr
    assert not (tmp_path / "x").exists()


# --- programming --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("address", "first", "second"), [(OPAE, "nlb3", "nlb0"), (XRT, "vadd", "passthrough")])
def test_program_verify_reset(
    rack: fpgahal.emu.Rack, images: dict[str, Path], address: str, first: str, second: str
) -> None:
    document = run_json("program", address, images[first])
    assert document["programmed"] is True
    assert run_json("program", address, images[first])["programmed"] is False
    assert "already loaded" in run("program", address, images[first]).stdout
    # another process sees it
    loaded = run_json("show", address)["afu_id"]
    assert loaded == document["loaded"] == run_json("inspect", images[first])["afu_id"]
    assert str(fpgahal.find(address).afu_id) == loaded
    assert run_json("verify", address, loaded)["verified"] is True
    assert "EMULATED" in run("verify", address, images[first]).stdout
    mismatch = run_json("verify", address, images[second], code=1)
    assert mismatch["verified"] is False
    assert loaded in mismatch["reason"]
    assert "EMULATED" in run("verify", address, images[second], code=1).stdout
    assert run_json("reset", address)["reset"] is True
    assert "EMULATED" in run("reset", address).stdout


def test_the_selector_may_be_left_out(images: dict[str, Path]) -> None:
    assert run_json("program", images["nlb3"], "--emulate", "pac-a10")["programmed"] is True
    assert run_json("verify", str(NLB3.AFU_ID), "--emulate", "pac-a10")["verified"] is True
    assert run_json("verify", str(NLB0.AFU_ID), "--emulate", "pac-a10", code=1)["verified"] is False
    assert run_json("reset", "--emulate", "pac-a10")["loaded"] == str(NLB3.AFU_ID)


def test_force_programs_again(rack: fpgahal.emu.Rack, images: dict[str, Path]) -> None:
    run("program", OPAE, images["nlb3"])
    before = rack.status(OPAE).programmed
    assert run_json("program", OPAE, images["nlb3"], "--force")["programmed"] is True
    assert rack.status(OPAE).programmed == before + 1


def test_an_image_for_another_board_is_refused(rack: fpgahal.emu.Rack, images: dict[str, Path]) -> None:
    error = run_json("program", OPAE, images["vadd"], code=3)["error"]
    assert error["type"] == "IncompatibleBitstreamError"
    assert "Nothing was written" in error["message"]
    done = run("program", XRT, images["nlb0"], code=3)
    assert done.stderr.startswith("fpgahal: error: ")
    assert len(done.stderr.splitlines()) == 2
    assert done.stdout == ""


def test_a_busy_board_is_reported(rack: fpgahal.emu.Rack, images: dict[str, Path]) -> None:
    for address, afu in ((OPAE, "nlb3"), (XRT, "vadd")):
        with fpgahal.open(address):
            assert run_json("program", address, images[afu], code=3)["error"]["type"] == "DeviceBusyError"


def test_a_failed_reconfiguration_is_reported(rack: fpgahal.emu.Rack, images: dict[str, Path]) -> None:
    rack.fault(OPAE, "program", count=1)
    assert run_json("program", OPAE, images["nlb3"], code=3)["error"]["type"] == "ProgramError"
    assert "failed" in run("list").stdout
    assert run_json("show", OPAE)["health"]["status"] == "failed"
    assert run_json("doctor", code=1)["ok"] is False
    assert run_json("program", OPAE, images["nlb3"])["programmed"] is True
    assert run_json("show", OPAE)["health"]["status"] == "ok"


def test_a_timeout_of_programming(images: dict[str, Path]) -> None:
    with fpgahal.emu.rack("pac-a10", program_ms=3000):
        start = time.monotonic()
        error = run_json("program", images["nlb3"], "--timeout", "0.2", code=3)["error"]
        assert error["type"] == "ProgramTimeoutError"
        assert time.monotonic() - start < 10


@pytest.mark.parametrize(("board", "afu"), [("pac-a10", "nlb3"), ("u250", "vadd")])
def test_ctrl_c_while_programming(images: dict[str, Path], board: str, afu: str) -> None:
    with fpgahal.emu.rack(board, program_ms=20_000):
        child = subprocess.Popen(
            [*FPGAHAL, "program", str(images[afu])], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        time.sleep(1.5)
        assert child.poll() is None
        start = time.monotonic()
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=30)
        assert time.monotonic() - start < 5
    assert child.returncode == 130
    assert (out, err) == ("", "fpgahal: interrupted\n")


def test_progress_shows_on_a_terminal_only(images: dict[str, Path]) -> None:
    with fpgahal.emu.rack("pac-a10", program_ms=500):
        assert run("program", images["nlb3"]).stderr == ""
        ours, theirs = pty.openpty()
        child = subprocess.Popen(
            [*FPGAHAL, "program", str(images["nlb3"]), "--force"], stdout=subprocess.PIPE, stderr=theirs, text=True
        )
        os.close(theirs)
        seen = b""
        try:
            while chunk := os.read(ours, 65536):
                seen += chunk
        except OSError:  # Linux: the other side is gone
            pass
        os.close(ours)
        child.communicate(timeout=30)
        assert child.returncode == 0
        assert b"EMULATED" in seen


# --- wrong usage ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["fly"],
        ["list", "--what"],
        ["program"],
        ["build-image"],
        ["verify", "no-such-file", "--emulate", "pac-a10"],
        ["emulate", "pac-a10"],
        ["list", "--emulate", ""],
        ["list", "--", "x"],
        ["program", "x", "--timeout", "soon"],
        ["emulate", "pac-a10", "--", "no-such-command"],
    ],
)
def test_wrong_usage(args: list[str]) -> None:
    done = run(*args, code=2)
    assert done.stderr.startswith("fpgahal: error: ")
    assert done.stdout == ""
    at = args.index("--") if "--" in args else len(args)
    error = json.loads(run(*args[:at], "--json", *args[at:], code=2).stdout)["error"]
    assert set(error) == {"type", "message", "hint"}


@pytest.mark.parametrize(
    ("args", "kind"),
    [
        (["list", "--emulate", "pac-b10"], "SpecError"),
        (["list", "--emulate", "pac-a10:0"], "SpecError"),
        (["inspect", "/no/such/file"], "FileNotFoundError"),
        (["inspect", "/"], "BitstreamError"),
        (["inspect", "/dev/null"], "BitstreamError"),
        (["build-image", "--afu", "nlb0", "--board", "pac-a10", "-o", "/no/such/folder/x"], "FileNotFoundError"),
    ],
)
def test_errors(args: list[str], kind: str) -> None:
    assert run_json(*args, code=3)["error"]["type"] == kind
    done = run(*args, code=3)
    assert done.stderr.startswith("fpgahal: error: ")
    assert done.stdout == ""


def test_a_traceback_on_request() -> None:
    done = subprocess.run(
        [*FPGAHAL, "inspect", "/no/such/file"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "FPGAHAL_TRACEBACK": "1"},
    )
    assert done.returncode == 3
    assert "Traceback" in done.stderr


def test_version() -> None:
    assert run("--version").stdout == f"fpgahal {fpgahal.__version__}\n"


def test_a_reader_that_goes_away_is_no_error() -> None:
    child = subprocess.Popen(
        [*FPGAHAL, "list", "--emulate", "pac-a10:30"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.close()
    assert child.stderr.read() == ""
    assert child.wait(60) == 141
    child.stderr.close()


# --- doctor ---------------------------------------------------------------------------------------------------------


def test_doctor(rack: fpgahal.emu.Rack) -> None:
    document = run_json("doctor")
    assert document["ok"] is True
    found = {check["name"]: check for check in document["checks"]}
    assert {"ok", "warn", "fail", "absent"} >= {check["status"] for check in found.values()}
    assert all(set(check) == {"name", "status", "found", "advice"} for check in found.values())
    for name in ("versions", "emulated OPAE library", "emulated XRT library", f"access to {OPAE}/0 EMULATED"):
        assert found[name]["status"] == "ok", found[name]
    assert found["devices"]["found"] == "2 EMULATED"
    text = run("doctor").stdout
    assert "huge pages, 2 MiB" in text


def test_doctor_names_a_library_that_does_not_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "libopae-c.so.2"
    broken.write_text("this is no library")
    monkeypatch.setenv("FPGAHAL_OPAE_LIBRARY", str(broken))
    document = run_json("doctor", code=1)
    (check,) = [check for check in document["checks"] if check["name"] == "library libopae-c"]
    assert check["status"] == "fail"
    assert str(broken) in check["found"]


# --- emulate --------------------------------------------------------------------------------------------------------


def test_emulate_runs_a_command_in_a_rack_of_its_own(tmp_path: Path) -> None:
    done = run("emulate", "pac-a10:2,u250", "--", *FPGAHAL, "list", "--json")
    assert len(json.loads(done.stdout)["devices"]) == 3
    assert not list((tmp_path / "runtime").iterdir())  # it is gone


def test_emulate_gives_the_exit_status() -> None:
    run("emulate", "pac-a10", "--", "sh", "-c", "exit 7", code=7)
    run("emulate", "pac-a10", "--", "sh", "-c", "kill -TERM $$", code=128 + signal.SIGTERM)


def test_emulate_shares_the_rack_between_processes(images: dict[str, Path]) -> None:
    script = f"{' '.join(FPGAHAL)} program {images['nlb3']} && {' '.join(FPGAHAL)} verify {NLB3.AFU_ID}"
    assert "verified" in run("emulate", "pac-a10", "--", "sh", "-c", script).stdout


def test_emulate_keeps_the_rack(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    run("emulate", "pac-a10", "--keep", kept, "--", "true")
    document = run_json("list", env={**os.environ, "FPGAHAL_EMU_RACK": str(kept)})
    assert len(document["devices"]) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_emulate_forwards_signals(tmp_path: Path, number: signal.Signals) -> None:
    script = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGINT, lambda *_: sys.exit(40))\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(41))\n"
        "print('ready', flush=True)\ntime.sleep(60)"
    )
    child = subprocess.Popen(
        [*FPGAHAL, "emulate", "pac-a10", "--", sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    child.send_signal(number)
    assert child.wait(30) == {signal.SIGINT: 40, signal.SIGTERM: 41}[number]
    child.stdout.close()
    assert not list((tmp_path / "runtime").iterdir())


def test_every_id_in_json_is_text(rack: fpgahal.emu.Rack) -> None:
    for device in run_json("list")["devices"]:
        for name in ("afu_id", "interface_id"):
            assert device[name] is None or uuid.UUID(device[name])


@pytest.mark.parametrize("columns", ["60", "0", "wide", ""])
def test_help_is_as_wide_as_argparse_has_it(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    theirs = argparse.RawDescriptionHelpFormatter("x")
    assert Help("x")._width == theirs._width
