# SPDX-License-Identifier: Apache-2.0
"""A manager and its clients, as users have them."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from manager_daemon import Daemon, model, running, until

import fpgahal
from fpgahal import manager
from fpgahal.kernels import xgboost


@pytest.fixture(scope="module", params=["pac-a10", "u250"])
def daemon(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running(tmp_path_factory.mktemp("manager"), request.param) as started:
        yield started


@pytest.fixture
def m(daemon: Daemon) -> Iterator[manager.Client]:
    with daemon.connect() as client:
        yield client


def rows(count: int, features: int = 4, seed: int = 1) -> Any:
    x = np.random.default_rng(seed).normal(size=(count, features)).astype(np.float32)
    x[::7, 1] = np.nan
    return x


def test_vadd(m: manager.Client) -> None:
    a, b, out = (m.allocate(1000, "uint32") for _ in range(3))
    a[:], b[:] = np.arange(1000), 7
    request = m.submit("vadd", a=a, b=b, out=out)
    assert request.result(20) is out
    assert np.array_equal(out, a + b)
    waited, ran = request.times
    assert 0 <= waited < 20
    assert 0 < ran < 20
    assert request.done()
    assert request.exception() is None


def test_outputs_and_sizes_may_be_left_out_and_arrays_may_be_anywhere(m: manager.Client) -> None:
    a = np.arange(10, dtype=np.uint32)
    assert np.array_equal(m.submit("vadd", a=a, b=a).result(20), 2 * a)
    assert np.array_equal(m.submit("vadd", a=a[::2], b=a[5:], n=4).result(20), (a[::2] + a[5:])[:4])
    shared = m.allocate((2, 5), "uint32")
    shared[:] = [[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]]
    assert np.array_equal(m.submit("vadd", a=shared[0], b=shared[1]).result(20), shared.sum(0))
    data = np.frombuffer(os.urandom(3_000_001), np.uint8)
    assert np.array_equal(m.submit("passthrough", src=data).result(20), data)


@pytest.mark.parametrize(
    ("objective", "classes"), [("binary:logistic", 0), ("multi:softprob", 3), ("multi:softmax", 3)]
)
def test_xgboost_is_equal_to_the_last_bit(m: manager.Client, objective: str, classes: int) -> None:
    data = model(6, objective=objective, classes=classes)
    x = rows(3000)
    with fpgahal.emu.rack("u250"), fpgahal.open() as dev, xgboost.load(dev, data) as direct:
        wanted = {
            "all": direct.predict(x),
            "margins": direct.predict(x, output_margin=True),
            "first": direct.predict(x, iteration_range=(0, 1)),
            "missing": direct.predict(x, missing=float(x[0, 0])),
            "one": direct.predict(x[1]),
        }
    found = {
        "all": m.submit("xgboost.predict", model=data, x=x),
        "margins": m.submit("xgboost.predict", model=data, x=x, output_margin=True),
        "first": m.submit("xgboost.predict", model=data, x=x, iteration_end=1),
        "missing": m.submit("xgboost.predict", model=data, x=x, missing=float(x[0, 0])),
        "one": m.submit("xgboost.predict", model=data, x=x[1]),
    }
    for name, request in found.items():
        assert request.result(20).tobytes() == wanted[name].tobytes(), name
        assert request.result().shape == wanted[name].shape
    none = m.submit("xgboost.predict", model=data, x=np.empty((0, 4), np.float32)).result(20)
    assert none.shape == (0, *wanted["all"].shape[1:])
    lists = m.submit("xgboost.predict", model=data, x=x.astype(np.float64).tolist()).result(20)
    assert lists.tobytes() == wanted["all"].tobytes()


def test_a_model_in_a_file_is_read_again_when_it_changes(m: manager.Client, tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    x = rows(5)
    found = []
    for trees in (2, 5):
        path.write_bytes(model(trees))
        found.append(m.submit("xgboost.predict", model=str(path), x=x).result(20))
        shared = m.constant(path)
        assert shared.nbytes == path.stat().st_size
        assert np.array_equal(m.submit("xgboost.predict", model=shared, x=x).result(20), found[-1])
    assert not np.array_equal(*found)


def test_small_requests_run_together_and_get_their_own_results(m: manager.Client) -> None:
    x = rows(500)
    data = m.constant(model())
    whole = m.submit("xgboost.predict", model=data, x=x).result(20)
    requests = [m.submit("xgboost.predict", model=data, x=x[i]) for i in range(500)]
    assert np.concatenate([one.result(20) for one in requests]).tobytes() == whole.tobytes()
    adds = [m.submit("vadd", a=np.full(n, n, np.uint32), b=np.arange(n, dtype=np.uint32)) for n in range(200)]
    for n, one in enumerate(adds):
        assert np.array_equal(one.result(20), n + np.arange(n))


def test_asyncio(m: manager.Client) -> None:
    x = rows(300)
    data = m.constant(model())
    whole = m.submit("xgboost.predict", model=data, x=x).result(20)

    async def predict(row: int) -> Any:
        return await m.submit("xgboost.predict", model=data, x=x[row])

    async def main() -> list[Any]:
        with pytest.raises(fpgahal.KernelNotFoundError):
            await m.submit("vadd", a=x.view("u4")[0], b=x.view("u4")[0])._client.submit("nothing", n=1)
        return await asyncio.wait_for(asyncio.gather(*(predict(row) for row in range(300))), 30)

    for _ in range(2):  # with another loop
        assert np.concatenate(asyncio.run(main())).tobytes() == whole.tobytes()


def test_threads_share_a_client(m: manager.Client) -> None:
    def work(seed: int) -> None:
        x = rows(40, seed=seed)
        whole = m.submit("xgboost.predict", model=data, x=x).result(30)
        for row in range(40):
            assert m.submit("xgboost.predict", model=data, x=x[row]).result(30)[0] == whole[row]

    data = m.constant(model())
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))


@pytest.mark.parametrize(
    ("error", "accelerator", "arguments"),
    [
        (fpgahal.KernelNotFoundError, "nothing", {}),
        (fpgahal.ArgumentError, "vadd", {"a": 1}),
        (fpgahal.ArgumentError, "vadd", {"a": np.zeros(4, "f4"), "b": np.zeros(4, "u4")}),
        (fpgahal.ArgumentError, "vadd", {"a": np.zeros(4, "u4"), "b": np.zeros(4, "u4"), "extra": 1}),
        (fpgahal.ArgumentError, "vadd", {"a": np.zeros(4, "u4"), "b": np.zeros(4, "u4"), "n": "four"}),
        (fpgahal.ArgumentError, "vadd", {"a": np.zeros(4, "c8"), "b": np.zeros(4, "u4")}),
        (fpgahal.ArgumentError, "vadd", {"a": np.zeros(4, "u4"), "b": np.zeros(4, "u4"), "out": np.zeros(4, "u4")}),
        (fpgahal.ArgumentRangeError, "vadd", {"a": np.zeros(4, "u4"), "b": np.zeros(3, "u4")}),
        (fpgahal.ArgumentRangeError, "vadd", {"a": np.zeros(4, "u4"), "b": np.zeros(4, "u4"), "n": 5}),
        (fpgahal.ArgumentRangeError, "vadd", {"a": np.zeros(4, "u4"), "b": np.zeros(4, "u4"), "n": -1}),
        (fpgahal.ArgumentRangeError, "vadd", {"a": np.zeros(4, "u4"), "b": np.zeros(4, "u4"), "n": 1 << 32}),
        (fpgahal.ArgumentError, "xgboost.predict", {"x": np.zeros((1, 4), "f4")}),
        (fpgahal.ArgumentRangeError, "xgboost.predict", {"model": b"{}", "x": np.zeros((1, 4), "f4")}),
        (ValueError, "xgboost.predict", {"model": b"no model", "x": np.zeros((1, 4), "f4")}),
        (fpgahal.ArgumentError, "xgboost.predict", {"model": b"", "x": np.zeros((1, 4), "f4")}),
        (fpgahal.ArgumentRangeError, "xgboost.predict", {"model": model(), "x": np.zeros((1, 5), "f4")}),
        (
            fpgahal.ArgumentRangeError,
            "xgboost.predict",
            {"model": model(), "x": np.zeros((1, 4), "f4"), "iteration_end": 9},
        ),
        (fpgahal.ArgumentRangeError, "xgboost.predict", {"model": model(), "x": np.full((1, 4), np.inf, "f4")}),
        (fpgahal.ArgumentError, "xgboost.predict", {"model": model(), "x": np.zeros((1, 4), "f4"), "missing": "none"}),
    ],
)
def test_wrong_requests(m: manager.Client, error: type[Exception], accelerator: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(error):
        m.submit(accelerator, **arguments).result(20)
    a = np.ones(4, np.uint32)
    assert np.array_equal(m.submit("vadd", a=a, b=a).result(20), a + a)


def test_one_bad_row_does_not_hurt_those_that_run_with_it(m: manager.Client) -> None:
    x = rows(50)
    data = m.constant(model())
    whole = m.submit("xgboost.predict", model=data, x=x).result(20)
    bad = x[20].copy()
    bad[2] = np.inf
    requests = [m.submit("xgboost.predict", model=data, x=bad if i == 20 else x[i]) for i in range(50)]
    for i, one in enumerate(requests):
        if i == 20:
            with pytest.raises(fpgahal.ArgumentRangeError):
                one.result(20)
        else:
            assert one.result(20)[0] == whole[i]


def test_memory_is_used_again(m: manager.Client) -> None:
    def memory() -> int:
        return int(sum(one["memory"] for one in m.status()["accounts"]))

    a = np.arange(100, dtype=np.uint32)
    for _ in range(20):
        m.submit("vadd", a=a, b=a).result(20)
    before = memory()
    for _ in range(300):
        m.submit("vadd", a=a, b=a).result(20)
        m.allocate(10_000_000)
    gc.collect()
    assert memory() - before <= 64 << 20
    kept = m.allocate(100, "uint32")
    kept[:] = 5
    view = kept[10:20]
    del kept
    for _ in range(100):
        m.submit("vadd", a=a, b=a).result(20)
    assert (view == 5).all()


def test_what_a_client_asks_for_and_does_not_wait_for(m: manager.Client) -> None:
    """Its memory is not given to others as long as the manager may write to it."""
    a = np.arange(50_000, dtype=np.uint32)
    for _ in range(50):
        m.submit("vadd", a=a, b=a)
    zeros = [m.allocate(50_000, "uint32") for _ in range(50)]
    for one in zeros:
        one[:] = 0
    m.submit("vadd", a=a, b=a).result(20)
    assert not any(one.any() for one in zeros)


def test_two_clients_of_a_process_have_memory_of_their_own(m: manager.Client, daemon: Daemon) -> None:
    """What belongs to one has a number at the manager that may be another array's at the other."""
    with daemon.connect() as other:
        mine, theirs = m.allocate(1000, "uint32"), other.allocate(1000, "uint32")
        mine[:], theirs[:] = 1, 2
        assert (m.submit("vadd", a=mine, b=theirs).result(20) == 3).all()
        with pytest.raises(fpgahal.ArgumentError, match="allocate"):
            m.submit("vadd", a=mine, b=mine, out=theirs)
        assert (theirs == 2).all()
        with pytest.raises(fpgahal.ArgumentError, match="another client"):
            m.submit("xgboost.predict", model=other.constant(model()), x=rows(1))


