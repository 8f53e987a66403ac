# SPDX-License-Identifier: Apache-2.0
"""Emulated boards: asked for by name, never a fallback.

``with fpgahal.emu.rack("pac-a10", "u250") as rack:`` makes a machine for a while;
``FPGAHAL_EMULATE=pac-a10:2,u250`` is one that stays and that all of a user's processes share.
"""

from __future__ import annotations

from fpgahal._catalogue import build_image
from fpgahal.emu._boards import Board, BoardFileError, boards
from fpgahal.emu._control import SlotState, Status
from fpgahal.emu._models import include
from fpgahal.emu._programs import OpaeRoute, opae_route, program_environment
from fpgahal.emu._programs_xrt import xrt_driver, xrt_environment
from fpgahal.emu._rack import FAULTS, Rack, rack
from fpgahal.emu._shared import active, discard
from fpgahal.emu._spec import SpecError

__all__ = [
    "FAULTS",
    "Board",
    "BoardFileError",
    "OpaeRoute",
    "Rack",
    "SlotState",
    "SpecError",
    "Status",
    "active",
    "boards",
    "build_image",
    "discard",
    "include",
    "opae_route",
    "program_environment",
    "rack",
    "xrt_driver",
    "xrt_environment",
]
