# SPDX-License-Identifier: Apache-2.0
"""Who has a device node open: /proc/*/fd, read as far as this user may."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Holder:
    """One process that has one file open."""

    pid: int
    command: str
    node: str


def holders(nodes: Iterable[str], proc: str = "/proc") -> tuple[list[Holder], bool]:
    """Find the processes that have one of `nodes` open.

    A device is recognised by its number, so that a node under another name, in a container say, counts.

    Returns
    -------
    list of Holder
    bool
        Whether every process could be looked at; without it, the list may be incomplete.
    """
    wanted: dict[tuple[int, ...], str] = {}
    for node in nodes:
        try:
            wanted[_identity(node)] = node
        except OSError:
            continue
    found: list[Holder] = []
    complete = True
    for pid in filter(str.isdigit, os.listdir(proc)) if wanted else ():
        try:
            held = {_held(f"{proc}/{pid}/fd/{fd}", wanted) for fd in os.listdir(f"{proc}/{pid}/fd")} - {""}
        except PermissionError:
            complete = False
            continue
        except OSError:  # it ended meanwhile
            continue
        found += [Holder(int(pid), _command(f"{proc}/{pid}"), node) for node in sorted(held)]
    return sorted(found, key=lambda holder: (holder.pid, holder.node)), complete


def _identity(path: str) -> tuple[int, ...]:
    status = os.stat(path)
    if stat.S_ISCHR(status.st_mode):
        return (status.st_rdev,)
    return (status.st_dev, status.st_ino)


def _held(path: str, wanted: dict[tuple[int, ...], str]) -> str:
    try:
        return wanted.get(_identity(path), "")
    except PermissionError:
        raise
    except OSError:
        return ""


def _command(folder: str) -> str:
    try:
        with open(f"{folder}/cmdline", "rb") as file:
            words = file.read().split(b"\0")
    except OSError:
        return "?"
    return b" ".join(words).decode(errors="replace").strip()[:120] or "?"
