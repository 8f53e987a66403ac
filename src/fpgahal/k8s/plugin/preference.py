# SPDX-License-Identifier: Apache-2.0
"""Which of the free units kubelet should take: those that need no reprogramming, then those close to each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from fpgahal.k8s.plugin.unit import Unit


def prefer(available: Sequence[Unit], must: Sequence[Unit], size: int, wanted: str = "") -> list[str]:
    """Choose units for a container.

    As many as possible hold the wanted image already; among those choices, the fewest NUMA nodes; a NUMA node that
    has just enough is taken before one that would be left with a rest; then boards that hold any image (kubelet does
    not tell which pod it asks for, and the next one often wants the same); then in order of `available`.

    Parameters
    ----------
    available : sequence of Unit
        What is free, those of `must` among them or not.
    must : sequence of Unit
        What the container gets anyway.
    size : int
        How many it gets in all; fewer come back if there are no more.
    wanted : str
        AFU id in hex, dashes or not; empty: any image will do.

    Returns
    -------
    list of str
        Ids, those of `must` first.
    """
    image = wanted.replace("-", "").lower()
    chosen = list({unit.id: unit for unit in must}.values())
    taken = {unit.id for unit in chosen}
    free = list({unit.id: unit for unit in available if unit.id not in taken}.values())
    free.sort(key=lambda unit: not any(info.afu_id for info in unit.slots))
    ready = [unit for unit in free if image and _holds(unit, image)]
    others = [unit for unit in free if unit not in ready]
    for group in (ready, others):
        _add(chosen, group, size)
    return [unit.id for unit in chosen[: max(size, len(must))]]


def _holds(unit: Unit, image: str) -> bool:
    return any(info.afu_id is not None and info.afu_id.hex == image for info in unit.slots)


def _add(chosen: list[Unit], group: list[Unit], size: int) -> None:
    """Move units from `group` to `chosen` until there are `size`, a NUMA node at a time."""
    while group and len(chosen) < size:
        needed = size - len(chosen)
        used = {unit.numa_nodes for unit in chosen}
        room = Counter(unit.numa_nodes for unit in group)
        best = min(room, key=lambda numa: (numa not in used, room[numa] < needed, abs(room[numa] - needed)))
        for unit in [unit for unit in group if unit.numa_nodes == best][:needed]:
            group.remove(unit)
            chosen.append(unit)
