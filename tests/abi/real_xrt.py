# SPDX-License-Identifier: Apache-2.0
"""The real libxrt and our driver for it, for tests: what is missing, and how to build."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
INSTALL = "apt install libxrt1 libxrt-dev libboost-dev uuid-dev g++ cmake"
NEEDED = ("/usr/include/xrt/version.h", "/usr/include/boost/any.hpp")


def missing() -> str:
    """Why the tests under the real libxrt cannot run here; empty if they can."""
    absent = [tool for tool in ("g++", "cmake", "make") if not shutil.which(tool)]
    absent += [path for path in NEEDED if not os.path.exists(path)]
    return f"{', '.join(absent)} missing: {INSTALL}" if absent else ""


def build_driver(folder: Path) -> Path:
    """Build libfpgahal-xrt-driver.so from the sources."""
    options = (
        "-DFPGAHAL_XRT_DRIVER=ON",
        "-DFPGAHAL_BINDINGS=OFF",
        "-DSKBUILD_PROJECT_NAME=fpgahal",
        "-DSKBUILD_PROJECT_VERSION=0",
    )
    for command in (
        ["cmake", "-G", "Unix Makefiles", "-S", str(ROOT), "-B", str(folder), *options],
        ["cmake", "--build", str(folder), "-j2", "--target", "fpgahal-xrt-driver"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder / "libfpgahal-xrt-driver.so"


def prefix(folder: Path, driver: Path) -> Path:
    """Make a folder that XILINX_XRT can name: XRT finds `driver` in it."""
    (folder / "lib").mkdir(parents=True)
    (folder / "lib" / "libxrt_core.so.2").symlink_to(driver)
    return folder
