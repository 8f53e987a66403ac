# SPDX-License-Identifier: Apache-2.0
"""Moving bytes: as fast as memcpy."""

from __future__ import annotations

import ctypes

import numpy as np
from harness import interleave, loop

import fpgahal

SIZE = 16 << 20


def test_16_mib(benchmark, book, baseline, xrt_device: fpgahal.Device) -> None:
    source = np.random.default_rng(1).integers(0, 256, SIZE, np.uint8)
    target = np.zeros(SIZE, np.uint8)
    buffer = xrt_device.allocate(SIZE)
    view = np.asarray(buffer)
    view[:] = source
    buffer.sync_to_device()
    buffer.sync_from_device()

    def memcpy(to: np.ndarray, start: np.ndarray):
        def timed(rounds: int) -> float:
            return baseline.baseline_memcpy(ctypes.c_void_p(to.ctypes.data), ctypes.c_void_p(start.ctypes.data), SIZE,
                                            rounds) * 1e-9
        return timed

    times = interleave({
        "copy": loop(np.copyto, view, source),
        "memcpy": memcpy(target, source),
        "to": loop(buffer.sync_to_device),
        "memcpy again": memcpy(view, source),
        "from": loop(buffer.sync_from_device),
    }, slice_seconds=0.02, slices=31)
    benchmark(buffer.sync_to_device)
    memcpy_time = min(times["memcpy"], times["memcpy again"])
    del view
    buffer.close()
    book.enter("copy 16 MiB into a Buffer", times["copy"], memcpy_time, "memcpy", at_most=1 / 0.95)
    book.enter("Buffer.sync_to_device of 16 MiB", times["to"], memcpy_time, "memcpy", at_most=1 / 0.95)
    book.enter("Buffer.sync_from_device of 16 MiB", times["from"], memcpy_time, "memcpy", at_most=1 / 0.95)
