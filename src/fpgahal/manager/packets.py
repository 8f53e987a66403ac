# SPDX-License-Identifier: Apache-2.0
"""Packets: one frame or several, and quick ways for the two kinds of frames that come most, requests and Done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from struct import Struct

from fpgahal.manager.wire import MAX_FRAME, Done, ProtocolError, Type

_HEADER = Struct("<IBBHQ")  # bytes of the frame, type, 0, 0, tag
_DONE = Struct("<IBBHQdd")
_SUBMIT_TYPE, _DONE_TYPE = int(Type.SUBMIT), int(Type.DONE)  # members of an enum are slow to compare


def together(frames: Sequence[bytes]) -> list[bytes]:
    """Put frames into as few packets as will do, in their order."""
    packets, some, size = [], list[bytes](), 0
    for frame in frames:
        if size + len(frame) > MAX_FRAME:
            packets.append(b"".join(some))
            some, size = [], 0
        some.append(frame)
        size += len(frame)
    packets.append(b"".join(some))
    return packets


def apart(packet: bytes) -> Iterator[bytes]:
    """Give the frames of a packet.

    Raises
    ------
    ProtocolError
        It does not end where a frame does.
    """
    at = 0
    while at < len(packet):
        size = int.from_bytes(packet[at : at + 4], "little")
        if size < _HEADER.size or at + size > len(packet):
            raise ProtocolError(f"A packet of {len(packet)} bytes has a frame of {size} at {at}.")
        yield packet[at : at + size]
        at += size


def body_of(frame: bytes) -> bytes:
    """What comes after the header."""
    return frame[_HEADER.size :]


def submit(body: bytes, tag: int) -> bytes:
    """Give the frame of a request, from what :func:`fpgahal.manager.wire.submit_body` gave."""
    return _HEADER.pack(_HEADER.size + len(body), _SUBMIT_TYPE, 0, 0, tag) + body


def submits(packet: bytes) -> list[tuple[int, bytes]] | None:
    """Give tag and body of each frame, if they all look like requests; else None."""
    found, at, end, head = [], 0, len(packet), _HEADER.size
    unpack = _HEADER.unpack_from
    while at < end:
        if at + head > end:
            return None
        size, kind, zero, zeros, tag = unpack(packet, at)
        if kind != _SUBMIT_TYPE or zero or zeros or size < head or at + size > end:
            return None
        found.append((tag, packet[at + head : at + size]))
        at += size
    return found


def done(tags: Sequence[int], waited: float, ran: float) -> list[bytes]:
    """Give the packets that tell a client that requests have run together."""
    pack, size, most = _DONE.pack, _DONE.size, MAX_FRAME // _DONE.size
    frames = [pack(size, _DONE_TYPE, 0, 0, tag, waited, ran) for tag in tags]
    return frames if len(frames) == 1 else [b"".join(frames[at : at + most]) for at in range(0, len(frames), most)]


def dones(packet: bytes) -> list[tuple[int, Done]] | None:
    """Give tag and frame of each, if all of them say that a request has run; else None."""
    if len(packet) % _DONE.size:
        return None
    found = []
    for size, kind, zero, zeros, tag, waited, ran in _DONE.iter_unpack(packet):
        if kind != _DONE_TYPE or size != _DONE.size or zero or zeros:
            return None
        found.append((tag, Done(waited, ran)))
    return found


__all__ = ["apart", "body_of", "done", "dones", "submit", "submits", "together"]
