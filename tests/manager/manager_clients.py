# SPDX-License-Identifier: Apache-2.0
"""Clients in processes of their own, that tests command, watch and kill.

A process that has everything imported forks them: a client takes milliseconds.  With root's rights, each may be of
another user.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from manager_daemon import model

import fpgahal
from fpgahal import FpgaError, manager
from fpgahal.kernels import xgboost

MODEL = model(20, 6)
ROWS: npt.NDArray[np.float32] = np.random.default_rng(7).normal(size=(512, 6)).astype(np.float32)
PREDICTED = "FPGAHAL_TEST_PREDICTED"  #: names the file with what the model makes of ROWS
LOST = "no answer"  #: what becomes of a request that should have ended
PATIENCE = 60.0  # seconds


@dataclass(frozen=True, slots=True)
class Wish:
    """What a client is to ask for."""

    number: int
    accelerator: str
    size: int
    micros: int = 0
    priority: int = 1
    deadline: float | None = None
    once: bool = False
    shared: bool = False


class Asked:
    """A request that was sent, and what its result should be."""

    def __init__(self, m: manager.Client, wish: Wish, rows: npt.NDArray[np.float32]) -> None:
        source = np.random.default_rng(wish.number)
        arguments: dict[str, Any]
        if wish.accelerator == "vadd":
            a, b = source.integers(0, 1 << 32, (2, wish.size), np.uint32)
            arguments, output, self._expected = {"a": a, "b": b}, "out", a + b
        elif wish.accelerator == "ledger":
            a = source.integers(0, 1 << 32, wish.size, np.uint32)
            arguments, output = {"src": a, "micros": wish.micros, "number": wish.number}, "dst"
            self._expected = 3 * a + np.uint32(wish.number & 0xFFFF_FFFF)
        else:
            at = int(source.integers(0, len(ROWS) - wish.size + 1))
            arguments, output = {"model": MODEL, "x": ROWS[at : at + wish.size]}, "y"
            self._expected = rows[at : at + wish.size]
        if wish.shared:
            for name, value in arguments.items():
                if isinstance(value, np.ndarray):
                    arguments[name] = m.allocate(value.shape, value.dtype)
                    arguments[name][:] = value
            arguments[output] = m.allocate(self._expected.shape, self._expected.dtype)
        options = {"priority": wish.priority, "deadline": wish.deadline, "once": wish.once}
        self.request = m.submit(wish.accelerator, **options, **arguments)

    def outcome(self) -> tuple[str, float]:
        """``"right"``, ``"wrong"``, or the name of the error; and the board-seconds that it took."""
        try:
            found = self.request.result(PATIENCE)
        except manager.WaitTimeoutError:
            return LOST, 0.0
        except FpgaError as error:
            return type(error).__name__, 0.0
        return "right" if found.tobytes() == self._expected.tobytes() else "wrong", self.request.times[1]


def predicted() -> npt.NDArray[np.float32]:
    """What the model makes of ROWS."""
    found: npt.NDArray[np.float32] = np.load(os.environ[PREDICTED])
    return found


def predict(path: Path) -> None:
    """Write what the model makes of ROWS to a file, as computed without a manager."""
    with fpgahal.emu.rack("u250"), fpgahal.open() as dev, xgboost.load(dev, MODEL) as loaded:
        np.save(path, loaded.predict(ROWS))


# --- in the client's process ------------------------------------------------------------------------------------------


def obey(link: Connection) -> None:
    """Do what the test says: each command has one answer."""
    rows = predicted()
    asked: dict[int, Asked] = {}
    m: manager.Client | None = None
    while True:
        command, argument = link.recv()
        answer: Any = None
        try:
            if command == "connect":
                m = manager.connect(argument, patience=PATIENCE)
            elif command == "submit":
                assert m is not None
                asked[argument.number] = Asked(m, argument, rows)
            elif command == "cancel":
                if argument in asked:
                    asked[argument].request.cancel()
            elif command == "wait":
                found = asked.pop(argument, None)
                answer = None if found is None else found.outcome()
            elif command == "close":
                assert m is not None
                m.close()
        except FpgaError as error:
            answer = type(error).__name__
        link.send((command, argument, answer))


def _child(control: socket.socket, fd: int, uid: int, gid: int) -> None:
    control.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if uid != os.geteuid():
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    link = Connection(fd)
    task, arguments = link.recv()
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the test is over
        task(link, *arguments)


def _nursery(control: socket.socket) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # who dies is gone at once
    while True:
        data, fds, _flags, _address = socket.recv_fds(control, 64, 1)
        if not data:
            return
        pid = os.fork()
        if pid == 0:
            try:
                _child(control, fds[0], *map(int, data.split()))
            except BaseException:
                sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
            os._exit(0)
        os.close(fds[0])
        control.send(str(pid).encode())


# --- in the test's process --------------------------------------------------------------------------------------------


class Child:
    """A client's process."""

    def __init__(self, pid: int, link: Connection, uid: int) -> None:
        self.pid = pid
        self.link = link
        self.uid = uid

    def kill(self) -> None:
        """SIGKILL."""
        os.kill(self.pid, signal.SIGKILL)
        self.link.close()


class Nursery:
    """Makes clients' processes."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control

    def child(self, task: Callable[..., None] = obey, *arguments: Any, uid: int = 0, gid: int = 0) -> Child:
        """Fork one, that does `task`; `uid` is 0 for the one of this process."""
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self._control, [f"{uid or os.geteuid()} {gid or os.getegid()}".encode()], [theirs.fileno()])
            pid = int(self._control.recv(64))
        link = Connection(ours.detach())
        link.send((task, arguments))
        return Child(pid, link, uid or os.geteuid())


@contextmanager
def nursery(*modules: str) -> Iterator[Nursery]:
    """Have a process that makes clients; `modules`: where tasks are, because other users can't import them."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            path = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
            imports = f"import {', '.join(('manager_clients', *modules))}"
            process = subprocess.Popen(
                [sys.executable, "-c", f"{imports}; manager_clients.main({theirs.fileno()})"],
                pass_fds=[theirs.fileno()],
                env=os.environ | {"PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"},  # who has threads should not fork
            )
        try:
            yield Nursery(ours)
        finally:
            ours.close()
            process.wait(20)


def main(fd: int) -> None:
    """Be the nursery."""
    _nursery(socket.socket(fileno=fd))
