# SPDX-License-Identifier: Apache-2.0
"""Frames: what is packed is what is parsed, and any other bytes are a ProtocolError."""

from __future__ import annotations

import contextlib
import os
import re
import select
import socket
import struct
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fpgahal.manager import packets, soon, wire
from fpgahal.manager.spin import Spin

names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.]{0,63}", fullmatch=True)
u32, u64 = st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 64) - 1)
dtypes = st.sampled_from(wire.DTYPES)
shapes = st.lists(st.integers(0, 50), max_size=6).map(tuple)
texts = st.text(st.characters(codec="utf-8"), max_size=50)


@st.composite
def refs(draw: Any) -> wire.Ref:
    dtype, shape = draw(dtypes), draw(shapes)
    return wire.Ref(draw(u32), draw(u64), dtype, shape, int(np.prod(shape, dtype=object)) * dtype.itemsize)


values = st.integers(-(1 << 63), (1 << 64) - 1) | st.floats(allow_nan=False) | texts | refs()
submits = st.builds(
    wire.Submit, names, st.dictionaries(names, values, max_size=8), st.integers(0, 2), u64, st.booleans()
)
frames = st.one_of(
    st.integers(1, 9).flatmap(lambda low: st.builds(wire.Hello, st.just(low), st.integers(low, 99))),
    st.builds(wire.Welcome, st.integers(1, 99), st.integers(0, 9999), u32, u64),
    st.builds(wire.Register, u32, st.booleans(), st.integers(1, 1 << 46)),
    st.builds(wire.Release, u32),
    submits,
    st.builds(wire.Describe, submits),
    st.sampled_from([wire.Cancel(), wire.Status(), wire.Ok()]),
    st.builds(wire.Admin, st.sampled_from(wire.Verb), texts),
    st.builds(wire.Status, names),
    st.lists(st.builds(wire.Spec, names, dtypes, shapes), max_size=9).map(lambda found: wire.Specs(tuple(found))),
    st.builds(wire.Done, st.floats(0, 1e9), st.floats(0, 1e9)),
    st.builds(wire.Failed, st.sampled_from(wire.Code), texts, texts),
    st.builds(wire.Report, texts),
)


@given(frames, u64)
def test_what_is_packed_is_parsed(frame: wire.Frame, tag: int) -> None:
    assert wire.parse(wire.pack(frame, tag)) == (tag, frame)


@given(st.binary(max_size=200))
@example(b"")
def test_any_bytes(data: bytes) -> None:
    with pytest.raises(wire.ProtocolError):
        wire.parse(data)


@given(frames, st.data())
def test_a_changed_frame_is_another_frame_or_an_error(frame: wire.Frame, data: st.DataObject) -> None:
    packed = bytearray(wire.pack(frame))
    for _ in range(data.draw(st.integers(1, 3))):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    try:
        tag, found = wire.parse(bytes(packed))
    except wire.ProtocolError:
        return
    again = wire.pack(found, tag)
    assert len(again) == len(packed) or isinstance(found, wire.Failed)  # texts that are not UTF-8


@given(frames, st.data())
def test_a_cut_frame(frame: wire.Frame, data: st.DataObject) -> None:
    packed = wire.pack(frame)
    cut = packed[: data.draw(st.integers(0, len(packed) - 1))]
    with pytest.raises(wire.ProtocolError):
        wire.parse(cut)
    if len(cut) >= 16 and not isinstance(frame, (wire.Report, wire.Failed, wire.Status)):  # with a size that fits
        with pytest.raises(wire.ProtocolError):
            wire.parse(struct.pack("<I", len(cut)) + cut[4:])


@given(st.lists(frames, max_size=20))
def test_frames_in_packets(many: list[wire.Frame]) -> None:
    packed = [wire.pack(frame, tag) for tag, frame in enumerate(many)]
    found = [frame for packet in packets.together(packed) for frame in packets.apart(packet)]
    assert found == packed


def test_packets_are_not_too_long() -> None:
    found = packets.together([wire.pack(wire.Report("x" * 20_000))] * 10)
    assert [len(packet) for packet in found] == [60_048, 60_048, 60_048, 20_016]


