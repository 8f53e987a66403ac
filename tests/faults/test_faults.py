# SPDX-License-Identifier: Apache-2.0
"""Injected faults: each gives its own exception, and a good image or a clear() brings the board back."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from targets import EMULATED, Target, open_target

import fpgahal
from fpgahal import Bitstream, RunState, emu

Action = Callable[[Target, fpgahal.Device], Any]


def listed(target: Target) -> fpgahal.DeviceInfo:
    return next(info for info in fpgahal.devices() if info.address == target.info.address)


def pair(dev: fpgahal.Device, nbytes: int) -> tuple[fpgahal.Buffer, fpgahal.Buffer]:
    src, dst = dev.allocate(nbytes), dev.allocate(nbytes)
    np.asarray(src)[:] = np.arange(nbytes) * 7 % 251
    np.asarray(dst)[:] = 0
    src.sync_to_device()
    dst.sync_to_device()
    return src, dst


def copies(target: Target, dev: fpgahal.Device) -> bool:
    """Whether the board does its job."""
    with dev.kernel(target.kernel) as kernel:
        src, dst = pair(dev, 4096)
        kernel(*target.args(src, dst, 4096), timeout=30)
        dst.sync_from_device()
        return np.array_equal(np.asarray(src), np.asarray(dst))


# --- programming ------------------------------------------------------------------------------------------------


def test_a_failed_programming_leaves_an_empty_slot_that_says_so(target: Target) -> None:
    rack, other = target.need_rack(), Bitstream.parse(target.need_other())
    neighbour = fpgahal.devices()[1]
    with target.device() as dev:
        rack.fault(target.info, "program")
        with pytest.raises(fpgahal.ProgramError, match="may be without an AFU") as caught:
            dev.program(other)
        assert isinstance(caught.value, RuntimeError)
        assert target.info.bdf in str(caught.value)
        assert not isinstance(caught.value, TimeoutError)
        assert dev.afu_id is None
        assert rack.status(target.info).state is emu.SlotState.FAILED
        info = listed(target)
        assert info.afu_id is None
        assert info.health.status is fpgahal.HealthStatus.FAILED
        assert "reconfiguration" in info.health.reason
        # nothing can be done with it
        for use in (lambda: dev.allocate(64), lambda: dev.kernel(target.kernel)):
            with pytest.raises(fpgahal.DeviceStateError, match="program"):
                use()
        with pytest.raises(fpgahal.AFUMismatchError, match="nothing"):
            dev.verify(other)
        # except programming it again
        rack.clear(target.info)
        assert dev.program(other) is True
        dev.verify(other)
        dev.program(target.image)
        assert copies(target, dev)
    assert listed(target).health.ok
    assert fpgahal.devices()[1] == neighbour


def test_a_slot_without_an_afu_can_be_opened_and_programmed(target: Target) -> None:
    rack = target.need_rack()
    with fpgahal.open(target.info) as dev:
        rack.fault(target.info, "program", count=1)
        with pytest.raises(fpgahal.ProgramError):
            dev.program(target.need_other())
    with fpgahal.open(listed(target)) as dev:
        assert dev.afu_id is None
        assert dev.program(target.image) is True
        assert copies(target, dev)


def test_the_neighbour_of_a_failed_slot_works(target: Target) -> None:
    target.need_rack().fault(target.info, "program")
    neighbour = fpgahal.devices()[1]
    with fpgahal.open(target.info) as broken, fpgahal.open(neighbour) as dev:
        with pytest.raises(fpgahal.ProgramError):
            broken.program(target.need_other())
        dev.program(target.image)
        assert copies(target, dev)
        assert neighbour.health.ok


def test_another_afu_than_the_programmed_one(target: Target) -> None:
    rack, other = target.need_rack(), Bitstream.parse(target.need_other())
    with target.device() as dev:
        rack.fault(target.info, "wrong-afu")
        with pytest.raises(fpgahal.AFUMismatchError, match="without an error") as caught:
            dev.program(other)
        assert str(other.afu_id) in str(caught.value)
        assert str(dev.afu_id) in str(caught.value)
        assert "Do not use it" in str(caught.value)
        assert dev.afu_id != other.afu_id
        with pytest.raises(fpgahal.FpgaError):
            dev.kernel(target.kernel)
        if target.info.driver == "xrt":  # banks and kernels of an image that is not there
            assert dev.banks == dev.kernels == ()
        rack.clear()
        assert dev.program(other) is True
        dev.verify(other)


# --- runs -------------------------------------------------------------------------------------------------------


def test_a_run_that_fails(target: Target, dev: fpgahal.Device) -> None:
    kernel = dev.kernel(target.kernel)
    src, dst = pair(dev, 4096)
    target.need_rack().fault(target.info, "run-error", count=1)
    run = kernel.start(*target.args(src, dst, 4096))
    for _ in range(2):
        with pytest.raises(fpgahal.RunError, match="error state") as caught:
            run.wait(30)
        assert target.kernel in str(caught.value)
        assert not isinstance(caught.value, TimeoutError)
    assert run.state is RunState.ERROR
    src.close()  # nothing holds it any more
    dst.close()
    dev.reset()
    assert copies(target, dev)


def test_a_batch_in_which_one_run_fails(target: Target, dev: fpgahal.Device) -> None:
    kernel = dev.kernel(target.kernel)
    src, dst = pair(dev, 4096)
    target.need_rack().fault(target.info, "run-error", count=1)
    with pytest.raises(fpgahal.RunError, match=r"batch \d+ of"):
        kernel.map([target.args(src, dst, 4096)] * 100, timeout=30)
    assert kernel.map([target.args(src, dst, 4096)] * 100, timeout=30) == 100
    for buffer in (src, dst):
        buffer.close()


def test_a_batch_in_which_one_run_hangs(target: Target, dev: fpgahal.Device) -> None:
    kernel = dev.kernel(target.kernel)
    src, dst = pair(dev, 4096)
    target.need_rack().fault(target.info, "hang", count=1)
    with pytest.raises(fpgahal.RunTimeoutError, match=r"batch \d+ of .* did not finish in 0.2 s"):
        kernel.map([target.args(src, dst, 4096)] * 100, timeout=0.2)
    with pytest.raises(fpgahal.BufferInUseError):
        dst.close()
    dev.reset()
    assert kernel.map([target.args(src, dst, 4096)] * 100, timeout=30) == 100
    for buffer in (src, dst):
        buffer.close()


def test_a_flipped_word_arrives(target: Target, dev: fpgahal.Device) -> None:
    """The run looks good: only comparing the data finds it, which is what the fault is for."""
    kernel = dev.kernel(target.kernel)
    src, dst = pair(dev, 1 << 16)
    target.need_rack().fault(target.info, "flip", count=1)
    kernel(*target.args(src, dst, 1 << 16), timeout=30)
    dst.sync_from_device()
    sent, got = (np.asarray(buffer).view(np.uint32) for buffer in (src, dst))
    wrong = np.flatnonzero(sent != got)
    assert len(wrong) == 1
    assert sent[wrong[0]] == ~got[wrong[0]]
    del sent, got
    assert copies(target, dev)


# --- a board that drops off the bus -----------------------------------------------------------------------------


def test_a_vanished_board(target: Target) -> None:
    rack = target.need_rack()
    neighbour = fpgahal.devices()[1]
    dev = fpgahal.open(target.info)
    dev.program(target.image)
    kernel = dev.kernel(target.kernel)
    src, dst = pair(dev, 4096)
    args = target.args(src, dst, 4096)
    rack.fault(target.info, "vanish")
    assert fpgahal.devices() == [neighbour]
    uses: list[Callable[[], Any]] = [
        lambda: dev.afu_id,
        lambda: dev.verify(Bitstream.parse(target.image)),
        lambda: dev.program(target.image),
        lambda: dev.allocate(64),
        lambda: dev.kernel(target.kernel),
        dev.reset,
        lambda: kernel.start(*args),
        lambda: kernel(*args, timeout=1),
        lambda: kernel.map([args] * 3, timeout=1),
    ]
    if target.info.driver == "opae":
        csr = dev.csr
        uses += [
            lambda: csr.read64(0),
            lambda: csr.read32(0),
            lambda: csr.write64(0x108, 1),
            lambda: csr.write32(0x100, 1),
            lambda: csr.poll(0, 1, 2, timeout=5),
        ]
    else:  # on OPAE boards sync only orders memory accesses
        uses += [src.sync_to_device, dst.sync_from_device]
    for use in uses:
        with pytest.raises(ConnectionError, match=target.info.bdf) as caught:
            use()
        assert isinstance(caught.value, fpgahal.DeviceLostError)
    with pytest.raises(fpgahal.DeviceNotFoundError, match=neighbour.bdf):
        fpgahal.open(target.info.bdf)
    for buffer in (src, dst):
        buffer.close()
    dev.close()
    assert dev.closed
    with pytest.raises(fpgahal.DeviceLostError):
        fpgahal.open(target.info)

    rack.clear(target.info)
    assert [info.address for info in fpgahal.devices()] == [target.info.address, neighbour.address]
    with target.device() as dev:
        assert copies(target, dev)


def test_a_board_that_vanishes_under_a_run(target: Target) -> None:
    rack = target.need_rack()
    rack.fault(target.info, "hang")
    with target.device() as dev:
        run = dev.kernel(target.kernel).start(*target.args(*pair(dev, 64), 64))
        rack.fault(target.info, "vanish")
        with pytest.raises(fpgahal.DeviceLostError):  # without a timeout: it must not wait for ever
            run.wait()
        assert run.state is RunState.ABORTED
    rack.clear()
    with target.device() as dev:
        assert copies(target, dev)


def test_closing_when_the_board_vanished_under_a_run(target: Target) -> None:
    rack = target.need_rack()
    rack.fault(target.info, "hang")
    dev = fpgahal.open(target.info)
    dev.program(target.image)
    run = dev.kernel(target.kernel).start(*target.args(*pair(dev, 64), 64))
    rack.fault(target.info, "vanish")
    dev.close()
    assert dev.closed
    assert run.state is RunState.ABORTED


def test_a_board_that_vanishes_while_it_is_programmed() -> None:
    for spec, image in (("pac-a10", "nlb3"), ("u250", "vadd")):
        with emu.rack(spec, program_ms=300) as rack, fpgahal.open() as dev:
            bits = emu.build_image(image, emu.boards()[spec])
            with pytest.raises(fpgahal.DeviceLostError):
                dev.program(bits, progress=lambda _: rack.fault(0, "vanish"))


# --- a vendor's function fails ------------------------------------------------------------------------------------


def opened(target: Target) -> None:
    fpgahal.open(target.info).close()


def freed(buffer: fpgahal.Buffer) -> None:
    buffer.close()


def ran(target: Target, dev: fpgahal.Device) -> None:
    dev.kernel(target.kernel)(*target.args(*pair(dev, 64), 64), timeout=5)


OPAE_CODES = [
    (1, fpgahal.ArgumentRangeError, ValueError, "FPGA_INVALID_PARAM (invalid parameter)"),
    (2, fpgahal.DeviceBusyError, BlockingIOError, "FPGA_BUSY (resource busy)"),
    (3, fpgahal.DriverError, OSError, "FPGA_EXCEPTION (exception)"),
    (4, fpgahal.DeviceLostError, ConnectionError, "FPGA_NOT_FOUND (not found)"),
    (5, fpgahal.DeviceMemoryError, MemoryError, "FPGA_NO_MEMORY (no memory)"),
    (6, fpgahal.UnsupportedError, NotImplementedError, "FPGA_NOT_SUPPORTED (not supported)"),
    (7, fpgahal.DeviceLostError, ConnectionError, "FPGA_NO_DRIVER (no driver available)"),
    (8, fpgahal.DriverError, OSError, "FPGA_NO_DAEMON (no fpga daemon running)"),
    (9, fpgahal.AccessError, PermissionError, "FPGA_NO_ACCESS (insufficient privileges)"),
    (10, fpgahal.ProgramError, RuntimeError, "FPGA_RECONF_ERROR (reconfiguration error)"),
    (77, fpgahal.DriverError, OSError, "fpga_result 77 (unknown error)"),
]


@pytest.mark.parametrize(("code", "cls", "builtin", "text"), OPAE_CODES)
def test_results_of_opae_become_exceptions(code: int, cls: type, builtin: type, text: str) -> None:
    with open_target("opae-emulated") as target:
        rack = target.need_rack()
        with target.device() as dev:
            rack.fault(target.info, "call", call="fpgaReadMMIO64", code=code, count=1)
            with pytest.raises(builtin) as caught:
                dev.csr.read64(0)
            assert type(caught.value) is cls
            assert str(caught.value).startswith(f"{target.info.address}: fpgaReadMMIO64 failed: {text}.")
            assert caught.value.code == code
            assert dev.csr.read64(0)  # it was one bad call, no more


XRT_CODES = [
    (errno.EBUSY, fpgahal.DeviceBusyError),
    (errno.EACCES, fpgahal.AccessError),
    (errno.EPERM, fpgahal.AccessError),
    (errno.ENODEV, fpgahal.DeviceLostError),
    (errno.ENXIO, fpgahal.DeviceLostError),
    (errno.ENOMEM, fpgahal.DeviceMemoryError),
    (errno.EOPNOTSUPP, fpgahal.IncompatibleBitstreamError),
    (errno.EKEYREJECTED, fpgahal.AccessError),
    (errno.ETIMEDOUT, fpgahal.DriverError),
    (errno.EIO, fpgahal.ProgramError),
    (errno.EINVAL, fpgahal.ProgramError),
]


@pytest.mark.parametrize(("code", "cls"), XRT_CODES)
def test_errnos_of_xrt_become_exceptions(code: int, cls: type) -> None:
    with open_target("xrt-emulated") as target:
        rack = target.need_rack()
        with target.device() as dev:
            rack.fault(target.info, "call", call="xrtDeviceLoadXclbin", code=code, count=1)
            with pytest.raises(cls, match=f"xrtDeviceLoadXclbin failed: {errno.errorcode[code]} .*injected") as caught:
                dev.program(target.need_other())
            assert type(caught.value) is cls
            assert caught.value.code == code
            dev.program(target.image)
            assert copies(target, dev)


OPAE_CALLS: list[tuple[str, int, type, Action]] = [
    ("fpgaEnumerate", 3, fpgahal.DriverError, lambda t, d: opened(t)),
    ("fpgaOpen", 2, fpgahal.DeviceBusyError, lambda t, d: fpgahal.open(fpgahal.devices()[1])),
    ("fpgaOpen", 9, fpgahal.AccessError, lambda t, d: d.program(t.need_other())),
    ("fpgaReconfigureSlot", 10, fpgahal.ProgramError, lambda t, d: d.program(t.need_other())),
    ("fpgaReconfigureSlot", 1, fpgahal.ArgumentRangeError, lambda t, d: d.program(t.need_other())),
    ("fpgaReset", 3, fpgahal.DriverError, lambda t, d: d.reset()),
    ("fpgaReadMMIO64", 3, fpgahal.DriverError, lambda t, d: d.afu_id),
    ("fpgaReadMMIO64", 3, fpgahal.DriverError, lambda t, d: d.csr.poll(0, 1, 2, 5)),
    ("fpgaReadMMIO64", 3, fpgahal.DriverError, lambda t, d: d.kernel(t.kernel)),
    ("fpgaReadMMIO32", 3, fpgahal.DriverError, lambda t, d: d.csr.read32(0)),
    ("fpgaReadMMIO32", 3, fpgahal.DriverError, lambda t, d: d.csr.poll(0, 1, 2, 5, width=32)),
    ("fpgaWriteMMIO64", 3, fpgahal.DriverError, lambda t, d: d.csr.write64(0x108, 1)),
    ("fpgaWriteMMIO64", 3, fpgahal.DriverError, ran),
    ("fpgaWriteMMIO32", 3, fpgahal.DriverError, lambda t, d: d.csr.write32(0x100, 1)),
    ("fpgaWriteMMIO32", 3, fpgahal.DriverError, ran),
    ("fpgaPrepareBuffer", 5, fpgahal.DeviceMemoryError, lambda t, d: d.allocate(64)),
    ("fpgaPrepareBuffer", 5, fpgahal.DeviceMemoryError, lambda t, d: d.kernel(t.kernel)),
    ("fpgaGetIOAddress", 4, fpgahal.DeviceLostError, lambda t, d: d.allocate(64)),
    ("fpgaReleaseBuffer", 3, fpgahal.DriverError, lambda t, d: d.allocate(64).close()),
]

XRT_CALLS: list[tuple[str, int, type, Action]] = [
    ("xrtDeviceOpenByBDF", errno.EACCES, fpgahal.AccessError, lambda t, d: fpgahal.open(fpgahal.devices()[1])),
    ("xrtDeviceOpenByBDF", errno.EINVAL, fpgahal.DeviceLostError, lambda t, d: fpgahal.open(fpgahal.devices()[1])),
    ("xrtDeviceGetXclbinUUID", errno.ENODEV, fpgahal.DeviceLostError, lambda t, d: d.afu_id),
    ("xrtDeviceLoadXclbin", errno.EIO, fpgahal.ProgramError, lambda t, d: d.program(t.need_other())),
    ("xrtPLKernelOpen", errno.EINVAL, fpgahal.DeviceStateError, lambda t, d: d.kernel(t.kernel)),
    ("xrtPLKernelOpenExclusive", errno.EBUSY, fpgahal.DeviceBusyError, lambda t, d: d.kernel(t.kernel, exclusive=True)),
    (
        "xrtKernelReadRegister",
        errno.EIO,
        fpgahal.RunError,
        lambda t, d: d.kernel(t.kernel, exclusive=True).csr.read32(0x10),
    ),
    (
        "xrtKernelReadRegister",
        errno.EIO,
        fpgahal.RunError,
        lambda t, d: d.kernel(t.kernel, exclusive=True).csr.poll(0x10, 1, 1, 5),
    ),
    (
        "xrtKernelWriteRegister",
        errno.EIO,
        fpgahal.RunError,
        lambda t, d: d.kernel(t.kernel, exclusive=True).csr.write32(0x10, 1),
    ),
    ("xrtRunOpen", errno.ENOMEM, fpgahal.DeviceMemoryError, ran),
    ("xrtRunSetArg", errno.EINVAL, fpgahal.RunError, ran),
    ("xrtRunStart", errno.EIO, fpgahal.RunError, ran),
    ("xrtBOAlloc", errno.ENOMEM, fpgahal.DeviceMemoryError, lambda t, d: d.allocate(64)),
    ("xrtBOMap", errno.ENOMEM, fpgahal.DeviceMemoryError, lambda t, d: d.allocate(64)),
    ("xrtBOAddress", errno.EIO, fpgahal.DeviceMemoryError, lambda t, d: d.allocate(64)),
    ("xrtBOSync", errno.EIO, fpgahal.RunError, lambda t, d: d.allocate(64).sync_to_device()),
    ("xrtBOFree", errno.EIO, fpgahal.DriverError, lambda t, d: d.allocate(64).close()),
]


#: Calls that the real libxrt answers without its driver.
NOT_ASKED = {("xrt-real", call) for call in ("xrtRunOpen", "xrtRunSetArg", "xrtBOMap", "xrtBOAddress", "xrtBOFree")}


@pytest.mark.parametrize(
    ("name", "call", "code", "cls", "action"),
    [
        (name, *row)
        for name in EMULATED
        for row in (OPAE_CALLS if name.startswith("opae") else XRT_CALLS)
        if (name, row[0]) not in NOT_ASKED
    ],
)
def test_each_call_that_fails_is_an_exception(name: str, call: str, code: int, cls: type, action: Action) -> None:
    with open_target(name) as target:
        rack = target.need_rack()
        with target.device() as dev:
            for info in rack.devices():
                rack.fault(info, "call", call=call, code=code)
            with pytest.raises(cls) as caught:
                action(target, dev)
            assert type(caught.value) is cls
            assert "0000:" in str(caught.value)
            rack.clear()
            dev.program(target.image)
            assert copies(target, dev), "the failed call left something broken"
    assert "failed" in str(caught.value) or "refused" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("opae-emulated", "fpgaClose"),
        ("opae-emulated", "fpgaReset"),
        ("opae-emulated", "fpgaReleaseBuffer"),
        ("xrt-emulated", "xrtDeviceClose"),
        ("xrt-emulated", "xrtKernelClose"),
        ("xrt-emulated", "xrtRunClose"),
    ],
)
def test_close_of_a_device_works_whatever_fails(name: str, call: str) -> None:
    with open_target(name) as target:
        dev = fpgahal.open(target.info)
        dev.program(target.image)
        assert copies(target, dev)
        target.need_rack().fault(target.info, "call", call=call, code=3)
        kept = dev.allocate(64), dev.kernel(target.kernel)
        dev.close()
        assert dev.closed
        assert all(thing.closed for thing in kept)


def test_a_fault_has_to_be_one() -> None:
    with emu.rack("pac-a10") as rack:
        for wrong in (
            {"kind": "nope"},
            {"kind": "call"},
            {"kind": "call", "call": "fpgaOpen"},
            {"kind": "hang", "call": "fpgaOpen"},
            {"kind": "hang", "count": 0},
        ):
            with pytest.raises(ValueError, match=r"\w"):
                rack.fault(0, **wrong)
        with pytest.raises(fpgahal.DeviceNotFoundError, match=r"0000:3b:00\.0"):
            rack.fault("0000:ff:00.0", "hang")
