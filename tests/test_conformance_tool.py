# SPDX-License-Identifier: Apache-2.0
"""`fpgahal conformance`, as the owner of a board runs it."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

import fpgahal
from fpgahal import emu
from fpgahal.kernels import NLB0

COMMAND = [sys.executable, "-m", "fpgahal", "conformance"]
#: By driver: board, images (one that copies, another one), address.
BOARDS = {
    "opae": ("pac-a10", ("nlb0", "nlb3"), "0000:3b:00.0"),
    "xrt": ("u250", ("demo", "vadd"), "0000:5e:00.1"),
}


def run(*args: object, code: int = 0, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, **options)
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done


def run_json(*args: object, code: int = 0) -> Any:
    done = run(*args, "--json", code=code)
    assert done.stderr == ""  # nothing of the progress in a pipe
    return json.loads(done.stdout)


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No state of other tests, or of this machine; and no pytest of theirs."""
    runtime = tmp_path / "runtime"
    runtime.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    monkeypatch.setenv("PYTEST_ADDOPTS", "--no-such-option")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conftest.py").write_text("raise SystemExit('a conftest of somebody else')")


@pytest.fixture(params=BOARDS)
def driver(request: pytest.FixtureRequest) -> str:
    driver: str = request.param
    return driver


@pytest.fixture
def rack(driver: str) -> Iterator[emu.Rack]:
    with emu.rack(BOARDS[driver][0]) as made:
        yield made


@pytest.fixture
def images(driver: str, tmp_path: Path) -> list[Path]:
    board, afus, _ = BOARDS[driver]
    paths = [tmp_path / f"{afu}.image" for afu in afus]
    for path, afu in zip(paths, afus, strict=True):
        path.write_bytes(emu.build_image(afu, emu.boards()[board]))
    return paths


def destructive(images: list[Path]) -> list[object]:
    return [word for path in images for word in ("--program", path)]


def failed(document: Any) -> dict[str, str]:
    return {one["name"]: one["reason"] for one in document["checks"] if one["result"] == "failed"}


def test_all_of_it(driver: str, rack: emu.Rack, images: list[Path]) -> None:
    info = rack.devices()[0]
    with fpgahal.open(info) as dev:
        dev.program(images[1])
        before = dev.afu_id
    document = run_json("--device", info.bdf, *destructive(images))
    assert document["ok"]
    assert not failed(document)
    assert document["passed"] > 100
    assert document["passed"] + document["left_out"] == len(document["checks"])
    assert {one["reason"] for one in document["checks"] if one["result"] == "left out"} <= {
        "it needs two devices",
        "it makes boards fail, or uses a second one: only on an emulated rack of its own",
    }
    assert (document["device"]["bdf"], document["device"]["emulated"]) == (info.bdf, True)
    assert document["binding"] == driver
    # the second image is what ran before, so it runs again
    assert document["before"] == document["after"] == str(before) == str(rack.devices()[0].afu_id)
    assert "as before" in document["state"]


def test_without_an_image_nothing_is_changed(driver: str, rack: emu.Rack) -> None:
    before, info = rack.status(0), rack.devices()[0]
    document = run_json("--device", info.address)
    assert document["ok"]
    assert document["passed"] > 10
    reasons = {one["name"]: one["reason"] for one in document["checks"] if one["result"] == "left out"}
    assert "only with --program IMAGE" in reasons["kernel.it_copies[64]"]
    assert "program.force_goes_to_the_driver" in reasons
    assert rack.status(0).programmed == before.programmed
    assert rack.devices() == [info]


@pytest.mark.parametrize("driver", ["opae"], indirect=True)
def test_without_an_image_registers_are_only_read(rack: emu.Rack) -> None:
    ran = [one["name"] for one in run_json()["checks"] if one["result"] == "passed" and one["name"].startswith("csr.")]
    assert ran == ["csr.the_id_is_in_the_registers", "csr.reading_at_bad_offsets"]


