# SPDX-License-Identifier: Apache-2.0
"""Every code block of the README runs as it stands."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
PYTHON = [code for language, code in BLOCKS if language == "python"]
SHELL = [code for language, code in BLOCKS if language == "sh"]
SETUP = [code for code in SHELL if code.startswith("scripts/")]


def environment(tmp_path: Path) -> dict[str, str]:
    scripts = str(Path(sys.executable).parent)
    return {**os.environ, "PATH": f"{scripts}:{os.environ['PATH']}", "XDG_RUNTIME_DIR": str(tmp_path)}


def run(command: list[str], tmp_path: Path, cwd: Path, timeout: float = 280) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command, cwd=cwd, env=environment(tmp_path), text=True, capture_output=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_every_block_is_tested() -> None:
    assert len(PYTHON) + len(SHELL) == len(BLOCKS)
    assert [code.strip() for code in SETUP] == ["scripts/demo", "scripts/test"], "the two commands stand first"


@pytest.mark.parametrize("code", PYTHON, ids=range(len(PYTHON)))
def test_python(code: str, tmp_path: Path) -> None:
    (tmp_path / "block.py").write_text(code)
    run([sys.executable, "-W", "error", "block.py"], tmp_path, tmp_path)


def test_the_quick_start_computes(tmp_path: Path) -> None:
    (tmp_path / "block.py").write_text(PYTHON[0])
    out = run([sys.executable, "block.py"], tmp_path, tmp_path).stdout
    assert "EMULATED" in out
    assert "[1 2 3 4]" in out


@pytest.mark.parametrize("code", [code for code in SHELL if code not in SETUP], ids=lambda code: code.split()[1])
def test_shell(code: str, tmp_path: Path) -> None:
    run(["sh", "-eu", "-c", code], tmp_path, tmp_path)


@pytest.mark.timeout(900)
def test_demo(tmp_path: Path) -> None:
    """The first command, on a copy of the tree, into a new virtual environment."""
    if not shutil.which("git") or not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout to know which files are the project's")
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    for name in filter(None, files):
        if (ROOT / name).is_file():
            (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tmp_path / "tree" / name)
    done = run(["scripts/demo"], tmp_path, tmp_path / "tree", timeout=880)  # it compiles everything, on any machine
    assert "EMULATED" in done.stdout
    assert "byte-identical" in done.stdout


def test_ci_calls_the_test_command(tmp_path: Path) -> None:
    assert "exec scripts/test" in (ROOT / ".ci/run").read_text()
    run(["sh", "-n", "scripts/test"], tmp_path, ROOT)  # running it here would never end
