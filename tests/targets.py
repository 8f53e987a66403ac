# SPDX-License-Identifier: Apache-2.0
"""What the conformance suite runs on: the same tests, whatever board and driver is below.

A target is a board with an image that has a kernel which copies bytes.  To run the suite on a real board, set

    FPGAHAL_TEST_DEVICE=<bdf>  FPGAHAL_TEST_IMAGE=<file with NLB0, or with the passthrough kernel>
    FPGAHAL_TEST_OTHER_IMAGE=<any other file for that board>   (optional: the tests that reprogram need it)
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

import fpgahal
from fpgahal import emu
from fpgahal.emu import build_image

#: Emulated boards below our own libraries, one for each binding; the name says what is under the binding.
STAND_INS = {"opae-emulated": ("pac-a10", "nlb0", "nlb3"), "xrt-emulated": ("u250", "demo", "vadd")}
#: Emulated boards below a vendor's own library, by the variable that asks for it: one process, one such target.
BELOW_VENDOR = {
    "FPGAHAL_EMU_OPAE": {"opae-real": ("pac-a10", "nlb0", "nlb3")},  # see test_opae_real.py
    "FPGAHAL_EMU_XRT": {"xrt-real": ("u250", "demo", "vadd")},  # see abi/test_xrt_real.py
}

#: Emulated boards of this run.
EMULATED = next((below for name, below in BELOW_VENDOR.items() if os.environ.get(name) == "real"), STAND_INS)

#: Emulated boards below the kernel drivers' ioctls.  They need the interposer from a process's start, so
#: test_interposed.py runs them in processes of their own, one for each.
INTERPOSED = {"dfl-interposed": ("n3000", "nlb0", "nlb3"), "intel-fpga-interposed": ("pac-a10", "nlb0", "nlb3")}

#: Set in such a process: which target it is for.
ONLY = "FPGAHAL_TEST_INTERPOSED"


def names() -> list[str]:
    """Targets of this run."""
    if EMULATED is STAND_INS and os.environ.get(ONLY):
        return [os.environ[ONLY]]
    return [*EMULATED, *(["real"] if EMULATED is STAND_INS and os.environ.get("FPGAHAL_TEST_DEVICE") else [])]


def is_for(name: str, driver: str) -> bool:
    """Whether a target may have boards of that driver."""
    return name == "real" or name.startswith(driver) or (driver == "opae" and name in INTERPOSED)


@dataclass(frozen=True)
class Target:
    """A board to test."""

    name: str
    info: fpgahal.DeviceInfo
    image: bytes
    other: bytes | None
    rack: emu.Rack | None

    @property
    def kernel(self) -> str:
        """Name of the kernel that copies."""
        return "lpbk1" if self.info.driver == "opae" else "passthrough"

    def args(self, src: Any, dst: Any, nbytes: int) -> tuple[Any, ...]:
        """Arguments that make the kernel copy `nbytes` (a multiple of 64)."""
        return (src, dst, nbytes // 64) if self.info.driver == "opae" else (src, dst, nbytes)

    @contextmanager
    def device(self, **kw: Any) -> Iterator[fpgahal.Device]:
        """The board, opened, with the image loaded."""
        with fpgahal.open(self.info, **kw) as dev:
            dev.program(self.image)
            yield dev

    def need_other(self) -> bytes:
        """Another image for the same board."""
        if self.other is None:
            pytest.skip("needs a second image: set FPGAHAL_TEST_OTHER_IMAGE")
        return self.other

    def need_rack(self) -> emu.Rack:
        """The emulated rack; a real board can't be made to fail."""
        if self.rack is None:
            pytest.skip("a real board has no fault injection")
        return self.rack


@contextmanager
def open_target(name: str) -> Iterator[Target]:
    """Set a target up."""
    if name == "real":
        info = fpgahal.find(os.environ["FPGAHAL_TEST_DEVICE"])
        other = os.environ.get("FPGAHAL_TEST_OTHER_IMAGE")
        yield Target(name, info, _read(os.environ["FPGAHAL_TEST_IMAGE"]), _read(other) if other else None, None)
        return
    model, image, other_image = (STAND_INS | EMULATED | INTERPOSED)[name]
    board = emu.boards()[model]
    with emu.rack(f"{model}:2") as rack:
        yield Target(name, rack.devices()[0], build_image(image, board), build_image(other_image, board), rack)


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
