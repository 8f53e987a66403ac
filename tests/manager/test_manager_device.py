# SPDX-License-Identifier: Apache-2.0
"""``fpgahal.open("manager:")``: programs for a board run on the manager's boards as they are."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from manager_daemon import Daemon, model, running

import fpgahal
from fpgahal.kernels import open_kernel, xgboost
from fpgahal.kernels.vadd import PASSTHROUGH, VADD


@pytest.fixture(scope="module", params=["pac-a10", "u250"])
def daemon(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running(tmp_path_factory.mktemp("device"), request.param) as started:
        yield started


@pytest.fixture
def dev(daemon: Daemon) -> Iterator[fpgahal.Device]:
    with fpgahal.open(f"manager:{daemon.socket}") as opened:
        yield opened


def vectors(dev: fpgahal.Device, n: int = 1000) -> tuple[fpgahal.Buffer, fpgahal.Buffer, fpgahal.Buffer]:
    a, b, out = (dev.allocate(n, "uint32") for _ in range(3))
    np.asarray(a)[:] = np.arange(n)
    np.asarray(b)[:] = 7
    a.sync_to_device()
    b.sync_to_device()
    return a, b, out


def right(out: fpgahal.Buffer) -> bool:
    out.sync_from_device()
    return np.array_equal(np.asarray(out), np.arange(len(out)) + 7)


@pytest.mark.parametrize("name", ["vadd", VADD])
def test_a_kernel_by_name_and_by_contract(dev: fpgahal.Device, name: Any) -> None:
    a, b, out = vectors(dev)
    with dev.kernel(name) as kernel:
        assert [(arg.name, arg.kind) for arg in kernel.info.args] == [(arg.name, arg.kind) for arg in VADD.info.args]
        assert kernel(a, b, out, 1000, timeout=20).state is fpgahal.RunState.COMPLETED
        assert right(out)
        run = kernel.start(a, b, out, 500)
        assert run.wait(20) is fpgahal.RunState.COMPLETED
        assert run.done
        np.asarray(out)[:] = 0
        assert kernel.map([(a, b, out, 1000)] * 40, timeout=20) == 40
        assert right(out)

        async def main() -> fpgahal.RunState:
            return await kernel.start(a, b, out, 1000)

        assert asyncio.run(main()) is fpgahal.RunState.COMPLETED
    assert {"vadd", "passthrough", "xgboost_predict"} <= {kernel.name for kernel in dev.kernels}


def test_many_sizes_of_buffers(dev: fpgahal.Device) -> None:
    kernel = open_kernel(dev, PASSTHROUGH)
    for count in (1, 63, 4096, 3_000_001):
        src, dst = dev.allocate(count), dev.allocate((count,), "int8")
        np.asarray(src)[:] = np.frombuffer(os.urandom(count), np.uint8)
        kernel(src, dst, count, timeout=20)
        assert np.array_equal(np.asarray(src), np.asarray(dst).view(np.uint8))
        src.close()
        dst.close()
    with pytest.raises(fpgahal.ArgumentRangeError, match="no memory bank 3"):
        dev.allocate(10, bank=3)


@pytest.mark.parametrize(("objective", "classes"), [("binary:logistic", 0), ("multi:softprob", 3)])
def test_xgboost_runs_unchanged(dev: fpgahal.Device, objective: str, classes: int) -> None:
    data = model(6, objective=objective, classes=classes)
    x = np.random.default_rng(3).normal(size=(3000, 4)).astype(np.float32)
    x[::5, 2] = np.nan
    start = np.full((3000, classes) if classes else 3000, 0.5, np.float32)

    def all_ways(board: fpgahal.Device) -> list[bytes]:
        with xgboost.load(board, data) as loaded:
            return [
                loaded.predict(x).tobytes(),
                loaded.predict(x[7]).tobytes(),
                loaded.predict(x, output_margin=True, iteration_range=(0, 1)).tobytes(),
                loaded.predict(x, base_margin=start).tobytes(),
                loaded.predict(x, pred_leaf=True).tobytes(),
            ]

    found = all_ways(dev)
    with fpgahal.emu.rack("u250"), fpgahal.open() as direct:
        assert found == all_ways(direct)
    assert found == all_ways(dev)  # where the first forest's buffers were
    with xgboost.load(dev, data) as loaded, ThreadPoolExecutor(4) as pool:
        some = list(pool.map(lambda row: loaded.predict(x[row]), range(100)))
    assert np.concatenate(some).tobytes() == np.frombuffer(found[0], np.float32).tobytes()[: 100 * some[0].nbytes]


def test_models_that_differ_in_their_base_alone(dev: fpgahal.Device) -> None:
    x = np.zeros((1, 4), np.float32)
    found = []
    for base in (b"5E-1", b"9E-1"):
        with xgboost.load(dev, model(3).replace(b"5E-1", base)) as loaded:
            found.append(float(loaded.predict(x)[0]))
    assert found[0] < found[1]


def test_an_image_is_checked_and_not_loaded(dev: fpgahal.Device, daemon: Daemon) -> None:
    info = fpgahal.devices(root=daemon.rack.dir)[0]
    offered = fpgahal.Bitstream.parse(fpgahal.emu.build_image(VADD, daemon.rack.board(info)))
    assert dev.afu_id is None
    assert dev.program(offered) is False
    assert dev.afu_id == offered.afu_id
    dev.verify(offered)
    with pytest.raises(fpgahal.UnsupportedError, match="decides when its boards are programmed"):
        dev.program(offered, force=True)
    other = fpgahal.Bitstream.parse(fpgahal.emu.build_image(xgboost.EXACT, daemon.rack.board(info)))
    with pytest.raises(fpgahal.UnsupportedError, match=r"manager:.* decides what its boards run, and it offers .*vadd"):
        dev.program(other)
    with pytest.raises(fpgahal.BitstreamError):
        dev.program(b"no image")
    for ask in (lambda: dev.kernel(xgboost.EXACT), lambda: open_kernel(dev, xgboost.EXACT), lambda: dev.kernel("no")):
        with pytest.raises(fpgahal.KernelNotFoundError, match=r"it offers .*vadd"):
            ask()


@pytest.mark.parametrize(
    "call",
    [
        lambda dev: dev.csr.read64(0),
        lambda dev: dev.csr.read32(8),
        lambda dev: dev.csr.write64(0, 1),
        lambda dev: dev.csr.write32(0, 1),
        lambda dev: dev.csr.poll(0, 1, 1, timeout=0.1),
        lambda dev: dev.reset(),
        lambda dev: dev.interrupt(),
        lambda dev: dev.kernel("vadd", exclusive=True),
        lambda dev: dev.kernel(VADD.registers),
        lambda dev: dev.kernel("vadd").csr,
    ],
)
def test_what_belongs_to_the_owner(dev: fpgahal.Device, call: Callable[[fpgahal.Device], object]) -> None:
    with pytest.raises(fpgahal.UnsupportedError):
        call(dev)


def test_wrong_arguments(dev: fpgahal.Device) -> None:
    a, b, out = vectors(dev, 10)
    kernel = dev.kernel("vadd")
    with pytest.raises(fpgahal.ArgumentError):
        kernel(a, b, out)
    with pytest.raises(fpgahal.ArgumentError):
        kernel(a, b, np.zeros(10, "u4"), 10)
    with pytest.raises(fpgahal.ArgumentRangeError):
        kernel(a, b, out, -1)
    run = kernel.start(a, b, out, 11)
    with pytest.raises(fpgahal.ArgumentRangeError, match="expected"):
        run.wait(20)
    assert run.state is fpgahal.RunState.ERROR
    with pytest.raises(fpgahal.ArgumentRangeError, match="batch 2 of vadd: "):
        kernel.map([(a, b, out, 10), (a, b, out, 10), (a, b, out, 11)])
    kernel(a, b, out, 10, timeout=20)
    different = fpgahal.KernelContract("vadd", VADD.args[::-1])
    with pytest.raises(fpgahal.ArgumentError, match="not the kernel of the contract"):
        dev.kernel(different)


def forest(dev: fpgahal.Device, nodes: Any, trees: Any) -> tuple[Any, ...]:
    """Arguments for a run with these."""
    found = []
    for array, dtype in ((nodes, xgboost.NODE), (trees, xgboost.TREE)):
        buffer = dev.allocate(len(array) * dtype.itemsize)
        np.asarray(buffer)[:] = np.array(array, dtype).view(np.uint8)
        found.append(buffer)
    x, y, base = dev.allocate(4, "float32"), dev.allocate(4, "float32"), dev.allocate(1, "float32")
    np.asarray(x)[:] = np.asarray(base)[:] = 0
    return x, y, *found, base, 1, 4, 4, 0, len(trees), 1, 0, 77


GOOD = [(0.5, 1), (-1.0, 0), (1.0, 0)]


@pytest.mark.parametrize(
    ("nodes", "trees"),
    [
        ([(0.5, 2), *GOOD[1:]], [(0, 1, 0, 3, 0)]),  # a child that is not there
        ([(0.5, 1 | 4 << 16), *GOOD[1:]], [(0, 1, 0, 3, 0)]),  # a feature that is not there
        (GOOD, [(1, 1, 0, 3, 0)]),  # a tree that is not there
        (GOOD, [(0, 1, 1, 3, 0)]),  # an output that is not there
        (GOOD, [(0xFFFFFFFF, 1, 0, 0xFFFFFFFF, 0)]),
        (GOOD, [(0, 0, 0, 0, 0)]),
    ],
)
def test_a_forest_that_leads_outside_never_gets_to_a_board(dev: fpgahal.Device, nodes: Any, trees: Any) -> None:
    kernel = dev.kernel(xgboost.PREDICT)
    with pytest.raises(fpgahal.ArgumentRangeError, match="xgboost_predict: "):
        kernel(*forest(dev, nodes, trees), timeout=20)
    good = forest(dev, GOOD, [(0, 1, 0, 3, 0)])
    kernel(*good, timeout=20)
    assert np.asarray(good[1])[0] == -1.0
    for position, value in ((5, 2), (8, 2), (9, 9), (10, 9), (11, 4)):
        with pytest.raises(fpgahal.ArgumentRangeError):
            kernel(*good[:position], value, *good[position + 1 :], timeout=20)


def test_lifetimes(daemon: Daemon) -> None:
    dev = fpgahal.open(f"manager:{daemon.socket}")
    a, b, out = vectors(dev)
    kernel = dev.kernel("vadd")
    view = np.asarray(out)
    with pytest.raises(fpgahal.BufferInUseError):
        dev.close()
    with pytest.raises(fpgahal.BufferInUseError):
        out.close()
    del view
    gone = weakref.ref(a)
    run = kernel.start(a, b, out, 1000)
    del a, b
    gc.collect()
    assert gone() is not None or run.done  # a run in flight holds its buffers
    run.wait(20)
    assert right(out)
    again = fpgahal.open(dev.info)
    assert fpgahal.find(dev.info.address) == dev.info
    assert dev.shared
    dev.close()
    dev.close()
    for call in (
        lambda: dev.allocate(1),
        lambda: kernel.start(out, out, out, 1),
        lambda: dev.kernels,
        lambda: dev.reset(),
    ):
        with pytest.raises(fpgahal.ClosedError):
            call()
    assert again.kernels
    again.close()


def test_memory_goes_back(daemon: Daemon, dev: fpgahal.Device) -> None:
    def memory() -> int:
        with daemon.connect() as m:
            return int(sum(one["memory"] for one in m.status()["accounts"]))

    before = memory()
    for _ in range(40):
        dev.allocate(10_000_000).close()
        dev.allocate(10_000_000)
    gc.collect()
    assert memory() - before <= 128 << 20


def test_a_fork(dev: fpgahal.Device) -> None:
    a, b, out = vectors(dev)
    kernel = dev.kernel("vadd")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            kernel(a, b, out, 1000)
        except fpgahal.ClosedError:
            dev.close()
            code = 7
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    kernel(a, b, out, 1000, timeout=20)
    assert right(out)


def test_slow_runs_timeouts_and_closing(tmp_path: Path) -> None:
    with running(tmp_path, "pac-a10", launch_us=400_000) as daemon:
        dev = fpgahal.open(f"manager:{daemon.socket}")
        a, b, out = vectors(dev, 16)
        kernel = dev.kernel("vadd")
        run = kernel.start(a, b, out, 16)
        with pytest.raises(fpgahal.RunTimeoutError, match="still pending"):
            run.wait(0.02)
        assert run.state is fpgahal.RunState.RUNNING
        with pytest.raises(fpgahal.DeviceBusyError):
            kernel.close()
        with pytest.raises(fpgahal.BufferInUseError):
            a.close()
        assert run.wait(20) is fpgahal.RunState.COMPLETED
        assert right(out)
        with pytest.raises(fpgahal.RunTimeoutError):
            kernel.map([(a, b, out, 16)] * 3, timeout=0.05)
        waiting = [kernel.start(a, b, out, 16) for _ in range(5)]
        ended: list[BaseException] = []

        def wait() -> None:
            try:
                waiting[4].wait()
            except fpgahal.FpgaError as error:
                ended.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        since = time.monotonic()
        dev.close()
        assert time.monotonic() - since < 2  # what waits is given up, what runs goes on without us
        thread.join(5)
        assert len(ended) == 1
        assert waiting[0].state is fpgahal.RunState.ABORTED


def test_the_manager_dies_and_comes_back(tmp_path: Path) -> None:
    with running(tmp_path) as daemon:
        with fpgahal.open(f"manager:{daemon.socket}") as dev:
            a, b, out = vectors(dev)
            kernel = dev.kernel("vadd")
            kernel(a, b, out, 1000, timeout=20)
            daemon.kill()
            run = kernel.start(a, b, out, 1000)
            np.asarray(out)[:] = 0
            daemon.start()
            run.wait(30)
            assert right(out)
        assert daemon.stop() == 0


def test_a_hung_run_is_stopped_by_the_manager(tmp_path: Path) -> None:
    with (
        running(tmp_path, "pac-a10", "--timeout", "0.2", launch_us=1_500_000) as daemon,
        fpgahal.open(f"manager:{daemon.socket}") as dev,
    ):
        a, b, out = vectors(dev, 16)
        run = dev.kernel("vadd").start(a, b, out, 16)
        with pytest.raises(fpgahal.RunError, match="was stopped") as caught:
            run.wait(60)
        assert not isinstance(caught.value, TimeoutError)  # it is not pending any more
        assert run.done


def test_who_may_have_how_much(tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text('[default]\nmemory = "4 MiB"\nconnections = 2\naccelerators = ["vadd"]\n')
    with (
        running(tmp_path, "pac-a10", "--policy", str(policy)) as daemon,
        fpgahal.open(f"manager:{daemon.socket}") as dev,
    ):
        with pytest.raises(fpgahal.DeviceMemoryError, match="limits"):
            dev.allocate(64 << 20)
        assert [kernel.name for kernel in dev.kernels] == ["vadd"]
        with pytest.raises(fpgahal.KernelNotFoundError, match=r"it offers vadd\)"):
            dev.kernel("passthrough")
        with fpgahal.open(dev.info), pytest.raises(fpgahal.DeviceBusyError):
            fpgahal.open(dev.info)


def test_what_is_no_manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    since = time.monotonic()
    with pytest.raises(fpgahal.DeviceNotFoundError, match=r"manager:.*none.sock: no manager answers"):
        fpgahal.open(f"manager:{tmp_path / 'none.sock'}")
    monkeypatch.setenv("FPGAHAL_MANAGER", str(tmp_path / "default.sock"))
    with pytest.raises(fpgahal.DeviceNotFoundError, match="default"):
        fpgahal.open("manager:")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        other.bind(str(tmp_path / "other.sock"))
        other.listen()
        with pytest.raises(fpgahal.DeviceNotFoundError):
            fpgahal.open(f"manager:{tmp_path / 'other.sock'}")
    with pytest.raises(fpgahal.DeviceNotFoundError, match="known scheme"):
        fpgahal.open("boards:")
    with pytest.raises(fpgahal.DeviceNotFoundError, match="chosen by driver=xrt"):
        fpgahal.open("manager:", driver="xrt")
    assert time.monotonic() - since < 5
