# SPDX-License-Identifier: Apache-2.0
"""What the conformance suite runs on here: the same checks, whatever board and driver is below.

For a real board there is the command `fpgahal conformance`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from fpgahal import emu
from fpgahal.conformance.target import Target
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
    return list(EMULATED)


def is_for(name: str, driver: str) -> bool:
    """Whether a target may have boards of that driver."""
    return name.startswith(driver) or (driver == "opae" and name in INTERPOSED)


@contextmanager
def open_target(name: str) -> Iterator[Target]:
    """Set a target up."""
    model, image, other_image = (STAND_INS | EMULATED | INTERPOSED)[name]
    board = emu.boards()[model]
    with emu.rack(f"{model}:2") as rack:
        yield Target(name, rack.devices()[0], build_image(image, board), build_image(other_image, board), rack)
