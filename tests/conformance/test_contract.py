# SPDX-License-Identifier: Apache-2.0
"""Kernels with a contract: the same on boards of both vendors."""

from __future__ import annotations

import threading
import uuid
from dataclasses import replace

import numpy as np
import pytest
from targets import Target

import fpgahal
from fpgahal import Array, KernelContract, RunState, Scalar
from fpgahal.kernels import open_kernel
from fpgahal.kernels.vadd import PASSTHROUGH, VADD


@pytest.fixture
def vadd(target: Target, dev: fpgahal.Device) -> fpgahal.Kernel:
    target.need_rack()
    return open_kernel(dev, VADD)


def vectors(dev: fpgahal.Device, n: int) -> tuple[fpgahal.Buffer, fpgahal.Buffer, fpgahal.Buffer]:
    a, b, out = (dev.allocate(n, "uint32") for _ in range(3))
    rng = np.random.default_rng(n)
    np.asarray(a)[:], np.asarray(b)[:] = rng.integers(0, 1 << 32, (2, n), np.uint32)
    np.asarray(out)[:] = 0
    for buffer in (a, b, out):
        buffer.sync_to_device()
    return a, b, out


def adds(a: fpgahal.Buffer, b: fpgahal.Buffer, out: fpgahal.Buffer) -> bool:
    out.sync_from_device()
    return np.array_equal(np.asarray(a) + np.asarray(b), np.asarray(out))


@pytest.mark.parametrize("n", [1, 1000, 1 << 18])
def test_it_runs(dev: fpgahal.Device, vadd: fpgahal.Kernel, n: int) -> None:
    buffers = vectors(dev, n)
    assert vadd(*buffers, n, timeout=30).state is RunState.COMPLETED
    assert adds(*buffers)


def test_the_second_open_programs_nothing(target: Target, dev: fpgahal.Device, vadd: fpgahal.Kernel) -> None:
    before = target.need_rack().status(target.info).programmed
    again = open_kernel(dev, VADD)
    buffers = vectors(dev, 64)
    again(*buffers, 64, timeout=30)
    assert adds(*buffers)
    assert target.need_rack().status(target.info).programmed == before
    for buffer in buffers:
        buffer.close()
    copy = open_kernel(dev, PASSTHROUGH)
    assert vadd.closed == (target.info.driver == "opae")  # another image; "demo", on XRT, has both
    src, dst = dev.allocate(4096), dev.allocate(4096)
    np.asarray(src)[:] = 7
    src.sync_to_device()
    copy(src, dst, 4096, timeout=30)
    dst.sync_from_device()
    assert (np.asarray(dst) == 7).all()


def test_its_name_is_known(dev: fpgahal.Device, vadd: fpgahal.Kernel) -> None:
    assert "vadd" in [kernel.name for kernel in dev.kernels]
    buffers = vectors(dev, 64)
    dev.kernel("vadd")(*buffers, 64, timeout=30)
    assert adds(*buffers)
    assert [(arg.name, arg.offset) for arg in vadd.info.args] == [("a", 0x10), ("b", 0x1C), ("out", 0x28), ("n", 0x34)]


def test_a_bad_address_is_an_error(dev: fpgahal.Device, vadd: fpgahal.Kernel) -> None:
    a, b, out = vectors(dev, 64)
    with pytest.raises(fpgahal.RunError, match="error state"):
        vadd(a, b, out, 1 << 28, timeout=30)
    vadd(a, b, out, 64, timeout=30)
    assert adds(a, b, out)


def test_faults(target: Target, dev: fpgahal.Device, vadd: fpgahal.Kernel) -> None:
    rack = target.need_rack()
    buffers = vectors(dev, 1000)
    rack.fault(target.info, "run-error", count=1)
    with pytest.raises(fpgahal.RunError, match="error state"):
        vadd(*buffers, 1000, timeout=30)
    rack.fault(target.info, "flip", count=1)
    vadd(*buffers, 1000, timeout=30)
    buffers[2].sync_from_device()
    assert np.count_nonzero(np.asarray(buffers[2]) != np.asarray(buffers[0]) + np.asarray(buffers[1])) == 1
    vadd(*buffers, 1000, timeout=30)
    assert adds(*buffers)


def test_a_hang_ends_with_a_reset(target: Target, dev: fpgahal.Device, vadd: fpgahal.Kernel) -> None:
    target.need_rack().fault(target.info, "hang", count=1)
    buffers = vectors(dev, 1000)
    run = vadd.start(*buffers, 1000)
    with pytest.raises(fpgahal.RunTimeoutError):
        run.wait(0.1)
    dev.reset()
    with pytest.raises(fpgahal.RunError, match="aborted"):
        run.wait(5)
    vadd(*buffers, 1000, timeout=30)
    assert adds(*buffers)


def test_a_vanishing_board_aborts_the_run(target: Target, dev: fpgahal.Device, vadd: fpgahal.Kernel) -> None:
    rack = target.need_rack()
    buffers = vectors(dev, 1000)
    rack.fault(target.info, "hang", count=1)
    run = vadd.start(*buffers, 1000)
    rack.fault(target.info, "vanish")
    with pytest.raises(fpgahal.FpgaError):
        run.wait(10)
    assert run.done
    assert run.state is not RunState.COMPLETED


def test_threads_share_it(target: Target, dev: fpgahal.Device, vadd: fpgahal.Kernel) -> None:
    """Each thread has a kernel of its own; on an AFU one of them is turned away, and tries again."""
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            n = 256 * (number + 1)
            kernel, buffers = dev.kernel(VADD), vectors(dev, n)
            for _ in range(30):
                np.asarray(buffers[2])[:] = 0
                buffers[2].sync_to_device()
                while True:
                    try:
                        kernel(*buffers, n, timeout=30)
                        break
                    except fpgahal.DeviceBusyError:
                        continue
                assert adds(*buffers)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures, failures[0]


def test_a_contract_that_does_not_fit_is_refused(target: Target, dev: fpgahal.Device, vadd: fpgahal.Kernel) -> None:
    other = replace(VADD, name="vsub", afu_id=uuid.UUID(int=1))
    with pytest.raises(fpgahal.KernelNotFoundError, match="vsub"):
        dev.kernel(other)
    if target.info.driver == "xrt":
        wrong = replace(VADD, args=(*VADD.args[:3], Scalar("n", "uint64"), Scalar("m", "float32")))
        with pytest.raises(fpgahal.ArgumentError, match=r"argument 3 is scalar 'n' of 4 bytes at 0x34.*argument 4"):
            dev.kernel(wrong)
    else:
        with pytest.raises(fpgahal.ArgumentError, match="no afu_id"):
            dev.kernel(replace(VADD, afu_id=None))


def test_the_library_has_no_model(target: Target, dev: fpgahal.Device) -> None:
    target.need_rack()
    nobody = KernelContract("nobody", (Array("x", "float32"),), afu_id=uuid.UUID(int=7))
    with pytest.raises(fpgahal.ProgramError):
        open_kernel(dev, nobody)
