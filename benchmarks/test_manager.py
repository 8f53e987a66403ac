# SPDX-License-Identifier: Apache-2.0
"""The node manager: what a request costs over a direct call, what batching gives, what keeping images gives, how soon a
killed client is gone.  What a hostile client takes from others: `test_manager_others`."""

from __future__ import annotations

import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import harness
import numpy as np
import pytest
from conftest import Book

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "manager"))

from manager_daemon import Daemon, model, running, until
from test_scheduler import Simulation, first_come_first_served, node, request

import fpgahal
from fpgahal.bench import xgboost as bench
from fpgahal.kernels import xgboost
from fpgahal.manager.scheduler import Settings

ROUNDS, CALLS = 6, 500


@pytest.fixture
def undisturbed() -> Iterator[None]:
    """Go before the machine's other users."""
    with harness.undisturbed():
        yield


@pytest.fixture
def daemon(undisturbed: None, tmp_path: Path) -> Iterator[Daemon]:
    """A manager of the first of two boards."""
    with fpgahal.emu.rack("u250:2", launch_us=0):
        board = fpgahal.devices()[0].address
        with running(tmp_path, "u250:2", board) as started:
            yield started


def seconds(call: Callable[[], object]) -> list[float]:
    found = []
    for _ in range(CALLS):
        since = time.perf_counter()
        call()
        found.append(time.perf_counter() - since)
    return found


def percentile(times: list[float], percent: float) -> float:
    return float(np.percentile(times, percent))


@pytest.fixture(scope="module")
def flights() -> tuple[bytes, np.ndarray]:
    """A model of 100 trees of depth 6, and real rows."""
    booster, x = bench.model(65_000, 100, 6)
    return bytes(booster.save_raw("ubj")), x


@pytest.mark.parametrize("rows", [1, 32, 1000, 100_000])
def test_a_prediction_through_the_manager(
    book: Book, daemon: Daemon, flights: tuple[bytes, np.ndarray], rows: int
) -> None:
    data, source = flights[0], np.ascontiguousarray(flights[1][:rows])
    calls = 10 if rows > 10_000 else CALLS
    with fpgahal.open(daemon.rack.devices()[1]) as dev, xgboost.load(dev, data) as direct, daemon.connect() as m:
        shared = m.constant(data)
        x, y, out = m.allocate(source.shape, "f4"), m.allocate(rows, "f4"), np.empty(rows, np.float32)
        x[:] = source

        def through() -> object:
            return m.submit("xgboost.predict", model=shared, x=x, y=y).result(20)

        def straight() -> object:
            return direct.predict(source, out=out)

        for call in (through, straight):
            for _ in range(50 if rows <= 1000 else 2):  # the first some dozen calls of a process are slower
                call()
        assert y.tobytes() == out.tobytes()
        ours, theirs = [], []
        for _ in range(ROUNDS):
            ours += seconds(through)[:calls]
            theirs += seconds(straight)[:calls]
    what = f"xgboost.predict, {rows} rows, through the manager"
    goal = 1.05 if rows == 1000 else None
    book.enter(what, percentile(ours, 50), percentile(theirs, 50), "direct", at_most=goal)
    book.enter(f"{what}, 99 %", percentile(ours, 99), percentile(theirs, 99), "direct")
    if rows == 1:
        book.limit(f"{what}, added", percentile(ours, 50) - percentile(theirs, 50), 25e-6)
        book.limit(f"{what}, added, 99 %", percentile(ours, 99) - percentile(theirs, 99), 150e-6)


