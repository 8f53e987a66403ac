# SPDX-License-Identifier: Apache-2.0
"""Report: what the manager says of itself, as a JSON document that fits a frame."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from fpgahal.manager.connection import Account, Connection
from fpgahal.manager.figures import BOUNDS
from fpgahal.manager.node import Node
from fpgahal.manager.wire import HEADER_BYTES, MAX_FRAME

_MOST = 200  # of each: what nobody sees need not be written
_LISTS = ("clients", "users", "accounts")  # that may be long; each has the ones with most first


def report(node: Node, connections: Iterable[Connection], accounts: dict[int, Account]) -> dict[str, Any]:
    """What goes on; called in the thread that reads from clients."""
    live = node.live()
    clients = [
        {
            "client": one.number,
            "pid": one.peer.pid,
            "user": one.peer.uid,
            "requests": live.get(one.number, 0),
            "accepted": one.accepted,
            "buffers": len(one.segments),
            "memory": sum(segment.nbytes for segment in one.segments.values()),
        }
        for one in connections
        if one.greeted
    ]
    clients.sort(key=lambda client: (-client["requests"], -client["accepted"]))
    shown = [
        {"user": uid, "connections": one.connections, "buffers": one.buffers, "memory": one.memory}
        for uid, one in accounts.items()
        if one.connections
    ]
    shown.sort(key=lambda account: -account["memory"])
    status = node.status()
    status["users"] = status["users"][:_MOST]
    for user in status["users"]:
        user["bytes_moved"] = accounts[user["user"]].moved
    document = status | {"bounds": list(BOUNDS), "connections": len(clients)}
    return document | {"clients": clients[:_MOST], "accounts": shown[:_MOST]}


def fitting(document: dict[str, Any], room: int = MAX_FRAME - HEADER_BYTES) -> str:
    """The document as text, with the ends of long lists left out (and ``"cut": true``) where it would not fit."""
    text = json.dumps(document)
    while len(text) > room and any(document[name] for name in _LISTS):
        longest = max(_LISTS, key=lambda name: len(document[name]))
        document = document | {longest: document[longest][: len(document[longest]) // 2], "cut": True}
        text = json.dumps(document)
    return text


__all__ = ["fitting", "report"]
