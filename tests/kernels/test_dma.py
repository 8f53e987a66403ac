# SPDX-License-Identifier: Apache-2.0
"""The DMA AFU: host to board and back, through libopae-c and through the kernel driver; and an AFU's interrupts."""

from __future__ import annotations

import os
import platform
import re
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from targets import INTERPOSED, ONLY, Target

import fpgahal
from fpgahal import _library
from fpgahal.kernels import DMA
from fpgahal.kernels.dma import CHUNK

pytestmark = pytest.mark.driver("opae")
KIB, MIB = 1 << 10, 1 << 20


@pytest.fixture
def dma_dev(target: Target) -> Iterator[fpgahal.Device]:
    with fpgahal.open(target.info) as dev:
        dev.program(fpgahal.emu.build_image("dma", target.need_rack().board(target.info)))
        yield dev


@pytest.fixture
def dma(dma_dev: fpgahal.Device) -> Iterator[DMA]:
    with DMA(dma_dev) as opened:
        yield opened


def noise(nbytes: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([nbytes, seed]).integers(0, 256, nbytes, np.uint8)


SIZES = (1, 7, 8, 63, 64, 65, 127, 255, 256, 320, 4095, 4096, 4160, CHUNK, CHUNK + 1, 3 * CHUNK - 64, 5 * CHUNK + 99)


@pytest.mark.parametrize("nbytes", SIZES)
def test_there_and_back(dma: DMA, nbytes: int) -> None:
    for address in (0, 64, 1, 4095, 8 * MIB - 3, dma.memory_bytes - nbytes):
        data = noise(nbytes, address)
        dma.write(address, data)
        assert np.array_equal(dma.read(address, nbytes), data), address


def test_a_write_changes_nothing_else(dma: DMA) -> None:
    whole = noise(64 * KIB)
    dma.write(MIB, whole)
    for at, nbytes in ((0, 1), (5, 3), (6, 4), (63, 2), (60, 200), (100, 5000), (4095, 2), (4090, 4100), (7, 60)):
        part = noise(nbytes, 1)
        dma.write(MIB + at, part)
        whole[at : at + nbytes] = part
    assert np.array_equal(dma.read(MIB, whole.size), whole)


def test_many_random_transfers(dma: DMA) -> None:
    rng = np.random.default_rng(5)
    memory = np.zeros(4 * MIB, np.uint8)
    dma.write(0, memory)
    for _ in range(60):
        nbytes = int(rng.choice([rng.integers(0, 200), rng.integers(0, 10_000), rng.integers(0, MIB)]))
        at = int(rng.integers(0, memory.size - nbytes))
        data = rng.integers(0, 256, nbytes, np.uint8)
        dma.write(at, data)
        memory[at : at + nbytes] = data
        first = int(rng.integers(0, memory.size))
        last = int(rng.integers(first, min(first + MIB, memory.size)))
        assert np.array_equal(dma.read(first, last - first), memory[first:last])
    assert np.array_equal(dma.read(0, memory.size), memory)


def test_what_can_be_written_and_read(dma: DMA) -> None:
    floats = np.arange(1000.0).reshape(10, 100)
    for data in (floats, np.asfortranarray(floats), floats[::2, ::3], floats.astype("complex64")):
        dma.write(3, data)
        assert np.array_equal(dma.read(3, np.empty(data.shape, data.dtype)), data)
    dma.write(0, b"some bytes")
    dma.write(10, bytearray(b", more"))
    dma.write(16, memoryview(b" bytes"))
    out = bytearray(22)
    assert dma.read(0, out) is out
    assert out == b"some bytes, more bytes"
    for nothing in (b"", np.empty(0), np.empty((0, 5), np.int16)):
        dma.write(0, nothing)
    assert dma.read(5, 0).size == 0
    for bad in (b"read only", np.empty((4, 4))[:, ::2], np.empty(3, object)):
        with pytest.raises(fpgahal.ArgumentError):
            dma.read(0, bad)
    with pytest.raises(TypeError):
        dma.write(0, "text")


@pytest.mark.parametrize("nbytes", [64, 4096, CHUNK, 9 * CHUNK + 640, 100])
def test_buffers_of_the_device_need_no_copy(dma: DMA, dma_dev: fpgahal.Device, nbytes: int) -> None:
    data = noise(nbytes)
    with dma_dev.allocate(nbytes) as src, dma_dev.allocate(nbytes) as dst:
        np.asarray(src)[:] = data
        for address in (0, 128, 77):
            dma.write(address, src)
            np.asarray(dst)[:] = 0
            assert dma.read(address, dst) is dst
            assert np.array_equal(np.asarray(dst), data)


def test_from_board_to_board(dma: DMA) -> None:
    for nbytes in (1, 64, 100, 5000, 3 * CHUNK + 7):
        for to, address in ((32 * MIB, 0), (32 * MIB + 5, 5), (32 * MIB + 5, 9), (0, 32 * MIB + 64)):
            data = noise(nbytes, to)
            dma.write(address, data)
            dma.copy(to, address, nbytes)
            assert np.array_equal(dma.read(to, nbytes), data), (nbytes, to, address)
    with pytest.raises(fpgahal.ArgumentRangeError, match="overlap"):
        dma.copy(64, 0, 128)


def test_from_host_to_host(dma: DMA, dma_dev: fpgahal.Device) -> None:
    with dma_dev.allocate(3 * MIB) as src, dma_dev.allocate(3 * MIB) as dst, dma_dev.allocate(100) as odd:
        np.asarray(src)[:] = noise(3 * MIB)
        dma.move(dst, src)
        assert np.array_equal(np.asarray(dst), np.asarray(src))
        for pair in ((dst, odd), (odd, odd)):
            with pytest.raises(fpgahal.ArgumentRangeError, match="multiple of 64"):
                dma.move(*pair)


def test_ranges(dma: DMA) -> None:
    assert dma.memory_bytes == 1 << 30
    for address, nbytes in ((-1, 4), (dma.memory_bytes, 1), (dma.memory_bytes - 3, 4), (1 << 60, 1), (0, -1)):
        with pytest.raises(fpgahal.ArgumentRangeError, match="not inside the board's memory of 1024 MiB"):
            dma.read(address, nbytes)
    with pytest.raises(fpgahal.ArgumentRangeError):
        dma.write(dma.memory_bytes - 3, b"four")


def test_progress(dma: DMA) -> None:
    for work in (
        lambda tell: dma.write(0, noise(5 * CHUNK), progress=tell),
        lambda tell: dma.read(0, 5 * CHUNK, progress=tell),
    ):
        seen: list[int] = []
        work(seen.append)
        assert seen == sorted(seen)
        assert len(seen) >= 3
        assert seen[-1] == 5 * CHUNK


def test_memory_stays_when_the_program_ends(target: Target, dma_dev: fpgahal.Device) -> None:
    with DMA(dma_dev) as first:
        first.write(1000, b"still here")
    dma_dev.close()
    with fpgahal.open(target.info) as again, DMA(again) as second:
        assert second.read(1000, bytearray(10)) == b"still here"


def test_another_afu_is_refused(target: Target, dev: fpgahal.Device) -> None:
    with pytest.raises(fpgahal.AFUMismatchError, match="331db30c"):
        DMA(dev)


def test_an_xrt_board_has_none() -> None:
    if os.environ.get(ONLY):
        return  # that process sees OPAE boards only
    with fpgahal.emu.rack("u250"), fpgahal.open() as dev:
        with pytest.raises(fpgahal.UnsupportedError, match="no interrupts"):
            DMA(dev)
        with pytest.raises(fpgahal.UnsupportedError):
            dev.interrupt()


# --- faults -------------------------------------------------------------------------------------------------------


def test_a_transfer_that_hangs(target: Target, dma: DMA) -> None:
    target.need_rack().fault(target.info, "hang", count=1)
    started = time.monotonic()
    with pytest.raises(fpgahal.RunTimeoutError, match=r"did not end in 0.3 s; 0 bytes are done"):
        dma.write(0, noise(3 * MIB), timeout=0.3)
    assert time.monotonic() - started < 5
    data = noise(3 * MIB)
    dma.write(0, data)
    assert np.array_equal(dma.read(0, data.size), data)


@pytest.mark.parametrize("nbytes", [64, 5 * CHUNK])
def test_a_transfer_that_fails(target: Target, dma: DMA, nbytes: int) -> None:
    for work in (lambda: dma.write(0, noise(nbytes)), lambda: dma.read(0, nbytes)):
        target.need_rack().fault(target.info, "run-error", count=1)
        with pytest.raises(fpgahal.RunError, match="stopped with an error"):
            work()
        work()


def test_an_address_that_the_board_does_not_have(dma_dev: fpgahal.Device) -> None:
    with DMA(dma_dev, memory_bytes=1 << 40) as dma:
        with pytest.raises(fpgahal.RunError):
            dma.write(1 << 35, noise(128))
        with pytest.raises(fpgahal.RunError):
            dma.read(1 << 35, 128)
        if not os.environ.get(ONLY):  # through a mapping nobody says that a register is not there
            with pytest.raises(fpgahal.FpgaError):
                dma.read(1 << 35, 3)
        dma.write(0, b"fine")


def test_a_board_that_vanishes(target: Target, dma: DMA) -> None:
    target.need_rack().fault(target.info, "vanish")
    with pytest.raises(fpgahal.FpgaError):
        dma.write(0, noise(MIB), timeout=1)
    target.need_rack().clear()


def test_ctrl_c_leaves_the_engine_in_order(target: Target, dma: DMA) -> None:
    def interrupt(done: int) -> None:
        raise KeyboardInterrupt

    data = noise(6 * CHUNK)
    with pytest.raises(KeyboardInterrupt):
        dma.write(0, data, progress=interrupt)
    dma.write(0, data)
    assert np.array_equal(dma.read(0, data.size), data)


def test_threads_take_turns(dma: DMA) -> None:
    failures: list[BaseException] = []

    def work(at: int) -> None:
        try:
            for n in range(5):
                data = noise(300 * KIB + n, at)
                dma.write(at * MIB + n, data)
                assert np.array_equal(dma.read(at * MIB + n, data.size), data)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(at,)) for at in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_close_gives_the_buffers_back(dma_dev: fpgahal.Device) -> None:
    for _ in range(20):
        with DMA(dma_dev) as dma:
            dma.write(0, b"x" * 100)