CLIENT = """
import collections, sys
from fpgahal import manager
how, count = sys.argv[2], int(sys.argv[3])
with manager.connect(sys.argv[1]) as m:
    data = m.constant(open(sys.argv[4], "rb").read())
    places = [{"x": m.allocate((1, 28), "f4"), "y": m.allocate(1, "f4")} for _ in range(240)]
    for place in places:
        place["x"][:] = 0
        m.submit("xgboost.predict", model=data, **place).result()
    sent = collections.deque()
    print("ready", flush=True)
    sys.stdin.readline()
    if how == "many":  # 120 on their way while 120 are read
        for at in range(0, count, 120):
            sent.append(m.submit_many("xgboost.predict", places[at % 240 : at % 240 + 120], model=data))
            if len(sent) == 2:
                for request in sent.popleft():
                    request.result()
        for request in sent.pop():
            request.result()
    else:
        for at in range(count):
            if len(sent) == len(places):
                sent.popleft().result()
            sent.append(m.submit("xgboost.predict", model=data, once=how == "once", **places[at % 240]))
        for request in sent:
            request.result()
    print("done", flush=True)
"""


def throughput(daemon: Daemon, how: str, path: Path, count: int = 4000) -> float:
    """Seconds for a request, with four clients."""
    command = [sys.executable, "-c", CLIENT, str(daemon.socket), how, str(count), str(path)]
    clients = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    try:
        for one in clients:
            assert one.stdout is not None
            assert one.stdout.readline() == "ready\n"
        since = time.perf_counter()
        for one in clients:
            assert one.stdin is not None
            one.stdin.write("\n")
            one.stdin.flush()
        for one in clients:
            assert one.stdout is not None
            assert one.stdout.readline() == "done\n"
        return (time.perf_counter() - since) / (4 * count)
    finally:
        for one in clients:
            one.kill()
            one.communicate()


def test_batching(book: Book, tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    path.write_bytes(model(100, 28))
    with running(tmp_path, "u250", launch_us=20) as daemon:  # what a real board takes
        counts = {"many": 24_000, "batch": 4_800, "once": 4_800}
        found = {
            how: statistics.median(throughput(daemon, how, path, count) for _ in range(3))
            for how, count in counts.items()
        }
    book.enter("1-row request of 4 clients, batched by the manager", found["batch"], found["once"], "one by one")
    what, goal = "1-row request of 4 clients, 120 sent together", None if found["many"] < 10e-6 else 5
    book.enter(what, found["many"], found["once"], "one by one", at_least=goal)


def test_four_images_on_two_boards(book: Book) -> None:
    """8,000 requests of 10 ms in simulated time; a fair wait is the others' turn on the board, and the reload."""
    source = random.Random(7)
    arrivals, at = [], 0.0
    for _ in range(8000):
        at += source.expovariate(100.0)
        arrivals.append((at, source.choices("abcd", (12, 6, 4, 3))[0]))
    simulation = Simulation(node(boards=2, reload=2.0), seconds=0.01)
    for at, accelerator in arrivals:
        simulation.at(at, partial(lambda name: simulation.submit(request(name)), accelerator))
    simulation.run()
    assert len(simulation.finished) == len(arrivals)
    ours, plain = simulation.now / 8000, first_come_first_served(arrivals, 2, 2.0, 0.01) / 8000
    book.enter("request of a mix of 4 images on 2 boards", ours, plain, "first come, first served", at_least=20)
    fair = (1 + Settings().turn) * 2.0 + 2.0
    book.enter("longest wait in that mix", max(simulation.waits["u"]), fair, "fair", at_most=3)


def test_a_killed_client(book: Book, tmp_path: Path) -> None:
    source = (
        "import sys, time; from fpgahal import manager; m = manager.connect(sys.argv[1]); a = m.allocate(8 << 20); "
    )
    times = []
    with running(tmp_path, "u250") as daemon, daemon.connect() as m:
        for _ in range(10):
            client = subprocess.Popen(
                [sys.executable, "-c", source + "print('x', flush=True); time.sleep(60)", str(daemon.socket)],
                stdout=subprocess.PIPE,
            )
            assert client.stdout is not None
            client.stdout.readline()
            since = time.monotonic()
            client.send_signal(signal.SIGKILL)
            until(lambda: m.status()["accounts"][0]["buffers"] == 0)
            times.append(time.monotonic() - since)
            client.communicate()
    book.limit("buffers of a killed client are back, 99 %", percentile(times, 99), 0.2)
