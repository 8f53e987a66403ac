# SPDX-License-Identifier: Apache-2.0
"""Overview: what two reports of the manager, some time apart, say of the time between them."""

from __future__ import annotations

import pwd
from collections.abc import Sequence
from typing import Any, NamedTuple

from fpgahal.cli.output import size_text
from fpgahal.manager.figures import quantile

Report = dict[str, Any]


class Section(NamedTuple):
    """A table."""

    title: str
    headings: Sequence[str]
    rows: list[list[object]]


def overview(before: Report, after: Report, seconds: float) -> Report:
    """Rates, shares and quantiles, as a JSON document; of the whole time so far where nothing happened in between."""
    boards = {board["address"]: board for board in before["boards"]}
    users = {user["user"]: user["board_seconds"] for user in before["users"]}
    used = {user["user"]: user["board_seconds"] - users.get(user["user"], 0.0) for user in after["users"]}
    if not any(part > 0 for part in used.values()):
        used = {user["user"]: user["board_seconds"] for user in after["users"]}
    whole = sum(used.values()) or 1.0
    ended = sum(after["ended"].values()) - sum(before["ended"].values())
    counts = _waits(after)
    recent = [new - old for new, old in zip(counts, _waits(before), strict=True)]
    return {
        "seconds": seconds,
        "boards": [
            {
                **{key: board[key] for key in ("address", "name", "emulated", "state", "loaded", "runs", "running")},
                "busy": _busy(boards.get(board["address"]), board, seconds),
                "reloads": board["reloads"],
                "queue": sum(after["waiting"].get(name, 0) for name in board["runs"]),
            }
            for board in after["boards"]
        ],
        "clients": after["clients"],
        "users": [
            {
                **{key: user[key] for key in ("user", "weight", "requests", "waiting", "board_seconds")},
                "name": name_of(user["user"]),
                "share": max(0.0, used[user["user"]]) / whole,
            }
            for user in after["users"]
        ],
        "totals": {
            "requests": after["requests"],
            "waiting": sum(after["waiting"].values()),
            "requests_per_second": max(0, ended) / seconds,
            "wait_p50": quantile(recent, 0.5) if any(recent) else quantile(counts, 0.5),
            "wait_p99": quantile(recent, 0.99) if any(recent) else quantile(counts, 0.99),
            "reloads": after["reloads"],
            "connections": after["connections"],
        },
    }


def _busy(before: Report | None, after: Report, seconds: float) -> float:
    """The part of the time for which a board ran something."""
    total = after["busy_seconds"] + after["running_seconds"]
    if before is not None:
        total -= before["busy_seconds"] + before["running_seconds"]
    return float(min(1.0, max(0.0, total / seconds)))


def _waits(report: Report) -> list[int]:
    counts = [0] * (len(report["bounds"]) + 1)
    for figures in report["figures"].values():
        counts = [one + more for one, more in zip(counts, figures["waited"]["counts"], strict=True)]
    return counts


def name_of(uid: int) -> str:
    """What this machine calls a user."""
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return str(uid)


def duration(seconds: float | None) -> str:
    """``12 us``, ``3.4 ms``, ``5.6 s``; ``-`` if there is none."""
    if seconds is None:
        return "-"
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if seconds * factor >= 1 or unit == "us":
            return f"{seconds * factor:.3g} {unit}"
    raise AssertionError


def headline(view: Report) -> str:
    """The totals, in a line."""
    totals = view["totals"]
    return (
        f"{totals['requests_per_second']:,.0f} requests/s, wait p50 {duration(totals['wait_p50'])} "
        f"p99 {duration(totals['wait_p99'])}; {totals['waiting']} waiting, "
        f"{totals['requests'] - totals['waiting']} running; {totals['reloads']} reloads"
    )


def sections(view: Report) -> list[Section]:
    """Boards, users and clients."""
    boards: list[list[object]] = [
        [
            board["address"],
            board["name"] if not board["emulated"] or "EMULATED" in board["name"] else f"{board['name']} EMULATED",
            board["state"],
            ", ".join(board["runs"]) or (board["loaded"] or "-")[:8],
            f"{100 * board['busy']:.0f} %",
            board["reloads"],
            board["queue"],
        ]
        for board in view["boards"]
    ]
    users: list[list[object]] = [
        [
            user["name"],
            f"{user['weight']:g}",
            f"{100 * user['share']:.0f} %",
            f"{user['board_seconds']:.1f}",
            user["requests"],
        ]
        for user in view["users"]
    ]
    clients: list[list[object]] = [
        [
            one["pid"],
            name_of(one["user"]),
            one["requests"],
            one["accepted"],
            one["buffers"],
            size_text(one["memory"]),
        ]
        for one in view["clients"]
    ]
    return [
        Section("Boards", ["BOARD", "NAME", "STATE", "IMAGE", "BUSY", "RELOADS", "QUEUE"], boards),
        Section("Users", ["USER", "WEIGHT", "SHARE", "BOARD-SECONDS", "REQUESTS"], users),
        Section("Clients", ["PID", "USER", "REQUESTS", "SO FAR", "BUFFERS", "MEMORY"], clients),
    ]


__all__ = ["Section", "duration", "headline", "name_of", "overview", "sections"]
