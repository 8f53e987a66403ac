# SPDX-License-Identifier: Apache-2.0
"""What the emulated libraries export: all that the tables ask for, and nothing of our own but the control functions."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from fpgahal import _library

INCLUDE = Path(__file__).parent.parent.parent / "native/include"


def exports(driver: str) -> set[str]:
    if not shutil.which("nm"):
        pytest.skip("needs nm: apt install binutils")
    out = subprocess.run(
        ["nm", "-D", "--defined-only", _library.emulator(driver)], capture_output=True, text=True, check=True
    ).stdout
    return {line.split()[-1].partition("@")[0] for line in out.splitlines()}


def table(driver: str) -> set[str]:
    text = (INCLUDE / f"{driver}_abi.h").read_text()
    return set(re.findall(r"^\s+F\([01],\s*[^,]+,\s*(\w+)", text, re.MULTILINE))


CONTROL = {
    f"fpgahal_emu_{name}"
    for name in ("create", "attach", "fault", "clear", "status", "error", "register", "unregister")
}


@pytest.mark.parametrize(("driver", "prefix"), [("opae", "fpga"), ("xrt", "xrt")])
def test_exports(driver: str, prefix: str) -> None:
    found = exports(driver)
    assert len(table(driver)) > 20
    assert table(driver) <= found
    assert found >= CONTROL
    own = {name for name in found if name.startswith("fpgahal_emu_")} - CONTROL
    assert own <= {"fpgahal_emu_xrt_reset"}
    strangers = {name for name in found if not name.startswith((prefix, "fpgahal_emu_", "opae_print"))}
    assert not strangers


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the interposer is for x86-64")
def test_the_interposer_exports_what_it_replaces_and_no_more() -> None:
    opens = {"open", "open64", "openat", "openat64", "__open_2", "__open64_2"}
    assert exports("dfl") == opens | {"close", "ioctl", "mmap", "mmap64", "munmap"}
