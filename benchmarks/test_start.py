# SPDX-License-Identifier: Apache-2.0
"""What it costs to begin: import, and enumeration."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from harness import interleave, loop

import fpgahal
from fpgahal import emu


def test_import(benchmark, book) -> None:
    def seconds(code: str) -> float:
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return time.perf_counter() - begin

    with_us, without = [], []
    seconds("import fpgahal, numpy")
    for _ in range(15):
        without.append(seconds("import numpy"))
        with_us.append(seconds("import numpy, fpgahal"))
    benchmark.pedantic(seconds, ("import numpy, fpgahal",), rounds=3)
    added = statistics.median(a - b for a, b in zip(with_us, without, strict=True))
    book.limit("import fpgahal, over importing NumPy", added, 60e-3)


def test_devices(benchmark, book) -> None:
    # The emulated node's sysfs tree has the layout of a real one; no library is asked.
    with emu.rack("pac-a10:2,d5005:2,u250:2,u280,aws-f1"):
        assert len(fpgahal.devices()) == 8
        eight = interleave({"ours": loop("devices()", devices=fpgahal.devices)})["ours"]
        benchmark(fpgahal.devices)
    with emu.rack("pac-a10:64"):
        sixty_four = interleave({"ours": loop("devices()", devices=fpgahal.devices)}, slices=11)["ours"]
    with emu.rack("pac-a10:512"):
        assert len(fpgahal.devices()) == 512
        many = interleave({"ours": loop("devices()", devices=fpgahal.devices)}, slices=5)["ours"]
    book.limit("devices(), 8 boards", eight, 3e-3)
    book.enter("devices(), each of 512 boards", many / 512, sixty_four / 64, "each of 64 boards", at_most=1.5)
