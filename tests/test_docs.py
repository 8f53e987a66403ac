# SPDX-License-Identifier: Apache-2.0
"""The pages of docs/: their blocks run as they stand, and what they name is there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import fpgahal

PAGES = sorted((Path(__file__).parent.parent / "docs").glob("*.md"))
FENCE = re.compile(r"^```(python|c|sh)\n(.*?)^```", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"(?:# |/\* )(\w+\.\w+)(?: \*/)?\n")  # the first line of a block that is a file for those that follow


def blocks(page: Path) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """What runs of a page: each Python block, with what comes before it (kind or file's name, text)."""
    before: list[tuple[str, str]] = []
    for kind, text in FENCE.findall(page.read_text()):
        if name := FILE.match(text):
            before.append((name[1], text))
        elif kind == "sh":
            before.append(("sh", text))
        elif kind == "python":
            yield text, list(before)


BLOCKS = [
    pytest.param(code, before, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, (code, before) in enumerate(blocks(page))
]
RAY = "ignore::DeprecationWarning:ray.data.context"  # of its own defaults
NAMES = {
    "dev": fpgahal.Device,
    "buf": fpgahal.Buffer,
    "k": fpgahal.Kernel,
    "run": fpgahal.Run,
    "csr": fpgahal.Csr,
    "info": fpgahal.DeviceInfo,
    "rack": fpgahal.emu.Rack,
    "fpgahal": fpgahal,
    "emu": fpgahal.emu,
    "Bitstream": fpgahal.Bitstream,
}


@pytest.mark.parametrize(("code", "before"), BLOCKS)
def test_python(code: str, before: list[tuple[str, str]], tmp_path: Path) -> None:
    """A block with tests goes to pytest, any other to Python."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for name, text in before:
        if name != "sh":
            (tmp_path / name).write_text(text)
            continue
        done = subprocess.run(["sh", "-ec", text], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
    (tmp_path / "test_block.py").write_text(code)
    tests = re.search(r"^\s*def test_", code, re.MULTILINE)
    command = ["-m", "pytest", "-q", "--strict-markers", "-p", "no:cacheprovider"] if tests else []
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", RAY, *command, "test_block.py"],
        cwd=tmp_path,
        text=True,
        capture_output=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_names(page: Path) -> None:
    """What the last column of a table calls ours, exists."""
    rows = [line for line in page.read_text().splitlines() if line.startswith("|")]
    ours = "\n".join(row.replace(r"\|", "").strip("| ").split("|")[-1] for row in rows)
    called = re.findall(rf"\b({'|'.join(NAMES)})\.(\w+)", ours)
    assert [f"{name}.{attribute}" for name, attribute in called if not _has(NAMES[name], attribute)] == []


def _has(owner: object, attribute: str) -> bool:
    known = getattr(owner, "__annotations__", {}), getattr(owner, "__dataclass_fields__", {})
    return (
        hasattr(owner, attribute)
        or any(attribute in names for names in known)
        or (owner is fpgahal.Device and attribute in ("info", "csr", "shared", "driver"))
    )