# --- registers ----------------------------------------------------------------------------------------------------


def test_status_and_sequence(dma: DMA, dma_dev: fpgahal.Device) -> None:
    status = dma_dev.csr.read32(0x140)
    assert status & 0x2  # nothing queued
    assert not status & 0x285  # not busy, full, in error; no interrupt
    dma_dev.csr.write32(0x140, 0xFFFF_FFFF)
    assert dma_dev.csr.read32(0x140) == status
    dma_dev.csr.write64(0x300, 0x5000)
    dma_dev.csr.write64(0x1108, 0x0123_4567_89AB_CDEF)
    dma_dev.csr.write32(0x110C, 0x7654_3210)
    assert dma_dev.csr.read64(0x1108) == 0x7654_3210_89AB_CDEF
    assert dma.read(0x5008, 8).tobytes() == bytes.fromhex("efcdab8910325476")
    for offset in (0x400, 0x10F8, 0x2100):
        if not os.environ.get(ONLY):
            with pytest.raises(fpgahal.FpgaError):
                dma_dev.csr.read64(offset)


# --- interrupts ---------------------------------------------------------------------------------------------------


def test_interrupts(dma_dev: fpgahal.Device) -> None:
    interrupt = dma_dev.interrupt()
    assert interrupt.vector == 0
    assert "Interrupt 0" in repr(interrupt)
    started = time.monotonic()
    with pytest.raises(fpgahal.PollTimeoutError, match=r"no interrupt 0 in 0.2 s"):
        interrupt.wait(0.2)
    assert 0.15 < time.monotonic() - started < 3
    dma_dev.csr.write32(0x144, 0x10)  # interrupts on; then a transfer of nothing that asks for one
    dma_dev.csr.write64(0x178, (1 << 31 | 1 << 14) << 32)
    assert select.select([interrupt], [], [], 5)[0]
    assert interrupt.wait(5) == 1
    dma_dev.csr.write32(0x144, 0)
    dma_dev.csr.write64(0x178, (1 << 31 | 1 << 14) << 32)
    with pytest.raises(fpgahal.PollTimeoutError):
        interrupt.wait(0.1)
    for bad in (-1, 99, 1 << 40):
        with pytest.raises((fpgahal.ArgumentRangeError, fpgahal.DriverError)):
            dma_dev.interrupt(bad)
    with pytest.raises(TypeError):
        dma_dev.interrupt("0")  # type: ignore[arg-type]


