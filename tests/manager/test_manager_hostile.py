# SPDX-License-Identifier: Apache-2.0
"""Clients that mean harm get errors, and others don't notice."""

from __future__ import annotations

import array
import fcntl
import itertools
import os
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
import pytest
from manager_daemon import Daemon, model, running, until

from fpgahal import manager
from fpgahal.manager import packets, wire
from fpgahal.manager.memory import CONSTANT_SEALS, SIZE_SEALS
from fpgahal.manager.wire import Code, Failed, Ref

ONES = np.ones(4, np.uint32)
U4 = np.dtype("u4")


class Raw:
    """A client that sends what it likes."""

    def __init__(self, daemon: Daemon, *, hello: bool = True) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(20)
        try:
            self.sock.connect(str(daemon.socket))
        except OSError:
            self.sock.close()
            raise
        self.tags = itertools.count(1)
        if hello:
            assert isinstance(self.ask(wire.Hello(1, 9)), wire.Welcome)

    def send(self, data: bytes, *fds: int) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.sock.sendmsg([data], rights)

    def ask(self, frame: wire.Frame, *fds: int) -> wire.Frame:
        tag = next(self.tags)
        self.send(wire.pack(frame, tag), *fds)
        found, answer = wire.parse(self.sock.recv(wire.MAX_FRAME))
        assert found in (tag, 0)
        return answer

    def register(self, handle: int, fd: int, nbytes: int, constant: bool = False) -> wire.Frame:
        return self.ask(wire.Register(handle, constant, nbytes), fd)

    def refused(self, answer: wire.Frame, code: Code) -> None:
        assert isinstance(answer, Failed), answer
        assert answer.code is code, answer

    def closed(self) -> bool:
        """Whether the manager has hung up, after what it has to say."""
        with suppress(ConnectionResetError, BrokenPipeError):
            while self.sock.recv(wire.MAX_FRAME):
                pass
        return True

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *error: object) -> None:
        self.sock.close()


def memfd(nbytes: int = 4096, seals: int = SIZE_SEALS) -> int:
    fd = os.memfd_create("hostile", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, nbytes)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running(tmp_path_factory.mktemp("hostile")) as started:
        yield started


@pytest.fixture(autouse=True)
def nothing_is_left(daemon: Daemon) -> Iterator[None]:
    """After each of these tests, the manager has given everything back, and works."""

    def clients_have() -> tuple[int, int, object]:
        process = Path(f"/proc/{daemon.process.pid}")
        files = 0
        for path in (process / "fd").iterdir():
            with suppress(FileNotFoundError):
                files += os.readlink(path).startswith(("socket:", "anon_inode:[pidfd]", "/memfd:hostile"))
        return files, (process / "maps").read_text().count("memfd:hostile"), m.status()["accounts"]

    with daemon.connect() as m:
        assert m.submit("vadd", a=ONES, b=ONES).result(20)[0] == 2
        before = clients_have()
        yield
        until(lambda: clients_have() == before)
        assert m.submit("vadd", a=ONES, b=ONES).result(20)[0] == 2


def vadd(a: int = 1, n: int = 4, offset: int = 0, out: int = 1) -> wire.Submit:
    first, other, third = (Ref(handle, offset, U4, (n,), 4 * n) for handle in (a, a, out))
    return wire.Submit("vadd", {"a": first, "b": other, "out": third})


@pytest.mark.parametrize(
    ("make", "announced"),
    [
        (lambda: memfd(seals=0), 4096),
        (lambda: memfd(seals=fcntl.F_SEAL_SHRINK), 4096),
        (lambda: memfd(seals=fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW), 4096),
        (lambda: memfd(), 8192),
        (lambda: memfd(), 4095),
        (lambda: os.open("/dev/zero", os.O_RDWR), 4096),
        (lambda: os.open(__file__, os.O_RDONLY), 4096),
        (lambda: os.open("/tmp", os.O_TMPFILE | os.O_RDWR), 4096),
        (lambda: os.pipe()[0], 4096),
        (lambda: os.open("/", os.O_PATH), 4096),
    ],
    ids=["bare", "shrink", "size", "larger", "smaller", "device", "file", "tmp", "pipe", "path"],
)
def test_files_that_are_not_what_they_should_be(daemon: Daemon, make: Callable[[], int], announced: int) -> None:
    fd = make()
    with Raw(daemon) as raw:
        raw.refused(raw.register(1, fd, announced), Code.BUFFER)
        raw.refused(raw.ask(vadd()), Code.RANGE)
    os.close(fd)


