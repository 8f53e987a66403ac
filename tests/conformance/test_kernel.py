# SPDX-License-Identifier: Apache-2.0
"""Kernels and runs: arguments, results, waiting, several at a time."""

from __future__ import annotations

import asyncio
import gc
import threading
import time

import numpy as np
import pytest
from targets import Target

import fpgahal
from fpgahal import RunState


@pytest.fixture
def kernel(target: Target, dev: fpgahal.Device) -> fpgahal.Kernel:
    return dev.kernel(target.kernel)


def pair(dev: fpgahal.Device, nbytes: int) -> tuple[fpgahal.Buffer, fpgahal.Buffer]:
    src, dst = dev.allocate(nbytes), dev.allocate(nbytes)
    np.asarray(src)[:] = np.random.default_rng(nbytes).integers(0, 256, nbytes, np.uint8)
    np.asarray(dst)[:] = 0
    src.sync_to_device()
    dst.sync_to_device()
    return src, dst


@pytest.mark.parametrize("nbytes", [64, 4096, 1 << 20, 64 * 65535])
def test_it_copies(target: Target, dev: fpgahal.Device, kernel: fpgahal.Kernel, nbytes: int) -> None:
    src, dst = pair(dev, nbytes)
    run = kernel(*target.args(src, dst, nbytes), timeout=30)
    assert run.done
    assert run.state is RunState.COMPLETED
    dst.sync_from_device()
    assert np.array_equal(np.asarray(src), np.asarray(dst))


def test_it_copies_no_more_than_asked(target: Target, dev: fpgahal.Device, kernel: fpgahal.Kernel) -> None:
    src, dst = pair(dev, 8192)
    kernel(*target.args(src, dst, 4096), timeout=30)
    dst.sync_from_device()
    assert np.array_equal(np.asarray(src)[:4096], np.asarray(dst)[:4096])
    assert not np.asarray(dst)[4096:].any()


def test_info_and_names(target: Target, dev: fpgahal.Device, kernel: fpgahal.Kernel) -> None:
    assert target.kernel in {info.name for info in dev.kernels}
    assert kernel.name == target.kernel
    assert [a.index for a in kernel.info.args] == [0, 1, 2]
    assert target.kernel in repr(kernel)


def test_an_unknown_kernel_lists_the_known(target: Target, dev: fpgahal.Device) -> None:
    for name in ("no_such", "", ".*", f"{target.kernel}:{{nope}}", target.kernel + "\0"):
        with pytest.raises(fpgahal.KernelNotFoundError, match=target.kernel):
            dev.kernel(name)


def test_wrong_arguments_are_exceptions(target: Target, dev: fpgahal.Device, kernel: fpgahal.Kernel) -> None:
    src, dst = pair(dev, 64)
    good = target.args(src, dst, 64)
    for wrong in ((), good[:2], (*good, 1)):
        with pytest.raises(TypeError, match="takes 3 arguments"):
            kernel.start(*wrong)
    for index, bad in (
        (0, 5),
        (0, None),
        (0, np.zeros(4)),
        (0, "x"),
        (1, b"x"),
        (2, 16.0),
        (2, "1"),
        (2, None),
        (2, src),
        (2, [1]),
    ):
        arguments = list(good)
        arguments[index] = bad
        with pytest.raises(fpgahal.ArgumentError, match=f"argument {index}"):
            kernel.start(*arguments)
    for bad in (-1, 2**70, 2**64):
        with pytest.raises(fpgahal.ArgumentRangeError, match="does not fit"):
            kernel.start(*good[:2], bad)
    kernel(*good, timeout=30)  # nothing was disturbed


def test_integers_of_numpy_are_integers(target: Target, dev: fpgahal.Device, kernel: fpgahal.Kernel) -> None:
    src, dst = pair(dev, 64)
    *buffers, count = target.args(src, dst, 64)
    kernel(*buffers, np.int64(count), timeout=30)
    dst.sync_from_device()
    assert np.array_equal(np.asarray(src), np.asarray(dst))