def test_a_fork(m: manager.Client) -> None:
    numbers = [client["client"] for client in m.status()["clients"]]
    child = os.fork()
    if child == 0:
        try:
            m.submit("vadd", a=np.ones(1, "u4"), b=np.ones(1, "u4"))
        except fpgahal.ClosedError:
            m.close()
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert m.submit("vadd", a=np.ones(1, "u4"), b=np.ones(1, "u4")).result(20)[0] == 2
    assert [client["client"] for client in m.status()["clients"]] == numbers, "the child hung up for its parent"


def test_closing(daemon: Daemon) -> None:
    m = daemon.connect()
    out = m.allocate(3)
    out[:] = 1
    m.close()
    m.close()
    assert m.closed
    assert out.sum() == 3
    with pytest.raises(fpgahal.ClosedError):
        m.submit("vadd", n=1)
    with pytest.raises(fpgahal.ClosedError):
        m.allocate(10_000_000)


def test_status(m: manager.Client, daemon: Daemon) -> None:
    a = np.ones(1, np.uint32)
    m.submit("vadd", a=a, b=a).result(20)
    found = m.status()
    (board,) = found["boards"]
    assert board["address"] == daemon.rack.devices()[0].address
    assert {"vadd", "passthrough", "xgboost.predict"} <= set(board["accelerators"])
    assert found["users"][0]["user"] == os.getuid()
    assert found["ended"]["done"] > 0


