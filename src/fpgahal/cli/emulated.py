# SPDX-License-Identifier: Apache-2.0
"""What commands need to know about emulated boards, and how they say EMULATED."""

from __future__ import annotations

import fpgahal
from fpgahal import ArgumentRangeError, DeviceInfo, DeviceStateError


def label(info: DeviceInfo) -> str:
    """The address, and the word EMULATED if it is no real board."""
    return f"{info.address} EMULATED" if info.emulated else info.address


def image(afu: str, board: str) -> bytes:
    """An image of an accelerator for an emulated board; both by name."""
    known = fpgahal.emu.boards()
    if board not in known:
        raise ArgumentRangeError(f"There is no emulated board {board!r}; there are: {', '.join(known)}.")
    return fpgahal.emu.build_image(afu, known[board])


def kind(info: DeviceInfo) -> str:
    """What a rack spec calls the kind of this emulated board: ``"pac-a10"``."""
    for name, board in fpgahal.emu.boards().items():
        same = (board.vendor_id, board.device_id) == (info.vendor_id, info.device_id)
        if same and board.interface_id == info.interface_id and board.vbnv in ("", info.platform):
            return name
    raise DeviceStateError(
        f"{info.address}: no image can be made for the EMULATED board {info.platform}.",
        hint="Name the file that describes the board in FPGAHAL_BOARDS.",
    )
