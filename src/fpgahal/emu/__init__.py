# SPDX-License-Identifier: Apache-2.0
"""Emulated boards: asked for by name, never a fallback.

``with fpgahal.emu.rack("pac-a10", "u250") as rack:`` makes a machine for a while;
``FPGAHAL_EMULATE=pac-a10:2,u250`` is one that stays and that all of a user's processes share.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fpgahal._catalogue import build_image
from fpgahal.emu._boards import Board, BoardFileError, boards
from fpgahal.emu._control import SlotState, Status
from fpgahal.emu._models import include
from fpgahal.emu._rack import FAULTS, Rack, rack
from fpgahal.emu._shared import active, discard
from fpgahal.emu._spec import SpecError

if TYPE_CHECKING:
    from fpgahal.emu._programs import OpaeRoute, opae_route, program_environment
    from fpgahal.emu._programs_xrt import xrt_driver, xrt_environment

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

# What other people's programs need: a process that only uses boards does not wait for it.
_LAZY = {
    "OpaeRoute": "_programs",
    "opae_route": "_programs",
    "program_environment": "_programs",
    "xrt_driver": "_programs_xrt",
    "xrt_environment": "_programs_xrt",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"fpgahal.emu.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'fpgahal.emu' has no attribute {name!r}")
