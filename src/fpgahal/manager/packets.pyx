# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, binding=False, embedsignature=True
"""Packets: one frame or several, and quick ways for the two kinds of frames that come most, requests and Done."""
from cpython.bytes cimport PyBytes_AsString, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from fpgahal.manager.wire import MAX_FRAME, Done, ProtocolError, Type

cdef packed struct Header:
    uint32_t size  # bytes of the frame
    uint8_t kind, zero
    uint16_t zeros
    uint64_t tag

cdef packed struct DoneFrame:
    Header head
    double waited, ran

cdef Py_ssize_t HEADER = sizeof(Header), DONE = sizeof(DoneFrame), MOST = MAX_FRAME
cdef uint8_t SUBMIT_TYPE = int(Type.SUBMIT), DONE_TYPE = int(Type.DONE)


def together(frames):
    """Put frames into as few packets as will do, in their order.

    Parameters
    ----------
    frames : sequence of bytes

    Returns
    -------
    list of bytes
    """
    cdef Py_ssize_t size = 0
    packets, some = [], []
    for frame in frames:
        if size + len(frame) > MOST:
            packets.append(b"".join(some))
            some, size = [], 0
        some.append(frame)
        size += len(frame)
    packets.append(b"".join(some))
    return packets


def apart(bytes packet):
    """Give the frames of a packet, one after the other.

    Raises
    ------
    ProtocolError
        It does not end where a frame does.
    """
    cdef Py_ssize_t at = 0, size, end = len(packet)
    while at < end:
        size = int.from_bytes(packet[at : at + 4], "little")
        if size < HEADER or at + size > end:
            raise ProtocolError(f"A packet of {end} bytes has a frame of {size} at {at}.")
        yield packet[at : at + size]
        at += size


def body_of(bytes frame):
    """What comes after the header."""
    return frame[HEADER:]


def submit(bytes body, uint64_t tag):
    """Give the frame of a request, from what :func:`fpgahal.manager.wire.submit_body` gave."""
    cdef Header head = Header(HEADER + len(body), SUBMIT_TYPE, 0, 0, tag)
    cdef bytes frame = PyBytes_FromStringAndSize(NULL, head.size)
    cdef char *data = PyBytes_AsString(frame)
    memcpy(data, &head, HEADER)
    memcpy(data + HEADER, PyBytes_AsString(body), head.size - HEADER)
    return frame


def submits(bytes packet):
    """Give tag and body of each frame, if they all look like requests; else None."""
    cdef const char *data = PyBytes_AsString(packet)
    cdef Py_ssize_t at = 0, end = len(packet)
    cdef Header head
    cdef list found = []
    while at < end:
        if at + HEADER > end:
            return None
        memcpy(&head, data + at, HEADER)
        if head.kind != SUBMIT_TYPE or head.zero or head.zeros or head.size < HEADER or at + head.size > end:
            return None
        found.append((head.tag, data[at + HEADER : at + head.size]))
        at += head.size
    return found


def done(tags, double waited, double ran):
    """Give the packets that tell a client that requests have run together."""
    cdef DoneFrame frame = DoneFrame(Header(DONE, DONE_TYPE, 0, 0, 0), waited, ran)
    cdef list frames = []
    for tag in tags:
        frame.head.tag = tag
        frames.append((<char *>&frame)[:DONE])
    return frames if len(frames) == 1 else together(frames)


def dones(bytes packet):
    """Give tag and frame of each, if all of them say that a request has run; else None."""
    cdef const char *data = PyBytes_AsString(packet)
    cdef Py_ssize_t at = 0, end = len(packet)
    cdef DoneFrame frame
    cdef list found = []
    if end % DONE:
        return None
    while at < end:
        memcpy(&frame, data + at, DONE)
        if frame.head.kind != DONE_TYPE or frame.head.size != DONE or frame.head.zero or frame.head.zeros:
            return None
        found.append((frame.head.tag, Done(frame.waited, frame.ran)))
        at += DONE
    return found
