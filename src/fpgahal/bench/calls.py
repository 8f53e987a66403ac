# SPDX-License-Identifier: Apache-2.0
"""Latency: enumeration, verification, one register access, one kernel launch."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

import fpgahal
from fpgahal import Device, Kernel, KernelInfo

BATCH = 50  # calls a sample, where one call is too short to time


def sample(call: Callable[[], object], seconds: float, batch: int = 1, least: int = 20) -> list[float]:
    """Nanoseconds a call, one number a batch, for `seconds` and at least `least` times."""
    samples: list[float] = []
    call()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(samples) < least:
        start = time.perf_counter_ns()
        for _ in range(batch):
            call()
        samples.append((time.perf_counter_ns() - start) / batch)
    return samples


def summary(samples: list[float]) -> dict[str, Any]:
    """Least, p50, p99, and how many."""
    p50, p99 = np.percentile(samples, [50, 99])
    return {
        "samples": len(samples),
        "min_ns": round(min(samples), 1),
        "p50_ns": round(float(p50), 1),
        "p99_ns": round(float(p99), 1),
    }


def enumeration(seconds: float) -> dict[str, Any]:
    """``fpgahal.devices()``."""
    return {"devices": len(fpgahal.devices()), **summary(sample(fpgahal.devices, seconds))}


def verification(dev: Device, seconds: float) -> dict[str, Any]:
    """``Device.verify``: asks the accelerator itself."""
    expected = dev.afu_id
    if expected is None:
        return {"skipped": "nothing is loaded"}
    return summary(sample(lambda: dev.verify(expected), seconds))


def registers(dev: Device, seconds: float) -> dict[str, Any]:
    """A register read: of the AFU's header (OPAE), or of a kernel's first argument (XRT)."""
    if dev.info.driver == "opae":
        afu = dev.csr
        return {"read64": summary(sample(lambda: afu.read64(0x8), seconds, BATCH))}
    if not dev.kernels:
        return {"skipped": "the loaded image has no kernel"}
    with dev.kernel(dev.kernels[0].name, exclusive=True) as kernel:
        csr = kernel.csr
        return {"read32": summary(sample(lambda: csr.read32(0x10), seconds, BATCH))}


def launchable(dev: Device) -> KernelInfo | None:
    """A kernel that we know how to call: lpbk1 (NLB0), passthrough or vadd."""
    return next((kernel for kernel in dev.kernels if kernel.name in ("lpbk1", "passthrough", "vadd")), None)


def launches(dev: Device, seconds: float) -> tuple[dict[str, Any], list[float]]:
    """The shortest possible run, start and wait; and the samples, for a histogram."""
    info = launchable(dev)
    if info is None:
        return {"skipped": f"this benchmark knows none of the loaded kernels {[k.name for k in dev.kernels]}"}, []
    with dev.kernel(info.name) as kernel:
        call, buffers = _smallest(dev, kernel)
        try:
            samples = sample(call, seconds)
        finally:
            for buffer in buffers:
                buffer.close()
    return {"kernel": info.name, **summary(samples)}, samples


def _smallest(dev: Device, kernel: Kernel) -> tuple[Callable[[], object], list[fpgahal.Buffer]]:
    pointers = [arg for arg in kernel.info.args if arg.kind is fpgahal.ArgKind.BUFFER]
    buffers = [dev.allocate(4096, bank=arg.banks[0] if arg.banks else None) for arg in pointers]
    amount = {"lpbk1": 1, "passthrough": 64, "vadd": 16}[kernel.name]  # a cache line each
    return (lambda: kernel(*buffers, amount, timeout=10.0)), buffers
