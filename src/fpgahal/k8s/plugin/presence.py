# SPDX-License-Identifier: Apache-2.0
"""What becomes of a board that is not seen for a while: unhealthy at once, forgotten only later.

`xbutil reset` and a reload of a driver make boards vanish for seconds.  Were their units removed, kubelet would count
them as gone; and a resource whose last unit goes loses its server.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

from fpgahal.k8s.unit import Inventory, Unit

Key: TypeAlias = tuple[str, str]  # resource, id


class Presence(NamedTuple):
    """What was offered last, and since when units are missing.

    Attributes
    ----------
    inventory : Inventory
        With the missing ones, unhealthy.
    missing : mapping
        (resource, id) -> when the unit was first not seen, seconds on the caller's clock.
    """

    inventory: Inventory = Inventory()
    missing: Mapping[Key, float] = MappingProxyType({})


def after(before: Presence, seen: Inventory, now: float, grace: float) -> Presence:
    """Give what to offer after a scan.

    A unit that is not seen any more is kept, unhealthy, for `grace` seconds; not so if a board of it is offered
    otherwise (another image was loaded, another mode is on), or if it stands for no board.
    """
    offered = {info.address for units in seen.resources.values() for unit in units.values() for info in unit.slots}
    skipped = {skip.address: skip.reason for skip in seen.skipped}
    resources = {resource: dict(units) for resource, units in seen.resources.items()}
    missing: dict[Key, float] = {}
    for resource, units in before.inventory.resources.items():
        for id, unit in units.items():
            if id in resources.get(resource, {}):
                continue
            since = before.missing.get((resource, id), now)
            addresses = {info.address for info in unit.slots}
            if not addresses or addresses & offered or now - since >= grace:
                continue
            missing[resource, id] = since
            reasons = [skipped[address] for address in sorted(addresses) if address in skipped]
            resources.setdefault(resource, {})[id] = replace(unit, reason="; ".join(reasons) or "it is not there now")
    return Presence(Inventory(_in_order(resources, before.inventory), seen.skipped), missing)


def unseen(before: Presence, why: str) -> Presence:
    """Give what to offer when the boards can't be looked at: all units, unhealthy."""
    resources = {
        resource: {id: replace(unit, reason=why) for id, unit in units.items()}
        for resource, units in before.inventory.resources.items()
    }
    return before._replace(inventory=before.inventory._replace(resources=resources))


def _in_order(resources: Mapping[str, Mapping[str, Unit]], before: Inventory) -> dict[str, dict[str, Unit]]:
    """Keep the order of ids that kubelet knows, so that a list that says the same is the same."""
    return {
        resource: {id: units[id] for id in [*(id for id in before.resources.get(resource, {}) if id in units), *units]}
        for resource, units in resources.items()
    }


class Change(NamedTuple):
    """Which resources differ between two inventories."""

    added: tuple[str, ...] = ()
    updated: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


def difference(before: Inventory, now: Inventory) -> Change:
    """Compare two inventories."""
    old, new = before.resources, now.resources
    return Change(
        tuple(resource for resource in new if resource not in old),
        tuple(resource for resource in new if resource in old and new[resource] != old[resource]),
        tuple(resource for resource in old if resource not in new),
    )
