# SPDX-License-Identifier: Apache-2.0
"""Pipelines: order, back-pressure, errors, stopping in every step, lost boards, asyncio; nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import fpgahal
from fpgahal import emu
from fpgahal.kernels import Pipeline, Work, open_kernel
from fpgahal.kernels.vadd import VADD

sys.path.insert(0, str(Path(__file__).parent.parent / "faults"))

from processes import TESTS, Script, run

ROWS = 4096
SOON = 1.0  # seconds; a pipeline stops in 0.2, but machines are busy


class Vadd:
    """A lane: adds two vectors."""

    made: ClassVar[list[Vadd]] = []

    def __init__(self, device: fpgahal.Device, kernel: fpgahal.Kernel, rows: int = ROWS) -> None:
        self.device = device
        self.kernel = kernel
        self.buffers = [device.allocate(rows, "uint32") for _ in range(3)]
        self.views = [np.asarray(buffer) for buffer in self.buffers]
        self.n = 0
        self.slow_fill = 0.0
        Vadd.made.append(self)

    def fill(self, batch: Any) -> Work:
        view = np.asarray(self.buffers[0])  # in a frame that an error keeps alive
        time.sleep(self.slow_fill)
        a, b = batch
        self.n = n = len(a)
        view[:n] = a
        self.views[1][:n] = b
        one, two, out = self.buffers
        return Work((one, two, out, n), ((one, 4 * n), (two, 4 * n)), ((out, 4 * n),))

    def batch(self) -> Any:
        return self.views[0][: self.n], self.views[1][: self.n]

    def result(self) -> Any:
        return self.views[2][: self.n].copy()

    def close(self) -> None:
        self.views.clear()
        for buffer in self.buffers:
            buffer.close()


def batch(index: int) -> tuple[Any, Any]:
    n = 1 + index * 37 % ROWS
    return np.arange(n, dtype=np.uint32) + index, np.full(n, index, np.uint32)


def right(index: int, result: Any) -> bool:
    a, b = batch(index)
    return bool(np.array_equal(result, a + b))


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("pipeline")]


@contextmanager
def boards(*specs: str, **speed: float) -> Iterator[tuple[emu.Rack, list[fpgahal.Device], list[fpgahal.Kernel]]]:
    """Boards with the kernel; at the end nothing of a pipeline may be there."""
    Vadd.made.clear()
    with emu.rack(*specs, **speed) as rack:
        devices = fpgahal.open_all()
        yield rack, list(devices), [open_kernel(dev, VADD) for dev in devices]
        assert not threads()
        assert all(buffer.closed for lane in Vadd.made for buffer in lane.buffers)
        devices.close()  # no view, no run, no buffer keeps it open


def pipeline(
    devices: list[fpgahal.Device], kernels: list[fpgahal.Kernel], rows: int = ROWS, **options: Any
) -> Pipeline:
    return Pipeline([partial(Vadd, *pair, rows) for pair in zip(devices, kernels, strict=True)], **options)


each_vendor = pytest.mark.parametrize("kind", ["pac-a10", "u250"])


# --- what it is for ------------------------------------------------------------------------------------------------


@each_vendor
@pytest.mark.parametrize("depth", [1, 3, 8])
@pytest.mark.parametrize("speed", [{}, {"link_gbps": 1.0, "launch_us": 50.0}], ids=["fast", "paced"])
def test_results_in_order(kind: str, depth: int, speed: dict[str, float]) -> None:
    with boards(kind, **speed) as (_, devices, kernels), pipeline(devices, kernels, depth=depth) as pipe:
        for _ in range(2):
            results = list(pipe.map(batch(index) for index in range(60)))
            assert len(results) == 60
            assert all(map(right, range(60), results))
        assert list(pipe.map([])) == []
        assert pipe.finished == []


@each_vendor
def test_source_may_reuse_its_array_and_results_stay(kind: str) -> None:
    with boards(kind) as (_, devices, kernels), pipeline(devices, kernels) as pipe:

        def source() -> Iterator[Any]:
            array = np.empty(ROWS, np.uint32)
            for index in range(50):
                array[:] = index
                yield array, array

        results = list(pipe.map(source()))
        assert [int(result[0]) for result in results] == [2 * index for index in range(50)]
        assert all((result == result[0]).all() for result in results)


@each_vendor
@pytest.mark.parametrize("depth", [1, 2, 5])
def test_never_more_taken_than_lanes(kind: str, depth: int) -> None:
    taken = handed_out = most = 0

    def source() -> Iterator[Any]:
        nonlocal taken, most
        for index in range(40):
            taken += 1
            most = max(most, taken - handed_out)
            yield batch(index)

    with boards(kind, launch_us=300) as (_, devices, kernels), pipeline(devices, kernels, depth=depth) as pipe:
        for _ in pipe.map(source()):
            handed_out += 1
    assert (taken, handed_out, most) == (40, 40, depth)


def test_transfers_and_runs_overlap() -> None:
    """20 ms up, 20 ms run, 10 ms down; one after the other that is 50 ms a batch."""
    with (
        boards("u250", link_gbps=0.002, launch_us=20_000) as (_, devices, kernels),
        pipeline(devices, kernels, 5000, depth=5) as pipe,
    ):
        ones = np.ones(5000, np.uint32)  # 20,000 bytes: up twice, down once
        begin = time.perf_counter()
        count = sum(1 for _ in pipe.map(itertools.repeat((ones, ones), 20)))
        took = time.perf_counter() - begin
    assert count == 20
    assert 20 * 0.020 <= took < 20 * 0.040


def test_several_boards_share_the_work() -> None:
    with boards("u250:2,pac-a10", launch_us=2000) as (_, devices, kernels), pipeline(devices, kernels) as pipe:
        results = list(pipe.map(batch(index) for index in range(90)))
        assert all(map(right, range(90), results))
        assert all(lane.n for lane in Vadd.made)
        assert len({lane.device for lane in Vadd.made}) == 3


# --- errors --------------------------------------------------------------------------------------------------------


@each_vendor
def test_error_of_a_batch(kind: str) -> None:
    with boards(kind) as (_, devices, kernels), pipeline(devices, kernels) as pipe:
        good: list[Any] = []  # extend keeps what came before the error
        with pytest.raises(ValueError, match="broadcast") as caught:
            good.extend(pipe.map((np.zeros(ROWS + 1), [0]) if index == 7 else batch(index) for index in range(20)))
        assert all(map(right, range(7), good))
        assert len(good) == 7
        assert caught.value.__notes__ == [f"In batch 7 of the pipeline, on {devices[0].info.address}."]
        assert all(map(right, range(9), pipe.map(map(batch, range(9)))))


@each_vendor
def test_error_of_the_source(kind: str) -> None:
    def source() -> Iterator[Any]:
        yield from map(batch, range(5))
        raise OSError("no more")

    with boards(kind, launch_us=1000) as (_, devices, kernels), pipeline(devices, kernels) as pipe:
        good: list[Any] = []
        with pytest.raises(OSError, match="no more"):
            good.extend(pipe.map(source()))
        assert len(good) == 5
        assert all(map(right, range(5), good))
        with pytest.raises(TypeError):
            list(pipe.map(5))  # type: ignore[arg-type]


@each_vendor
def test_error_of_a_run(kind: str) -> None:
    with boards(kind, launch_us=500) as (rack, devices, kernels), pipeline(devices, kernels) as pipe:

        def source() -> Iterator[Any]:
            for index in range(40):
                if index == 20:
                    rack.fault(0, "run-error", count=1)
                yield batch(index)

        good: list[Any] = []
        with pytest.raises(fpgahal.RunError) as caught:
            good.extend(pipe.map(source()))
        assert all(map(right, range(len(good)), good))
        assert 15 < len(good) < 23
        assert str(caught.value).startswith(f"Batch {len(good)}: vadd on {devices[0].info.address}")
        assert all(map(right, range(9), pipe.map(map(batch, range(9)))))


@each_vendor
def test_run_that_hangs(kind: str) -> None:
    with boards(kind) as (rack, devices, kernels), pipeline(devices, kernels, timeout=0.3) as pipe:
        rack.fault(0, "hang", count=1)
        begin = time.monotonic()
        with pytest.raises(fpgahal.RunTimeoutError, match=r"^Batch 0: vadd on .* did not finish in 0.3 s"):
            next(pipe.map(map(batch, range(9))))
        assert 0.3 <= time.monotonic() - begin < SOON
        assert all(map(right, range(9), pipe.map(map(batch, range(9)))))  # it was reset


@each_vendor
def test_board_that_vanishes(kind: str) -> None:
    with boards(kind, launch_us=500) as (rack, devices, kernels):
        with pipeline(devices, kernels) as pipe:

            def source() -> Iterator[Any]:
                for index in range(40):
                    if index == 20:
                        rack.fault(0, "vanish")
                    yield batch(index)

            good: list[Any] = []
            with pytest.raises(fpgahal.DeviceLostError) as caught:
                good.extend(pipe.map(source()))
            assert 15 < len(good) < 23
            assert all(map(right, range(len(good)), good))
            assert f"Batch {len(good)}" in str(caught.value)
            assert devices[0].info.address in str(caught.value)
            with pytest.raises(fpgahal.DeviceLostError, match="All boards"):
                list(pipe.map([]))
        del pipe, caught


def test_another_board_takes_over() -> None:
    with boards("u250:2,pac-a10", launch_us=500) as (rack, devices, kernels), pipeline(devices, kernels) as pipe:

        def source() -> Iterator[Any]:
            for index in range(90):
                if index in (20, 50):
                    rack.fault(0 if index == 20 else 2, "vanish")
                yield batch(index)

        results = list(pipe.map(source()))
        assert len(results) == 90
        assert all(map(right, range(90), results))
        assert repr(pipe).count("(lost)") == 2


# --- the end -------------------------------------------------------------------------------------------------------


@each_vendor
def test_exception_in_the_consumer(kind: str) -> None:
    with boards(kind, launch_us=2000) as (_, devices, kernels):

        def consume(pipe: Pipeline) -> None:
            with pipe:
                for index, result in enumerate(pipe.map(map(batch, itertools.count()))):
                    assert right(index, result)
                    if index == 5:
                        raise KeyError(index)

        pipe = pipeline(devices, kernels)
        with pytest.raises(KeyError):
            consume(pipe)
        assert not threads()
        # what was done by then is not lost: with what was handed out, no batch is missing
        assert [index for index, _ in pipe.finished] == list(range(6, 6 + len(pipe.finished)))
        assert all(itertools.starmap(right, pipe.finished))


@each_vendor
def test_generator_that_is_closed_or_dropped(kind: str) -> None:
    with boards(kind, launch_us=2000) as (_, devices, kernels), pipeline(devices, kernels) as pipe:
        results = pipe.map(map(batch, itertools.count()))
        next(results)
        with pytest.raises(fpgahal.DeviceBusyError, match="another map"):
            next(pipe.map([]))
        results.close()
        results = pipe.map(map(batch, itertools.count()))
        next(results)
        del results
        gc.collect()
        assert all(map(right, range(9), pipe.map(map(batch, range(9)))))


@each_vendor
@pytest.mark.parametrize("step", ["fill", "upload", "run", "download", "hang"])
def test_close_in_each_step(kind: str, step: str) -> None:
    speed: dict[str, float] = {"fill": {}, "hang": {}, "run": {"launch_us": 1e6}}.get(step, {"link_gbps": 0.0002})
    with boards(kind, **speed) as (rack, devices, kernels):
        pipe = pipeline(devices, kernels, depth=2)
        if step == "hang":
            rack.fault(0, "hang")
        for lane in Vadd.made:
            lane.slow_fill = 0.15 if step == "fill" else 0.0
        ones = np.ones(ROWS, np.uint32)
        # 16,384 bytes at 200 kB/s: 82 ms for each input, and 82 ms for the output
        delay = {"upload": 0.05, "download": 0.2}.get(step, 0.08)
        failed: list[BaseException] = []

        def consume() -> None:
            try:
                for _ in pipe.map(itertools.repeat((ones, ones))):
                    pass
            except BaseException as error:
                failed.append(error)

        consumer = threading.Thread(target=consume)
        consumer.start()
        time.sleep(delay)
        begin = time.monotonic()
        pipe.close()
        took = time.monotonic() - begin
        consumer.join(10)
        assert not consumer.is_alive()
        assert [type(error) for error in failed] == [fpgahal.ClosedError]
        print(f"closed in {took:.3f} s")
        assert took < SOON
        assert not threads()
        pipe.close()
        with pytest.raises(fpgahal.ClosedError):
            next(pipe.map([]))
        rack.clear(0)
        with pipeline(devices, kernels) as again:  # the board is fine
            assert right(3, next(again.map([batch(3)])))


@each_vendor
def test_closed_while_suspended(kind: str) -> None:
    with boards(kind, launch_us=500) as (_, devices, kernels):
        with pipeline(devices, kernels) as pipe:
            results = pipe.map(map(batch, itertools.count()))
            assert right(0, next(results))
        with pytest.raises(fpgahal.ClosedError, match="closed"):
            next(results)
        with pytest.raises(fpgahal.ClosedError):
            pipe.__enter__()
        assert "closed" in repr(pipe)


def test_bad_arguments() -> None:
    with boards("u250") as (_, devices, kernels):
        with pytest.raises(ValueError, match="depth=0"):
            pipeline(devices, kernels, depth=0)
        with pytest.raises(ValueError, match="needs a board"):
            Pipeline([])
        countdown = iter([Vadd, Vadd])
        with pytest.raises(StopIteration):  # no room for the third lane: the other two are given back
            Pipeline([lambda: next(countdown)(devices[0], kernels[0])])
        assert len(Vadd.made) == 2
        with pipeline(devices, kernels) as pipe, pytest.raises(TypeError):
            pipe.map()  # type: ignore[call-arg]


CTRL_C = f"""
sys.path.insert(0, {str(Path(TESTS) / "kernels")!r})
from test_pipeline import Vadd, batch, right, pipeline, threads
from fpgahal.kernels import open_kernel
from fpgahal.kernels.vadd import VADD
from itertools import count
devices = list(fpgahal.open_all())
pipe = pipeline(devices, [open_kernel(dev, VADD) for dev in devices])
"""


@each_vendor
@pytest.mark.parametrize("hang", [False, True])
def test_ctrl_c(kind: str, hang: bool) -> None:
    with emu.rack(kind, launch_us=3000) as rack:
        text = """
        got = 0
        try:
            with pipe:
                for index, result in enumerate(pipe.map(map(batch, count()))):
                    assert index == got and right(index, result)
                    got += 1
                    if got == 10:
                        say("running")
        except KeyboardInterrupt:
            begin = time.monotonic()
            assert [index for index, _ in pipe.finished] == list(range(got, got + len(pipe.finished)))
            assert all(right(*pair) for pair in pipe.finished)
            assert not threads(), threads()
            for dev in devices:
                dev.close()
            say("stopped", got)
        """
        with Script(CTRL_C + "".join(line[8:] + "\n" for line in text.splitlines())) as script:
            assert script.line() == "running"
            if hang:
                rack.fault(0, "hang")
                time.sleep(0.2)
            begin = time.monotonic()
            script.process.send_signal(signal.SIGINT)
            assert script.line().startswith("stopped")
            assert time.monotonic() - begin < SOON
            out, err, code = script.finish()
            assert (out, err, code) == ("", "", 0)


@each_vendor
def test_interpreter_ends_in_mid_run(kind: str) -> None:
    """Without ``with``: the threads end, also when a run hangs."""
    with emu.rack(kind, launch_us=3000):
        text = """
        rack = emu.rack(dir=os.environ["FPGAHAL_EMU_RACK"])
        results = pipe.map(map(batch, count()))
        next(results)
        rack.fault(0, "hang")
        time.sleep(0.1)
        """
        run(CTRL_C + "".join(line[8:] + "\n" for line in text.splitlines()), timeout=30)


@each_vendor
def test_child_of_a_fork(kind: str) -> None:
    with emu.rack(kind, launch_us=20_000):
        text = """
        results = pipe.map(map(batch, count()))
        next(results)
        child = os.fork()
        if not child:
            for what in (lambda: next(results), lambda: next(pipe.map([])), pipe.__enter__):
                try:
                    what()
                except fpgahal.ClosedError:
                    pass
                else:
                    os._exit(1)
            pipe.close()
            sys.exit(0)  # with all that is done at an interpreter's end
        assert os.waitpid(child, 0)[1] == 0
        assert right(1, next(results))
        pipe.close()
        devices[0].close()
        """
        run(CTRL_C + "".join(line[8:] + "\n" for line in text.splitlines()), timeout=30)


@each_vendor
def test_device_closed_first(kind: str) -> None:
    with boards(kind, launch_us=500) as (_, devices, kernels):
        pipe = pipeline(devices, kernels)
        results = pipe.map(map(batch, range(3)))
        next(results)
        assert all(worker.quiet.wait(10) for worker in pipe._workers)
        with pytest.raises(fpgahal.BufferInUseError):  # the lanes hold views
            devices[0].close()
        for lane in Vadd.made:
            lane.views.clear()
        devices[0].close()
        with pytest.raises(fpgahal.ClosedError, match="was closed"):
            list(results)
        pipe.close()


@each_vendor
def test_nothing_grows(kind: str) -> None:
    with boards(kind) as (_, devices, kernels):
        files = rss = 0
        for cycle in range(150):
            with pipeline(devices, kernels, depth=2) as pipe:
                results = pipe.map(map(batch, itertools.count()))
                for _ in range(cycle % 5):
                    next(results)
            del pipe, results
            Vadd.made.clear()
            if cycle == 50:
                gc.collect()
                files, rss = len(os.listdir("/proc/self/fd")), memory()
        gc.collect()
        assert len(os.listdir("/proc/self/fd")) <= files
        assert memory() - rss < 4 << 20


def memory() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


# --- asyncio -------------------------------------------------------------------------------------------------------


async def ticks(count: float, pause: float = 0.0) -> AsyncIterator[Any]:
    index = 0
    while index < count:
        await asyncio.sleep(pause)
        yield batch(index)
        index += 1


async def extend(found: list[Any], results: AsyncIterator[Any]) -> None:
    async for result in results:
        found += [result]


@each_vendor
@pytest.mark.parametrize("source", [lambda: map(batch, range(40)), lambda: ticks(40)], ids=["sync", "async"])
def test_asyncio(kind: str, source: Any) -> None:
    async def main() -> list[Any]:
        return [result async for result in pipe.amap(source())]

    with boards(kind, launch_us=300) as (_, devices, kernels), pipeline(devices, kernels) as pipe:
        results = asyncio.run(main())
        assert len(results) == 40
        assert all(map(right, range(40), results))


def test_asyncio_hands_out_while_the_source_waits() -> None:
    async def main() -> None:
        gate = asyncio.Event()

        async def source() -> AsyncIterator[Any]:
            yield batch(0)
            await gate.wait()  # comes only when the first result was handed out
            yield batch(1)

        async with asyncio.timeout(10):
            async for _ in pipe.amap(source()):
                gate.set()

    async def leave_while_the_source_waits() -> None:
        async def source() -> AsyncIterator[Any]:
            yield batch(0)
            await asyncio.Event().wait()  # for ever

        async with asyncio.timeout(10), aclosing(pipe.amap(source())) as results:
            async for _ in results:
                break

    with boards("u250") as (_, devices, kernels), pipeline(devices, kernels) as pipe:
        asyncio.run(main())
        asyncio.run(leave_while_the_source_waits())


@each_vendor
def test_asyncio_cancel_and_errors(kind: str) -> None:
    ended = []

    async def endless() -> AsyncIterator[Any]:
        try:
            async for item in ticks(float("inf"), 0.001):
                yield item
        finally:
            ended.append(True)

    async def consume() -> None:
        async with aclosing(pipe.amap(endless())) as results:
            async for _ in results:
                pass

    async def main() -> None:
        task = asyncio.ensure_future(consume())
        await asyncio.sleep(0.1)
        begin = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - begin < SOON
        rack.fault(0, "hang")
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(consume(), 0.1)
        rack.clear(0)

        async def failing() -> AsyncIterator[Any]:
            async for item in ticks(4):
                yield item
            raise OSError("no more")

        good: list[Any] = []
        with pytest.raises(OSError, match="no more"):
            await extend(good, pipe.amap(failing()))
        assert len(good) == 4

    with boards(kind, launch_us=500) as (rack, devices, kernels), pipeline(devices, kernels) as pipe:
        asyncio.run(main())
        assert len(ended) == 2


# --- the emulated link, and several boards at once -----------------------------------------------------------------


def test_link_is_a_queue_for_each_direction() -> None:
    def busy(*syncs: Any) -> float:
        jobs = [threading.Thread(target=lambda sync=sync: [sync() for _ in range(5)]) for sync in syncs]
        begin = time.perf_counter()
        for job in jobs:
            job.start()
        for job in jobs:
            job.join()
        return time.perf_counter() - begin

    with boards("u250", link_gbps=0.1) as (_, devices, _kernels):
        one, two = (devices[0].allocate(1_000_000) for _ in range(2))  # 10 ms
        assert 0.050 <= min(busy(one.sync_to_device) for _ in range(3)) < 0.075
        assert 0.100 <= min(busy(one.sync_to_device, two.sync_to_device) for _ in range(3)) < 0.125
        assert 0.050 <= min(busy(one.sync_to_device, two.sync_from_device) for _ in range(3)) < 0.075
        one.close()
        two.close()


def test_processes_share_the_link() -> None:
    text = """
    buffer = loaded("vadd", shared=True).allocate(1_000_000)
    say("ready")
    sys.stdin.readline()
    begin = time.monotonic()
    for _ in range(10):
        buffer.sync_to_device()
    say(begin, time.monotonic())
    """
    with emu.rack("u250", link_gbps=0.1), Script(text) as one, Script(text) as two:
        assert one.line() == two.line() == "ready"
        one.tell("go")
        two.tell("go")
        begins, ends = zip(*(map(float, script.line().split()) for script in (one, two)), strict=True)
        assert max(ends) - min(begins) >= 0.2  # 10 ms each


def test_kernel_traffic_on_opae_takes_the_link() -> None:
    with boards("pac-a10", link_gbps=0.1) as (_, devices, kernels):
        a, b, out = (devices[0].allocate(500_000, "uint32") for _ in range(3))
        times = []
        for _ in range(3):
            begin = time.perf_counter()
            kernels[0](a, b, out, 500_000)
            times.append(time.perf_counter() - begin)
        assert 0.040 <= min(times) < 0.060  # 4 MB up; 2 MB down at the same time
        for buffer in (a, b, out):
            buffer.close()


def test_threads_take_turns() -> None:
    with boards("u250,pac-a10", launch_us=300) as (_, devices, kernels):
        for dev, kernel in zip(devices, kernels, strict=True):
            with dev.kernel(VADD) as second:
                alone = dev.driver != "xrt"
                assert (kernel.turn is second.turn) == alone  # one accelerator; on XRT the driver has a queue
                with kernel.turn:
                    assert hasattr(second.turn, "locked") == alone


def test_pipeline_lets_others_have_a_turn() -> None:
    """Its lanes hand the accelerator on to each other, but not for ever."""
    with (
        boards("pac-a10", launch_us=300) as (_, devices, (kernel,)),
        Pipeline([partial(Vadd, *devices, kernel)]) as pipe,
    ):
        turns = []

        def outsider() -> None:
            with kernel.turn:
                turns.append(kernel)

        results = pipe.map(map(batch, itertools.count()))
        thread = threading.Thread(target=outsider)
        for index, result in enumerate(results):
            assert right(index, result)
            if index == 10:
                thread.start()
            if turns:
                break
            assert index < 5000
        results.close()
        thread.join()


def test_open_all() -> None:
    with emu.rack("u250:2,pac-a10") as rack:
        with fpgahal.open_all() as group:
            assert [dev.info.bdf for dev in group] == [info.bdf for info in fpgahal.devices()]
            assert group[0].info.address in repr(group)
        assert all(dev.closed for dev in group)
        with fpgahal.open_all(driver="xrt") as pair:
            assert len(pair) == 2
            free = next(info for info in fpgahal.devices() if info.driver == "opae")
            with pytest.raises(fpgahal.DeviceBusyError):
                fpgahal.open_all(free, pair[0].info.address)
            fpgahal.open(free).close()  # it was closed again
            with pytest.raises(ZeroDivisionError), pair:
                _ = 1 / 0
            assert all(dev.closed for dev in pair)
        with pytest.raises(fpgahal.DeviceNotFoundError, match="name=nothing"):
            fpgahal.open_all(name="nothing")
        with pytest.raises(fpgahal.DeviceNotFoundError):
            fpgahal.open_all("ff:00.0")
        with pytest.raises(fpgahal.DeviceNotFoundError, match="afu_id"):
            fpgahal.open_all(afu_id="0" * 32)
        with fpgahal.open_all(shared=True) as group:
            view = np.asarray(next(dev for dev in group if dev.driver == "opae").allocate(64))
            with pytest.raises(fpgahal.BufferInUseError):
                group.close()
            assert sum(dev.closed for dev in group) == 2  # the others are closed all the same
            del view
        assert rack.hold_files(0) is not None
