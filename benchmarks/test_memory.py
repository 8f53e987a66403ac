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
            return (
                baseline.baseline_memcpy(
                    ctypes.c_void_p(to.ctypes.data), ctypes.c_void_p(start.ctypes.data), SIZE, rounds
                )
                * 1e-9
            )

        return timed

    times = interleave(
        {
            "copy": loop("copyto(view, source)", copyto=np.copyto, view=view, source=source),
            "memcpy": memcpy(view, source),
            "to": loop("sync()", sync=buffer.sync_to_device),
            "from": loop("sync()", sync=buffer.sync_from_device),
            "memcpy elsewhere": memcpy(target, source),
        },
        slice_seconds=0.02,
        slices=41,
    )
    benchmark(buffer.sync_to_device)
    del view
    buffer.close()
    print({name: f"{value * 1e3:.2f} ms" for name, value in times.items()})
    book.enter(
        "copy 16 MiB into a Buffer", times["copy"], times["memcpy"], "memcpy to the same place", at_most=1 / 0.95
    )
    book.enter("Buffer.sync_to_device of 16 MiB", times["to"], times["memcpy elsewhere"], "memcpy", at_most=1 / 0.95)
    book.enter(
        "Buffer.sync_from_device of 16 MiB", times["from"], times["memcpy elsewhere"], "memcpy", at_most=1 / 0.95
    )
