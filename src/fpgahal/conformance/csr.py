# SPDX-License-Identifier: Apache-2.0
"""Registers: device-wide on OPAE, per compute unit on XRT."""

from __future__ import annotations

import time

import numpy as np
import pytest

import fpgahal
from fpgahal.conformance.target import Target


@pytest.fixture
def csr(target: Target, dev: fpgahal.Device) -> fpgahal.Csr:
    return dev.csr


SCRATCH = 0x100  # NLB: 32 bits at 0x100 and 0x104, 64 at 0x108


@pytest.mark.driver("opae")
def test_read_and_write(csr: fpgahal.Csr) -> None:
    csr.write32(SCRATCH, 0xDEADBEEF)
    assert csr.read32(SCRATCH) == 0xDEADBEEF
    csr.write64(SCRATCH + 8, 0x0123456789ABCDEF)
    assert csr.read64(SCRATCH + 8) == 0x0123456789ABCDEF
    assert csr.read32(SCRATCH + 8) == 0x89ABCDEF
    assert csr.read32(SCRATCH + 12) == 0x01234567


@pytest.mark.harmless
@pytest.mark.driver("opae")
def test_the_id_is_in_the_registers(csr: fpgahal.Csr, dev: fpgahal.Device) -> None:
    assert dev.afu_id is not None
    assert csr.read64(0x10) << 64 | csr.read64(0x8) == dev.afu_id.int


def bad_offsets(csr: fpgahal.Csr, width: int) -> list[int]:
    """Offsets that are misaligned, or outside."""
    end = csr.nbytes
    return [1, 2, 3, 0x101, end, end + 4, 2**31, 2**63] if width == 32 else [1, 4, 0x104, end - 4, end, 2**40]


@pytest.mark.harmless
@pytest.mark.driver("opae")
def test_reading_at_bad_offsets(csr: fpgahal.Csr) -> None:
    for offset in bad_offsets(csr, 32):
        with pytest.raises(IndexError, match=hex(offset)):
            csr.read32(offset)
    for offset in bad_offsets(csr, 64):
        for use in (csr.read64, lambda o: csr.poll(o, 1, 1, 0.1)):
            with pytest.raises(fpgahal.CsrError, match=hex(offset)):
                use(offset)


@pytest.mark.driver("opae")
def test_writing_at_bad_offsets(csr: fpgahal.Csr) -> None:
    for width, write in ((32, csr.write32), (64, csr.write64)):
        for offset in bad_offsets(csr, width):
            with pytest.raises(fpgahal.CsrError, match=hex(offset)):
                write(offset, 0)


@pytest.mark.driver("opae")
def test_values_that_do_not_fit(csr: fpgahal.Csr) -> None:
    for use in (lambda: csr.write32(SCRATCH, 2**32), lambda: csr.write32(SCRATCH, -1), lambda: csr.read64(-8)):
        with pytest.raises(OverflowError):
            use()
    with pytest.raises(TypeError):
        csr.write32(SCRATCH, 1.5)  # type: ignore[arg-type]


@pytest.mark.driver("opae")
def test_poll(csr: fpgahal.Csr) -> None:
    csr.write64(SCRATCH + 8, 0x1F0)
    assert csr.poll(SCRATCH + 8, 0xF0, 0xF0, timeout=1) == 0x1F0
    assert csr.poll(SCRATCH + 8, 0xF0, 0xF0, timeout=1, width=32) == 0x1F0
    started = time.monotonic()
    with pytest.raises(TimeoutError, match="last value 0x1f0"):
        csr.poll(SCRATCH + 8, 0xF0, 0, timeout=0.1)
    assert time.monotonic() - started < 2
    with pytest.raises(fpgahal.CsrError):
        csr.poll(SCRATCH, 1, 1, 0.1, width=16)  # type: ignore[arg-type]


@pytest.mark.driver("opae")
def test_reset_clears_registers_and_keeps_buffers(csr: fpgahal.Csr, dev: fpgahal.Device) -> None:
    buffer = dev.allocate(64)
    np.asarray(buffer)[:] = 9
    csr.write32(SCRATCH, 5)
    dev.reset()
    assert csr.read32(SCRATCH) == 0
    assert (np.asarray(buffer) == 9).all()


@pytest.mark.driver("xrt")
def test_xrt_has_registers_per_compute_unit(target: Target, dev: fpgahal.Device) -> None:
    with pytest.raises(NotImplementedError, match="exclusive=True"):
        dev.csr.read32(0)
    with dev.kernel(target.kernel) as shared, pytest.raises(fpgahal.UnsupportedError, match="exclusive=True"):
        shared.csr.read32(0)
    with dev.kernel(target.kernel, exclusive=True) as kernel:
        kernel.csr.write32(0x10, 0x12345678)
        assert kernel.csr.read32(0x10) == 0x12345678
        assert kernel.csr.poll(0x10, 0xFF, 0x78, timeout=1) == 0x12345678
        for offset in (1, 2, 2**20, kernel.csr.nbytes):
            with pytest.raises(fpgahal.CsrError, match=hex(offset)):
                kernel.csr.read32(offset)
        with pytest.raises(TimeoutError):
            kernel.csr.poll(0x10, 0xFF, 0, timeout=0.05)
