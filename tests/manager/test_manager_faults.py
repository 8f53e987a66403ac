# SPDX-License-Identifier: Apache-2.0
"""Killed clients, killed managers, lost and hung boards."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from manager_daemon import Daemon, running, until

import fpgahal
from fpgahal import manager

ONES = np.ones(4, np.uint32)


def add(m: manager.Client, **options: Any) -> manager.Request:
    return m.submit("vadd", a=ONES, b=ONES, **options)


def right(request: manager.Request) -> bool:
    return bool((request.result(30) == 2).all())


# --- clients --------------------------------------------------------------------------------------------------------

CLIENT = """
import os, sys, time
import numpy as np
from fpgahal import manager
m = manager.connect(sys.argv[1])
big = m.allocate(8 << 20)
a = np.ones(4, np.uint32)
requests = [m.submit("vadd", a=a, b=a, once=True) for _ in range(50)]
if sys.argv[2] == "fork" and os.fork() == 0:
    time.sleep(60)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("how", ["plain", "fork"])
def test_what_a_killed_client_had_is_free_within_a_second(tmp_path: Path, how: str) -> None:
    with running(tmp_path, launch_us=100_000) as daemon, daemon.connect() as m:

        def has() -> tuple[int, int, int]:
            found = m.status()
            (account,) = found["accounts"]
            return account["buffers"], account["memory"], found["requests"]

        before = has()
        child = subprocess.Popen(
            [sys.executable, "-c", CLIENT, str(daemon.socket), how], stdout=subprocess.PIPE, text=True, process_group=0
        )
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            assert has()[1] >= 8 << 20
            assert has()[2] > 10
            maps = Path(f"/proc/{daemon.process.pid}/maps")
            mapped = maps.read_text().count("memfd:fpgahal")
            child.kill()
            assert until(lambda: has() == before, 2.0) < 1.0
            assert until(lambda: maps.read_text().count("memfd:fpgahal") < mapped, 1.0) < 1.0
            assert right(add(m))
        finally:
            child.kill()
            with suppress(ProcessLookupError):
                os.killpg(child.pid, 9)
            child.wait()
            child.stdout.close()  # type: ignore[union-attr]


def test_files_and_memory_of_a_manager_do_not_grow(tmp_path: Path) -> None:
    with running(tmp_path) as daemon, daemon.connect() as m:
        right(add(m))
        files = Path(f"/proc/{daemon.process.pid}/fd")

        def one_more() -> None:
            with daemon.connect() as other:
                other.allocate(300_000)
                other.constant(b"x" * 10)
                right(add(other))

        one_more()
        until(lambda: m.status()["connections"] == 1)
        before = len(list(files.iterdir()))
        for _ in range(40):
            one_more()
        until(lambda: m.status()["connections"] == 1)
        assert len(list(files.iterdir())) == before


# --- the manager ----------------------------------------------------------------------------------------------------


def test_a_killed_manager_is_replaced_and_nobody_notices(tmp_path: Path) -> None:
    with running(tmp_path, launch_us=50_000) as daemon, daemon.connect() as m:
        shared = m.allocate(1000, "uint32")
        shared[:] = np.arange(1000)
        assert right(add(m))
        often = [add(m) for _ in range(20)]
        big = m.submit("vadd", a=shared, b=shared)
        once = [add(m, once=True) for _ in range(3)]
        daemon.kill()
        assert all(type(one.exception(20)) is fpgahal.DeviceLostError for one in once)
        while_away = threading.Thread(target=daemon.start)
        while_away.start()
        later = add(m)
        assert all(right(one) for one in often)
        assert np.array_equal(big.result(20), 2 * np.arange(1000))
        assert right(later)
        while_away.join()
        assert np.array_equal(m.submit("vadd", a=shared, b=shared).result(20), 2 * np.arange(1000))


def test_asyncio_when_the_manager_is_killed(tmp_path: Path) -> None:
    with running(tmp_path, launch_us=20_000) as daemon, daemon.connect() as m:

        async def main() -> None:
            waiting = [asyncio.ensure_future(wait()) for _ in range(30)]
            await asyncio.sleep(0.1)
            daemon.kill()
            await asyncio.sleep(0.1)
            daemon.start()
            assert all(await asyncio.gather(*waiting))

        async def wait() -> bool:
            return bool((await add(m) == 2).all())

        asyncio.run(asyncio.wait_for(main(), 40))


