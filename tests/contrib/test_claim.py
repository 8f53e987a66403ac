# SPDX-License-Identifier: Apache-2.0
"""Which boards a worker gets: some that nobody has, or an error that says why not, and then none is held."""

from __future__ import annotations

import multiprocessing
import os
import threading
from itertools import chain
from typing import Any

import pytest
from engines import all_free

import fpgahal
from fpgahal import emu
from fpgahal.contrib._claim import claim, resources


def test_distinct_and_exclusive() -> None:
    with emu.rack("pac-a10:2,u250:2"):
        with claim(1) as one, claim(2) as two, claim(1) as last:
            addresses = [dev.info.address for dev in (*one, *two, *last)]
            assert sorted(addresses) == [info.address for info in fpgahal.devices()]
        assert all_free(4)


def test_who_waits_holds_nothing() -> None:
    """Or two workers that want two of three boards each would wait for each other for ever."""
    with emu.rack("u250:3"):
        with claim(2):
            with pytest.raises(
                fpgahal.DeviceBusyError, match=r"needs 2 boards; 1 of .* free \(waited 0 s\)[^$]*is open"
            ):
                claim(2, timeout=0)
            with fpgahal.open(fpgahal.devices()[2]):
                pass
            with claim(2, least=1, timeout=0.1) as fewer:
                assert len(fewer) == 1
        assert all_free(3)


def test_waits_for_the_one_before() -> None:
    with emu.rack("u250"):
        first = claim(1)
        threading.Timer(0.2, first.close).start()
        with claim(1, timeout=20):
            pass


def worker(start: Any, results: Any) -> None:
    start.wait()
    with claim(2, timeout=20) as boards:
        results.put([dev.info.address for dev in boards])
        start.wait()  # both have them now


def test_processes_at_the_same_time() -> None:
    spawn = multiprocessing.get_context("spawn")
    with emu.rack("u250:4"):
        start, results = spawn.Barrier(2), spawn.Queue()
        processes = [spawn.Process(target=worker, args=(start, results)) for _ in range(2)]
        for process in processes:
            process.start()
        found = [results.get(timeout=30) for _ in processes]
        for process in processes:
            process.join(30)
        assert sorted(chain(*found)) == [info.address for info in fpgahal.devices()]
        assert all_free(4)


def test_not_enough() -> None:
    with emu.rack("pac-a10:2,u250") as rack:
        with pytest.raises(fpgahal.DeviceNotFoundError, match=r"needs 4 boards; of this machine's, 3 can be opened"):
            claim(4)
        with pytest.raises(fpgahal.DeviceNotFoundError, match=r"needs 2 boards with {'driver': 'xrt'}; .* 1 can be"):
            claim(2, driver="xrt")
        rack.fault(0, "call", call="fpgaOpen", code=9)
        with claim(2) as boards:
            assert {dev.info.driver for dev in boards} == {"opae", "xrt"}
        with pytest.raises(fpgahal.DeviceNotFoundError, match=r"2 can be opened\.\n +0000.*FPGA_NO_ACCESS"):
            claim(3)
        rack.clear()
        assert all_free(3)


def test_resources() -> None:
    with emu.rack("pac-a10:2,u250") as rack:
        assert resources() == {"fpga": 3}
        assert resources(platform="u250") == {"fpga": 1}
        assert resources(name="no such") == {}
        rack.fault(0, "vanish")
        assert resources() == {"fpga": 2}
        os.rename(node := fpgahal.devices()[0].device_nodes[0], f"{node}.gone")
        assert resources() == {"fpga": 1}
        os.rename(f"{node}.gone", node)
        with pytest.raises(TypeError, match="colour"):
            resources(colour="red")
