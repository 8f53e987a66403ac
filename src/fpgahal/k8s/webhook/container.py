# SPDX-License-Identifier: Apache-2.0
"""Reading one container of a pod that anybody may have written, and the terms of refusing it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from fpgahal.k8s.webhook.resources import shown

MAX_UNITS = 512  # of one name in a container: more than a node can have, and it bounds the patch
PARTS = ("limits", "requests")
GROUPS = (("initContainers", "init container"), ("containers", "container"))

Operation: TypeAlias = dict[str, Any]


class Denied(Exception):
    """The pod is refused; the text says why and what to do."""


def containers(pod: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield each container that a pod starts with: its path, what to call it in a refusal, and itself."""
    spec = of(dict, pod.get("spec"), "spec")
    for group, title in GROUPS:
        for index, entry in enumerate(of(list, spec.get(group), f"spec.{group}")):
            path = f"/spec/{group}/{index}"
            container = of(dict, entry, path)
            yield path, f"{title} {shown(container.get('name'))}", container


def asked(container: Mapping[str, Any], prefix: str) -> dict[str, int]:
    """Give the resources of a container whose names begin so, and how many of each."""
    resources = of(dict, container.get("resources"), "resources")
    limits, requests = (
        {
            name: quantity
            for name, quantity in of(dict, resources.get(part), f"resources.{part}").items()
            if isinstance(name, str) and name.startswith(prefix)
        }
        for part in PARTS
    )
    found = {}
    for name in sorted({*limits, *requests}):
        limit, request = limits.get(name), requests.get(name)
        if limit is None or request is None or str(limit) != str(request):
            raise Denied(
                f"{name}: the limit is {shown(limit)} and the request is {shown(request)}; they must be equal, "
                "as extended resources can't be overcommitted."
            )
        found[name] = _units(name, limit)
    return found


def _units(name: str, quantity: object) -> int:
    digits = str(quantity)
    if isinstance(quantity, bool) or not re.fullmatch("[0-9]{1,9}", digits):
        raise Denied(f"{name}: {shown(quantity)} is no whole number; boards can't be divided.")
    if int(digits) > MAX_UNITS:
        raise Denied(f"{name}: {digits} are more than a node can have ({MAX_UNITS}).")
    return int(digits)


def of(kind: type[Any], value: object, where: str) -> Any:
    """Give a value of this type; the type's empty value if it is absent."""
    if value is None:
        return kind()
    if not isinstance(value, kind):
        raise Denied(f"{where} is {shown(value)}: a {kind.__name__} was expected.")
    return value


def listed(names: list[str]) -> str:
    """Name the first twenty."""
    more = len(names) - 20
    return ", ".join(names[:20]) + (f" and {more} more" if more > 0 else "")


def escaped(name: str) -> str:
    """Write a name as a part of a JSON pointer (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")
