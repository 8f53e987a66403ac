# SPDX-License-Identifier: Apache-2.0
"""What a call costs over the same call in C, ctypes, cffi and bare Cython."""

from __future__ import annotations

import ctypes

import cffi
import numpy as np
from harness import interleave, loop

import fpgahal
from fpgahal import _library, emu


def c_loop(function, *args):
    """A contender that loops in C; `function(*args, rounds)` returns nanoseconds."""

    def timed(rounds: int) -> float:
        spent = function(*args, rounds)
        assert spent >= 0
        return spent * 1e-9

    return timed


def ctypes_read(handle):
    function = ctypes.CDLL(_library.emulator("opae")).fpgaReadMMIO64
    function.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64, ctypes.POINTER(ctypes.c_uint64)]
    value = ctypes.c_uint64()

    def read64(offset):
        if function(handle, 0, offset, ctypes.byref(value)):
            raise OSError
        return value.value

    return read64


def cffi_read(handle):
    ffi = cffi.FFI()
    ffi.cdef("int fpgaReadMMIO64(void *, uint32_t, uint64_t, uint64_t *);")
    library = ffi.dlopen(_library.emulator("opae"))
    pointer = ffi.cast("void *", handle)
    value = ffi.new("uint64_t *")
    function = library.fpgaReadMMIO64

    def read64(offset):
        if function(pointer, 0, offset, value):
            raise OSError
        return value[0]

    return read64


def test_csr_read64(benchmark, book, baseline, bare, opae_device) -> None:
    handle = baseline.baseline_opae_open()
    assert handle
    address = ctypes.cast(ctypes.CDLL(_library.emulator("opae")).fpgaReadMMIO64, ctypes.c_void_p).value
    read64 = opae_device.csr.read64
    times = interleave(
        {
            "ours": loop("read64(8)", read64=read64),
            "c": c_loop(baseline.baseline_read64, handle, 8),
            "bare": loop("read64(8)", read64=bare.Bare(address, handle).read64),
            "ctypes": loop("read64(8)", read64=ctypes_read(handle)),
            "cffi": loop("read64(8)", read64=cffi_read(handle)),
        }
    )
    benchmark(read64, 8)
    baseline.baseline_opae_close(handle)
    book.enter("csr.read64", times["ours"], times["c"], "C loop")
    book.enter("csr.read64", times["ours"], times["bare"], "bare Cython method", at_most=1.3)
    book.enter("csr.read64", times["ours"], times["cffi"], "cffi, ABI mode", at_least=10)
    book.enter("csr.read64", times["ours"], times["ctypes"], "ctypes", at_least=15)


def test_kernel(benchmark, book, baseline, rack: emu.Rack, xrt_device: fpgahal.Device) -> None:
    image = emu.build_image("vadd", emu.boards()["u250"])
    device = baseline.baseline_xrt_open(xrt_device.info.bdf.encode(), image)
    c_kernel = baseline.baseline_xrt_kernel(device, b"vadd")
    bank = xrt_device.allocate(64).bank
    c_buffers = [baseline.baseline_xrt_buffer(device, 4096, bank) for _ in range(3)]
    assert c_kernel
    assert all(c_buffers)
    kernel = xrt_device.kernel("vadd")
    a, b, out = (xrt_device.allocate(16, np.uint32) for _ in range(3))
    start = kernel.start
    thousand = [(a, b, out, 16)] * 1000

    def start_and_wait() -> None:
        start(a, b, out, 16).wait()

    def batch(rounds: int) -> float:
        import time

        times = max(1, rounds // 1000)
        begin = time.perf_counter()
        for _ in range(times):
            kernel.map(thousand)
        return (time.perf_counter() - begin) * rounds / (times * 1000)

    times = interleave(
        {
            "ours": loop("start(a, b, out, 16).wait()", start=start, a=a, b=b, out=out),
            "batch": batch,
            "c": c_loop(baseline.baseline_vadd, c_kernel, *c_buffers, 16),
            "c restart": c_loop(baseline.baseline_restart, c_kernel, *c_buffers, 16),
        }
    )
    benchmark(start_and_wait)
    baseline.baseline_xrt_close(device, c_kernel, (ctypes.c_void_p * 3)(*c_buffers), 3)
    for buffer in (a, b, out):
        buffer.close()
    kernel.close()
    book.enter(
        "Kernel.start + wait, finished run", times["ours"], times["c"], "C loop (4 arguments, start, wait)", at_most=2.5
    )
    book.enter(
        "Kernel.map, 1,000 runs in one call, each",
        times["batch"],
        times["c"],
        "C loop (4 arguments, start, wait)",
        at_most=1.3,
    )


def test_asarray(benchmark, book, xrt_device: fpgahal.Device) -> None:
    with xrt_device.allocate(1 << 20) as buffer:
        times = interleave({"ours": loop("asarray(buffer)", asarray=np.asarray, buffer=buffer)})
        benchmark(np.asarray, buffer)
    book.limit("np.asarray(buffer)", times["ours"], 300e-9)
