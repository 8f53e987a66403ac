# SPDX-License-Identifier: Apache-2.0
"""What clients that mean harm cost the others, with the attacker in a process and on a processor of its own."""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import Book
from harness import undisturbed

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "manager"))

from manager_attacks import ATTACKS, attack
from manager_clients import nursery
from manager_daemon import running

from fpgahal import manager

ROUNDS, SECONDS = 9, 0.4
ANOTHER = 4001 if os.geteuid() == 0 else 0  # the attacker's user


@pytest.fixture
def processors() -> Iterator[set[int]]:
    """Leave one processor to the manager and the good client, who go first there; give the others to the attacker."""
    all_of_them = os.sched_getaffinity(0)
    if len(all_of_them) < 2:
        pytest.skip("one processor: who is slow is not the manager's choice")
    ours = max(all_of_them)
    with undisturbed() as first:
        if not first:
            pytest.skip("going first needs CAP_SYS_NICE")
        os.sched_setaffinity(0, {ours})
        yield all_of_them - {ours}
        os.sched_setaffinity(0, all_of_them)


def percentile(m: manager.Client, arrays: list[np.ndarray]) -> float:
    """Seconds that 99 of 100 requests take at most."""
    a, b, out = arrays
    times = []
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        since = time.perf_counter()
        m.submit("vadd", a=a, b=b, out=out).result(20)
        times.append(time.perf_counter() - since)
    return float(np.percentile(times, 99))


@pytest.mark.parametrize("name", ATTACKS)
def test_others_wait(book: Book, processors: set[int], name: str) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        running(Path(folder), "u250", "--mode", "666") as daemon,
        nursery("manager_attacks") as children,
        daemon.connect() as m,
    ):
        os.chmod(folder, 0o755)  # for the other user
        arrays = [m.allocate(64, "u4") for _ in range(3)]
        child = children.child(attack, str(daemon.socket), name, processors, uid=ANOTHER, gid=ANOTHER)
        percentile(m, arrays)
        alone, attacked = [], []
        for _ in range(ROUNDS):
            alone.append(percentile(m, arrays))
            child.link.send("go")
            time.sleep(0.05)
            attacked.append(percentile(m, arrays))
            child.link.send("stop")
            assert child.link.recv() == "stopped"
            time.sleep(0.2)
        child.kill()
    what = f"a request while another user attacks ({name}), 99 %"
    book.enter(what, statistics.median(attacked), statistics.median(alone), "without", at_most=2)
