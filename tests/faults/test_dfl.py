# SPDX-License-Identifier: Apache-2.0
"""What can go wrong between fpgahal and a kernel driver.  Runs under the interposer: see test_interposed.py."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import select
import signal
import struct
import subprocess
import sys
import threading
import time
import uuid
from contextlib import suppress

import numpy as np
import pytest
from targets import Target

import fpgahal
from fpgahal import Bitstream
from fpgahal._gbs import build_gbs

SCRATCH = 0x100


def is_old(target: Target) -> bool:
    return target.info.kernel_driver == "intel-fpga"


# --- open ---------------------------------------------------------------------------------------------------


def test_the_binding_is_the_driver_itself(dev: fpgahal.Device) -> None:
    assert dev.driver == "dfl"
    assert type(dev._session).__name__ == "DflSession"


def test_a_killed_process_lets_go(target: Target) -> None:
    node = target.info.device_nodes[0]
    code = f"import os, time; os.open({node!r}, os.O_RDWR | os.O_EXCL); print('open', flush=True); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    with child:
        assert child.stdout.readline() == "open\n"
        for shared in (False, True):
            with pytest.raises(fpgahal.DeviceBusyError, match="EBUSY"):
                fpgahal.open(target.info, shared=shared)
        child.send_signal(signal.SIGKILL)
    with target.device() as dev:
        dev.verify(Bitstream.parse(target.image))


@pytest.mark.parametrize(
    ("code", "kind", "builtin"),
    [
        (errno.EACCES, fpgahal.AccessError, PermissionError),
        (errno.EPERM, fpgahal.AccessError, PermissionError),
        (errno.ENODEV, fpgahal.DeviceLostError, ConnectionError),
        (errno.EIO, fpgahal.DriverError, OSError),
    ],
)
def test_the_node_can_not_be_opened(target: Target, code: int, kind: type, builtin: type) -> None:
    target.need_rack().fault(target.info, "call", call="open", code=code, count=1)
    with pytest.raises(kind, match=errno.errorcode[code]) as caught:
        fpgahal.open(target.info)
    assert isinstance(caught.value, builtin)
    assert caught.value.code == code
    with fpgahal.open(target.info):
        pass


def test_the_node_is_not_there(target: Target) -> None:
    os.unlink(target.info.device_nodes[0])
    with pytest.raises(fpgahal.DeviceLostError, match="--device"):
        fpgahal.open(target.info)


@pytest.mark.parametrize("call", ["PORT_GET_INFO", "PORT_GET_REGION_INFO", "mmap"])
def test_a_call_of_open_fails_and_leaves_nothing_open(target: Target, call: str) -> None:
    target.need_rack().fault(target.info, "call", call=call, code=errno.EIO, count=1)
    with pytest.raises(fpgahal.DriverError, match="EIO"):
        fpgahal.open(target.info)
    with fpgahal.open(target.info) as dev:
        assert dev.afu_id


def test_the_last_close_resets_the_accelerator(target: Target) -> None:
    with target.device(shared=True) as one:
        with target.device(shared=True) as two:
            two.csr.write32(SCRATCH, 0x1234)
        assert one.csr.read32(SCRATCH) == 0x1234
    with target.device() as dev:
        assert dev.csr.read32(SCRATCH) == 0


# --- memory -------------------------------------------------------------------------------------------------


def test_too_much_pinned_memory_names_the_limit(target: Target, dev: fpgahal.Device) -> None:
    target.need_rack().fault(target.info, "call", call="PORT_DMA_MAP", code=errno.ENOMEM, count=1)
    with pytest.raises(fpgahal.DeviceMemoryError, match="RLIMIT_MEMLOCK") as caught:
        dev.allocate(64)
    assert "ulimit -l" in caught.value.hint
    dev.allocate(64).close()


@pytest.mark.parametrize(("size", "page"), [(4097, "2 MiB"), (2 << 20, "2 MiB"), ((2 << 20) + 1, "1 GiB")])
def test_no_huge_page_is_named(target: Target, dev: fpgahal.Device, size: int, page: str) -> None:
    target.need_rack().fault(target.info, "call", call="mmap", code=errno.ENOMEM, count=1)
    with pytest.raises(fpgahal.DeviceMemoryError, match=f"one huge page of {page}") as caught:
        dev.allocate(size)
    assert "nr_hugepages" in caught.value.hint
    dev.allocate(size).close()


def test_more_than_the_largest_page(dev: fpgahal.Device) -> None:
    with pytest.raises(fpgahal.ArgumentRangeError, match="1 GiB"):
        dev.allocate((1 << 30) + 1)


def test_memory_is_given_back(target: Target, dev: fpgahal.Device) -> None:
    def mapped() -> int:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[0])

    dev.allocate(1 << 20).close()
    before = mapped()
    for _ in range(100):
        dev.allocate(1 << 20)  # dropped
        dev.allocate(1 << 20).close()
    assert mapped() - before < 1 << 10  # pages


def test_the_driver_refuses_to_unmap(target: Target, dev: fpgahal.Device) -> None:
    buffer = dev.allocate(64)
    target.need_rack().fault(target.info, "call", call="PORT_DMA_UNMAP", code=errno.EINVAL, count=1)
    with pytest.raises(fpgahal.DriverError, match="refused"):
        buffer.close()


# --- reconfiguration ------------------------------------------------------------------------------------------


def test_a_failed_reconfiguration_is_reported_and_mended(target: Target) -> None:
    other = target.need_other()
    with target.device() as dev:
        target.need_rack().fault(target.info, "program", count=1)
        with pytest.raises(fpgahal.ProgramError, match="held in reset") as caught:
            dev.program(other)
        assert ("operation error" in str(caught.value)) == is_old(target)
        assert caught.value.code == errno.EIO
        assert dev.afu_id is None
        for use in (
            lambda: dev.csr.read64(0),
            lambda: dev.csr.write32(SCRATCH, 1),
            lambda: dev.allocate(64),
            dev.reset,
        ):
            with pytest.raises(fpgahal.DeviceStateError, match="no AFU answers"):
                use()
    with fpgahal.open(target.info) as dev:
        assert dev.afu_id is None
        dev.program(other)
        dev.verify(Bitstream.parse(other))
        dev.csr.write32(SCRATCH, 1)


def test_a_bitstream_that_the_card_does_not_take(target: Target) -> None:
    image = Bitstream.parse(target.need_other())
    strange = build_gbs(image.afu_id, image.interface_id, b"\x5a" * 100)
    with target.device() as dev:
        with pytest.raises(fpgahal.ProgramError, match="incompatible bitstream" if is_old(target) else "EIO"):
            dev.program(strange)
        dev.program(target.image)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (errno.ETIMEDOUT, fpgahal.ProgramError),
        (errno.EINVAL, fpgahal.ProgramError),
        (errno.ENOMEM, fpgahal.ProgramError),
        (errno.ENODEV, fpgahal.DeviceLostError),
    ],
)
def test_errors_of_the_reconfiguration_call(target: Target, code: int, kind: type) -> None:
    with target.device() as dev:
        target.need_rack().fault(target.info, "call", call="FME_PORT_PR", code=code, count=1)
        with pytest.raises(kind, match=errno.errorcode[code]):
            dev.program(target.need_other())
        dev.verify(Bitstream.parse(target.image))  # nothing was written, and the registers are there again


def test_another_id_than_expected(target: Target) -> None:
    with target.device() as dev:
        target.need_rack().fault(target.info, "wrong-afu", count=1)
        with pytest.raises(fpgahal.AFUMismatchError, match="without an error"):
            dev.program(target.need_other())


def test_the_fme_is_in_use(target: Target) -> None:
    with target.device() as dev:
        fme = os.open(target.info.device_nodes[1], os.O_RDWR)
        with pytest.raises(fpgahal.DeviceBusyError, match="fme"):
            dev.program(target.need_other())
        os.close(fme)
        dev.verify(Bitstream.parse(target.image))
        assert dev.program(target.need_other())


def test_a_shared_device_stays_shared_after_programming(target: Target) -> None:
    with fpgahal.open(target.info, shared=True) as one:
        one.program(target.image)
        one.program(target.need_other())
        with fpgahal.open(target.info, shared=True) as two:
            assert two.afu_id == one.afu_id


# --- runs -------------------------------------------------------------------------------------------------------


def test_a_hang_ends_with_a_reset(target: Target, dev: fpgahal.Device) -> None:
    target.need_rack().fault(target.info, "hang", count=1)
    src, dst = dev.allocate(64), dev.allocate(64)
    kernel = dev.kernel(target.kernel)
    run = kernel.start(src, dst, 1)
    with pytest.raises(fpgahal.RunTimeoutError):
        run.wait(0.1)
    dev.reset()
    assert run.state is fpgahal.RunState.ABORTED
    np.asarray(src)[:] = 3
    kernel(src, dst, 1, timeout=10)
    assert (np.array(dst) == 3).all()


def test_a_reset_that_times_out(target: Target, dev: fpgahal.Device) -> None:
    target.need_rack().fault(target.info, "call", call="PORT_RESET", code=errno.ETIMEDOUT, count=1)
    with pytest.raises(fpgahal.DriverError, match="PORT_RESET failed: ETIMEDOUT"):
        dev.reset()
    dev.reset()


def test_a_card_that_vanishes(target: Target) -> None:
    with target.device() as dev:
        src, dst = dev.allocate(64), dev.allocate(64)
        target.need_rack().fault(target.info, "hang", count=1)
        run = dev.kernel(target.kernel).start(src, dst, 1)
        target.need_rack().fault(target.info, "vanish")
        with pytest.raises(fpgahal.DeviceLostError):
            run.wait(10)
        for use in (
            lambda: dev.csr.read64(8),
            lambda: dev.csr.read32(SCRATCH),
            lambda: dev.afu_id,
            dev.reset,
            lambda: dev.allocate(64),
            lambda: dev.program(target.need_other()),
        ):
            with pytest.raises(fpgahal.DeviceLostError):
                use()
    with pytest.raises(fpgahal.DeviceLostError):
        fpgahal.open(target.info)
    target.need_rack().clear()
    with target.device() as dev:
        assert dev.afu_id


def test_all_ones_in_a_register_are_no_alarm(dev: fpgahal.Device) -> None:
    dev.csr.write64(SCRATCH + 8, 2**64 - 1)
    assert dev.csr.read64(SCRATCH + 8) == 2**64 - 1
    dev.csr.write32(SCRATCH, 2**32 - 1)
    assert dev.csr.read32(SCRATCH) == 2**32 - 1


def test_closing_while_another_thread_polls(target: Target) -> None:
    ends: list[type] = []

    def poll(dev: fpgahal.Device) -> None:
        try:
            dev.csr.poll(SCRATCH, 1, 1, timeout=10)
        except fpgahal.FpgaError as failure:
            ends.append(type(failure))

    for _ in range(20):
        dev = fpgahal.open(target.info)
        thread = threading.Thread(target=poll, args=(dev,))
        thread.start()
        time.sleep(0.005)
        dev.close()
        thread.join(10)
    assert ends == [fpgahal.ClosedError] * 20


def test_starting_a_program_leaves_the_device_alone(target: Target, dev: fpgahal.Device) -> None:
    for close_fds in (True, False):  # between vfork and exec the child closes files, in our memory
        subprocess.run(["true"], check=True, close_fds=close_fds)
        dev.csr.write32(SCRATCH, 7)
        assert dev.csr.read32(SCRATCH) == 7
        with pytest.raises(fpgahal.DeviceBusyError):
            fpgahal.open(target.info)
    dev.reset()


def test_registers_from_many_threads(dev: fpgahal.Device) -> None:
    stop = threading.Event()
    wrong: list[int] = []

    def poll() -> None:  # in C, without the GIL
        while not stop.is_set():
            with suppress(fpgahal.PollTimeoutError):
                wrong.append(dev.csr.poll(8, 2**64 - 1, 0, timeout=0.01))

    threads = [threading.Thread(target=poll) for _ in range(4)]
    for thread in threads:
        thread.start()
    for value in range(5000):  # no store may get lost
        dev.csr.write64(SCRATCH + 8, value)
        assert dev.csr.read64(SCRATCH + 8) == value
    stop.set()
    for thread in threads:
        thread.join(10)
    assert not wrong


def test_a_forked_child_keeps_nothing_open(target: Target, dev: fpgahal.Device) -> None:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        names = [
            os.readlink(f"/proc/self/fd/{fd}")
            for fd in os.listdir("/proc/self/fd")
            if os.path.islink(f"/proc/self/fd/{fd}")
        ]
        try:
            dev.csr.read64(8)
        except fpgahal.ClosedError:
            os.write(writer, b"closed" if target.info.device_nodes[0] not in names else b"lingers")
        os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(reader, 16) == b"closed"
    os.close(reader)
    os.close(writer)
    assert dev.afu_id  # the parent's is as it was


# --- errors and interrupts ------------------------------------------------------------------------------------


def test_error_registers(target: Target, dev: fpgahal.Device) -> None:
    session = dev._session
    assert session.errors()["port/errors"] == 0
    root = target.info.root
    port = next(path for path, _, files in os.walk(f"{root}/sys/devices") if path.endswith("port.0/errors"))
    with open(f"{port}/errors", "w", encoding="ascii") as file:
        file.write("0x20000\n")
    assert session.errors()["port/errors"] == 0x20000
    assert any(name.startswith("fme/") for name in session.errors())


def test_interrupts(target: Target, dev: fpgahal.Device) -> None:
    session = dev._session
    user, error = session.interrupt(0), session.interrupt()
    assert session.interrupt(0) == user
    with pytest.raises(fpgahal.FpgaError, match="EINVAL"):
        session.interrupt(4)
    dsm, src, dst = dev.allocate(4096), dev.allocate(64), dev.allocate(64)

    def run(source: int, config: int) -> None:
        dev.csr.write64(0x110, dsm.device_address)
        for offset, value in (
            (0x138, 0),
            (0x138, 1),
            (0x120, source >> 6),
            (0x128, dst.device_address >> 6),
            (0x130, 1),
            (0x140, config),
            (0x138, 3),
        ):
            dev.csr.write64(offset, value)
        dsm.poll32(0x40, 1, 1, timeout=10)
        dev.csr.write64(0x138, 7)

    run(src.device_address, 1 << 29)  # interrupt at the end of a test
    assert select.select([user], [], [], 5)[0] == [user]
    assert not select.select([error], [], [], 0)[0]
    np.asarray(dsm)[:] = 0
    run(1 << 46, 0)  # memory that nobody mapped: a port error
    assert select.select([error], [], [], 5)[0] == [error]


# --- the drivers' rules, asked by hand: a second witness of numbers and layouts ---------------------------------


def ask(fd: int, request: int, layout: str, *values: int) -> tuple[int, ...]:
    data = bytearray(struct.pack(layout, struct.calcsize(layout), *values))
    fcntl.ioctl(fd, request, data)
    return struct.unpack(layout, data)


def refused(fd: int, request: int, layout: str, *values: int) -> int:
    with pytest.raises(OSError, match="Errno") as caught:
        ask(fd, request, layout, *values)
    return caught.value.errno or 0


def test_the_rules_of_a_port(target: Target) -> None:
    fd = os.open(target.info.device_nodes[0], os.O_RDWR)
    try:
        base = 0xB500 if is_old(target) else 0xB600
        assert fcntl.ioctl(fd, base) == 0
        assert ask(fd, base + 0x41, "<6I" if is_old(target) else "<4I", *[0] * (5 if is_old(target) else 3))[0]
        assert ask(fd, base + 0x42, "<4I2Q", 0, 0, 0, 0, 0) == (32, 7, 0, 0, 0x40000, 0)
        assert refused(fd, base + 0x42, "<4I2Q", 0, 9, 0, 0, 0) == errno.EINVAL
        assert refused(fd, base + 0x42, "<4I2Q", 0, 0, 1, 0, 0) == errno.EINVAL
        with mmap.mmap(-1, 8192) as memory:
            at = np.frombuffer(memory, np.uint8).ctypes.data
            *_, iova = ask(fd, base + 0x43, "<2I3Q", 0, at, 8192, 0)
            for start, length in ((at + 64, 4096), (at, 100), (at, 0), (2**64 - 4096, 8192)):
                assert refused(fd, base + 0x43, "<2I3Q", 0, start, length, 0) == errno.EINVAL
            assert refused(fd, base + 0x43, "<2I3Q", 0, 4096, 4096, 0) == errno.EFAULT
            ask(fd, base + 0x44, "<2IQ", 0, iova)
            assert refused(fd, base + 0x44, "<2IQ", 0, iova) == errno.EINVAL
        assert fcntl.ioctl(fd, base + 0x40) == 0
        assert refused(fd, 0xB680 - 0x100 * is_old(target), "<4I2Q", 0, 0, 0, 0, 0) == errno.EINVAL  # an FME's call
    finally:
        os.close(fd)


def test_the_rules_of_reconfiguration(target: Target) -> None:
    image = Bitstream.parse(target.need_other())
    other_board = fpgahal.emu.build_image("nlb0", fpgahal.emu.boards()["d5005"])
    fd = os.open(target.info.device_nodes[1], os.O_RDWR | os.O_EXCL)

    def program(payload: bytes, port: int = 0, flags: int = 0) -> tuple[int, int]:
        data = np.frombuffer(payload or b"\0", np.uint8)
        layout = "<4I2Q" if is_old(target) else "<4IQ"
        head = [struct.calcsize(layout), flags, port, len(payload), data.ctypes.data]
        request = bytearray(struct.pack(layout, *head, *([0] if is_old(target) else [])))
        try:
            fcntl.ioctl(fd, 0xB580 if is_old(target) else 0xB680, request)
            number = 0
        except OSError as error:
            number = error.errno or -1
        return number, struct.unpack_from("<Q", request, 24)[0] if is_old(target) else 0

    try:
        good = bytes(image.payload)
        assert program(b"")[0] == errno.EINVAL
        assert program(good, port=1)[0] == errno.EINVAL
        assert program(good, flags=1)[0] == errno.EINVAL
        status = 1 if is_old(target) else 0  # the new driver has no status word
        broken = good[:40] + bytes([good[40] ^ 1]) + good[41:]
        assert program(broken) == (errno.EIO, 2 * status)
        assert program(bytes(Bitstream.parse(other_board).payload)) == (errno.EIO, 4 * status)
        assert program(good) == (0, 0)
    finally:
        os.close(fd)
    with fpgahal.open(target.info) as dev:
        dev.verify(image)


def test_an_unknown_accelerator_is_not_programmed(target: Target) -> None:
    image = Bitstream.parse(target.image)
    unknown = build_gbs(uuid.uuid4(), image.interface_id, b"\x00" * 64)
    with target.device() as dev, pytest.raises(fpgahal.ProgramError):
        dev.program(unknown)