def test_buffers_of_another_device_are_refused(target: Target, dev: fpgahal.Device, kernel: fpgahal.Kernel) -> None:
    if len(fpgahal.devices()) < 2:
        pytest.skip("needs two devices")
    other = next(info for info in fpgahal.devices() if info.address != target.info.address)
    src = dev.allocate(64)
    with fpgahal.open(other) as second:
        second.program(target.image)
        stranger = second.allocate(64)
        with pytest.raises(fpgahal.ArgumentRangeError, match=other.bdf):
            kernel.start(*target.args(src, stranger, 64))


def test_closed_buffers_and_kernels_are_refused(target: Target, dev: fpgahal.Device, kernel: fpgahal.Kernel) -> None:
    src, dst = pair(dev, 64)
    dst.close()
    with pytest.raises(fpgahal.ClosedError):
        kernel.start(*target.args(src, dst, 64))
    kernel.close()
    kernel.close()
    with pytest.raises(fpgahal.ClosedError, match="closed"):
        kernel.start(*target.args(src, src, 64))


def test_run_keeps_its_buffers(target: Target, dev: fpgahal.Device, kernel: fpgahal.Kernel) -> None:
    run = kernel.start(*target.args(*pair(dev, 1 << 20), 1 << 20))
    assert run.wait(30) is RunState.COMPLETED
    assert run.wait(0) is RunState.COMPLETED


def test_runs_can_be_dropped(target: Target, dev: fpgahal.Device, kernel: fpgahal.Kernel) -> None:
    src, dst = pair(dev, 1 << 20)
    for _ in range(20):
        kernel.start(*target.args(src, dst, 1 << 20)).wait(30)
        run = kernel.start(*target.args(src, dst, 1 << 20))
        while not run.done:
            time.sleep(0.001)
        del run
    dst.sync_from_device()
    assert np.array_equal(np.asarray(src), np.asarray(dst))


def test_map_runs_every_batch(target: Target, dev: fpgahal.Device, kernel: fpgahal.Kernel) -> None:
    pairs = [pair(dev, 64 * (i + 1)) for i in range(40)]
    batches = [target.args(src, dst, src.nbytes) for src, dst in pairs]
    assert kernel.map(batches, timeout=30) == 40
    assert kernel.map(iter(batches), timeout=30) == 40
    assert kernel.map([]) == 0
    assert kernel.map([batches[0]] * 2500, timeout=30) == 2500
    for src, dst in pairs:
        dst.sync_from_device()
        assert np.array_equal(np.asarray(src), np.asarray(dst))


def test_map_names_the_bad_batch(target: Target, dev: fpgahal.Device, kernel: fpgahal.Kernel) -> None:
    src, dst = pair(dev, 64)
    good = target.args(src, dst, 64)
    with pytest.raises(fpgahal.ArgumentError, match="Batch 2"):
        kernel.map([good, good, (src, dst, "x")])
    with pytest.raises(fpgahal.ArgumentError, match="Batch 1"):
        kernel.map([good, good[:1]])
    assert kernel.map([good]) == 1


def test_a_run_is_awaitable(target: Target, dev: fpgahal.Device, kernel: fpgahal.Kernel) -> None:
    src, dst = pair(dev, 1 << 20)

    async def main() -> RunState:
        return await kernel.start(*target.args(src, dst, 1 << 20))

    assert asyncio.run(main()) is RunState.COMPLETED
    dst.sync_from_device()
    assert np.array_equal(np.asarray(src), np.asarray(dst))


def test_eight_threads_on_one_device(target: Target, dev: fpgahal.Device) -> None:
    failures: list[BaseException] = []
    gate = threading.Lock() if target.info.driver == "opae" else None  # an AFU runs one job at a time
    kernel = dev.kernel(target.kernel)

    def work(number: int) -> None:
        try:
            src, dst = pair(dev, 4096 * (number + 1))
            for _ in range(50):
                np.asarray(dst)[:] = 0
                dst.sync_to_device()
                if gate:
                    with gate:
                        kernel(*target.args(src, dst, src.nbytes), timeout=30)
                else:
                    kernel(*target.args(src, dst, src.nbytes), timeout=30)
                dst.sync_from_device()
                assert np.array_equal(np.asarray(src), np.asarray(dst))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures, failures[0]