# --- with a board of its own --------------------------------------------------------------------------------------


def slow(m: manager.Client) -> manager.Request:
    """A request that keeps the board busy."""
    return m.submit("vadd", a=np.ones(1, np.uint32), b=np.ones(1, np.uint32), once=True)


def test_deadlines_cancelling_and_timeouts(tmp_path: Path) -> None:
    with running(tmp_path, launch_us=300_000) as daemon, daemon.connect() as m:
        a = np.ones(1, np.uint32)
        slow(m).result(20)
        first, _next = slow(m), slow(m)  # the second one's arrays are on the board already
        late = m.submit("passthrough", src=a, deadline=0.05)
        unwanted = m.submit("vadd", a=a, b=a, once=True)
        unwanted.cancel()
        with pytest.raises(TimeoutError) as waiting:
            first.result(0.01)
        assert isinstance(waiting.value, manager.WaitTimeoutError)
        with pytest.raises(manager.DeadlineError):
            late.result(20)
        with pytest.raises(manager.CancelledError):
            unwanted.result(20)
        first.cancel()  # it runs already
        assert first.result(20)[0] == 2

        async def give_up() -> None:
            _some = slow(m), slow(m)
            await asyncio.wait_for(slow(m), 0.1)

        with pytest.raises(TimeoutError):
            asyncio.run(give_up())
        until(lambda: m.status()["requests"] == 0)
        assert m.status()["ended"]["cancelled"] == 2


