# SPDX-License-Identifier: Apache-2.0
"""The frames between clients and the manager, version 1: docs/manager-protocol.md says what they mean.

A frame is one packet of a SOCK_SEQPACKET socket.  :func:`parse` takes any bytes and gives a frame or a ProtocolError;
what comes from a frame has its right type, range and length, but is not known to make sense otherwise.
"""

from __future__ import annotations

import math
import re
import socket
from struct import Struct, error
from typing import Any, NamedTuple

import numpy as np

from fpgahal import FpgaError
from fpgahal.manager.codes import Code, Type, Verb

VERSION = 1
#: For send and recv: neither waits, nor is anybody killed.  A plain int, because combining enums takes a microsecond.
AT_ONCE = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
MAGIC = b"fpgahal\0"
MAX_FRAME = 1 << 16  #: bytes
MAX_ARGS, MAX_DIMS = 32, 8
MAX_BYTES = 1 << 46  #: of an array: more than any board has
#: By their number on the wire.
DTYPES = tuple(np.dtype(f"{kind}{bits}") for bits in (8, 16, 32, 64) for kind in ("int", "uint")) + tuple(
    np.dtype(f"float{bits}") for bits in (16, 32, 64)
)
DTYPE_NUMBERS = {dtype: number for number, dtype in enumerate(DTYPES)}

_HEADER = Struct("<IBBHQ")  # bytes of the frame, type, 0, 0, tag
HEADER_BYTES = _HEADER.size
_HELLO = Struct("<8sHH")
_WELCOME = Struct("<HHIQ")
_REGISTER = Struct("<IIQ")
_RELEASE = Struct("<I")
_SUBMIT = Struct("<BBBBQ")  # priority, options, bytes of the name, arguments, deadline
_ARRAY = Struct("<BBIQ")  # dtype, dimensions, handle, offset
_SPEC = Struct("<BB")
_DONE = Struct("<dd")
_FAILED = Struct("<HHH")
_I64, _U64, _F64, _U16 = Struct("<q"), Struct("<Q"), Struct("<d"), Struct("<H")
_EXTENTS = tuple(Struct(f"<{n}Q") for n in range(MAX_DIMS + 1))
_NAME = re.compile(rb"[A-Za-z_][A-Za-z0-9_.]{0,63}")
_ONCE = 1  # an option of Submit
_INT, _UINT, _FLOAT, _TEXT, _BUFFER = 1, 2, 3, 4, 5  # kinds of arguments


class ProtocolError(FpgaError, ValueError):
    """What came is no frame of this protocol."""


class Hello(NamedTuple):
    """The first frame of a client: which versions it speaks."""

    lowest: int
    highest: int


class Welcome(NamedTuple):
    """The answer: the version that both speak from here on, and what this client may have."""

    version: int
    buffers: int
    requests: int
    nbytes: int


class Register(NamedTuple):
    """Makes a memfd (the frame's file descriptor) known as `handle`; a constant one is sealed against writing, too."""

    handle: int
    constant: bool
    nbytes: int


class Release(NamedTuple):
    """Forgets a buffer."""

    handle: int


class Ref(NamedTuple):
    """An array in a buffer, in C order."""

    handle: int
    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    nbytes: int


Value = int | float | str | Ref


class Submit(NamedTuple):
    """A request; `deadline` is in microseconds from its arrival, 0: none.  `once`: never run it a second time."""

    name: str
    arguments: dict[str, Value]
    priority: int = 1
    deadline: int = 0
    once: bool = False


class Describe(NamedTuple):
    """Asks for the outputs that a request would need: the same as a Submit."""

    submit: Submit


class Cancel(NamedTuple):
    """Asks that the request with the frame's tag is not run; there is no answer but the request's own."""


class Status(NamedTuple):
    """Asks for a Report; of an accelerator, if one is named."""

    accelerator: str = ""


class Admin(NamedTuple):
    """Wants something of a board; without a name, of all."""

    verb: Verb
    board: str = ""


class Ok(NamedTuple):
    """It is done."""


