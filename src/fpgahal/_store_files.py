# SPDX-License-Identifier: Apache-2.0
"""Files of an image store: opened step by step below one descriptor, so that no link leads out of the folder."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from fpgahal._errors import AccessError, ImageStoreError
from fpgahal._store_index import NAME as INDEX

LOCK = ".lock"
_PART = re.compile(r"\.(?:[0-9a-f]{32,40}\.(?:gbs|aocx|xclbin)|index\.json)\.[0-9]+\.part")
_INTERFACE = re.compile("[0-9a-f]{32}")
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


@contextmanager
def top_folder(path: str) -> Iterator[int]:
    """Open a store's folder (which may be a link); gives -1 if there is none."""
    try:
        descriptor = os.open(path, _FOLDER)
    except FileNotFoundError:
        yield -1
        return
    except OSError as error:
        raise refused(path, error) from None
    try:
        _check_private(descriptor, path)
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def inner_folder(top: int, name: str, path: str) -> Iterator[int]:
    """Open the folder of an interface id; `path` is for messages.  Gives -1 if there is none."""
    try:
        descriptor = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=top)
    except FileNotFoundError:
        yield -1
        return
    except OSError as error:
        raise refused(path, error) from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def open_regular(folder: int, name: str, path: str) -> int:
    """Open a regular file for reading; gives -1 if there is none.

    Raises
    ------
    ImageStoreError
        It is a link, a folder, a device...
    """
    try:
        descriptor = os.open(name, _FILE, dir_fd=folder)
    except FileNotFoundError:
        return -1
    except OSError as error:
        raise refused(path, error) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ImageStoreError(f"{path} is no regular file.  It is not used.")
    return descriptor


def read_index(top: int, path: str, most: int) -> bytes | None:
    """Give the bytes of the index; None if there is none."""
    descriptor = open_regular(top, INDEX, path)
    if descriptor < 0:
        return None
    with open(descriptor, "rb") as file:
        _check_private(descriptor, path)
        data = file.read(most + 1)
    if len(data) > most:
        raise ImageStoreError(f"{path} has more than {most} bytes: that is no index.")
    return data


@contextmanager
def beside(folder: int, name: str, data: bytes) -> Iterator[str]:
    """Write a file, to the disk, under a name that nobody looks for; what is left of it at the end is removed."""
    aside = f".{name}.{os.getpid()}.part"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(aside, flags, 0o644, dir_fd=folder)
    try:
        with open(descriptor, "wb", buffering=0) as file:
            rest = memoryview(data)
            while rest:
                rest = rest[file.write(rest) :]
            os.fchmod(descriptor, 0o644)  # whatever the umask: the plugin need not be the one who adds
            os.fsync(descriptor)
        yield aside
    finally:
        with suppress(FileNotFoundError):
            os.unlink(aside, dir_fd=folder)


def replace(folder: int, name: str, aside: str) -> None:
    """Let a file of `beside` take its place, for good."""
    os.replace(aside, name, src_dir_fd=folder, dst_dir_fd=folder)
    os.fsync(folder)


@contextmanager
def locked(top: int, path: str, seconds: float) -> Iterator[None]:
    """Keep other writers out.

    Raises
    ------
    ImageStoreError
        Somebody else writes, and went on for `seconds`.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(LOCK, flags, 0o644, dir_fd=top)
    except OSError as error:
        raise refused(f"{path}/{LOCK}", error) from None
    try:
        end = time.monotonic() + seconds
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= end:
                    raise ImageStoreError(
                        f"Another process has been changing {path} for {seconds:g} s.  Nothing was written.",
                        hint="Try again when it is done.",
                    ) from None
            time.sleep(0.02)
        _sweep(top)
        yield
    finally:
        os.close(descriptor)


def names(top: int) -> list[str]:
    """List what is in a store, but for what belongs to it beside images: paths below its folder."""
    found = []
    with os.scandir(top) as entries:
        known = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
    for name, is_folder in known:
        if is_folder and _INTERFACE.fullmatch(name):
            with inner_folder(top, name, name) as folder:
                found += [f"{name}/{one}" for one in sorted(os.listdir(folder)) if not _PART.fullmatch(one)]
        elif name not in (INDEX, LOCK) and not _PART.fullmatch(name):
            found.append(name)
    return found


def refused(path: str, error: OSError) -> ImageStoreError | AccessError:
    """Make the exception for a file that can't be opened."""
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return ImageStoreError(f"{path} is a link, or no folder.  The image store follows none.")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return AccessError(f"{path}: {os.strerror(error.errno)}.", hint="The image store is root's, as a rule.")
    return ImageStoreError(f"{path} can't be opened: {error.strerror}.")


def _sweep(top: int) -> None:
    """Remove what killed writers left; the caller holds the lock."""
    for folder_name in (".", *filter(_INTERFACE.fullmatch, os.listdir(top))):
        with suppress(ImageStoreError), inner_folder(top, folder_name, folder_name) as folder:
            for name in filter(_PART.fullmatch, os.listdir(folder)):
                os.unlink(name, dir_fd=folder)


def _check_private(descriptor: int, path: str) -> None:
    if os.fstat(descriptor).st_mode & stat.S_IWOTH:
        raise ImageStoreError(
            f"Everybody may write to {path}: what is in it can't be trusted.", hint=f"`chmod o-w {path}`."
        )
