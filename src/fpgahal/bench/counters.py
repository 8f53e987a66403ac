# SPDX-License-Identifier: Apache-2.0
"""A board's own counters of its cache and its links: what nlb3 shows beside the AFU's.

Intel's older driver has them in sysfs, in the management engine's ``perf``, ``iperf`` or ``dperf`` (which of them
depends on the board).  They count the whole board, so the difference over a test is that test's if nothing else runs.
"""

from __future__ import annotations

import glob
from contextlib import suppress
from pathlib import Path

from fpgahal import DeviceInfo
from fpgahal.bench.table import CACHE_COUNTERS, FABRIC_COUNTERS

FILES = {name: f"cache/{name}" for name in CACHE_COUNTERS} | {name: f"fabric/{name}" for name in FABRIC_COUNTERS}


class Counters:
    """The counters of one board, from now on.

    Parameters
    ----------
    info : DeviceInfo
        A board without such counters has none: `since` is empty.
    """

    def __init__(self, info: DeviceInfo) -> None:
        function = Path(info.root, "sys/bus/pci/devices", info.management_bdf or info.bdf)
        found = glob.glob(f"{glob.escape(str(function))}/fpga/*/intel-fpga-fme.*/*perf")
        self._folder = found[0] if found else None
        self._begin = self._read()

    def since(self) -> dict[str, int]:
        """What was counted since this object was made, by name."""
        now = self._read()
        return {name: now[name] - value for name, value in self._begin.items() if name in now}

    def _read(self) -> dict[str, int]:
        values = {}
        for name, file in FILES.items() if self._folder else ():
            with suppress(OSError, ValueError):  # not every board has a cache
                values[name] = int(Path(f"{self._folder}/{file}").read_text(), 16)
        return values
