# SPDX-License-Identifier: Apache-2.0
"""The conformance suite below the kernel drivers' ioctls, with no vendor library: each target in its own process."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from targets import INTERPOSED, ONLY

import fpgahal
from fpgahal import _library

TESTS = Path(__file__).parent
ROOT = TESTS.parent

pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="the interposer decodes x86-64 instructions"
)


def interposed(**more: str) -> dict[str, str]:
    """The environment of a process for which a rack's files are devices."""
    preload = f"{_library.emulator('dfl')} {os.environ.get('LD_PRELOAD', '')}".strip()
    return os.environ | {"LD_PRELOAD": preload} | more


@pytest.mark.parametrize("name", INTERPOSED)
def test_conformance(name: str, record_property: Callable[[str, object], None]) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--rootdir",
            ROOT,
            TESTS / "conformance",
            TESTS / "faults" / "test_dfl.py",
        ],
        env=interposed(FPGAHAL_OPAE_BINDING="dfl", **{ONLY: name}),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
    )
    lines = done.stdout.splitlines()
    counts = lines[-1] if lines else ""
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert re.fullmatch(r"\d+ passed(, \d+ deselected)? in .*", counts)  # and nothing skipped
    record_property(f"target:{name}", counts)


@pytest.mark.parametrize("optimization", ["-O0", "-O2"])
@pytest.mark.parametrize("board", ["d5005", "pac-a10"])
def test_registers_through_a_pointer(tmp_path: Path, board: str, optimization: str) -> None:
    program = tmp_path / "test_dfl"
    subprocess.run(
        ["gcc", optimization, "-Wall", "-Wextra", "-Werror", TESTS / "native" / "test_dfl.c", "-o", program], check=True
    )
    with fpgahal.emu.rack(board) as rack:
        done = subprocess.run(
            [program, rack.devices()[0].device_nodes[0]], env=interposed(), capture_output=True, text=True, timeout=60
        )
    assert (done.returncode, done.stdout) == (0, "all forms are served\n"), done.stderr
