# SPDX-License-Identifier: Apache-2.0
"""What a wheel holds: ``python tests/check_wheel.py fpgahal-*.whl``."""

from __future__ import annotations

import fnmatch
import sys
import zipfile
from pathlib import Path

MODULES = [path.stem for path in (Path(__file__).parent.parent / "src" / "fpgahal").glob("*.pyx")]
WANTED = [
    *(f"fpgahal/{module}.*so" for module in MODULES),
    *(f"fpgahal/{module}.pyi" for module in MODULES),
    "fpgahal/py.typed",
    "fpgahal/data/boards.toml",
    "fpgahal/data/accelerators.toml",
    "fpgahal/_session.pxd",
    "fpgahal/include/fpgahal_emu.h",
    "fpgahal/_lib/libfpgahal-emu-opae.so",
    "fpgahal/_lib/libfpgahal-emu-xrt.so",
    "pytest_fpgahal/__init__.py",
    "*.dist-info/licenses/LICENSE",
]
FORBIDDEN = ["*.pyx", "*.c", "*libopae*", "*libxrt*", "*libxfpga*", "*libasan*", "*.gbs", "*.xclbin", "tests/*"]


def main(path: str) -> int:
    """Print what is missing or should not be there."""
    names = zipfile.ZipFile(path).namelist()
    missing = [pattern for pattern in WANTED if not fnmatch.filter(names, pattern)]
    strangers = [name for pattern in FORBIDDEN for name in fnmatch.filter(names, pattern)]
    for pattern in missing:
        print(f"{path}: no {pattern}")
    for name in strangers:
        print(f"{path}: {name} does not belong there")
    return 1 if missing or strangers else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