def test_a_file_is_not_truncated_after_it_was_registered(daemon: Daemon) -> None:
    fd = memfd()
    with Raw(daemon) as raw:
        assert raw.register(1, fd, 4096) == wire.Ok()
        for size in (0, 1 << 20):
            with pytest.raises(PermissionError):
                os.ftruncate(fd, size)
        assert isinstance(raw.ask(vadd()), wire.Done)
        os.close(fd)
        assert isinstance(raw.ask(vadd()), wire.Done)


def test_a_read_only_file_cannot_be_written_through_the_manager(daemon: Daemon) -> None:
    fd = memfd(seals=CONSTANT_SEALS)
    readable = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
    writable = memfd()
    with Raw(daemon) as raw:
        raw.refused(raw.register(1, readable, 4096), Code.BUFFER)  # as one that may be written
        assert raw.register(1, readable, 4096, constant=True) == wire.Ok()
        raw.refused(raw.ask(vadd()), Code.RANGE)
        raw.refused(raw.register(2, writable, 4096, constant=True), Code.BUFFER)
        assert raw.register(2, writable, 4096) == wire.Ok()
        assert isinstance(raw.ask(vadd(out=2)), wire.Done)
    for one in (fd, readable, writable):
        os.close(one)


def test_handles(daemon: Daemon) -> None:
    fd = memfd()
    with Raw(daemon) as raw, Raw(daemon) as other:
        assert raw.register(1, fd, 4096) == wire.Ok()
        raw.refused(raw.register(1, fd, 4096), Code.BUFFER)
        other.refused(other.ask(vadd()), Code.RANGE)  # somebody else's
        assert isinstance(raw.ask(vadd()), wire.Done)
        assert raw.ask(wire.Release(1)) == wire.Ok()
        raw.refused(raw.ask(vadd()), Code.RANGE)  # also if the same bytes were good before
        raw.refused(raw.ask(wire.Release(1)), Code.BUFFER)
    os.close(fd)


def test_places_outside_of_a_buffer(daemon: Daemon) -> None:
    fd = memfd()
    with Raw(daemon) as raw:
        assert raw.register(1, fd, 4096) == wire.Ok()
        assert isinstance(raw.ask(vadd(offset=4080)), wire.Done)
        for offset in (4084, 4096, 1 << 40, (1 << 64) - 4, 2):
            raw.refused(raw.ask(vadd(offset=offset)), Code.RANGE)
        raw.refused(raw.ask(vadd(n=1025)), Code.RANGE)
        arguments = vadd().arguments | {"n": 1 << 31}
        raw.refused(raw.ask(wire.Submit("vadd", arguments)), Code.RANGE)
    os.close(fd)


def test_models(daemon: Daemon) -> None:
    """Not constant, not whole, not a model."""
    good = model()
    writable = memfd(len(good))
    os.pwrite(writable, good, 0)
    with Raw(daemon) as raw:
        x = Ref(2, 0, np.dtype("f4"), (1, 4), 16)
        rows = memfd()

        def ask(handle: int, nbytes: int) -> wire.Frame:
            whole = Ref(handle, 0, np.dtype("u1"), (nbytes,), nbytes)
            return raw.ask(
                wire.Submit("xgboost.predict", {"model": whole, "x": x, "y": x._replace(shape=(1,), nbytes=4)})
            )

        assert raw.register(1, writable, len(good)) == wire.Ok()
        assert raw.register(2, rows, 4096) == wire.Ok()
        raw.refused(ask(1, len(good)), Code.RANGE)
        source = random.Random(1)
        for handle in range(3, 30):
            data = bytearray(good)
            for _ in range(source.randint(1, 5)):
                data[source.randrange(len(data))] = source.randrange(256)
            fd = memfd(len(data), 0)
            os.pwrite(fd, data, 0)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, CONSTANT_SEALS)
            assert raw.register(handle, fd, len(data), constant=True) == wire.Ok()
            raw.refused(ask(handle, len(data) - 1), Code.RANGE)
            assert isinstance(ask(handle, len(data)), wire.Done | Failed)
            os.close(fd)
        os.close(rows)
    os.close(writable)


def garbage() -> Iterator[bytes]:
    yield b"x"
    yield b"GET / HTTP/1.1\r\n\r\n"
    yield bytes(70_000)
    yield struct.pack("<IBBHQ", 17, 1, 0, 0, 1)
    yield wire.pack(wire.Done(0, 0), 1)
    yield wire.pack(wire.Hello(2, 9), 1)
    source = random.Random(5)
    for _ in range(50):
        yield source.randbytes(source.randint(1, 200))


