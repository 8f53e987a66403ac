# SPDX-License-Identifier: Apache-2.0
"""The node manager beside the same service over gRPC: what each adds to a direct call, in the same run."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import pytest
from conftest import Book

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "manager"))

import grpc_peer
from manager_daemon import Daemon, model, running

import fpgahal
from fpgahal.kernels import xgboost

DATA = model(100, 28)
ROUNDS, CALLS = 40, 50


@pytest.fixture(scope="module")
def daemon(undisturbed: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A manager of the first of three boards."""
    with fpgahal.emu.rack("u250:3", launch_us=0):
        board = fpgahal.devices()[0].address
        with running(tmp_path_factory.mktemp("grpc"), "u250:3", board) as started:
            yield started


@pytest.fixture(scope="module")
def peer(daemon: Daemon) -> Iterator[grpc_peer.Peer]:
    """A gRPC server with the second board."""
    folder = daemon.socket.parent
    (folder / "model.json").write_bytes(DATA)
    board = daemon.rack.devices()[1].address
    command = [sys.executable, grpc_peer.__file__, str(folder / "grpc.sock"), board, str(folder / "model.json")]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        with closing(grpc_peer.Peer(str(folder / "grpc.sock"))) as made:
            yield made
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


@pytest.mark.parametrize("rows", [1, 1000])
def test_added_to_a_direct_call(book: Book, daemon: Daemon, peer: grpc_peer.Peer, rows: int) -> None:
    source = np.random.default_rng(1).normal(size=(rows, 28)).astype(np.float32)
    with ExitStack() as stack:
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
    direct, manager, grpc = (statistics.median(column) for column in zip(*times, strict=True))
    added = statistics.median(ours - alone for alone, ours, _ in times)  # of neighbours in time: machines are noisy
    theirs = statistics.median(theirs - alone for alone, _, theirs in times)
    print(f"{rows} rows: direct {direct * 1e6:.1f} µs, manager {manager * 1e6:.1f}, gRPC {grpc * 1e6:.1f}")
    what = f"what the manager adds to xgboost.predict of {rows} row{'s' * (rows > 1)}"
    book.enter(what, max(added, 1e-7), theirs, "gRPC", at_least=10)
