# SPDX-License-Identifier: Apache-2.0
"""A client that is killed in the middle of its work: how soon its buffers, its requests and the board are back."""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

import numpy as np
from conftest import Book

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "manager"))

from manager_clients import nursery
from manager_daemon import running
from manager_workload import hold

from fpgahal import manager

KILLS = 100
RUN = 0.02  # seconds that each run takes
QUEUED = 50  # requests of the client, each of which takes that long


def account(m: manager.Client) -> tuple[int, int, int]:
    """Requests, buffers, and bytes in them."""
    status = m.status()
    (one,) = status["accounts"]
    return status["requests"], one["buffers"], one["memory"]


def test_a_client_killed_while_its_run_is_under_way(book: Book, tmp_path: Path) -> None:
    source, times = random.Random(1), []
    with (
        running(tmp_path, "u250", launch_us=RUN * 1e6) as daemon,
        daemon.connect() as m,
        nursery("manager_workload") as children,
    ):
        ones = m.allocate(4, "u4")
        ones[:] = 1
        assert m.submit("vadd", a=ones, b=ones).result(20)[0] == 2
        before = account(m)
        for _ in range(KILLS):
            child = children.child(hold, str(daemon.socket), QUEUED)
            assert child.link.recv() == "busy"
            time.sleep(source.uniform(0.0, RUN))
            requests, _, memory = account(m)
            assert requests > QUEUED // 2
            assert memory >= 8 << 20
            since = time.monotonic()
            child.kill()
            while account(m) != before:
                assert time.monotonic() - since < 10
                time.sleep(0.001)
            times.append(time.monotonic() - since)
            assert m.submit("vadd", a=ones, b=ones).result(20)[0] == 2
    book.limit(
        f"a client is killed while one request runs ({RUN * 1e3:g} ms) and {QUEUED} wait: all is back, 99 %",
        float(np.percentile(times, 99)),
        0.2,
    )
