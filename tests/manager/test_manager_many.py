# SPDX-License-Identifier: Apache-2.0
"""Many requests in one go, and several works on a board at a time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from manager_daemon import Daemon, model, running, until

import fpgahal
from fpgahal import manager


@pytest.fixture(scope="module", params=["pac-a10", "u250"])
def daemon(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running(tmp_path_factory.mktemp("many"), request.param) as started:
        yield started


@pytest.fixture
def m(daemon: Daemon) -> Iterator[manager.Client]:
    with daemon.connect() as client:
        yield client


def rows(count: int) -> Any:
    return np.random.default_rng(1).normal(size=(count, 4)).astype(np.float32)


def test_many_requests_in_one_go(m: manager.Client) -> None:
    data = m.constant(model())
    source = rows(700)
    wanted = m.submit("xgboost.predict", model=data, x=source).result(20)
    places = []
    for row in source:
        x, y = m.allocate((1, 4), "f4"), m.allocate(1, "f4")
        x[:] = row
        places.append({"x": x, "y": y})
    for _ in range(3):  # checked one by one, then known
        for place in places:
            place["y"][:] = np.nan
        requests = m.submit_many("xgboost.predict", places, model=data)
        assert [request.result(20)[0] for request in requests] == list(wanted)
        assert all(request.result(0) is place["y"] for request, place in zip(requests, places, strict=True))
        assert all(0 < request.times[1] < 20 for request in requests)
    made = m.submit_many("xgboost.predict", [{"x": source[:5]}, {"x": source[5:6]}], model=data, once=True, priority=0)
    assert np.array_equal(np.concatenate([request.result(20) for request in made]), wanted[:6])
    assert m.submit_many("xgboost.predict", [], model=data) == []


def test_one_of_many_is_wrong(m: manager.Client) -> None:
    """The others are right, and it says what is wrong; also when they are known, and run together."""
    data = m.constant(model())
    places = [{"x": m.allocate((1, 4), "f4"), "y": m.allocate(1, "f4")} for _ in range(20)]
    for place in places:
        place["x"][:] = 1
    for bad in (None, 7, None, 7):
        places[7]["x"][:] = 1 if bad is None else np.inf
        for number, request in enumerate(m.submit_many("xgboost.predict", places, model=data)):
            if number == bad:
                with pytest.raises(fpgahal.ArgumentRangeError, match="infinite"):
                    request.result(20)
            else:
                assert request.result(20)[0] == places[0]["y"][0]
    with pytest.raises(fpgahal.ArgumentError):
        m.submit_many("xgboost.predict", [places[0], {"x": "text"}], model=data)
    assert m.status()["requests"] == 0


def test_arrays_are_not_mixed_up(m: manager.Client) -> None:
    """Requests with the same arrays are remembered by them: others at the same place, or of another shape, are not."""
    for n in range(300):
        a, b = m.allocate(16, "u4"), m.allocate(16, "u4")
        a[:], b[:] = n, np.arange(16)
        assert np.array_equal(m.submit("vadd", a=a, b=b).result(20), n + b)
        assert np.array_equal(m.submit("vadd", a=a, b=b, n=n % 16).result(20), (n + b)[: n % 16])
        assert np.array_equal(m.submit("vadd", a=a[:4], b=b[4:8]).result(20), (n + b)[4:8])
        assert np.array_equal(m.submit("vadd", a=list(a), b=b).result(20), n + b) or n


def test_some_of_many_are_cancelled_and_the_client_may_go(tmp_path: Path) -> None:
    with running(tmp_path, launch_us=100_000) as daemon, daemon.connect() as m, daemon.connect() as other:
        data = m.constant(model())
        places = [{"x": m.allocate((1, 4), "f4"), "y": m.allocate(1, "f4")} for _ in range(10)]
        for place in places:
            place["x"][:] = 1
            m.submit("xgboost.predict", model=data, **place).result(20)
        x, same = np.ones((1, 4), np.float32), other.constant(model())
        other.submit("xgboost.predict", model=same, x=x).result(20)
        before = [other.submit("xgboost.predict", model=same, x=x, once=True) for _ in range(8)]
        until(lambda: m.status()["requests"] >= 5)  # of which two may be on the board
        many = m.submit_many("xgboost.predict", places, model=data)
        for number in (0, 4, 9):
            many[number].cancel()
        for number, request in enumerate(many):
            if number in (0, 4, 9):
                with pytest.raises(manager.CancelledError):
                    request.result(20)
            else:
                request.result(20)
        assert all(request.result(20) is not None for request in before)
        before = [other.submit("xgboost.predict", model=same, x=x, once=True) for _ in range(8)]
        until(lambda: m.status()["requests"] >= 5)
        m.submit_many("xgboost.predict", places, model=data)
        until(lambda: other.status()["requests"] > 10)
        m.close()
        until(lambda: other.status()["requests"] <= 8)
        assert all(request.result(20) is not None for request in before)


def test_arrays_travel_while_the_board_runs(tmp_path: Path) -> None:
    """The link and the board take as long: together, it takes little more than half as long as one after the other."""
    with running(tmp_path, "u250", launch_us=30_000, link_gbps=0.5) as daemon, daemon.connect() as m:
        places = [{name: m.allocate(1_250_000, "u4") for name in ("a", "b", "out")} for _ in range(6)]
        for number, place in enumerate(places):
            place["a"][:], place["b"][:] = number, 1
            m.submit("vadd", once=True, **place).result(20)

        def measure(depth: int) -> tuple[float, float]:
            """Seconds, and board-seconds."""
            before = m.status()["boards"][0]["busy_seconds"]
            since = time.monotonic()
            requests: list[manager.Request] = []
            for place in places:
                requests.append(m.submit("vadd", once=True, **place))
                if len(requests) >= depth:
                    requests[-depth].result(20)
            assert all(np.all(request.result(20) == number + 1) for number, request in enumerate(requests))
            return time.monotonic() - since, m.status()["boards"][0]["busy_seconds"] - before

        ratios = []
        for _ in range(5):
            apart, together = measure(1), measure(6)
            assert together[1] <= together[0] + 0.001  # no second is charged twice
            ratios.append(together[0] / apart[0])
            if ratios[-1] < 0.8:
                break
        assert min(ratios) < 0.8
