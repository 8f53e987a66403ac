# SPDX-License-Identifier: Apache-2.0
"""What operators do: cordon and drain boards, and look at the manager, through its commands."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from manager_daemon import Daemon, running, until

import fpgahal
from fpgahal import manager
from fpgahal.cli import main
from fpgahal.manager.codes import Verb
from fpgahal.manager.control import Control

ONES = np.ones(16, np.uint32)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running(tmp_path_factory.mktemp("operations"), "pac-a10,u250") as started:
        yield started


@pytest.fixture(autouse=True)
def nothing_is_cordoned(daemon: Daemon) -> Iterator[None]:
    yield
    with Control(daemon.socket) as control:
        control.want(Verb.UNCORDON)
        until(lambda: all(board["up"] for board in control.boards([])))


def addresses(daemon: Daemon) -> list[str]:
    return [info.address for info in daemon.rack.devices()]


def states(daemon: Daemon) -> list[str]:
    with Control(daemon.socket) as control:
        return [board["state"] for board in control.boards([])]


def command(daemon: Daemon, *words: str) -> list[str]:
    return [sys.executable, "-m", "fpgahal", *words, "--socket", str(daemon.socket)]


def told(daemon: Daemon, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any]:
    """The code of a command, and its JSON document."""
    code = main([*words, "--socket", str(daemon.socket), "--json"])
    return code, json.loads(capsys.readouterr().out)


# --- boards -----------------------------------------------------------------------------------------------------------


def test_a_drained_board_is_for_others_until_it_is_uncordoned(
    daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = addresses(daemon)
    with pytest.raises(fpgahal.DeviceBusyError):
        fpgahal.open(first)
    code, found = told(daemon, capsys, "manager", "drain", first)
    assert (code, found["drained"]) == (0, True)
    assert [(board["address"], board["state"]) for board in found["boards"]] == [(first, "drained")]
    with fpgahal.open(first) as dev, daemon.connect() as m:
        dev.reset()
        assert (m.submit("vadd", a=ONES, b=ONES).result(20) == 2).all()  # on the other one
        code, found = told(daemon, capsys, "manager", "uncordon", first)
        assert code == 0
        time.sleep(0.7)  # it can't be opened as long as we have it, and is tried again
        assert states(daemon)[0] == "lost"
    until(lambda: states(daemon)[0] == "idle")
    assert told(daemon, capsys, "manager", "drain", second)[0] == 0
    with daemon.connect() as m:
        assert (m.submit("vadd", a=ONES, b=ONES).result(20) == 2).all()


def test_requests_that_only_cordoned_boards_can_run_wait(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = told(daemon, capsys, "manager", "cordon", "--all")
    assert code == 0
    assert [board["state"] for board in found["boards"]] == ["cordoned", "cordoned"]
    with daemon.connect() as m:
        waits = m.submit("vadd", a=ONES, b=ONES)
        with pytest.raises(manager.DeadlineError):
            m.submit("vadd", a=ONES, b=ONES, deadline=0.1).result(20)
        assert m.status()["waiting"] == {"vadd": 1}
        assert not waits.done()
        assert told(daemon, capsys, "manager", "drain", "--all")[0] == 0
        assert not waits.done()
        assert told(daemon, capsys, "manager", "uncordon", "--all")[0] == 0
        assert (waits.result(20) == 2).all()


def test_draining_waits_for_what_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with running(tmp_path, launch_us=2_000_000) as daemon, daemon.connect() as m:
        (address,) = addresses(daemon)
        until(lambda: states(daemon) == ["idle"])
        runs = m.submit("vadd", a=ONES, b=ONES, once=True)
        until(lambda: states(daemon) == ["running"])
        waits = m.submit("vadd", a=ONES, b=ONES, once=True)
        code, found = told(daemon, capsys, "manager", "drain", "--all", "--timeout", "0.1")
        assert (code, found["drained"], found["boards"][0]["state"]) == (1, False, "draining")
        assert not runs.done()
        done = subprocess.run(command(daemon, "manager", "drain", address), capture_output=True, text=True, check=True)
        assert f"draining: {address} runs 1\n" in done.stderr
        assert "drained" in done.stdout
        assert (runs.result(0) == 2).all()
        assert not waits.done()
        fpgahal.open(address).close()
        assert main(["manager", "uncordon", address, "--socket", str(daemon.socket)]) == 0
        assert (waits.result(20) == 2).all()


def test_ctrl_c_ends_the_waiting_and_says_what_is_left(tmp_path: Path) -> None:
    with running(tmp_path, launch_us=3_000_000) as daemon, daemon.connect() as m:
        runs = m.submit("vadd", a=ONES, b=ONES)
        until(lambda: states(daemon) == ["running"])
        with subprocess.Popen(
            command(daemon, "manager", "drain", "--all"), stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stderr is not None
            assert process.stderr.readline().startswith("draining")
            process.send_signal(signal.SIGINT)
            _, error = process.communicate(timeout=20)
        assert process.returncode == 130
        assert "uncordon" in error
        assert "Traceback" not in error
        assert states(daemon) == ["draining"]
        assert (runs.result(20) == 2).all()


def test_a_drained_board_stays_so_when_the_manager_dies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with running(tmp_path, "pac-a10,u250") as daemon:
        first, _ = addresses(daemon)
        with daemon.connect() as m:
            assert told(daemon, capsys, "manager", "drain", first)[0] == 0
            with fpgahal.open(first) as dev:
                daemon.kill()
                daemon.start()
                assert states(daemon) == ["drained", "idle"]
                dev.reset()
            assert (m.submit("vadd", a=ONES, b=ONES).result(20) == 2).all()
            assert states(daemon)[0] == "drained"
            assert told(daemon, capsys, "manager", "uncordon", first)[0] == 0
            until(lambda: states(daemon) == ["idle", "idle"])
        daemon.kill()
        daemon.start()
        assert states(daemon) == ["idle", "idle"]


def test_who_may_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text("[default]\nadmin = false\n")
    with running(tmp_path, "pac-a10", "--policy", str(policy)) as daemon:
        code, found = told(daemon, capsys, "manager", "drain", "--all")
        assert (code, found["error"]["type"]) == (3, "AccessError")
        assert "policy" in found["error"]["hint"]
        assert states(daemon) == ["idle"]
        assert told(daemon, capsys, "manager", "status")[0] == 0


OTHER_USER = """
import os, sys
from fpgahal import AccessError
from fpgahal.manager.codes import Verb
from fpgahal.manager.control import Control
os.setgid(int(sys.argv[1])); os.setuid(int(sys.argv[1]))
with Control(sys.argv[2]) as control:
    try:
        control.want(Verb.CORDON)
    except AccessError:
        sys.exit(7)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be other users")