def test_a_manager_that_does_not_come_back(tmp_path: Path) -> None:
    with running(tmp_path, launch_us=100_000) as daemon:
        m = daemon.connect(patience=1.0)
        requests = [add(m) for _ in range(5)]
        daemon.kill()
        since = time.monotonic()
        with pytest.raises(manager.WaitTimeoutError):
            requests[4].result(0.2)
        assert time.monotonic() - since < 0.8  # the wait has its own limit
        with pytest.raises(manager.ManagerLostError, match="no manager answers"):
            requests[4].result()
        assert m.closed
        with pytest.raises(manager.ManagerLostError):
            daemon.connect(patience=0.1)
        m.close()


def test_sigterm_ends_what_runs(tmp_path: Path) -> None:
    with running(tmp_path, launch_us=300_000) as daemon, daemon.connect(patience=0.2) as m:
        add(m)
        until(lambda: m.status()["boards"][0]["running"])
        assert daemon.stop() == 0
        assert not daemon.socket.exists()


# --- boards ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["pac-a10:2", "u250:2"])
def test_a_lost_board_is_drained_and_comes_back(tmp_path: Path, spec: str) -> None:
    with running(tmp_path, spec, launch_us=20_000) as daemon, daemon.connect() as m:
        assert right(add(m))
        requests = [add(m) for _ in range(60)]
        used = next(i for i, board in enumerate(m.status()["boards"]) if board["running"])
        once = [add(m, once=True) for _ in range(5)]
        daemon.rack.fault(used, "vanish")
        assert all(right(one) for one in requests)
        ends = [one.exception(20) for one in once]
        assert sum(error is not None for error in ends) <= 1
        until(lambda: not m.status()["boards"][used]["up"])
        assert right(add(m))
        daemon.rack.clear(used)
        until(lambda: m.status()["boards"][used]["up"])
        daemon.rack.fault(1 - used, "vanish")
        assert right(add(m))
        assert m.status()["boards"][used]["busy_seconds"] > 0


def test_requests_wait_for_a_board_that_is_away(tmp_path: Path) -> None:
    with running(tmp_path) as daemon, daemon.connect() as m:
        assert right(add(m))
        daemon.rack.fault(0, "vanish")
        waiting, late = add(m), add(m, deadline=0.2)
        with pytest.raises(manager.DeadlineError):
            late.result(20)
        assert not waiting.done()
        daemon.rack.clear(0)
        assert right(waiting)


@pytest.mark.parametrize("spec", ["pac-a10", "u250"])
def test_a_hung_kernel_is_stopped_and_others_run(tmp_path: Path, spec: str) -> None:
    with running(tmp_path, spec, "--timeout", "0.3") as daemon, daemon.connect() as m:
        assert right(add(m))
        daemon.rack.fault(0, "hang", count=1)
        since = time.monotonic()
        hung = add(m, once=True)
        until(lambda: m.status()["boards"][0]["running"])
        others = [add(m) for _ in range(20)] + [m.submit("passthrough", src=ONES)]
        with pytest.raises(fpgahal.RunTimeoutError, match="vadd"):
            hung.result(20)
        assert 0.3 <= time.monotonic() - since < 5
        assert others.pop().result(20).nbytes == 16
        assert all(right(one) for one in others)
        daemon.rack.fault(0, "hang", count=1)
        batch = [add(m) for _ in range(20)]  # those that hung together are tried one by one
        ends = [one.exception(30) for one in batch]
        assert sum(isinstance(error, fpgahal.RunTimeoutError) for error in ends) <= 1
        assert sum(error is None for error in ends) >= 19


@pytest.mark.parametrize("spec", ["pac-a10", "u250"])
def test_what_was_brought_while_another_run_hung_is_run_again(tmp_path: Path, spec: str) -> None:
    with running(tmp_path, spec, "--timeout", "1", launch_us=100_000) as daemon, daemon.connect() as m:
        assert right(add(m))
        assert right(add(m, once=True))
        daemon.rack.fault(0, "hang", count=1)
        hung = add(m, once=True)
        until(lambda: m.status()["boards"][0]["running"] == 1)
        time.sleep(0.1)  # it has the board: two that come together may change places
        next_ = add(m)
        until(lambda: m.status()["boards"][0]["running"] == 2)
        with pytest.raises(fpgahal.RunTimeoutError):
            hung.result(20)
        assert right(next_)
        assert right(add(m, once=True))