def test_two_images_on_two_boards(tmp_path: Path) -> None:
    with running(tmp_path, "pac-a10,u250", program_ms=50) as daemon, daemon.connect() as m:
        data = np.arange(64, dtype=np.uint32)
        for _ in range(20):
            add, copy = m.submit("vadd", a=data, b=data), m.submit("passthrough", src=data)
            assert np.array_equal(add.result(20), data + data)
            assert np.array_equal(copy.result(20).view("u4"), data)
        assert m.status()["reloads"] <= 3


POLICY = """
[default]
requests = 4
memory = "3 MiB"
connections = 2
[[rule]]
users = [0]
requests = 64
[[rule]]
users = [12345]
accelerators = ["vadd"]
"""
OTHER_USER = """
import os, sys
import numpy as np
import fpgahal
from fpgahal import manager
os.setgid(12345); os.setuid(12345)
def fails(error, call):
    try:
        call()
    except error as found:
        assert type(found) is error, found
    else:
        raise AssertionError(error)
a = np.ones(1, np.uint32)
m = manager.connect(sys.argv[1], patience=1)
assert m.submit("vadd", a=a, b=a).result(20)[0] == 2
fails(fpgahal.AccessError, lambda: m.submit("passthrough", src=a))
fails(manager.QuotaError, lambda: m.allocate(3 << 20))
other = manager.connect(sys.argv[1], patience=1)
fails(manager.QuotaError, lambda: manager.connect(sys.argv[1], patience=1))
other.close()
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be other users")
def test_users_get_what_the_policy_gives_them(tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY)
    tmp_path.chmod(0o755)
    for folder in tmp_path.parents:
        if folder.owner() == "root" and str(folder).startswith("/tmp/pytest"):
            folder.chmod(0o755)
    with running(tmp_path, "pac-a10", "--policy", str(policy), "--mode", "666") as daemon, daemon.connect() as m:
        subprocess.run([sys.executable, "-c", OTHER_USER, str(daemon.socket)], check=True, timeout=60)
        users = {one["user"]: one for one in m.status()["users"]}
        assert users[12345]["requests"] == 0
        m.allocate(10_000)


def test_the_socket_is_not_for_everybody(daemon: Daemon) -> None:
    assert daemon.socket.stat().st_mode & 0o777 == 0o660


def test_more_requests_than_the_quota_wait_in_the_client(tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text("[default]\nrequests = 8\n")
    with running(tmp_path, "pac-a10", "--policy", str(policy)) as daemon, daemon.connect() as m:
        a = np.arange(5, dtype=np.uint32)
        requests = [m.submit("vadd", a=a, b=a) for _ in range(100)]
        assert all(np.array_equal(one.result(20), a + a) for one in requests)


def test_a_second_manager_is_refused_and_a_stale_socket_is_not(tmp_path: Path) -> None:
    with running(tmp_path) as daemon:
        again = [sys.executable, "-m", "fpgahal.manager.app", "--socket", str(daemon.socket)]
        found = subprocess.run(again, capture_output=True, text=True, timeout=60)
        assert found.returncode == 3
        assert "Another manager" in found.stderr
        daemon.kill()
        assert daemon.socket.exists()
        daemon.start()
        with daemon.connect() as m:
            assert m.status()["connections"] == 1
    assert not daemon.socket.exists()


def test_threads_that_wait_when_the_client_is_closed(tmp_path: Path) -> None:
    with running(tmp_path, launch_us=500_000) as daemon:
        m = daemon.connect()
        with ThreadPoolExecutor(3) as pool:
            errors = [pool.submit(slow(m).exception, 20) for _ in range(3)]
            until(lambda: m._link._others == 2)
            m.close()
            assert all(isinstance(error.result(5), manager.CancelledError) for error in errors)


def test_the_same_arrays_again_and_others_in_their_place(m: manager.Client) -> None:
    """What the client remembers of a request must not be taken for another one's."""
    for fill in range(30):
        a, b, out = (m.allocate(4, "uint32") for _ in range(3))
        a[:], b[:] = fill, 1
        for _ in range(3):
            assert (m.submit("vadd", a=a, b=b, out=out, n=4).result(20) == fill + 1).all()
        assert (m.submit("vadd", a=a, b=b).result(20) == fill + 1).all()
        assert (m.submit("vadd", a=b, b=b, out=out).result(20) == 2).all()
        a.shape = 2, 2
        with pytest.raises(fpgahal.ArgumentRangeError):
            m.submit("vadd", a=a, b=b, out=out, n=5).result(20)
        del a, b, out
    with pytest.raises(fpgahal.ArgumentError):
        m.submit("vadd", a=np.ones(1, "u4"), b=np.ones(1, "u4"), out=np.ones(1, "u4"))