def test_who_may(tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text("[[rule]]\nusers = [4711]\nadmin = true\n")
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        folder.chmod(0o755)
    with running(tmp_path, "pac-a10", "--policy", str(policy), "--mode", "666") as daemon:
        for uid, expected in ((4712, 7), (4711, 0), (0, 0)):
            done = subprocess.run([sys.executable, "-c", OTHER_USER, str(uid), str(daemon.socket)], check=False)
            assert done.returncode == expected
        logged = [line for line in daemon.messages() if line["message"] == "cordon"]
        assert [line["uid"] for line in logged] == [4711, 0]
        assert {line["board"] for line in logged} == set(addresses(daemon))


# --- commands ---------------------------------------------------------------------------------------------------------


def test_wrong_words(daemon: Daemon, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for words in (["drain"], ["cordon", "x", "--all"], ["drain", "x", "--timeout", "0"], ["status", "x"], []):
        assert told(daemon, capsys, "manager", *words)[0] == 2
    first, _ = addresses(daemon)
    for verb in ("drain", "cordon", "uncordon"):
        code, found = told(daemon, capsys, "manager", verb, first, "0000:ff:00.0/0")
        assert (code, found["error"]["type"]) == (3, "DeviceNotFoundError")
        assert first in found["error"]["hint"]
        assert states(daemon) == ["idle", "idle"], "nothing is done by half"
    for words in (["manager", "status"], ["top", "--once"], ["manager", "drain", "--all"]):
        since = time.monotonic()
        assert main([*words, "--socket", str(tmp_path / "none")]) == 3
        assert time.monotonic() - since < 2
        assert "no manager answers" in capsys.readouterr().err


def test_a_manager_that_does_not_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with running(tmp_path) as daemon:
        daemon.process.send_signal(signal.SIGSTOP)
        try:
            since = time.monotonic()
            assert main(["manager", "status", "--socket", str(daemon.socket), "--timeout", "0.2"]) == 3
            assert time.monotonic() - since < 5
        finally:
            daemon.process.send_signal(signal.SIGCONT)
    assert "no manager answers" in capsys.readouterr().err


def test_status(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["manager", "status", "--socket", str(daemon.socket)]) == 0
    text = capsys.readouterr().out
    for word in (*addresses(daemon), "EMULATED Intel PAC", "idle", "vadd"):
        assert word in text


# --- top --------------------------------------------------------------------------------------------------------------


def test_top(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    going = True

    def work() -> None:
        with daemon.connect() as m:
            a = m.allocate(1000, "uint32")
            a[:] = 1
            while going:
                m.submit("vadd", a=a, b=a).result(20)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        until(lambda: daemon_ended(daemon) > 100)
        code, view = told(daemon, capsys, "top", "--interval", "0.3")
    finally:
        going = False
        thread.join()
    assert code == 0
    assert view["totals"]["requests_per_second"] > 10
    assert 0 <= view["totals"]["wait_p50"] <= view["totals"]["wait_p99"] < 1
    assert {board["address"] for board in view["boards"]} == set(addresses(daemon))
    assert all(board["emulated"] and 0 <= board["busy"] <= 1 for board in view["boards"])
    assert sum(board["busy"] for board in view["boards"]) > 0
    (user,) = (one for one in view["users"] if one["user"] == os.getuid())
    assert (user["share"], user["weight"]) == (1, 1)
    mine = [one for one in view["clients"] if one["pid"] == os.getpid()]
    assert max(one["accepted"] for one in mine) > 100
    assert max(one["memory"] for one in mine) >= 8000
    assert main(["top", "--socket", str(daemon.socket), "--interval", "0.1"]) == 0  # no terminal: one view, plain
    text = capsys.readouterr().out
    assert "requests/s" in text
    assert "\x1b" not in text


def daemon_ended(daemon: Daemon) -> int:
    with Control(daemon.socket) as control:
        return int(control.status()["ended"].get("done", 0))


@pytest.mark.parametrize("key", [b"q", b"\x03"])
def test_top_on_a_terminal_ends_with_a_key_and_outlives_the_manager(tmp_path: Path, key: bytes) -> None:
    with running(tmp_path) as daemon:
        pid, terminal = pty.fork()
        if pid == 0:
            os.execve(
                sys.executable,
                [*command(daemon, "top"), "--interval", "0.1"],
                os.environ | {"TERM": "xterm", "COLUMNS": "120", "LINES": "30"},
            )
        shown = Screen(terminal)
        try:
            shown.until("EMULATED Intel PAC")
            daemon.kill()
            shown.until("no manager answers")
            daemon.start()
            shown.until("EMULATED Intel PAC")
            os.write(terminal, key)
            shown.until("\x1b[?1049l")  # the terminal is as it was
            _, status = os.waitpid(pid, 0)
        except BaseException:
            os.kill(pid, signal.SIGKILL)
            raise
        finally:
            os.close(terminal)
        assert os.waitstatus_to_exitcode(status) == 0


class Screen:
    """What a program writes to a terminal."""

    def __init__(self, terminal: int) -> None:
        self._terminal = terminal

    def until(self, text: str, seconds: float = 30.0) -> None:
        seen, end = "", time.monotonic() + seconds
        while text not in seen:
            ready, _, _ = select.select([self._terminal], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"{text!r} did not come: {seen[-500:]}"
            seen += os.read(self._terminal, 65536).decode("utf-8", "replace")


# --- systemd ----------------------------------------------------------------------------------------------------------


def test_systemd_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(path))
        sock.settimeout(20)
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        with running(tmp_path) as daemon:
            ready = sock.recv(1000).decode().splitlines()
            assert ready[0] == "READY=1"
            assert addresses(daemon)[0] in ready[1]
        assert sock.recv(1000) == b"STOPPING=1"