def test_a_run_that_fails(tmp_path: Path) -> None:
    with running(tmp_path) as daemon, daemon.connect() as m:
        assert right(add(m))
        daemon.rack.fault(0, "run-error", count=1)
        with pytest.raises(fpgahal.RunError):
            add(m).result(20)
        assert right(add(m))


@pytest.mark.parametrize("fault", ["program", "wrong-afu"])
def test_a_board_that_cannot_be_programmed(tmp_path: Path, fault: str) -> None:
    with running(tmp_path, "pac-a10:2") as daemon, daemon.connect() as m:
        for board in range(2):
            daemon.rack.fault(board, fault, count=1)
        assert right(add(m))
        daemon.rack.fault(0, fault)
        assert all(right(m.submit("vadd", a=ONES, b=ONES)) for _ in range(10))


@pytest.mark.parametrize("restarts", [False, True])
def test_no_result_is_lost_or_wrong_while_things_go_wrong(tmp_path: Path, restarts: bool) -> None:
    """Some seconds of clients that come and go, of boards with faults, and of managers that are killed."""
    with running(tmp_path, "pac-a10:2,u250", "--timeout", "0.2") as daemon, daemon.connect() as watcher:
        stop = time.monotonic() + 6
        counts = {"good": 0, "failed": 0}
        trouble: list[BaseException] = []

        def client(seed: int) -> None:
            source = np.random.default_rng(seed)
            try:
                while time.monotonic() < stop:
                    with daemon.connect() as m:
                        for _ in range(20):
                            n = int(source.integers(1, 3000))
                            a = source.integers(0, 1 << 31, n).astype(np.uint32)
                            requests = [
                                (k, m.submit("vadd", a=a, b=np.full(n, k, np.uint32), once=k == 3)) for k in range(4)
                            ]
                            for k, one in requests:
                                try:
                                    assert np.array_equal(one.result(30), a + np.uint32(k))
                                    counts["good"] += 1
                                except (fpgahal.RunError, fpgahal.DeviceLostError):
                                    counts["failed"] += 1
            except BaseException as error:
                trouble.append(error)

        threads = [threading.Thread(target=client, args=(seed,)) for seed in range(3)]
        for thread in threads:
            thread.start()
        source = np.random.default_rng(1)
        while time.monotonic() < stop:
            kind = str(source.choice(["hang", "run-error", "vanish", "program"]))
            board = int(source.integers(3))
            daemon.rack.fault(board, kind, count=-1 if kind == "vanish" else 1)
            time.sleep(0.3)
            daemon.rack.clear(board)
            if restarts and source.integers(4) == 0:
                daemon.kill()
                daemon.start()
        for thread in threads:
            thread.join(40)
            assert not thread.is_alive()
        assert not trouble, trouble
        assert counts["good"] > 50
        until(lambda: watcher.status()["connections"] == 1)
        found = watcher.status()
        assert found["requests"] == 0
        assert found["accounts"][0]["buffers"] == 0


def test_a_board_that_is_used_by_somebody_else_at_first(tmp_path: Path) -> None:
    with fpgahal.emu.rack("pac-a10:2", launch_us=0) as rack:
        with fpgahal.open(rack.devices()[0]):
            daemon = Daemon(rack, tmp_path)
            with daemon.connect() as m:
                assert [board["up"] for board in m.status()["boards"]] == [False, True]
                assert right(add(m))
        with daemon.connect() as m:
            until(lambda: all(board["up"] for board in m.status()["boards"]))
        assert daemon.stop() == 0


@pytest.mark.parametrize("named", [False, True])
def test_a_board_that_is_away_when_the_manager_starts_is_used_when_it_comes(tmp_path: Path, named: bool) -> None:
    with fpgahal.emu.rack("pac-a10:2") as rack:
        names = [info.address for info in rack.devices()] if named else []
    with running(tmp_path, "pac-a10:2", *names) as daemon:
        daemon.kill()
        daemon.rack.fault(1, "vanish")
        daemon.start()
        daemon.rack.clear(1)
        with daemon.connect() as m:
            until(lambda: [board["up"] for board in m.status()["boards"]] == [True, True])