@given(st.binary(min_size=1, max_size=60))
def test_any_packet(data: bytes) -> None:
    with contextlib.suppress(wire.ProtocolError):
        assert b"".join(packets.apart(data)) == data


def test_the_documentation_has_every_frame_and_code() -> None:
    text = (Path(__file__).parents[2] / "docs" / "manager-protocol.md").read_text()
    rows = {
        int(row[0]): row[2]
        for line in text.splitlines()
        if len(row := line.strip("| ").split(" | ")) == 4 and row[0].isdigit()
    }
    assert rows == {kind.value: kind.name.capitalize() for kind in wire.Type}
    codes = text.partition("## Codes")[2].partition("##")[0]
    numbers = [int(word) for word in re.findall(r"(?:^|; |;\n|run it; )(\d+) ", codes, re.MULTILINE)]
    assert sorted(numbers) == [code.value for code in wire.Code]


def submit(*tail: bytes, count: int = 1, priority: int = 1, options: int = 0) -> bytes:
    body = struct.pack("<BBBBQ", priority, options, 4, count, 0) + b"vadd" + b"".join(tail)
    return struct.pack("<IBBHQ", 16 + len(body), 4, 0, 0, 7) + body


def array(dtype: int = 5, *extents: int, dims: int | None = None) -> bytes:
    dims = len(extents) if dims is None else dims
    return b"\x05\x01a" + struct.pack("<BBIQ", dtype, dims, 1, 0) + struct.pack(f"<{len(extents)}Q", *extents)


def test_the_layout_is_the_documented_one() -> None:
    ref = wire.Ref(1, 0, np.dtype("uint32"), (3,), 12)
    assert wire.parse(submit(array(5, 3))) == (7, wire.Submit("vadd", {"a": ref}))


@pytest.mark.parametrize(
    "data",
    [
        submit(array(11, 1)),
        submit(array(5, *(9,) * 9)),
        submit(array(5, 1 << 63, 1 << 63)),
        submit(array(5, 0, 1 << 63)),
        submit(array(5, dims=1)),
        submit(array(5, 1), array(5, 1), count=2),
        submit(b"\x05\x01a"),
        submit(b"\x09\x01a" + bytes(8)),
        submit(b"\x04\x01a\xff\xff"),
        submit(b"\x04\x01a\x01\x00\xff"),
        submit(b"\x01\x00" + bytes(8)),
        submit(b"\x01\x01!" + bytes(8)),
        submit(b"\x01\x41" + b"a" * 65 + bytes(8)),
        submit(count=33),
        submit(count=0, priority=3),
        submit(count=0, options=2),
        submit(count=0) + b"\0",
    ],
)
def test_frames_that_make_no_sense(data: bytes) -> None:
    with pytest.raises(wire.ProtocolError):
        wire.parse(data)


def test_too_long() -> None:
    with pytest.raises(wire.ProtocolError, match="65536"):
        wire.pack(wire.Report("x" * 65536))
    with pytest.raises(wire.ProtocolError, match="32"):
        wire.pack(wire.Submit("vadd", {f"a{n}": n for n in range(33)}))


@given(st.binary(max_size=300))
def test_quick_ways_take_what_the_slow_ones_take(data: bytes) -> None:
    for packet in (data, packets.submit(data, 7), packets.submit(data, 7) + data, packets.submit(b"", 1) * 3):
        found = packets.submits(packet)
        if found is not None:
            frames = list(packets.apart(packet))
            assert [packets.submit(body, tag) for tag, body in found] == frames
            assert [body for _, body in found] == [packets.body_of(frame) for frame in frames]
    for packet in (data, packets.done([7], 0.0, 1.0)[0] + data):
        answers = packets.dones(packet)
        if answers is not None:
            assert answers == [wire.parse(frame) for frame in packets.apart(packet)]


