# SPDX-License-Identifier: Apache-2.0
"""The whole public API, called as a user would; ``mypy --strict tests/typing`` must accept it, with these types."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path
from typing import assert_type

import numpy as np
import numpy.typing as npt

import fpgahal
from fpgahal import (
    ArgInfo,
    ArgKind,
    Array,
    BankInfo,
    Bitstream,
    Buffer,
    Csr,
    Device,
    DeviceInfo,
    Health,
    HealthStatus,
    Kernel,
    KernelContract,
    KernelCsr,
    KernelInfo,
    Register,
    RegisterContract,
    Run,
    RunState,
    Scalar,
    Word,
    Write,
    emu,
)
from fpgahal.kernels import NLB0, open_kernel

ECHO = RegisterContract(
    name="echo",
    afu_id=uuid.UUID(int=1),
    args=(ArgInfo(0, "src", ArgKind.BUFFER), ArgInfo(1, "n", ArgKind.SCALAR, "uint", size=4)),
    start=(Write(0x20, "src", bits=64, shift=6), Write(0x28, "n"), Write(0x30, "dsm", bits=64), Write(0x38, 1)),
    done=Word(0x40, mask=1),
    error=Register(0x48, value=0),
)
SAXPY = KernelContract(
    "saxpy", (Array("x", "float32", ("n", 2), access="rw"), Scalar("a", "float32"), Scalar("n", "uint32")), summary="y"
)


def choose(infos: list[DeviceInfo]) -> DeviceInfo:
    for info in infos:
        assert_type(info.afu_id, uuid.UUID | None)
        assert_type(info.health, Health)
        if info.health.status is HealthStatus.OK and not info.emulated:
            return info
    return infos[0]


def load(dev: Device, path: Path) -> None:
    image = Bitstream.load(path)
    try:
        assert_type(dev.program(image, timeout=30, force=True, progress=lambda seconds: print(seconds)), bool)
        dev.program(str(path))
        dev.program(path.read_bytes())
        dev.verify(image)
        dev.verify(image.afu_id)
        dev.verify(NLB0)
    except fpgahal.ProgramTimeoutError as error:
        print(error.code, error.hint, error.message)
    except (TimeoutError, fpgahal.FpgaError):
        raise


def move(dev: Device, data: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    assert_type(dev.banks, tuple[BankInfo, ...])
    with dev.allocate(data.shape, data.dtype) as src, dev.allocate((len(data),), bank=dev.banks[0]) as dst:
        assert_type(src, Buffer)
        np.asarray(src)[:] = data
        src.sync_to_device(0, 64)
        run: Run = dev.kernel("lpbk1").start(src, dst, len(data) // 64)
        assert_type(run.wait(timeout=1.0), RunState)
        assert_type(run.done, bool)
        dst.sync_from_device()
        assert_type(dst.poll32(0, 1, 1, timeout=0.1), int)
        assert_type(dst.device_address, int)
        view = memoryview(dst)
        return np.array(view, dtype=np.uint8)


def registers(dev: Device) -> int:
    csr: Csr = dev.csr
    csr.write64(0x108, 5)
    csr.write32(0x100, 5)
    return csr.read64(0x108) + csr.read32(0x100) + csr.poll(0x108, 0xF, 5, timeout=1, width=64)


def kernels(dev: Device) -> None:
    infos: tuple[KernelInfo, ...] = dev.kernels
    for info in infos:
        with dev.kernel(info.name, exclusive=True) as kernel:
            assert_type(kernel, Kernel)
            assert_type(kernel.csr, KernelCsr)
            assert_type(kernel.map([(1, 2, 3)], timeout=5), int)
            assert_type(kernel(1, 2, timeout=None), Run)
    dev.kernel(ECHO).close()
    assert_type(dev.kernel(SAXPY), Kernel)
    assert_type(open_kernel(dev, SAXPY, "saxpy.xclbin"), Kernel)


async def waiting(run: Run) -> RunState:
    return await run


def main() -> None:
    with emu.rack("pac-a10:2", "u250", program_ms=1) as rack:
        rack.fault(0, "hang", count=1)
        rack.accelerator(SAXPY, lambda x, a, n: None)
        rack.accelerator(SAXPY, Path("saxpy.so"))
        assert_type(emu.build_image(SAXPY, rack.board(0)), bytes)
        info = choose(fpgahal.devices())
        with fpgahal.open(info, shared=True, timeout=1) as dev:
            load(dev, Path("image.gbs"))
            kernels(dev)
            registers(dev)
            move(dev, np.zeros(64, np.uint8))
            run = dev.kernel("vadd").start(1)
            asyncio.run(waiting(run))
            dev.reset()
        rack.clear()


if __name__ == "__main__":
    main()
