# SPDX-License-Identifier: Apache-2.0
"""Numbers of the protocol that stand for something: kinds of frames, errors, and what is wanted of a board."""

from __future__ import annotations

import enum


class Type(enum.IntEnum):
    """Of a frame; above 128 they go from the manager to the client."""

    HELLO = 1
    REGISTER = 2
    RELEASE = 3
    SUBMIT = 4
    DESCRIBE = 5
    CANCEL = 6
    STATUS = 7
    ADMIN = 8
    WELCOME = 129
    OK = 130
    SPECS = 131
    DONE = 132
    FAILED = 133
    REPORT = 134


class Code(enum.IntEnum):
    """Why something failed."""

    PROTOCOL = 1  #: the manager closes the connection after it
    INTERNAL = 2
    ACCESS = 3
    QUOTA = 4
    BUFFER = 5  #: no such buffer, outside of it, or not sealed
    ACCELERATOR = 6  #: there is none of that name
    ARGUMENT = 7  #: of the wrong kind, missing, or unknown
    RANGE = 8  #: of the right kind, but does not fit
    UNAVAILABLE = 9  #: no board can run it
    CANCELLED = 10
    DEADLINE = 11
    RUN = 12  #: the board reports an error
    TIMEOUT = 13  #: it ran for longer than it may
    LOST = 14  #: it may have run, and must not be run again


class Verb(enum.IntEnum):
    """What an administrator wants of a board."""

    UNCORDON = 0  #: let it take requests again
    CORDON = 1  #: give it no more requests; what it runs ends
    DRAIN = 2  #: and then close it, so that others can have it


__all__ = ["Code", "Type", "Verb"]
