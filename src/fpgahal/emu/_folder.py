# SPDX-License-Identifier: Apache-2.0
"""A rack's folder: building it, and knowing later what is in it.

``rack.bin`` (the shared state, made by C) comes last: a folder that has it is complete.
"""

from __future__ import annotations

import os
import uuid
from typing import Any

from fpgahal._errors import AccessError
from fpgahal._types import BankInfo
from fpgahal.emu import _control as control
from fpgahal.emu import _tree as tree
from fpgahal.emu._boards import Board
from fpgahal.emu._spec import Placed, SpecError, place

_LONGEST = 480  # emu_rack.dir of board.h holds 512 bytes
_CONTENTS = "boards.json"
_PER_BOARD, _SLACK = 256 << 10, 8 << 20  # generous: a tree takes about 40 pages


def base() -> str:
    """Return the folder for racks that have no place of their own: the user's run-time folder, else /tmp."""
    return os.environ.get("XDG_RUNTIME_DIR") or _temporary()


def roomy(boards: int) -> str:
    """Return a folder for a rack of so many boards that is gone with its program: in memory, if there is room.

    A rack is thousands of tiny files; some file systems take seconds for what memory does in milliseconds.
    """
    for folder in (os.environ.get("XDG_RUNTIME_DIR"), os.environ.get("TMPDIR"), "/dev/shm"):
        if not folder or not os.access(folder, os.W_OK | os.X_OK):
            continue
        free = os.statvfs(folder)
        if free.f_bavail * free.f_frsize > _SLACK + boards * _PER_BOARD:
            return folder
    return _temporary()


def _temporary() -> str:
    import tempfile  # not at import time, as in _boards

    return tempfile.gettempdir()


def fresh(boards: int) -> str:
    """Make a new empty folder, this user's alone, for a rack of so many boards."""
    import tempfile

    return tempfile.mkdtemp(prefix="fpgahal-rack-", dir=roomy(boards))


def is_rack(folder: str) -> bool:
    """Whether `folder` holds a complete rack."""
    return os.path.exists(f"{folder}/rack.bin")


def build(folder: str, boards: list[Board]) -> list[Placed]:
    """Fill the existing empty folder `folder`."""
    if len(os.fsencode(folder)) > _LONGEST:
        raise SpecError(f"{folder}: the rack's path is longer than {_LONGEST} bytes.", hint="Pass a shorter dir=.")
    import json

    placed = place(boards)
    os.makedirs(f"{folder}/lock", exist_ok=True)
    os.makedirs(f"{folder}/dev", exist_ok=True)
    os.makedirs(f"{folder}/sys", exist_ok=True)
    tree.write(folder, placed)
    with open(f"{folder}/{_CONTENTS}", "w", encoding="ascii") as file:
        json.dump([_to_json(board) for board in boards], file)
    control.create(folder, placed)
    return placed


def contents(folder: str) -> list[Placed]:
    """Return the boards of an existing rack."""
    import json

    try:
        with open(f"{folder}/{_CONTENTS}", encoding="ascii") as file:
            return place([_from_json(entry) for entry in json.load(file)])
    except PermissionError:
        raise AccessError(f"{folder}: this rack belongs to somebody else.") from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise SpecError(f"{folder} is no rack: {error}.", hint="Name boards to make one there.") from None


def _to_json(board: Board) -> dict[str, Any]:
    fields = {name: getattr(board, name) for name in Board.__slots__}
    for name in ("interface_id", "default_afu"):
        fields[name] = str(fields[name]) if fields[name] else None
    fields["banks"] = [[bank.index, bank.name, bank.kind, bank.base, bank.size] for bank in board.banks]
    return fields


def _from_json(fields: dict[str, Any]) -> Board:
    for name in ("interface_id", "default_afu"):
        fields[name] = uuid.UUID(fields[name]) if fields[name] else None
    fields["banks"] = tuple(BankInfo(*bank) for bank in fields["banks"])
    return Board(**fields)
