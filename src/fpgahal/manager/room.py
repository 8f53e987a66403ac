# SPDX-License-Identifier: Apache-2.0
"""Room: the buffers that one run of a kernel uses; and as many rooms as runs are prepared at a time."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt

from fpgahal import Buffer, Device, Kernel

Bytes = npt.NDArray[np.uint8]


class Room:
    """A buffer for each array of a kernel, that grows as needed, and whose data is in it."""

    __slots__ = ("_banks", "_buffers", "_dev", "user")

    def __init__(self, dev: Device, banks: Sequence[int | None]) -> None:
        self._dev = dev
        self._banks = banks
        self._buffers: dict[int, tuple[Buffer, Bytes]] = {}
        self.user: Hashable = None

    def buffer(self, index: int, nbytes: int) -> tuple[Buffer, Bytes]:
        """The buffer of an argument, with so many bytes at least, and a view of it."""
        found = self._buffers.get(index)
        if found is None or found[0].nbytes < nbytes:
            if found is not None:
                del self._buffers[index]
                buffer = found[0]
                del found
                buffer.close()
            buffer = self._dev.allocate(max(4096, 1 << (nbytes - 1).bit_length()), bank=self._banks[index])
            found = self._buffers[index] = buffer, np.asarray(buffer)
        return found

    def fill(self, index: int, pieces: Sequence[Bytes]) -> Buffer:
        """Bring pieces to the board, one behind the other."""
        buffer, view = self.buffer(index, sum([piece.nbytes for piece in pieces]))
        at = 0
        for piece in pieces:
            view[at : at + piece.nbytes] = piece
            at += piece.nbytes
        buffer.sync_to_device(0, at)
        return buffer

    def fetch(self, index: int, pieces: Sequence[Bytes]) -> None:
        """Bring pieces back."""
        buffer, view = self._buffers[index]
        buffer.sync_from_device(0, sum([piece.nbytes for piece in pieces]))
        at = 0
        for piece in pieces:
            piece[:] = view[at : at + piece.nbytes]
            at += piece.nbytes

    def scrub(self) -> None:
        """Nothing of what one user had on the board is left for another."""
        for buffer, view in self._buffers.values():
            view[:] = 0
            buffer.sync_to_device()

    def close(self) -> None:
        """Give the memory back."""
        buffers = [buffer for buffer, _view in self._buffers.values()]
        self._buffers.clear()  # the views, too, which would keep the device open
        for buffer in buffers:
            buffer.close()


class Rooms:
    """Of one kernel."""

    def __init__(self, dev: Device, kernel: Kernel) -> None:
        self._dev = dev
        self._banks = [arg.banks[0] if arg.banks else None for arg in kernel.info.args]
        self._free: list[Room] = []  # append and pop are atomic

    def take(self, user: Hashable) -> Room:
        """A room that nobody uses, and in which nothing is left of another user's."""
        room = self._free.pop() if self._free else Room(self._dev, self._banks)
        if user != room.user:
            room.scrub()
            room.user = user
        return room

    def give(self, room: Room) -> None:
        """Give a room back whose run has ended; after an error it may be in use, and goes with the board."""
        self._free.append(room)

    def close(self) -> None:
        """Give the memory back."""
        while self._free:
            self._free.pop().close()


__all__ = ["Bytes", "Room", "Rooms"]
