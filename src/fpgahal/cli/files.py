# SPDX-License-Identifier: Apache-2.0
"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO


@contextmanager
def replacing(path: str) -> Iterator[BinaryIO]:
    """Open a file beside `path`, which takes its place at the end; on an error it is removed.

    What is no regular file (``/dev/null``, a named pipe) is written as it is.
    """
    try:
        regular = stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        regular = True
    if not regular:
        with open(path, "wb", buffering=0) as file:
            yield file
        return
    target = os.path.realpath(path)  # a link stays a link
    aside = os.path.join(os.path.dirname(target), f".{os.path.basename(target)}.{os.getpid()}.part")
    descriptor = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with open(descriptor, "wb", buffering=0) as file:
            yield file
        os.replace(aside, target)
    except BaseException:
        with suppress(FileNotFoundError):  # Ctrl-C just after the replacement
            os.unlink(aside)
        raise
