# SPDX-License-Identifier: Apache-2.0
"""The attacks of `test_manager_hostile`, each in a process of its own, that is told when to begin and to stop."""

from __future__ import annotations

import os
from contextlib import suppress
from multiprocessing.connection import Connection
from types import SimpleNamespace
from typing import Any

from test_manager_hostile import bad_frames, connections, flood, reports

ATTACKS: dict[str, Any] = {
    "flood": flood,
    "reports, none read": reports,
    "connections": connections,
    "bad frames": bad_frames,
}


class Told:
    """An event: something has come."""

    def __init__(self, link: Connection) -> None:
        self._link = link

    def is_set(self) -> bool:
        return self._link.poll()


def attack(link: Connection, socket: str, name: str, processors: set[int]) -> None:
    """Do harm between two messages, again and again; on these processors, because the others are not ours to take."""
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    os.sched_setaffinity(0, processors)
    told = Told(link)
    while True:
        link.recv()
        while not told.is_set():
            with suppress(OSError):  # the manager hangs up, or refuses
                ATTACKS[name](SimpleNamespace(socket=socket), told)
        link.recv()
        link.send("stopped")
