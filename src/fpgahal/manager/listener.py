# SPDX-License-Identifier: Apache-2.0
"""The manager's socket, and what comes with a packet besides bytes."""

from __future__ import annotations

import array
import os
import socket
import stat
from pathlib import Path

from fpgahal import DeviceBusyError, FpgaError


def files_of(control: list[tuple[int, int, bytes]]) -> list[int]:
    """File descriptors that came with a packet."""
    fds = array.array("i")
    for level, kind, data in control:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return list(fds)


def listen(path: Path, mode: int) -> socket.socket:
    """Make the socket; one that nobody serves any more is replaced.

    Raises
    ------
    DeviceBusyError
        Another manager serves it, or it is no socket.
    FpgaError
        There is no such folder, or it may not be written.
    """
    if path.exists():
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise DeviceBusyError(f"{path} is there, and no socket.", hint="Name another path for the socket.")
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()
            else:
                raise DeviceBusyError(f"Another manager serves {path}.", hint="Stop it, or name another path.")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        mask = os.umask(0o777)  # nobody gets in before the mode is set
        try:
            listener.bind(str(path))
        finally:
            os.umask(mask)
        os.chmod(path, mode)
        listener.listen(512)
    except OSError as error:
        listener.close()
        raise FpgaError(f"{path}: can't listen there: {error.strerror}.", hint="Is there such a folder?") from error
    return listener


__all__ = ["files_of", "listen"]