class Spec(NamedTuple):
    """An output: name, dtype, shape."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


class Specs(NamedTuple):
    """Answer to Describe."""

    outputs: tuple[Spec, ...]


class Done(NamedTuple):
    """A request has run: seconds in the queue, and on the board."""

    waited: float
    ran: float


class Failed(NamedTuple):
    """Something was not done."""

    code: Code
    message: str
    hint: str = ""


class Report(NamedTuple):
    """Answer to Status: a JSON document."""

    text: str


Frame = (Hello | Register | Release | Submit | Describe | Cancel | Status | Admin) | (
    Welcome | Ok | Specs | Done | Failed | Report
)


# --- to bytes ---------------------------------------------------------------------------------------------------------


def pack(frame: Frame, tag: int = 0) -> bytes:
    """Give the bytes of a frame.

    Raises
    ------
    ProtocolError
        It would be longer than MAX_FRAME, or has more arguments than MAX_ARGS.
    struct.error, KeyError
        A value that its field can't hold.
    """
    kind, body = _PACK[type(frame)](frame)
    size = _HEADER.size + len(body)
    if size > MAX_FRAME:
        raise ProtocolError(f"A frame of {size} bytes; at most {MAX_FRAME} can be sent.")
    return bytes(_HEADER.pack(size, kind, 0, 0, tag) + body)


def submit_body(frame: Submit) -> bytes:
    """Give what comes after the header of a request: the same for each request with the same arguments."""
    name = frame.name.encode()
    if len(frame.arguments) > MAX_ARGS or len(name) > 64:
        raise ProtocolError(f"{len(frame.arguments)} arguments; a request has {MAX_ARGS} at most.")
    options = _ONCE if frame.once else 0
    parts = [_SUBMIT.pack(frame.priority, options, len(name), len(frame.arguments), frame.deadline), name]
    for key, value in frame.arguments.items():
        label = key.encode()
        if isinstance(value, Ref):
            numbers = _ARRAY.pack(DTYPE_NUMBERS[value.dtype], len(value.shape), value.handle, value.offset)
            kind, data = _BUFFER, numbers + _EXTENTS[len(value.shape)].pack(*value.shape)
        elif isinstance(value, str):
            text = value.encode()
            kind, data = _TEXT, _U16.pack(len(text)) + text
        elif isinstance(value, float):
            kind, data = _FLOAT, _F64.pack(value)
        elif value < 1 << 63:
            kind, data = _INT, _I64.pack(value)
        else:
            kind, data = _UINT, _U64.pack(value)
        parts += (bytes((kind, len(label))), label, data)
    body = b"".join(parts)
    if len(body) + _HEADER.size > MAX_FRAME:
        raise ProtocolError(f"A request of {len(body)} bytes; at most {MAX_FRAME - _HEADER.size} can be sent.")
    return body


def _pack_specs(frame: Specs) -> bytes:
    parts = [bytes((len(frame.outputs),))]
    for spec in frame.outputs:
        label = spec.name.encode()
        parts += (bytes((len(label),)), label, _SPEC.pack(DTYPE_NUMBERS[spec.dtype], len(spec.shape)))
        parts.append(_EXTENTS[len(spec.shape)].pack(*spec.shape))
    return b"".join(parts)


def _pack_failed(frame: Failed) -> bytes:
    message, hint = (text.encode("utf-8", "replace")[:2000] for text in (frame.message, frame.hint))
    return _FAILED.pack(frame.code, len(message), len(hint)) + message + hint


_PACK: dict[type, Any] = {
    Hello: lambda frame: (Type.HELLO, _HELLO.pack(MAGIC, *frame)),
    Welcome: lambda frame: (Type.WELCOME, _WELCOME.pack(*frame)),
    Register: lambda frame: (Type.REGISTER, _REGISTER.pack(*frame)),
    Release: lambda frame: (Type.RELEASE, _RELEASE.pack(*frame)),
    Submit: lambda frame: (Type.SUBMIT, submit_body(frame)),
    Describe: lambda frame: (Type.DESCRIBE, submit_body(frame.submit)),
    Cancel: lambda frame: (Type.CANCEL, b""),
    Status: lambda frame: (Type.STATUS, frame.accelerator.encode()),
    Admin: lambda frame: (Type.ADMIN, bytes((frame.verb, len(name := frame.board.encode()))) + name),
    Ok: lambda frame: (Type.OK, b""),
    Specs: lambda frame: (Type.SPECS, _pack_specs(frame)),
    Done: lambda frame: (Type.DONE, _DONE.pack(*frame)),
    Failed: lambda frame: (Type.FAILED, _pack_failed(frame)),
    Report: lambda frame: (Type.REPORT, frame.text.encode()),
}


# --- from bytes -------------------------------------------------------------------------------------------------------


def parse(data: bytes) -> tuple[int, Frame]:
    """Take a frame apart.

    Returns
    -------
    tag : int
        Which request or call it is about.
    frame : Frame

    Raises
    ------
    ProtocolError
        These are not the bytes of one whole frame.
    """
    try:
        size, kind, zero, zeros, tag = _HEADER.unpack_from(data)
        if size != len(data) or size > MAX_FRAME or zero or zeros:
            raise ProtocolError(f"A packet of {len(data)} bytes says that it is a frame of {size}, or has flags.")
        read = _PARSE.get(kind)
        if read is None:
            raise ProtocolError(f"There is no frame of type {kind}.")
        return tag, read(data)
    except error:
        raise ProtocolError(f"A frame of {len(data)} bytes ends too early.") from None
    except UnicodeDecodeError:
        raise ProtocolError("A text that is not UTF-8.") from None


def _whole(layout: Struct, data: bytes) -> tuple[Any, ...]:
    _end(data, _HEADER.size + layout.size)
    return layout.unpack_from(data, _HEADER.size)


def _end(data: bytes, at: int) -> None:
    if at != len(data):
        raise ProtocolError(f"A frame of {len(data)} bytes; its contents end at {at}.")


def _parse_hello(data: bytes) -> Hello:
    magic, lowest, highest = _whole(_HELLO, data)
    if magic != MAGIC or not 1 <= lowest <= highest:
        raise ProtocolError("The first frame is not that of an fpgahal client.")
    return Hello(lowest, highest)


def _parse_register(data: bytes) -> Register:
    handle, constant, nbytes = _whole(_REGISTER, data)
    if constant > 1 or not 1 <= nbytes <= MAX_BYTES:
        raise ProtocolError(f"A buffer of {nbytes} bytes, with flags {constant:#x}.")
    return Register(handle, constant == 1, nbytes)


def _name(data: bytes, at: int, length: int) -> str:
    found = data[at : at + length]
    if len(found) != length or _NAME.fullmatch(found) is None:
        raise ProtocolError(f"{found!r} is no name.")
    return found.decode("ascii")


def _shape(data: bytes, at: int, dtype: int, dims: int) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    if dtype >= len(DTYPES) or dims > MAX_DIMS:
        raise ProtocolError(f"An array of dtype {dtype} with {dims} dimensions.")
    shape = _EXTENTS[dims].unpack_from(data, at)
    nbytes = math.prod(shape) * DTYPES[dtype].itemsize
    if nbytes > MAX_BYTES or max(shape, default=0) > MAX_BYTES:  # an extent, too: 0 times anything is 0
        raise ProtocolError(f"An array of shape {shape}.")
    return DTYPES[dtype], shape, nbytes


def _parse_submit(data: bytes) -> Submit:
    priority, options, length, count, deadline = _SUBMIT.unpack_from(data, _HEADER.size)
    if priority > 2 or options > _ONCE or count > MAX_ARGS:
        raise ProtocolError(f"A request of priority {priority} with options {options:#x} and {count} arguments.")
    at = _HEADER.size + _SUBMIT.size
    name = _name(data, at, length)
    at += length
    arguments: dict[str, Value] = {}
    for _ in range(count):
        kind, length = _SPEC.unpack_from(data, at)
        label = _name(data, at + 2, length)
        if label in arguments:
            raise ProtocolError(f"Argument {label} is there twice.")
        at += 2 + length
        if kind == _BUFFER:
            dtype, dims, handle, offset = _ARRAY.unpack_from(data, at)
            arguments[label] = Ref(handle, offset, *_shape(data, at + _ARRAY.size, dtype, dims))
            at += _ARRAY.size + 8 * dims
        elif kind == _TEXT:
            (length,) = _U16.unpack_from(data, at)
            at += 2 + length
            arguments[label] = data[at - length : at].decode()
        elif kind in _NUMBERS:
            (arguments[label],) = _NUMBERS[kind].unpack_from(data, at)
            at += 8
        else:
            raise ProtocolError(f"Argument {label} is of no known kind: {kind}.")
    _end(data, at)
    return Submit(name, arguments, priority, deadline, options == _ONCE)


_CODES = frozenset(Code)
_NUMBERS = {_INT: _I64, _UINT: _U64, _FLOAT: _F64}


def _parse_specs(data: bytes) -> Specs:
    at, outputs = _HEADER.size + 1, []
    for _ in range(data[_HEADER.size] if len(data) >= at else 0):
        if at >= len(data):
            raise ProtocolError("A description ends too early.")
        length = data[at]
        name = _name(data, at + 1, length)
        at += 1 + length
        kind, dims = _SPEC.unpack_from(data, at)
        dtype, shape, _nbytes = _shape(data, at + 2, kind, dims)
        outputs.append(Spec(name, dtype, shape))
        at += 2 + 8 * dims
    _end(data, at)
    return Specs(tuple(outputs))


def _parse_failed(data: bytes) -> Failed:
    code, message, hint = _FAILED.unpack_from(data, _HEADER.size)
    at = _HEADER.size + _FAILED.size
    _end(data, at + message + hint)
    if code not in _CODES:
        raise ProtocolError(f"There is no error {code}.")
    texts = data[at : at + message], data[at + message :]
    return Failed(Code(code), *(text.decode("utf-8", "replace") for text in texts))


def _parse_admin(data: bytes) -> Admin:
    verb, length = _SPEC.unpack_from(data, _HEADER.size)
    at = _HEADER.size + _SPEC.size
    _end(data, at + length)
    if verb > max(Verb):
        raise ProtocolError(f"There is no verb {verb}.")
    return Admin(Verb(verb), data[at:].decode())


def _empty(frame: Frame) -> Any:
    def read(data: bytes) -> Frame:
        _end(data, _HEADER.size)
        return frame

    return read


_PARSE: dict[int, Any] = {
    Type.HELLO: _parse_hello,
    Type.REGISTER: _parse_register,
    Type.RELEASE: lambda data: Release(*_whole(_RELEASE, data)),
    Type.SUBMIT: _parse_submit,
    Type.DESCRIBE: lambda data: Describe(_parse_submit(data)),
    Type.CANCEL: _empty(Cancel()),
    Type.STATUS: lambda data: Status(_name(data, HEADER_BYTES, len(data) - 16) if len(data) > HEADER_BYTES else ""),
    Type.ADMIN: _parse_admin,
    Type.WELCOME: lambda data: Welcome(*_whole(_WELCOME, data)),
    Type.OK: _empty(Ok()),
    Type.SPECS: _parse_specs,
    Type.DONE: lambda data: Done(*_whole(_DONE, data)),
    Type.FAILED: _parse_failed,
    Type.REPORT: lambda data: Report(data[_HEADER.size :].decode()),
}

__all__ = [
    "AT_ONCE",
    "DTYPES",
    "DTYPE_NUMBERS",
    "MAX_ARGS",
    "MAX_DIMS",
    "MAX_FRAME",
    "VERSION",
    "Admin",
    "Cancel",
    "Code",
    "Describe",
    "Done",
    "Failed",
    "Frame",
    "Hello",
    "Ok",
    "ProtocolError",
    "Ref",
    "Register",
    "Release",
    "Report",
    "Spec",
    "Specs",
    "Status",
    "Submit",
    "Type",
    "Value",
    "Verb",
    "Welcome",
    "pack",
    "parse",
    "submit_body",
]
