# SPDX-License-Identifier: Apache-2.0
"""Policy: which users may use which accelerators, and how much.

A TOML file; without one, everybody who may open the socket may use everything, within the default limits::

    [default]                     # what a rule does not say
    requests = 256
    memory = "512 MiB"

    [[rule]]                      # the first that fits a user counts
    users = ["alice", 1001]
    weight = 3.0
    admin = true                  # may cordon and drain boards

    [[rule]]
    groups = ["fpga"]
    accelerators = ["xgboost.*", "vadd"]

    [[rule]]                      # nobody else
    accelerators = []
"""

from __future__ import annotations

import fnmatch
import grp
import os
import pwd
import re
import tomllib
from dataclasses import dataclass, fields, replace
from typing import Any

from fpgahal import ArgumentRangeError
from fpgahal.manager.backlog import Share

_UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


@dataclass(frozen=True, slots=True)
class Grant:
    """What a user may have.

    Attributes
    ----------
    accelerators : tuple of str
        Names, or patterns as of the shell.
    weight : float
        Of board-seconds, against other users' weights.
    requests : int
        Waiting and running, at a time.
    rate : float or None
        Board-seconds a second, over time; None: as many as there are.
    burst : float
        Board-seconds that may be saved up, where there is a `rate`.
    connections : int
        At a time.
    buffers : int
        Registered, of all connections.
    memory : int
        Bytes in them.
    admin : bool or None
        May cordon and drain boards; None: as root and the manager's own user may, if the manager sees their processes
        (those in other containers it does not).
    """

    accelerators: tuple[str, ...] = ("*",)
    weight: float = 1.0
    requests: int = 1024
    rate: float | None = None
    burst: float = 10.0
    connections: int = 64
    buffers: int = 1024
    memory: int = 4 << 30
    admin: bool | None = None

    def allows(self, accelerator: str) -> bool:
        """Whether an accelerator may be used."""
        return any(fnmatch.fnmatchcase(accelerator, pattern) for pattern in self.accelerators)

    @property
    def share(self) -> Share:
        """What the scheduler wants to know of it."""
        return Share(self.weight, self.requests, self.rate, self.burst)


@dataclass(frozen=True, slots=True)
class Rule:
    """Who gets what; `users` and `groups` are numbers, and None is everybody."""

    users: frozenset[int] | None
    groups: frozenset[int]
    grant: Grant


@dataclass(frozen=True, slots=True)
class Policy:
    """Rules, in order, and what the last one gives to everybody else."""

    rules: tuple[Rule, ...] = ()
    default: Grant = Grant()

    def grant(self, uid: int, groups: frozenset[int]) -> Grant:
        """What a user may have."""
        for rule in self.rules:
            if rule.users is None or uid in rule.users or groups & rule.groups:
                return rule.grant
        return self.default

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Policy:
        """Read a file.

        Raises
        ------
        ArgumentRangeError
            It can't be read, or a rule makes no sense; the message says which.
        """
        try:
            with open(path, "rb") as file:
                document = tomllib.load(file)
        except (OSError, ValueError) as error:
            raise ArgumentRangeError(f"{path}: can't be read: {error}.", hint="Is it TOML?") from error
        for key in document.keys() - {"default", "rule"}:
            raise ArgumentRangeError(f"{path}: has {key!r}, expected [default] and [[rule]].")
        default = _grant(document.get("default", {}), Grant(), f"{path}: [default]")
        entries = document.get("rule", [])
        if not isinstance(entries, list):
            raise ArgumentRangeError(f"{path}: [rule] should be [[rule]].")
        return cls(
            tuple(_rule(entry, default, f"{path}: rule {number}") for number, entry in enumerate(entries, 1)), default
        )


def _rule(entry: Any, default: Grant, where: str) -> Rule:
    if not isinstance(entry, dict):
        raise ArgumentRangeError(f"{where} should be a table.")
    entry = dict(entry)
    users, groups = entry.pop("users", None), entry.pop("groups", None)
    everybody = users is None and groups is None
    grant = _grant(entry, default, where)
    return Rule(
        None if everybody else _numbers(users or [], "user", where), _numbers(groups or [], "group", where), grant
    )


def _numbers(names: Any, kind: str, where: str) -> frozenset[int]:
    if not isinstance(names, list) or not all(type(name) in (int, str) for name in names):
        raise ArgumentRangeError(f"{where}: {kind}s = {names!r}, expected a list of names and numbers.")
    found = set()
    for name in names:
        try:
            if type(name) is int:
                found.add(name)
            else:
                found.add(pwd.getpwnam(name).pw_uid if kind == "user" else grp.getgrnam(name).gr_gid)
        except KeyError:
            raise ArgumentRangeError(f"{where}: this machine has no {kind} {name!r}.") from None
    return frozenset(found)


def _grant(entry: Any, default: Grant, where: str) -> Grant:
    if not isinstance(entry, dict):
        raise ArgumentRangeError(f"{where} should be a table.")
    found: dict[str, Any] = {}
    known = {field.name for field in fields(Grant)}
    for key, value in entry.items():
        if key not in known:
            raise ArgumentRangeError(f"{where}: has {key!r}, expected users, groups, {', '.join(sorted(known))}.")
        if key == "accelerators":
            good = isinstance(value, list) and all(isinstance(name, str) for name in value)
            value = tuple(value) if good else None
        elif key == "admin":
            good = type(value) is bool
        elif key == "memory":
            value = _bytes(value)
            good = value is not None
        elif key in ("weight", "rate", "burst"):
            good = type(value) in (int, float) and 0 < value < 1e9
        else:
            good = type(value) is int and 0 <= value < 1 << 32
        if not good:
            raise ArgumentRangeError(f"{where}: {key} = {entry[key]!r} makes no sense.")
        found[key] = value
    return replace(default, **found)


def _bytes(value: Any) -> int | None:
    """Bytes from a number, or from ``"512 MiB"``."""
    if type(value) is int and value >= 0:
        return value
    parts = re.fullmatch(r"(\d{1,15}) ?([KMGT]iB)?", value) if isinstance(value, str) else None
    return int(parts[1]) * _UNITS[parts[2] or ""] if parts else None


__all__ = ["Grant", "Policy", "Rule"]
