# SPDX-License-Identifier: Apache-2.0
"""The rack that ``FPGAHAL_EMULATE=spec`` names: one for all processes of a user, and there until it is discarded.

So ``fpgahal program`` in one shell and ``fpgahal list`` in another see the same boards, as on a real machine.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from fpgahal._errors import AccessError
from fpgahal.emu import _control as control
from fpgahal.emu import _folder as folder
from fpgahal.emu import _tree as tree
from fpgahal.emu._boards import BOARD_FILES, Board
from fpgahal.emu._rack import RACK_FOLDER, innermost
from fpgahal.emu._spec import SpecError, parse, place

#: Names the boards to emulate, in every process that has it.
SPEC = "FPGAHAL_EMULATE"

_VERSION = "4"  # of the folder's layout and of rack.bin (EMU_VERSION): older racks are left alone
_known: dict[tuple[str, str, str], str] = {}


def active() -> str | None:
    """Return the folder of the emulated rack that this process is to use, or None: then there are real boards only.

    The innermost ``with fpgahal.emu.rack(...)``, else ``FPGAHAL_EMU_RACK`` (a folder), else ``FPGAHAL_EMULATE``
    (a spec): the rack of all processes of this user with that spec, made if need be.

    Raises
    ------
    SpecError
        A variable is set, but names no rack.  Never a fallback to real boards.  It is a ValueError.
    AccessError
        Somebody else owns the folder where the shared rack belongs.
    """
    inner = innermost()
    if inner is not None:
        return inner
    named = os.environ.get(RACK_FOLDER)
    if named:
        if not folder.is_rack(named):
            raise SpecError(
                f"{RACK_FOLDER}={named} is no emulated rack: it has no rack.bin.",
                hint=f"Unset it, or set {SPEC}=pac-a10 to have a rack made.",
            )
        return named
    spec = os.environ.get(SPEC)
    return shared(spec) if spec else None


def shared(spec: str) -> str:
    """Return the folder of the rack for `spec` that all processes of this user share; make it if need be."""
    key = (spec, folder.base(), os.environ.get(BOARD_FILES, ""))
    path = _known.get(key)
    if path is not None and folder.is_rack(path):
        return path
    boards = parse([spec])
    home = _home()
    path = f"{home}/{_name(boards)}"
    if not folder.is_rack(path):
        with _locked(home, path):
            if not folder.is_rack(path):
                _build(path, boards)
    _known[key] = path
    return path


def discard(spec: str) -> bool:
    """Delete the shared rack for `spec`; return whether there was one.

    Processes that use it keep what they have mapped, as they would a machine that was switched off: the next
    :func:`active` makes a fresh one.
    """
    boards = parse([spec])
    home = _home()
    path = f"{home}/{_name(boards)}"
    with _locked(home, path):
        if not os.path.lexists(path):
            return False
        aside = f"{path}.old"
        tree.delete(aside)
        os.rename(path, aside)
        tree.delete(aside)
        return True


def _build(path: str, boards: list[Board]) -> None:
    """Build aside and rename, so that the folder appears whole; the caller holds the lock."""
    aside = f"{path}.new"
    tree.delete(aside)  # of a builder that was killed
    tree.delete(path)  # a folder without rack.bin is of no use to anybody
    os.mkdir(aside, 0o700)
    folder.build(aside, boards)
    os.rename(aside, path)


def _name(boards: list[Board]) -> str:
    import hashlib  # not at import time, as in _boards

    text = f"{_VERSION}\n{control.describe(place(boards))}"
    return f"rack-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _home() -> str:
    """Return this user's folder for shared racks; it must be nobody else's."""
    home = f"{folder.base()}/fpgahal-{os.getuid()}"
    with suppress(FileExistsError):
        os.mkdir(home, 0o700)
    found = os.lstat(home)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise AccessError(
            f"{home} is not a folder of this user: emulated racks can't be kept there.",
            hint="Remove it, or set XDG_RUNTIME_DIR to a private folder.",
        )
    if found.st_mode & 0o077:
        raise AccessError(
            f"{home} is open to other users (mode {stat.S_IMODE(found.st_mode):o}).", hint=f"chmod 700 {home}"
        )
    return home


@contextmanager
def _locked(home: str, path: str) -> Iterator[None]:
    """Hold the lock file of a rack; the kernel lets go of it when the process dies."""
    fd = os.open(f"{home}/{os.path.basename(path)}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