def test_the_report_for_people(driver: str, rack: emu.Rack, images: list[Path]) -> None:
    """... of a board that ran an image which is not at hand: it is named."""
    with fpgahal.open() as dev:
        dev.program(images[1])
        before = dev.afu_id
    text = run("--device", BOARDS[driver][2], *destructive(images[:1])).stdout
    lines = text.splitlines()
    assert re.fullmatch(rf"device +{rack.devices()[0].address} EMULATED", lines[0])
    assert any(line.startswith("PCI ids") and f"{rack.devices()[0].vendor_id:04x}" in line for line in lines)
    assert any(re.match(r"passed +buffer\.banks", line) for line in lines)
    assert any(re.match(r"left out +program\.another_.* it needs a second image", line) for line in lines)
    assert "and was reset" in lines[-2]
    assert f"It ran {before} before.  That image was not at hand" in text
    assert rack.devices()[0].afu_id != before
    assert re.search(r"EMULATED: \d+ passed, 0 failed, \d+ left out$", lines[-1])


@pytest.mark.parametrize(
    ("driver", "faults"), [("opae", ["hang"]), ("xrt", ["wrong-afu", "flip"])], indirect=["driver"]
)
def test_a_fault_fails_its_check(rack: emu.Rack, images: list[Path], faults: list[str], tmp_path: Path) -> None:
    for fault in faults:
        rack.fault(0, fault, count=1)
    report = tmp_path / "report.xml"
    document = run_json(*destructive(images), "--timeout", 3, "--junit", report, code=1)
    assert len(failed(document)) == len(faults)  # the next check got the board, and a process of its own
    assert not document["ok"]
    if "wrong-afu" in faults:  # of the first check that programs
        assert "AFUMismatchError" in next(iter(failed(document).values()))
    name, reason = list(failed(document).items())[-1]
    assert name.startswith("kernel.it_copies[")
    assert reason == "The board's process gave no answer in 3 s." or "flip" in faults
    assert document["after"] is not None
    # the same, as build servers read it
    suite = ElementTree.parse(report).getroot().find("testsuite")
    assert suite is not None
    cases = suite.findall("testcase")
    assert len(cases) == int(suite.get("tests", "")) == len(document["checks"])
    assert len(suite.findall("testcase/failure")) == int(suite.get("failures", "")) == document["failed"] == len(faults)
    assert len(suite.findall("testcase/skipped")) == int(suite.get("skipped", "")) == document["left_out"]
    *_, case = (case for case in cases if case.find("failure") is not None)
    assert case.get("classname") == f"fpgahal.conformance.{name.partition('.')[0]}"
    assert case.get("name") == name.partition(".")[2]
    properties = {one.get("name"): one.get("value", "") for one in suite.iter("property")}
    assert "EMULATED" in properties["device"]


