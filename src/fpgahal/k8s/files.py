# SPDX-License-Identifier: Apache-2.0
"""Files that others read while they are written, and that must be whole after a crash."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Replace a file in one step, readable by all; after a power cut it has the old contents or the new ones."""
    aside = path.with_name(f".{path.name}.new")  # CDI and NFD leave out what begins with a dot
    with suppress(FileNotFoundError):
        aside.unlink()  # of a process that was killed; in containers its id was often the same
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(descriptor, 0o644)  # whatever the umask
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        os.replace(aside, path)
    except BaseException:
        with suppress(FileNotFoundError):
            aside.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
