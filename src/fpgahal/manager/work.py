# SPDX-License-Identifier: Apache-2.0
"""Work: requests that run together on a board, what a board is to the scheduler, and how it all may end."""

from __future__ import annotations

import enum
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

from fpgahal.manager.backlog import Request
from fpgahal.manager.trust import Trust

NEVER = float("inf")


class Refusal(enum.Enum):
    """Why a request was not accepted."""

    KNOWN = "the client has such a request already"
    QUOTA = "the user has too many requests"
    UNAVAILABLE = "no board can run it"


class Refused(Exception):
    """A request was not accepted; ``args[0]`` is the Refusal."""


class Trouble(enum.Enum):
    """What went wrong with some work."""

    ARGUMENT = "the request is at fault"
    ERROR = "the run failed"
    HUNG = "the run took longer than it may"
    PROGRAM = "the image could not be loaded; nothing was run"
    BOARD = "the board was lost"
    STOPPED = "something else went wrong on the board; it may have run"


class End(enum.Enum):
    """How a request ended."""

    DONE = "done"
    ERROR = "error"
    HUNG = "hung"
    PROGRAM = "program"
    LOST = "lost"  #: it may have run, and must not be run again


ENDS = {
    Trouble.ARGUMENT: End.ERROR,
    Trouble.ERROR: End.ERROR,
    Trouble.HUNG: End.HUNG,
    Trouble.PROGRAM: End.PROGRAM,
    Trouble.BOARD: End.LOST,
    Trouble.STOPPED: End.LOST,
}


@dataclass(frozen=True, slots=True)
class Settings:
    """Times, in seconds, and numbers.

    Attributes
    ----------
    age : float
        After which a request's priority rises by one.
    turn : float
        Reload times that a board keeps its image while others want it for another one.
    linger : float
        Reload times that a board without work waits for more of the same, within its turn.
    tries : int
        How often a request is begun at most.
    backoff : float
        After which an image that could not be loaded is tried again.
    overlap : float
        Board-seconds that work has to take for the next to be brought meanwhile; what is shorter had better be put
        together.
    """

    age: float = 2.0
    turn: float = 5.0
    linger: float = 0.1
    tries: int = 3
    backoff: float = 5.0
    overlap: float = 0.0005


@dataclass(slots=True, eq=False)
class Board:
    """What the scheduler knows of a board.

    Attributes
    ----------
    images : mapping
        Which image of this board has an accelerator.
    loaded : hashable or None
        The image that it has, or is getting.
    reload : float
        Seconds that loading takes.
    lanes : int
        Works that it may have at a time, all for one image: while one is run, the next is brought, the last fetched.
    works : list of Work
    taken : bool
        By what is run without being a Work: see :meth:`Scheduler.take`.
    trust : Trust
    """

    name: str
    images: Mapping[str, Hashable]
    loaded: Hashable = None
    reload: float = 1.0
    up: bool = True
    cordoned: bool = False
    lanes: int = 1
    works: list[Work] = field(default_factory=list)
    taken: bool = False
    trust: Trust = field(default_factory=Trust)
    turn_began: float = -NEVER
    idle_since: float = -NEVER
    refused: dict[Hashable, float] = field(default_factory=dict)
    busy_seconds: float = 0.0
    reloads: int = 0

    @property
    def idle(self) -> bool:
        """Whether it can take any work now."""
        return self.up and not self.works and not self.taken and not self.cordoned

    @property
    def work(self) -> Work | None:
        """What it does, and has done for longest."""
        return self.works[0] if self.works else None


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """Requests to run together on a board; `reload`: after the image was loaded; `size`: the sum of theirs."""

    board: Board
    image: Hashable
    requests: tuple[Request, ...]
    reload: bool
    size: int


Outcome = list[tuple[Request, End]]

__all__ = ["ENDS", "NEVER", "Board", "End", "Outcome", "Refusal", "Refused", "Settings", "Trouble", "Work"]