@pytest.mark.parametrize("count", [1, 2, 2047, 2048, 2049, 5000])
def test_many_answers(count: int) -> None:
    tags = list(range(1, count + 1))
    found = packets.done(tags, 0.25, 0.5)
    assert all(len(packet) <= wire.MAX_FRAME for packet in found)
    answers = [answer for packet in found for answer in packets.dones(packet) or ()]
    assert answers == [(tag, wire.Done(0.25, 0.5)) for tag in tags]
    assert answers == [wire.parse(frame) for packet in found for frame in packets.apart(packet)]
    assert packets.dones(found[0] + packets.submit(b"x" * 16, 1)) is None
    assert packets.submits(found[0]) is None


def test_spinning_is_given_up_where_it_does_not_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _process: {0, 1})
    spun = 0

    def nothing(_fd: int, seconds: float) -> None:
        nonlocal spun
        spun += seconds > 0

    def something(_fd: int, seconds: float) -> str:
        nonlocal spun
        spun += seconds > 0
        return "it"

    spin = Spin(1e-6)
    for _ in range(1000):
        assert spin.look(nothing, 0) is None
    assert 10 < spun < 60
    for _ in range(200):
        assert spin.look(something, 0) == "it"
    spun = 0
    for _ in range(100):
        spin.look(something, 0)
    assert spun == 100  # again, since it pays


def test_nobody_spins_on_the_only_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _process: {0})
    assert Spin(1.0).look(lambda _fd, seconds: seconds, 0) == 0.0


def test_packets_and_events_that_come_soon() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, select.epoll() as epoll:
        epoll.register(ours, select.EPOLLIN)
        assert soon.Room().packet(ours.fileno(), 0.0) is None
        assert soon.Room().packet_and_files(ours.fileno()) == (None, [], False)
        assert soon.events(epoll.fileno(), 0.001) == []
        sender = threading.Timer(0.02, theirs.send, (b"hello",))
        sender.start()
        assert soon.Room().packet(ours.fileno(), 20.0) == b"hello"
        theirs.send(b"again")
        assert soon.events(epoll.fileno(), 0.0) == [(ours.fileno(), select.EPOLLIN)]
        assert soon.Room().packet_and_files(ours.fileno()) == (b"again", [], False)
        theirs.close()
        assert soon.Room().packet(ours.fileno(), 0.0) == b""
        assert soon.Room().packet_and_files(ours.fileno()) == (b"", [], False)
    with pytest.raises(OSError, match="Bad file descriptor"):
        soon.Room().packet(-1, 0.0)
    with pytest.raises(OSError, match="Bad file descriptor"):
        soon.Room().packet_and_files(-1)
    with pytest.raises(OSError, match="Bad file descriptor"):
        soon.events(-1, 1.0)


def test_threads_with_a_small_stack_take_packets() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    before = threading.stack_size(64 << 10)
    found = []
    try:
        with ours, theirs:
            theirs.send(b"x" * wire.MAX_FRAME)
            reader = threading.Thread(target=lambda: found.append(soon.Room().packet(ours.fileno(), 1.0)))
            reader.start()
            reader.join(20)
    finally:
        threading.stack_size(before)
    assert found == [b"x" * wire.MAX_FRAME]


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_files_that_come_with_a_packet(count: int) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    before = set(os.listdir("/proc/self/fd"))
    with ours, theirs:
        socket.send_fds(theirs, [b"x"], [0] * count)
        data, files, cut = soon.Room().packet_and_files(ours.fileno())
        assert (data, len(files), cut) == (b"x", min(count, 2), count > 2)
        for fd in files:
            assert os.fstat(fd).st_ino == os.fstat(0).st_ino
            assert not os.get_inheritable(fd)
            os.close(fd)
        assert set(os.listdir("/proc/self/fd")) == before  # nobody has the others
        theirs.send(b"y" * wire.MAX_FRAME)
        assert soon.Room().packet_and_files(ours.fileno()) == (b"y" * wire.MAX_FRAME, [], False)
        theirs.send(b"z" * (wire.MAX_FRAME + 1))
        assert soon.Room().packet_and_files(ours.fileno()) == (b"z" * wire.MAX_FRAME, [], True)
