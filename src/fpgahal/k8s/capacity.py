# SPDX-License-Identifier: Apache-2.0
"""Which boards are free on which node, from the API server's lists of nodes and pods.  A pure function."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from fpgahal.k8s.planner import Offer

FINISHED = ("Succeeded", "Failed")


def free_boards(
    nodes: Iterable[Mapping[str, Any]], pods: Iterable[Mapping[str, Any]], boards: Collection[str]
) -> list[Offer]:
    """Give what each node that takes pods has left of these boards.

    Parameters
    ----------
    nodes, pods : iterable of mapping
        Objects as the API server sends them.
    boards : collection of str
        Resources to look at; others are left out.

    Notes
    -----
    Pods that have no node yet will take boards, too: theirs are taken from the first nodes, by name, that have them
    all.  That may be other nodes than the scheduler's choice, but as many boards.
    """
    free: dict[str, Counter[str]] = {}
    labels: dict[str, dict[str, str]] = {}
    for node in nodes:
        name = _get(node, "metadata", "name")
        if isinstance(name, str) and not _get(node, "spec", "unschedulable"):
            found = _get(node, "status", "allocatable") or {}
            free[name] = Counter({board: count for board in boards if (count := _count(found.get(board))) > 0})
            labels[name] = {str(k): str(v) for k, v in (_get(node, "metadata", "labels") or {}).items()}
    waiting = []
    for pod in pods:
        if _get(pod, "status", "phase") in FINISHED:
            continue
        used = pod_boards(pod, boards)
        node = _get(pod, "spec", "nodeName")
        if node in free:
            free[node] -= used  # never below zero
        elif not node and used:
            waiting.append(used)
    for used in waiting:
        for _, left in sorted(free.items()):
            if used <= left:
                left.subtract(used)
                break
    return [Offer(name, dict(+left), labels[name]) for name, left in sorted(free.items()) if +left]


def pod_boards(pod: Mapping[str, Any], boards: Collection[str]) -> Counter[str]:
    """Count the boards that a pod takes: all of its containers', or those of the init container that takes more."""
    total: Counter[str] = Counter()
    highest: Counter[str] = Counter()
    for container in _get(pod, "spec", "initContainers") or []:
        taken = _requests(container, boards)
        if container.get("restartPolicy") == "Always":  # a sidecar stays
            total += taken
            highest |= total
        else:
            highest |= total + taken
    for container in _get(pod, "spec", "containers") or []:
        total += _requests(container, boards)
    return total | highest


def _requests(container: Mapping[str, Any], boards: Collection[str]) -> Counter[str]:
    found = _get(container, "resources", "limits") or {}
    return Counter({board: count for board in boards if (count := _count(found.get(board))) > 0})


def _count(quantity: object) -> int:
    """Read a quantity of an extended resource; the API server takes only whole numbers for these."""
    text = str(quantity)
    if text.isascii() and text.isdigit():
        return int(text)
    return int(text[:-1]) * 1000 if text.endswith("k") and text[:-1].isascii() and text[:-1].isdigit() else 0


def _get(document: Mapping[str, Any], *path: str) -> Any:
    for key in path:
        document = document.get(key) if isinstance(document, Mapping) else None  # type: ignore[assignment]
    return document