def test_a_wait_ends_when_the_device_is_closed(dma_dev: fpgahal.Device) -> None:
    interrupt = dma_dev.interrupt()
    timer = threading.Timer(0.2, dma_dev.close)
    timer.start()
    with pytest.raises(fpgahal.ClosedError):
        interrupt.wait(10)
    timer.join()


def test_an_interrupt_goes_on_after_the_next_image(target: Target, dma_dev: fpgahal.Device) -> None:
    interrupt = dma_dev.interrupt()
    board = target.need_rack().board(target.info)
    dma_dev.program(fpgahal.emu.build_image("nlb0", board))
    dma_dev.program(fpgahal.emu.build_image("dma", board))
    dma_dev.csr.write32(0x144, 0x10)
    interrupt.fileno()  # from now on
    dma_dev.csr.write64(0x178, (1 << 31 | 1 << 14) << 32)
    assert interrupt.wait(5) == 1


def test_interrupts_leave_no_files_open(target: Target) -> None:
    def opened() -> int:
        return len(os.listdir("/proc/self/fd"))

    for round in range(12):
        dev = fpgahal.open(target.info)
        dev.interrupt(0)
        dev.interrupt(1)
        if round % 2:
            dev.close()
        del dev  # closes it, too
        if round == 2:
            before = opened()
    assert opened() <= before


@pytest.mark.skipif(bool(os.environ.get(ONLY)), reason="is that process")
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the interposer decodes x86-64")
@pytest.mark.parametrize("name", INTERPOSED)
def test_all_of_it_below_the_kernel_driver(name: str) -> None:
    environment: dict[str, Any] = os.environ | {
        "LD_PRELOAD": str(_library.emulator("dfl")),
        "FPGAHAL_OPAE_BINDING": "dfl",
        ONLY: name,
    }
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__],
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert re.search(r"\d{2} passed", done.stdout)
