# SPDX-License-Identifier: Apache-2.0
"""The pages of docs/: their Python blocks run as they stand, and what they name is there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import fpgahal

PAGES = sorted((Path(__file__).parent.parent / "docs").glob("*.md"))
BLOCKS = [
    pytest.param(code, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, code in enumerate(re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL))
]
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


@pytest.mark.parametrize("code", BLOCKS)
def test_python(code: str, tmp_path: Path) -> None:
    """A block with tests goes to pytest, any other to Python."""
    (tmp_path / "test_block.py").write_text(code)
    tests = re.search(r"^\s*def test_", code, re.MULTILINE)
    command = ["-m", "pytest", "-q", "--strict-markers", "-p", "no:cacheprovider"] if tests else []
    done = subprocess.run(
        [sys.executable, "-W", "error", *command, "test_block.py"],
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