@pytest.mark.driver("opae")  # XRT queues runs
def test_a_kernel_that_serves_one_job_says_busy(target: Target, dev: fpgahal.Device, kernel: fpgahal.Kernel) -> None:
    target.need_rack().fault(target.info, "hang")
    src, dst = pair(dev, 64)
    run = kernel.start(*target.args(src, dst, 64))
    with pytest.raises(fpgahal.DeviceBusyError, match="one job at a time"):
        kernel.start(*target.args(src, dst, 64))
    dev.reset()
    with pytest.raises(fpgahal.RunError, match="aborted"):
        run.wait(5)


def test_buffers_can_not_be_closed_under_a_run(target: Target, dev: fpgahal.Device, kernel: fpgahal.Kernel) -> None:
    target.need_rack().fault(target.info, "hang")
    src, dst = pair(dev, 64)
    run = kernel.start(*target.args(src, dst, 64))
    for close in (dst.close, kernel.close):
        with pytest.raises((fpgahal.BufferInUseError, fpgahal.DeviceBusyError), match="in flight"):
            close()
    dev.reset()
    assert run.done
    dst.close()
    kernel.close()


def test_wait_times_out_and_the_run_is_still_pending(
    target: Target, dev: fpgahal.Device, kernel: fpgahal.Kernel
) -> None:
    target.need_rack().fault(target.info, "hang")
    src, dst = pair(dev, 64)
    run = kernel.start(*target.args(src, dst, 64))
    started = time.monotonic()
    with pytest.raises(TimeoutError, match=r"did not finish in 0\.2 s") as caught:
        run.wait(0.2)
    assert isinstance(caught.value, fpgahal.RunTimeoutError)
    assert 0.15 < time.monotonic() - started < 2
    assert not run.done
    assert run.state is RunState.RUNNING
    dev.reset()
    assert run.state is RunState.ABORTED


def test_other_threads_go_on_while_one_waits(target: Target, dev: fpgahal.Device, kernel: fpgahal.Kernel) -> None:
    target.need_rack().fault(target.info, "hang")
    run = kernel.start(*target.args(*pair(dev, 64), 64))
    ticks = 0

    def wait() -> None:
        with pytest.raises(TimeoutError):
            run.wait(0.4)

    thread = threading.Thread(target=wait)
    thread.start()
    while thread.is_alive():
        ticks += 1
        time.sleep(0.001)
    thread.join()
    dev.reset()
    assert ticks > 20, "wait() held the GIL"


def test_a_dropped_run_in_flight_keeps_its_memory(target: Target, dev: fpgahal.Device, kernel: fpgahal.Kernel) -> None:
    target.need_rack().fault(target.info, "hang", count=1)
    src, dst = pair(dev, 64)
    kernel.start(*target.args(src, dst, 64))  # dropped at once
    with pytest.raises(fpgahal.BufferInUseError):
        dst.close()
    dev.reset()
    kernel(*target.args(src, dst, 64), timeout=30)
    dst.close()


def test_closing_the_device_stops_what_runs(target: Target) -> None:
    target.need_rack().fault(target.info, "hang", count=1)
    with target.device() as dev:
        src, dst = pair(dev, 64)
        run = dev.kernel(target.kernel).start(*target.args(src, dst, 64))
    assert run.state is RunState.ABORTED
    with target.device() as dev:
        src, dst = pair(dev, 64)
        dev.kernel(target.kernel)(*target.args(src, dst, 64), timeout=30)


def test_a_kernel_and_its_run_may_be_dropped_in_flight(target: Target, dev: fpgahal.Device) -> None:
    target.need_rack().fault(target.info, "hang", count=1)
    src, dst = pair(dev, 64)
    dev.kernel(target.kernel).start(*target.args(src, dst, 64))  # both dropped at once
    gc.collect()
    with pytest.raises(fpgahal.BufferInUseError):
        dst.close()
    dev.reset()
    dst.close()