def processes_below(pid: int) -> list[int]:
    """The processes that one has started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children]


@contextmanager
def in_a_hang(rack: emu.Rack, *args: object) -> Iterator[tuple[subprocess.Popen[str], Any]]:
    """A run that a terminal looks at, in the middle of ``kernel.it_copies[64]``, which does not end by itself."""
    rack.fault(0, "hang", count=1)
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, *map(str, args), "--json"], stdout=subprocess.PIPE, stderr=theirs, text=True
    ) as process:
        os.close(theirs)
        try:
            seen = ""
            while "kernel.it_copies[64]" not in seen:  # the progress
                seen += os.read(ours, 1000).decode()
            time.sleep(0.5)
            yield process, ours
        finally:
            process.kill()
            os.close(ours)


@pytest.mark.parametrize(("driver", "number"), [("opae", signal.SIGINT), ("xrt", signal.SIGTERM)], indirect=["driver"])
def test_ctrl_c_leaves_the_board_in_a_known_state(
    rack: emu.Rack, images: list[Path], number: signal.Signals, tmp_path: Path
) -> None:
    report = tmp_path / "report.xml"
    with in_a_hang(rack, *destructive(images), "--junit", report) as (process, _):
        process.send_signal(number)
        document = json.loads(process.communicate(timeout=60)[0])
        assert process.returncode == 128 + number
    assert document["interrupted"]
    assert not document["ok"]
    assert document["checks"][-1]["reason"] == "not run: interrupted"
    assert "and was reset" in document["state"]
    assert len(ElementTree.parse(report).findall(".//testcase")) == len(document["checks"])
    with fpgahal.open(timeout=0) as dev:
        assert str(dev.afu_id) == document["after"]


@pytest.mark.parametrize("driver", ["xrt"], indirect=True)
def test_a_library_that_ends_the_process(rack: emu.Rack, images: list[Path]) -> None:
    with in_a_hang(rack, *destructive(images)) as (process, _):
        (child,) = processes_below(process.pid)
        os.kill(child, signal.SIGABRT)
        document = json.loads(process.communicate(timeout=100)[0])
        assert process.returncode == 1
    assert list(failed(document)) == ["kernel.it_copies[64]"]
    assert "process ended (signal 6" in failed(document)["kernel.it_copies[64]"]
    assert document["passed"] > 100


@pytest.mark.parametrize("driver", ["opae"], indirect=True)
@pytest.mark.parametrize(("what", "code"), [("atexit.register(os.abort)", 1), ("os.abort()", 3)])
def test_a_library_that_ends_the_process_outside_of_checks(
    rack: emu.Rack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, code: int
) -> None:
    own = f'import atexit, os, sys\nif \'"step": "check"\' in sys.orig_argv[-1]: {what}\n'
    (tmp_path / "sitecustomize.py").write_text(own)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    document = run_json(code=code)
    if code == 1:
        assert list(failed(document)) == ["process.ends"]
        assert document["passed"] > 50
    else:
        assert "process ended (signal 6" in document["error"]["message"]


@pytest.mark.parametrize("driver", ["opae"], indirect=True)
def test_a_board_that_vanishes(rack: emu.Rack, images: list[Path]) -> None:
    with in_a_hang(rack, *destructive(images), "--timeout", 4) as (process, _):
        rack.fault(0, "vanish")
        document = json.loads(process.communicate(timeout=100)[0])
        assert process.returncode == 1
    assert list(failed(document)) == ["kernel.it_copies[64]"]
    assert document["checks"][-1]["reason"] == "not run: the board is gone"
    assert "could not be brought to a known state" in document["state"]


@pytest.mark.parametrize("driver", ["opae"], indirect=True)
def test_a_killed_tool_takes_its_process_along(rack: emu.Rack, images: list[Path]) -> None:
    with in_a_hang(rack, *destructive(images)) as (process, _):
        (child,) = processes_below(process.pid)
        process.kill()
        end = time.monotonic() + 20
        while Path(f"/proc/{child}").exists() and time.monotonic() < end:
            time.sleep(0.05)
        assert not Path(f"/proc/{child}").exists()
    fpgahal.open().close()


def test_a_board_in_use_is_not_touched(rack: emu.Rack, images: list[Path], driver: str) -> None:
    with fpgahal.open(shared=True):
        error = run_json(*destructive(images), code=3)["error"]
    assert error["type"] == "DeviceBusyError"
    assert BOARDS[driver][2] in error["message"]


def test_wrong_usage(rack: emu.Rack, images: list[Path], driver: str, tmp_path: Path) -> None:
    assert "No device matches" in run("--device", "0000:ff:1f.7", code=3).stderr
    assert "more than twice" in run(*destructive([*images, *images]), code=2).stderr
    assert "no time" in run("--timeout", "0", code=2).stderr
    assert "No such file" in run("--program", "absent", code=3).stderr
    assert "No such file" in run("--junit", "absent/report.xml", code=3).stderr
    broken = tmp_path / "broken"
    broken.write_bytes(images[0].read_bytes()[:-1])
    assert "broken" in run("--program", broken, code=3).stderr
    stranger = tmp_path / "stranger"
    board, afu = ("d5005", "nlb0") if driver == "opae" else ("u280", "demo")
    stranger.write_bytes(emu.build_image(afu, emu.boards()[board]))
    assert "was built for" in run(*destructive([images[0], stranger]), code=3).stderr
    assert rack.devices()[0].afu_id in (None, NLB0.AFU_ID)


def test_an_unknown_accelerator_is_not_written_to(rack: emu.Rack, images: list[Path]) -> None:
    error = run_json("--program", images[1], code=3)["error"]
    assert "is an accelerator that the checks do not know" in error["message"]
    assert rack.status(0).programmed == 0


@pytest.mark.parametrize("driver", ["opae"], indirect=True)
def test_pytest_is_needed(rack: emu.Rack, tmp_path: Path) -> None:
    """The line that installs it, where it is missing."""
    code = (
        "import importlib.util as u, sys; real = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'pytest' else real(name, *rest)\n"
        "from fpgahal.cli import main; sys.exit(main(['conformance']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 3
    assert 'pip install "fpgahal[conformance]"' in done.stderr
