# SPDX-License-Identifier: Apache-2.0
"""fpgahal.contrib.inaccel: the shape of InAccel's Python client."""

from __future__ import annotations

import contextvars
import gc
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fpgahal
from fpgahal.kernels.vadd import VADD

sys.path.insert(0, str(Path(__file__).parents[1] / "manager"))  # the manager in a process of its own
from manager_daemon import Daemon, running, until
from test_repository import VECTOR, fill, package

from fpgahal.contrib import inaccel

ADD = "com.inaccel.math.vector.addition"


@pytest.fixture(scope="module", params=["pac-a10", "u250"])
def started(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("inaccel")
    fill(folder / "images", request.param)
    with running(folder, request.param, "--images", str(folder / "images")) as daemon:
        yield daemon
        inaccel.close()


@pytest.fixture
def daemon(started: Daemon, monkeypatch: pytest.MonkeyPatch) -> Daemon:
    monkeypatch.setenv("FPGAHAL_MANAGER", str(started.socket))
    return started


def vectors(n: int = 1000) -> tuple[Any, Any, Any]:
    with inaccel.allocator:
        return np.arange(n, dtype=np.uint32), np.full(n, 7, np.uint32), np.ndarray(n, np.uint32)


def test_vector_addition(daemon: Daemon) -> None:
    size = np.uint32(1000)
    a, b, c = vectors()
    request = inaccel.request(ADD)
    assert request.arg(a).arg(b).arg(c).arg(size) is request
    assert str(request) == f"{ADD}(uint32[1000], uint32[1000], uint32[1000], 1000)"
    response = inaccel.submit(request)
    assert response.result(20) is None
    assert np.array_equal(c, a + 7)
    inaccel.submit(inaccel.request(ADD).arg(c[:500]).arg(a[500:]).arg(b.reshape(20, 50)).arg(500)).result(20)
    assert np.array_equal(b[:500], c[:500] + a[500:])
    out_of_order = inaccel.request(ADD).arg(10, 3).arg(c, 2).arg(a, 0).arg(a, 1)
    inaccel.submit(out_of_order).result(20)
    assert np.array_equal(c[:10], 2 * a[:10])


def test_many_at_a_time(daemon: Daemon) -> None:
    def one(seed: int) -> bool:
        a, b, c = vectors(100 + seed)
        a += np.uint32(seed)
        inaccel.submit(inaccel.request(ADD).arg(a).arg(b).arg(c).arg(len(a))).result(30)
        return np.array_equal(c, a + 7)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(one, range(60)))
    a, b, _ = vectors()
    with inaccel.allocator:
        outputs = [np.zeros(1000, np.uint32) for _ in range(50)]
    futures = {inaccel.submit(inaccel.request(ADD).arg(a).arg(b).arg(out).arg(1000)): out for out in outputs}
    for future in as_completed(futures, timeout=30):
        assert np.array_equal(futures[future], a + 7)


def test_what_the_allocator_makes(daemon: Daemon) -> None:
    with inaccel.allocator:
        made = {
            "zeros": np.zeros((3, 5)),
            "grown": np.fromiter(iter(range(5000)), np.int64),
            "copied": np.array([1.5, 2.5]),
            "computed": np.arange(10) * 2,
            "empty": np.empty(0, np.uint8),
            "large": np.zeros(3_000_000, np.uint8),
            "one": np.array(3),
            "text": np.array(["a", "bc"]),
            "objects": np.array([{}, []], object),
        }
        with inaccel.allocator:
            inner = np.ones(3)
        still = np.ones(3)
    outside = np.ones(3)
    assert all(inaccel.allocator.handles(array) for array in made.values())
    assert inaccel.allocator.handles(inner)
    assert inaccel.allocator.handles(still)
    assert inaccel.allocator.handles(made["zeros"].T[1:])
    assert not inaccel.allocator.handles(outside)
    assert not made["zeros"].any()
    assert not made["large"].any()
    assert made["grown"].tolist() == list(range(5000))
    assert made["copied"].tolist() == [1.5, 2.5]
    made["grown"].resize(20_000, refcheck=False)  # a realloc, outside
    assert inaccel.allocator.handles(made["grown"])
    assert made["grown"][:5000].tolist() == list(range(5000))
    assert not made["grown"][5000:].any()
    assert not inaccel.allocator.handles(made["copied"] + 1)


def test_it_is_for_this_context_alone(daemon: Daemon) -> None:
    found = []
    with inaccel.allocator:
        thread = threading.Thread(target=lambda: found.append(np.ones(3)))
        thread.start()
        thread.join()
        contextvars.Context().run(lambda: found.append(np.ones(3)))
        contextvars.copy_context().run(lambda: found.append(np.ones(3)))
    assert [inaccel.allocator.handles(array) for array in found] == [False, False, True]
    with pytest.raises(ZeroDivisionError), inaccel.allocator:
        raise ZeroDivisionError
    assert not inaccel.allocator.handles(np.ones(3))


def test_memory_goes_back(daemon: Daemon) -> None:
    def memory() -> int:
        with daemon.connect() as m:
            return int(sum(one["memory"] for one in m.status()["accounts"]))

    before, blocks = memory(), len(inaccel.allocator._handler.blocks)
    for _ in range(50):
        with inaccel.allocator:
            large = np.zeros(10_000_000, np.uint8)
        view = large[5:]
        del large
        assert inaccel.allocator.handles(view)
        del view
    gc.collect()
    assert len(inaccel.allocator._handler.blocks) <= blocks
    assert memory() - before <= 64 << 20