def test_garbage_ends_the_connection(daemon: Daemon) -> None:
    for hello in (False, True):
        for data in garbage():
            with Raw(daemon, hello=hello) as raw:
                raw.send(data)
                assert raw.closed()
    with Raw(daemon, hello=False) as raw:
        raw.send(wire.pack(wire.Status(), 1))
        assert raw.closed()
    with Raw(daemon) as raw:
        raw.send(wire.pack(wire.Hello(1, 1), 1))
        assert raw.closed()
    with Raw(daemon) as raw:  # a report takes long, and is long: 4,000 of them would fill the manager's memory
        raw.send(wire.pack(wire.Status(), 1) * 4000)
        assert raw.closed()


def test_files_that_nobody_asked_for(daemon: Daemon) -> None:
    fd = memfd()
    for frame, count in ((wire.Status(), 1), (wire.Register(1, False, 4096), 2), (wire.Register(1, False, 4096), 250)):
        with Raw(daemon) as raw:
            raw.send(wire.pack(frame, 1), *[fd] * count)
            with suppress(ConnectionError):
                answer = wire.parse(raw.sock.recv(wire.MAX_FRAME))[1]
                assert isinstance(answer, Failed)
    with Raw(daemon) as raw:
        raw.refused(raw.ask(wire.Register(1, False, 4096)), Code.BUFFER)
    os.close(fd)


def test_a_request_that_is_sent_twice_runs_once(daemon: Daemon) -> None:
    fd = memfd()
    with Raw(daemon) as raw:
        assert raw.register(1, fd, 4096) == wire.Ok()
        for _ in range(2):  # in one go: the second finds the first waiting
            raw.send(wire.pack(vadd(), 77))
        answers: list[wire.Frame] = []
        while len(answers) < 2:
            answers += [wire.parse(frame)[1] for frame in packets.apart(raw.sock.recv(wire.MAX_FRAME))]
        assert any(isinstance(answer, wire.Done) for answer in answers)
        assert all(isinstance(answer, wire.Done) or answer.code is Code.PROTOCOL for answer in answers)  # type: ignore[union-attr]
    os.close(fd)


def test_packets_of_several_frames(daemon: Daemon) -> None:
    """Whatever is in a packet, each frame gets its answer, or the connection ends."""
    fd = memfd()
    with Raw(daemon) as raw:
        assert raw.register(1, fd, 4096) == wire.Ok()
        frames = [wire.pack(vadd(), 101), wire.pack(vadd(n=2000), 102), wire.pack(wire.Status(), 103)]
        frames += [wire.pack(vadd(), 104), wire.pack(wire.Cancel(), 104), wire.pack(vadd(n=8), 105)]
        for _ in range(3):
            raw.send(b"".join(frames))
            answers: dict[int, wire.Frame] = {}
            while len(answers) < 5:
                answers |= dict(wire.parse(frame) for frame in packets.apart(raw.sock.recv(wire.MAX_FRAME)))
            raw.refused(answers.pop(102), Code.RANGE)
            assert isinstance(answers.pop(103), wire.Report)
            assert all(isinstance(answer, wire.Done | Failed) for answer in answers.values())
        many = b"".join(wire.pack(vadd(), tag) for tag in range(500))
        for _ in range(2):
            raw.send(many)
            seen: list[int] = []
            while len(seen) < 500:
                for frame in packets.apart(raw.sock.recv(wire.MAX_FRAME)):
                    tag, answer = wire.parse(frame)
                    assert isinstance(answer, wire.Done)
                    seen.append(tag)
            assert sorted(seen) == list(range(500))
        raw.send(wire.pack(vadd(), 1)[:-1] + wire.pack(vadd(), 2))
        assert raw.closed()
    with Raw(daemon) as raw:
        raw.send(wire.pack(wire.Register(1, False, 4096), 1) + wire.pack(wire.Status(), 2), fd)
        assert raw.closed()
    os.close(fd)


def test_a_deadline_beyond_all_clocks(daemon: Daemon) -> None:
    fd = memfd()
    with Raw(daemon) as raw, daemon.connect() as m:
        assert raw.register(1, fd, 4096) == wire.Ok()
        daemon.rack.fault(0, "vanish")  # so that it waits
        until(lambda: not m.status()["boards"][0]["up"])
        raw.send(wire.pack(vadd()._replace(deadline=(1 << 64) - 1), 5))
        assert raw.ask(wire.Register(2, False, 4096), fd) == wire.Ok()
        daemon.rack.clear(0)
        assert isinstance(wire.parse(raw.sock.recv(wire.MAX_FRAME))[1], wire.Done)
    os.close(fd)


