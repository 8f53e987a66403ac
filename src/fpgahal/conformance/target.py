# SPDX-License-Identifier: Apache-2.0
"""What the checks run on: a board, and images for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

import fpgahal
from fpgahal import emu


@dataclass(frozen=True)
class Target:
    """A board to check.

    Attributes
    ----------
    name : str
    info : DeviceInfo
    image : bytes
        An image with a kernel that copies; empty: the board is not to be programmed, and only the checks marked
        ``harmless`` may run.
    other : bytes or None
        Another image for the same board.
    rack : fpgahal.emu.Rack or None
        The emulated rack, if it is the checks' own: then they may make its boards fail, and use all of them.
    """

    name: str
    info: fpgahal.DeviceInfo
    image: bytes
    other: bytes | None = None
    rack: emu.Rack | None = None

    @property
    def kernel(self) -> str:
        """Name of the kernel that copies."""
        return "lpbk1" if self.info.driver == "opae" else "passthrough"

    def args(self, src: Any, dst: Any, nbytes: int) -> tuple[Any, ...]:
        """Arguments that make the kernel copy `nbytes` (a multiple of 64)."""
        return (src, dst, nbytes // 64) if self.info.driver == "opae" else (src, dst, nbytes)

    @contextmanager
    def device(self, **kw: Any) -> Iterator[fpgahal.Device]:
        """The board, opened, with the image loaded if there is one."""
        with fpgahal.open(self.info, **kw) as dev:
            if self.image:
                dev.program(self.image)
            yield dev

    def need_other(self) -> bytes:
        """Another image for the same board."""
        if self.other is None:
            pytest.skip("it needs a second image for this board")
        return self.other

    def need_rack(self) -> emu.Rack:
        """The rack, for what must not be done to boards that belong to somebody."""
        if self.rack is None:
            pytest.skip("it makes boards fail, or uses a second one: only on an emulated rack of its own")
        return self.rack


def foreign_images(info: fpgahal.DeviceInfo) -> list[bytes]:
    """Sound images, one of each format, that were built for another shell than this board's."""
    found = []
    for family, afu in (("opae", "nlb0"), ("xrt", "vadd")):
        strangers = [
            board
            for board in emu.boards().values()
            if board.family == family
            and board.interface_id != info.interface_id
            and (board.timestamp == 0 or board.timestamp != info.timestamp)
        ]
        found.append(emu.build_image(afu, strangers[-1]))
    return found
