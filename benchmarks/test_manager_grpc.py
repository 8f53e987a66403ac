# SPDX-License-Identifier: Apache-2.0
"""The node manager beside the same service over gRPC: what each adds to a direct call, in the same run."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import numpy as np
import pytest
from conftest import Book

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "manager"))

import grpc_peer
from manager_daemon import model, running

import fpgahal
from fpgahal.kernels import xgboost

DATA = model(100, 28)
ROUNDS, CALLS = 40, 50


@contextmanager
def on(processors: set[int]) -> Iterator[None]:
    """Keep this process, and those that it starts, on some processors."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, processors)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def serving(folder: Path, board: str) -> Iterator[grpc_peer.Peer]:
    """A gRPC server with a board."""
    (folder / "model.json").write_bytes(DATA)
    command = [sys.executable, grpc_peer.__file__, str(folder / "grpc.sock"), board, str(folder / "model.json")]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        with closing(grpc_peer.Peer(str(folder / "grpc.sock"))) as peer:
            yield peer
        server.communicate(timeout=20)
    finally:
        server.kill()
        server.communicate()


def median(call: Callable[[], object]) -> float:
    found = []
    for _ in range(CALLS):
        since = time.perf_counter()
        call()
        found.append(time.perf_counter() - since)
    return statistics.median(found)


def added(folder: Path, rows: int, processors: set[int]) -> tuple[float, float]:
    """Seconds that the manager, and gRPC, take longer than a direct call: of neighbours in time."""
    source = np.random.default_rng(1).normal(size=(rows, 28)).astype(np.float32)
    with ExitStack() as stack:
        stack.enter_context(on(processors))
        stack.enter_context(fpgahal.emu.rack("u250:3", launch_us=0))
        first = fpgahal.devices()[0].address  # the same in the manager's rack: a board for each of the three
        daemon = stack.enter_context(running(folder, "u250:3", first))
        peer = stack.enter_context(serving(folder, daemon.rack.devices()[1].address))
        dev = stack.enter_context(fpgahal.open(daemon.rack.devices()[2]))
        loaded = stack.enter_context(xgboost.load(dev, DATA))
        m = stack.enter_context(daemon.connect())
        shared, x, y = m.constant(DATA), m.allocate(source.shape, "f4"), m.allocate(rows, "f4")
        x[:], out = source, np.empty(rows, np.float32)
        contenders: list[Callable[[], object]] = [
            lambda: loaded.predict(source, out=out),
            lambda: m.submit("xgboost.predict", model=shared, x=x, y=y).result(20),
            lambda: peer.predict(source),
        ]
        for call in contenders:
            call()
        assert out.tobytes() == y.tobytes() == peer.predict(source).tobytes()
        times = [[median(call) for call in contenders] for _ in range(ROUNDS)]
    direct, manager, grpc = (statistics.median(column) * 1e6 for column in zip(*times, strict=True))
    print(f"{rows} rows, {len(processors)} processors: direct {direct:.1f} µs, manager {manager:.1f}, gRPC {grpc:.1f}")
    ours, theirs = (statistics.median(one[which] - one[0] for one in times) for which in (1, 2))
    return ours, theirs


@pytest.mark.parametrize("rows", [1, 1000])
def test_added_to_a_direct_call(book: Book, undisturbed: None, tmp_path: Path, rows: int) -> None:
    """Each where it does best: on one processor nobody has to be woken up on another, on two both sides can look."""
    places = os.sched_getaffinity(0)
    found = []
    for number, processors in enumerate(({max(places)}, places)):
        folder = tmp_path / str(number)
        folder.mkdir()
        found.append(added(folder, rows, processors))
    ours, theirs = (min(one[which] for one in found) for which in (0, 1))
    what = f"what the manager adds to xgboost.predict of {rows} row{'s' * (rows > 1)}"
    book.enter(what, max(ours, 1e-7), theirs, "gRPC", at_least=10)