def test_errors(daemon: Daemon) -> None:
    a, b, c = vectors()
    foreign = np.ones(1000, np.uint32)
    with pytest.raises(fpgahal.ArgumentError, match=r"argument 1 is an array of 4000 bytes that inaccel.allocator has"):
        inaccel.request(ADD).arg(a).arg(foreign)
    with pytest.raises(fpgahal.ArgumentError, match="not str"):
        inaccel.request(ADD).arg("a")
    for request, message in (
        (inaccel.request(ADD).arg(a).arg(b).arg(c), r"takes 4 arguments \(uint32\* input1, .*uint32 size\), not 3"),
        (inaccel.request(ADD).arg(a).arg(b).arg(c).arg(1).arg(1), "not 5"),
        (inaccel.request(ADD).arg(a).arg(b).arg(c, 5).arg(1, 3), "not 4"),
        (inaccel.request(ADD).arg(a).arg(b).arg(c).arg(a), r"argument 3 \(uint32 size\) is an array"),
        (inaccel.request(ADD).arg(a).arg(1).arg(c).arg(1), r"argument 1 \(uint32\* input2\) is a number"),
        (inaccel.request(ADD).arg(a).arg(b).arg(c).arg(1.5), r"argument 3 \(uint32 size\) is 1.5"),
        (inaccel.request("xgboost.predict").arg(1), "have no order"),
    ):
        with pytest.raises(fpgahal.ArgumentError, match=message):
            inaccel.submit(request)
    with pytest.raises(fpgahal.ArgumentRangeError, match="not one after the other"):
        inaccel.submit(inaccel.request(ADD).arg(a[::2]).arg(b).arg(c).arg(1))
    with pytest.raises(fpgahal.KernelNotFoundError, match=r"There are .*addition"):
        inaccel.submit(inaccel.request("com.inaccel.math.vector.subtraction").arg(a))
    with pytest.raises(fpgahal.ArgumentRangeError):
        inaccel.submit(inaccel.request(ADD).arg(a).arg(b).arg(c).arg(1001)).result(20)
    with pytest.raises(fpgahal.ArgumentError):
        inaccel.submit(inaccel.request(ADD).arg(a.view("f4")).arg(b).arg(c).arg(10)).result(20)
    inaccel.submit(inaccel.request(ADD).arg(a).arg(b).arg(c).arg(1000)).result(20)


def test_a_fork(daemon: Daemon) -> None:
    program = f"""
import os
import numpy as np
from fpgahal.contrib import inaccel
with inaccel.allocator:
    a, c = np.ones(10, np.uint32), np.zeros(10, np.uint32)
add = lambda a, c: inaccel.submit(inaccel.request("{ADD}").arg(a).arg(a).arg(c).arg(10)).result(20)
add(a, c)
child = os.fork()
if child == 0:
    try:
        add(a, c)
    except TypeError as error:
        assert "before a fork" in str(error)
        with inaccel.allocator:
            x, y = np.ones(10, np.uint32), np.zeros(10, np.uint32)
        add(x, y)
        os._exit(int(y.sum()))
    os._exit(1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 20
add(a, c)
assert c.sum() == 20
with inaccel.allocator:
    at_exit = np.ones(10)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_quota_and_cancel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package(tmp_path / "images", "pac-a10", VADD, ADD, ["vadd"], VECTOR)
    policy = tmp_path / "policy.toml"
    policy.write_text('[default]\nmemory = "8 MiB"\n')
    options = ("--images", str(tmp_path / "images"), "--policy", str(policy))
    with running(tmp_path, "pac-a10", *options, launch_us=300_000) as daemon:
        monkeypatch.setenv("FPGAHAL_MANAGER", str(daemon.socket))
        with pytest.raises(MemoryError) as caught, inaccel.allocator:
            np.zeros(64 << 20, np.uint8)
        assert "limits" in caught.value.__notes__[0]
        a, b, c = vectors()
        futures = [inaccel.submit(inaccel.request(ADD).arg(a).arg(b).arg(c).arg(1000)) for _ in range(4)]
        assert futures[3].cancel()
        with pytest.raises(CancelledError):
            futures[3].result()
        futures[2].result(20)
        with daemon.connect() as m:
            until(lambda: m.status()["ended"].get("cancelled") == 1)
        inaccel.close()


def test_numpy_has_what_we_count_on() -> None:
    """_nep49.pyx has no headers of NumPy's: its table's position, and the struct, are what they say."""
    headers = Path(np.get_include()) / "numpy"
    table = (headers / "__multiarray_api.h").read_text()
    assert re.search(r"define PyDataMem_SetHandler\s.*?PyArray_API\[304\]", table, re.DOTALL)
    struct = (headers / "ndarraytypes.h").read_text()
    assert re.search(
        r"char name\[127\];.*?uint8_t version;.*?PyDataMemAllocator allocator;\s*} PyDataMem_Handler", struct, re.DOTALL
    )
    order = re.findall(r"\(\*(malloc|calloc|realloc|free)\)", struct[struct.index("PyDataMemAllocator") - 900 :])
    assert order[:4] == ["malloc", "calloc", "realloc", "free"]


def test_no_manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fpgahal import manager

    monkeypatch.setenv("FPGAHAL_MANAGER", str(tmp_path / "none"))
    monkeypatch.setattr(inaccel, "connect", lambda: manager.connect(patience=0.1))
    since = time.monotonic()
    with pytest.raises(manager.ManagerLostError, match="no manager answers"), inaccel.allocator:
        pass
    assert time.monotonic() - since < 5
    assert not inaccel.allocator._before.get()
