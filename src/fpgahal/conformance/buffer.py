# SPDX-License-Identifier: Apache-2.0
"""Buffers: memory, views, bounds, life."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest

import fpgahal
from fpgahal.conformance.target import Target

# On OPAE, buffers are host memory: no accelerator looks at them unless it is told to.  XRT wants an image first.
pytestmark = pytest.mark.harmless("opae")


@pytest.mark.parametrize("dtype", ["u1", "i4", "f4", "f8", "c16", "?", [("a", "i4"), ("b", "f8")]])
@pytest.mark.parametrize("shape", [0, 1, 1000, (3, 5), (2, 0, 4), ()])
def test_view_has_shape_and_dtype_and_is_writable(dev: fpgahal.Device, shape: Any, dtype: Any) -> None:
    with dev.allocate(shape, dtype) as buffer:
        view = np.asarray(buffer)
        assert view.shape == buffer.shape == (shape if isinstance(shape, tuple) else (shape,))
        assert view.dtype == buffer.dtype == np.dtype(dtype)
        assert view.nbytes == buffer.nbytes
        assert view.flags.writeable
        assert view.flags.c_contiguous
        view[...] = np.ones((), dtype)
        assert (np.asarray(buffer) == np.ones((), dtype)).all()
        del view


def test_views_share_the_memory(dev: fpgahal.Device) -> None:
    buffer = dev.allocate(16, np.uint32)
    one, two = np.asarray(buffer), np.frombuffer(buffer, np.uint8)  # type: ignore[call-overload]
    one[3] = 0x01020304
    assert list(two[12:16]) == [4, 3, 2, 1]
    shared = np.from_dlpack(buffer)
    assert shared.ctypes.data == one.ctypes.data
    assert buffer.__dlpack_device__() == (1, 0)
    del one, two, shared


def test_memory_is_aligned_and_addressed(dev: fpgahal.Device) -> None:
    buffers = [dev.allocate(100) for _ in range(10)]
    assert len({b.device_address for b in buffers}) == 10
    for buffer in buffers:
        assert buffer.device_address % 64 == 0
        assert np.asarray(buffer).ctypes.data % 4096 == 0


def test_close_refuses_while_views_are_alive(dev: fpgahal.Device) -> None:
    buffer = dev.allocate(1 << 20)
    view = np.asarray(buffer)
    with pytest.raises(BufferError, match="1 NumPy view") as caught:
        buffer.close()
    assert isinstance(caught.value, fpgahal.BufferInUseError)
    view[-1] = 7  # still good
    del view
    buffer.close()
    buffer.close()
    assert buffer.closed


def test_a_view_outlives_the_name_of_its_buffer(dev: fpgahal.Device) -> None:
    view = np.asarray(dev.allocate(1 << 20))
    gc.collect()
    view[:] = 5
    assert int(view.sum()) == 5 << 20
    del view


def test_device_close_refuses_while_views_are_alive(target: Target) -> None:
    with target.device() as dev:
        view = np.asarray(dev.allocate(64))
        with pytest.raises(BufferError, match="nothing was closed"):
            dev.close()
        assert not dev.closed
        view[:] = 1
        del view


def test_an_exception_in_a_with_block_is_not_masked(target: Target) -> None:
    views = []

    def work() -> None:
        with target.device() as dev:
            views.append(np.asarray(dev.allocate(64)))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    view = views.pop()
    view[:] = 1  # the memory is still there
    del view
    gc.collect()


def test_use_after_close(dev: fpgahal.Device) -> None:
    buffer = dev.allocate(64)
    buffer.close()
    for use in (
        lambda: np.asarray(buffer),
        lambda: memoryview(buffer),
        buffer.sync_to_device,
        buffer.sync_from_device,
        lambda: buffer.poll32(0, 1, 1, 0.1),
        buffer.__enter__,
    ):
        with pytest.raises((fpgahal.ClosedError, ValueError)):
            use()
    assert "closed" in repr(buffer)


@pytest.mark.parametrize(("offset", "size"), [(-1, 1), (0, 65), (64, 1), (65, 0), (1, 64), (0, -1), (2**63, 2**63)])
def test_sync_checks_its_bounds(dev: fpgahal.Device, offset: int, size: int) -> None:
    with dev.allocate(64) as buffer, pytest.raises(fpgahal.ArgumentRangeError, match="64"):
        buffer.sync_to_device(offset, size)


def test_sync_of_parts(dev: fpgahal.Device) -> None:
    with dev.allocate(8192) as buffer:
        for offset, size in ((0, 0), (64, 64), (8192, 0), (4096, None), (0, 8192)):
            buffer.sync_to_device(offset, size)
            buffer.sync_from_device(offset, size)


@pytest.mark.parametrize("shape", [-1, (2, -3), "x", 1.5, None, (1,) * 33])
def test_bad_shapes(dev: fpgahal.Device, shape: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        dev.allocate(shape)


@pytest.mark.parametrize("dtype", [object, "M8[s]", "no such type"])
def test_bad_dtypes(dev: fpgahal.Device, dtype: Any) -> None:
    with pytest.raises(TypeError):
        dev.allocate(4, dtype)


def test_absurd_sizes(dev: fpgahal.Device) -> None:
    for size in (1 << 62, 1 << 45):
        with pytest.raises((ValueError, MemoryError)):
            dev.allocate(size)


def test_banks(dev: fpgahal.Device) -> None:
    assert dev.banks
    bank = dev.allocate(64).bank
    assert bank in {b.index for b in dev.banks}
    info = next(b for b in dev.banks if b.index == bank)
    for wanted in (info, info.index, info.name):
        assert dev.allocate(64, bank=wanted).bank == bank
    with pytest.raises(ValueError, match=info.name.replace("[", r"\[")):
        dev.allocate(64, bank="no such bank")
    with pytest.raises(fpgahal.ArgumentRangeError, match="bank"):
        dev.allocate(64, bank=999)


def test_poll32(dev: fpgahal.Device) -> None:
    with dev.allocate(16, np.uint32) as buffer:
        np.asarray(buffer)[:] = 0
        np.asarray(buffer)[2] = 0x50
        assert buffer.poll32(8, 0xF0, 0x50, timeout=1) == 0x50
        with pytest.raises(TimeoutError, match="last value 0x50"):
            buffer.poll32(8, 0xF0, 0x60, timeout=0.05)
        for offset in (-4, 61, 62, 64):
            with pytest.raises(fpgahal.ArgumentRangeError):
                buffer.poll32(offset, 1, 1, timeout=0.05)


def test_a_closed_device_frees_what_it_handed_out(target: Target) -> None:
    with target.device() as dev:
        buffers = [dev.allocate(64) for _ in range(5)]
    assert all(buffer.closed for buffer in buffers)
