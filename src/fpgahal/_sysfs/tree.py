# SPDX-License-Identifier: Apache-2.0
"""The tree that is scanned: its root, and how its links are followed without ever leaving it."""

from __future__ import annotations

import os
import re
import stat
from posixpath import normpath

from fpgahal._sysfs import read

BDF = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")


# A scan takes these of some ten paths a board: for paths without a slash at their end, a third of posixpath's time.
def parent(path: str) -> str:
    """Return the folder that a path is in."""
    return path.rpartition("/")[0]


def base(path: str) -> str:
    """Return a path's last component."""
    return path.rpartition("/")[2]


class Tree:
    """One scan's view of a root folder.  Paths handed in and out are real ones, below the root."""

    def __init__(self, root: str) -> None:
        self.root = root.rstrip("/")  # "" stands for "/"
        self.emulated = os.path.exists(self.root + "/rack.bin")
        self._plain: set[str] = {"", "/"}
        self._nodes: dict[str, frozenset[str]] = {}

    def entries(self, path: str) -> list[str] | read.Unreadable:
        """Return the names in a folder, sorted, or why it can't be listed."""
        problem = self.leads_out(path)
        if problem:
            return read.Unreadable(0, problem)
        try:
            return sorted(os.listdir(self.root + path))
        except OSError as error:
            return read.Unreadable(error.errno or 5)

    def folders(self, path: str) -> list[str] | read.Unreadable:
        """Return the names of the real folders (no links) in a folder given as a real path, sorted."""
        try:
            with os.scandir(path) as found:
                return sorted(entry.name for entry in found if entry.is_dir(follow_symlinks=False))
        except OSError as error:
            return read.Unreadable(error.errno or 5)

    def follow(self, path: str) -> str:
        """Return where the link `path` (below the root) leads, as a path below the root.

        An absolute target counts from the root and ``..`` stops there, as under chroot.  What is not a link is
        returned as it is.  The target need not exist.
        """
        try:
            target = os.readlink(self.root + path)
        except OSError:
            return path
        return normpath(target if target.startswith("/") else f"{parent(path)}/{target}")

    def leads_out(self, path: str) -> str:
        """Say what is wrong when a component of `path` (below the root) is a link; else return ``""``.

        The kernel's sysfs has no links in the middle of the paths that we use, so this is only asked of other roots.
        """
        if not self.root or path in self._plain:
            return ""
        problem = self.leads_out(parent(path))
        if problem:
            return problem
        try:
            mode = os.lstat(self.root + path).st_mode
        except OSError:
            return ""  # opening it will tell
        if stat.S_ISLNK(mode):
            return f"{path} is a link where a folder is expected"
        self._plain.add(path)
        return ""

    def node(self, name: str) -> str:
        """Return the path of a device node to hand out: ``/dev/<name>``, in an emulated rack its real path."""
        return f"{self.root}/dev/{name}" if self.emulated else f"/dev/{name}"

    def has_node(self, name: str) -> bool:
        """Whether the device node is there."""
        folder, _, base = name.rpartition("/")
        there = self._nodes.get(folder)
        if there is None:  # one look at the folder costs less than one at each node
            try:
                there = frozenset(os.listdir(f"{self.root}/dev/{folder}"))
            except OSError:
                there = frozenset()
            self._nodes[folder] = there
        return base in there