def test_quotas_of_memory(daemon: Daemon) -> None:
    fd = memfd(1 << 30)  # nobody has touched it, so it takes no memory
    with Raw(daemon) as raw:
        answers = [raw.register(handle, fd, 1 << 30) for handle in range(1, 6)]
        raw.refused(answers[-1], Code.QUOTA)
    small = memfd()
    with Raw(daemon) as raw:
        answers = [raw.register(handle, small, 4096) for handle in range(1, 1030)]
        raw.refused(answers[-1], Code.QUOTA)
    os.close(small)
    os.close(fd)


def percentiles(m: manager.Client, seconds: float) -> tuple[float, float]:
    """Median and 99th percentile of a request's microseconds."""
    a, b, out = (m.allocate(64, "uint32") for _ in range(3))
    times = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        since = time.perf_counter_ns()
        m.submit("vadd", a=a, b=b, out=out).result(20)
        times.append((time.perf_counter_ns() - since) / 1000)
    return float(np.percentile(times, 50)), float(np.percentile(times, 99))


def flood(daemon: Daemon, stop: threading.Event) -> None:
    """Requests as fast as it goes, answers are not read."""
    fd = memfd()
    with Raw(daemon) as raw:
        assert raw.register(1, fd, 4096) == wire.Ok()
        raw.sock.setblocking(False)
        while not stop.is_set():
            with suppress(BlockingIOError):
                raw.send(wire.pack(vadd(), next(raw.tags)))
                continue
            time.sleep(0.001)
    os.close(fd)


def reports(daemon: Daemon, stop: threading.Event) -> None:
    """What is long and takes long, as fast as it goes, and none is read."""
    with Raw(daemon) as raw:
        raw.sock.setblocking(False)
        while not stop.is_set():
            with suppress(BlockingIOError):
                raw.send(wire.pack(wire.Status(), next(raw.tags)))
                continue
            time.sleep(0.001)


def connections(daemon: Daemon, stop: threading.Event) -> None:
    """10,000 of them, most refused, because a user has 64."""
    held: list[socket.socket] = []
    for _ in range(10_000):
        if stop.is_set():
            break
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            sock.connect(str(daemon.socket))
            held.append(sock)
        except OSError:
            sock.close()
        if len(held) > 200:
            held.pop(0).close()
    for sock in held:
        sock.close()


def bad_frames(daemon: Daemon, stop: threading.Event) -> None:
    source = random.Random(3)
    while not stop.is_set():
        with suppress(OSError), Raw(daemon, hello=False) as raw:
            raw.send(source.randbytes(source.randint(1, 300)))


@pytest.mark.parametrize("attack", [flood, reports, connections, bad_frames])
def test_others_go_on(daemon: Daemon, attack: Callable[[Daemon, threading.Event], None]) -> None:
    """Right, and soon enough; how soon exactly is a benchmark's business, with an attacker in a process of its own."""
    stop = threading.Event()
    with daemon.connect() as m:
        percentiles(m, 0.2)
        attacker = threading.Thread(target=attack, args=(daemon, stop))
        attacker.start()
        try:
            median, _ = percentiles(m, 2.0)
        finally:
            stop.set()
            attacker.join(20)
        assert not attacker.is_alive()
        assert median < 50_000


def test_slow_readers_cost_nothing_but_their_own_requests(daemon: Daemon) -> None:
    def memory() -> int:
        pages = Path(f"/proc/{daemon.process.pid}/statm").read_text().split()[1]
        return int(pages) * 4096

    with ExitStack() as stack, daemon.connect() as m:
        before = memory()
        sent = 0
        for _ in range(5):
            raw = stack.enter_context(Raw(daemon))
            raw.sock.setblocking(False)
            for _ in range(20_000):
                try:
                    raw.send(wire.pack(wire.Status(), next(raw.tags)))
                    sent += 1
                except BlockingIOError:
                    break
        assert sent > 100
        for _ in range(20):
            assert m.submit("vadd", a=ONES, b=ONES).result(20)[0] == 2
        assert memory() - before < 32 << 20
        raw.sock.settimeout(20)
        assert isinstance(wire.parse(raw.sock.recv(wire.MAX_FRAME))[1], wire.Report)  # who reads gets answers again
