# SPDX-License-Identifier: Apache-2.0
"""docs/manager.md: what it shows can be typed, in this order, and answers so."""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs/manager.md").read_text()
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
MODULES = {"fpgahal": "fpgahal", "fpgahal-manager": "fpgahal.manager.app"}
CURL = 'import sys, urllib.request; print(urllib.request.urlopen(f"http://{sys.argv[2]}").read().decode(), end="")'
READY = "for i in $(seq 200); do [ -s manager.out ] && break; sleep 0.1; done"


def session() -> tuple[dict[str, str], list[tuple[str, list[str]]]]:
    """Files of the page, and its commands with what they show."""
    files, commands = {}, list[tuple[str, list[str]]]()
    for kind, text in FENCE.findall(PAGE):
        if kind == "console":
            for line in text.splitlines():
                if line.startswith("$ "):
                    commands.append((line[2:], []))
                elif line:
                    commands[-1][1].append(line)
        elif name := re.match(r"# (\w+\.\w+)\n", text):
            files[name[1]] = text
    return files, commands


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be other users")
def test_the_session(tmp_path: Path) -> None:
    files, commands = session()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    for name, module in MODULES.items():
        (tmp_path / name).write_text(f'#!/bin/sh\nexec {sys.executable} -m {module} "$@"\n')
        (tmp_path / name).chmod(0o755)
    (tmp_path / "curl").write_text(f"#!/bin/sh\nexec {sys.executable} -c '{CURL}' \"$@\"\n")  # not everybody has it
    (tmp_path / "curl").chmod(0o755)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    script = ["set -m", "trap 'kill -9 $(jobs -p) 2>/dev/null' EXIT"]
    for number, (command, _) in enumerate(commands):
        script.append(f"echo '--- {number}'")
        command = command.replace("9465", port)
        if command.startswith("fpgahal-manager"):
            command = f"rm -f manager.out; {command} {READY}"
        elif command.endswith("&"):
            command += " sleep 1"
        script.append(f"{{ {command}; }} || exit {100 + number}")
    environment = os.environ | {"PATH": f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    done = subprocess.run(
        ["bash", "-c", "\n".join(script)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = dict(re.findall(r"^--- (\d+)\n(.*?)(?=^--- |\Z)", done.stdout, re.MULTILINE | re.DOTALL))
    for number, (command, shown) in enumerate(commands):
        found = [line.split() for line in told[str(number)].splitlines()]
        for line in shown:
            words = line.split()
            assert any(words == other[: len(words)] for other in found), f"{command}\n{line}\n{told[str(number)]}"
    assert "nobody" not in told[str(index(commands, "fpgahal top --once"))].partition("CLIENT")[2]
    log = (tmp_path / "manager.log").read_text()
    assert "Traceback" not in log, log


def index(commands: list[tuple[str, list[str]]], wanted: str) -> int:
    return next(number for number, (command, _) in enumerate(commands) if command == wanted)


def test_commands_are_there() -> None:
    from fpgahal.manager.app import build_parser

    options = {option for action in build_parser()._actions for option in action.option_strings}
    for command, _ in session()[1]:
        words = shlex.split(command.partition(">")[0])
        if words[0] == "fpgahal-manager":
            assert {word for word in words if word.startswith("--")} <= options
    for path in re.findall(r"\(\.\./([\w./-]+)\)|`?(deploy/[\w./-]+\w)", PAGE):
        assert (Path(__file__).parents[2] / "".join(path)).exists(), path
