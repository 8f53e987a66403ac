# SPDX-License-Identifier: Apache-2.0
"""From a pod and its namespace's names to a JSON patch (RFC 6902), or to a refusal.  Pure functions.

A container may ask for a mapped name; it is replaced by the name that nodes offer, and an orchestrated one
gets a pair of variables a unit: ``FPGA_REGION_n`` and ``FPGA_AFU_n``, which say what the node programs.
Nobody else may set such variables.  The one form that is accepted is what this module itself produces,
checked against the namespace's table again: the API server may call twice, and people paste what they see.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from fpgahal.k8s.names import INTEL_DOMAIN, is_intel_node_name
from fpgahal.k8s.webhook.resources import Mode, shown
from fpgahal.k8s.webhook.table import NamespaceTable

PREFIX = f"{INTEL_DOMAIN}/"
RESERVED = ("FPGA_REGION", "FPGA_AFU")  # variables that begin so are the webhook's
MAX_UNITS = 512  # of one name in a container: more than a node can have, and it bounds the patch

Operation: TypeAlias = dict[str, Any]
Pair: TypeAlias = tuple[str, str]  # interface id, AFU id

_VARIABLE = re.compile("(FPGA_REGION|FPGA_AFU)_([1-9][0-9]{0,3})")


class Denied(Exception):
    """The pod is refused; the text says why and what to do."""


def pod_patch(pod: Mapping[str, Any], table: NamespaceTable) -> list[Operation]:
    """Translate a pod.

    Parameters
    ----------
    pod : mapping
        The pod as the API server sends it.
    table : NamespaceTable
        Of the pod's namespace.

    Returns
    -------
    list of dict
        RFC 6902 operations, the same for the same pod; empty if nothing is to be changed.

    Raises
    ------
    Denied
        The pod asks for what its namespace does not have, or is no pod.
    """
    patch: list[Operation] = []
    spec = _of(dict, pod.get("spec"), "spec")
    for group, title in (("initContainers", "init container"), ("containers", "container")):
        for index, entry in enumerate(_of(list, spec.get(group), f"spec.{group}")):
            path = f"/spec/{group}/{index}"
            container = _of(dict, entry, path)
            try:
                patch += _container_patch(container, path, table)
            except Denied as denied:
                raise Denied(f"{title} {shown(container.get('name'))}: {denied}") from None
    return patch


def _container_patch(container: Mapping[str, Any], path: str, table: NamespaceTable) -> list[Operation]:
    asked = _asked(container)
    claimed = _claimed(container)
    mapped: dict[str, int] = {}
    held: dict[str, int] = {}  # names of nodes, asked for as they are
    for name, count in asked.items():
        if name in table.targets:
            mapped[name] = count
        elif is_intel_node_name(name.removeprefix(PREFIX)):
            held[name] = count
        else:
            raise Denied(_unknown(name, table))
    modes = {table.targets[name].mode: name for name, count in mapped.items() if count}
    modes |= {_held_mode(name, claimed, table): name for name, count in held.items() if count}
    _check_claims(claimed, held, table)
    if len(modes) > 1:
        names = " and ".join(f"{name} ({mode})" for mode, name in sorted(modes.items()))
        raise Denied(f"{names} need nodes in different modes: use a container for each.")
    if asked:
        _check_env_from(container)
    return [*_resource_patch(mapped, held, path, table), *_env_patch(container, mapped, len(claimed), path, table)]


def _asked(container: Mapping[str, Any]) -> dict[str, int]:
    """Give the FPGA resources of a container and how many of each."""
    resources = _of(dict, container.get("resources"), "resources")
    limits, requests = (
        {
            name: quantity
            for name, quantity in _of(dict, resources.get(part), f"resources.{part}").items()
            if isinstance(name, str) and name.startswith(PREFIX)
        }
        for part in ("limits", "requests")
    )
    asked = {}
    for name in sorted({*limits, *requests}):
        limit, request = limits.get(name), requests.get(name)
        if limit is None or request is None or str(limit) != str(request):
            raise Denied(
                f"{name}: the limit is {shown(limit)} and the request is {shown(request)}; they must be equal, "
                "as extended resources can't be overcommitted."
            )
        asked[name] = _units(name, limit)
    return asked


def _units(name: str, quantity: object) -> int:
    digits = str(quantity)
    if isinstance(quantity, bool) or not re.fullmatch("[0-9]{1,9}", digits):
        raise Denied(f"{name}: {shown(quantity)} is no whole number; boards can't be divided.")
    if int(digits) > MAX_UNITS:
        raise Denied(f"{name}: {digits} are more than a node can have ({MAX_UNITS}).")
    return int(digits)


def _variables(container: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for entry in _of(list, container.get("env"), "env"):
        variable = _of(dict, entry, "env")
        name = variable.get("name")
        if isinstance(name, str) and name.startswith(RESERVED):
            yield name, variable


def _claimed(container: Mapping[str, Any]) -> list[Pair]:
    """Give the pairs that a container's own variables name: 1 to n, literal, each once."""
    found: dict[str, dict[int, str]] = {"FPGA_REGION": {}, "FPGA_AFU": {}}
    for name, variable in _variables(container):
        match = _VARIABLE.fullmatch(name)
        value = variable.get("value")
        if match is None or not isinstance(value, str) or set(variable) != {"name", "value"}:
            raise Denied(_forged(name))
        kind, number = match[1], int(match[2])
        if number in found[kind]:
            raise Denied(_forged(name))
        found[kind][number] = value
    regions, functions = found.values()
    if set(regions) != set(functions) or set(regions) != set(range(1, len(regions) + 1)):
        raise Denied(_forged(next(_variables(container))[0]))
    return [(regions[number], functions[number]) for number in sorted(regions)]


def _check_claims(claimed: list[Pair], held: Mapping[str, int], table: NamespaceTable) -> None:
    """Accept variables only as a former review of ours left them: each pair mapped, one for each unit."""
    for number, pair in enumerate(claimed, 1):
        if pair not in table.programmable:
            raise Denied(
                f"{_forged(f'FPGA_REGION_{number}')}  No AcceleratorFunction of namespace {table.namespace} has "
                "that pair of ids."
            )
    for interface, count in Counter(interface for interface, _ in claimed).items():
        if held.get(f"{PREFIX}region-{interface}", 0) != count:
            raise Denied(_forged("FPGA_REGION_1"))


def _held_mode(name: str, claimed: list[Pair], table: NamespaceTable) -> Mode:
    """Find out what a node's own name is used for, and that the namespace may use it so."""
    interface = name.removeprefix(f"{PREFIX}region-")
    if interface == name:
        mode = Mode.PREPROGRAMMED
    elif any(region == interface for region, _ in claimed):
        mode = Mode.ORCHESTRATED
    else:
        mode = Mode.REGION
    if table.offers(name, mode):
        return mode
    aliases = [alias for alias, target in table.targets.items() if target.resource == name]
    if aliases:
        raise Denied(f"{name} does not say which function to program: ask for {_list(aliases)}.")
    raise Denied(f"{name} is a name of nodes, and nothing in namespace {table.namespace} maps to it. {_known(table)}")


def _check_env_from(container: Mapping[str, Any]) -> None:
    """Refuse variables from elsewhere that could be called like ours, because what is there can't be seen here."""
    for entry in _of(list, container.get("envFrom"), "envFrom"):
        prefix = _of(str, _of(dict, entry, "envFrom").get("prefix"), "envFrom")
        if any(prefix.startswith(name) or name.startswith(prefix) for name in RESERVED):
            raise Denied(
                f"envFrom with the prefix {prefix!r} could set {RESERVED[0]}_1, which only the webhook may: give it "
                "another prefix, or list its variables under env."
            )


def _resource_patch(
    mapped: Mapping[str, int], held: Mapping[str, int], path: str, table: NamespaceTable
) -> list[Operation]:
    totals: Counter[str] = Counter()
    for name, count in mapped.items():
        totals[table.targets[name].resource] += count
    parts = [f"{path}/resources/{part}" for part in ("limits", "requests")]
    patch: list[Operation] = [{"op": "remove", "path": f"{part}/{_escaped(name)}"} for name in mapped for part in parts]
    for real, count in sorted(totals.items()):
        if count:
            total = str(count + held.get(real, 0))
            patch += [{"op": "add", "path": f"{part}/{_escaped(real)}", "value": total} for part in parts]
    return patch


def _env_patch(
    container: Mapping[str, Any], mapped: Mapping[str, int], number: int, path: str, table: NamespaceTable
) -> list[Operation]:
    """Append variables to those of the container, which stay as they are and where they are."""
    variables = []
    for name, count in mapped.items():
        target = table.targets[name]
        if target.mode is Mode.ORCHESTRATED:
            for _ in range(count):
                number += 1
                variables.append({"name": f"FPGA_REGION_{number}", "value": target.interface_id})
                variables.append({"name": f"FPGA_AFU_{number}", "value": target.afu_id})
    if variables and container.get("env") is None:
        return [{"op": "add", "path": f"{path}/env", "value": variables}]
    return [{"op": "add", "path": f"{path}/env/-", "value": variable} for variable in variables]


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")  # RFC 6901


def _forged(name: str) -> str:
    return f"{name} is set, but variables that begin with {' or '.join(RESERVED)} are the webhook's: remove it."


def _unknown(name: str, table: NamespaceTable) -> str:
    broken = table.broken.get(name)
    if broken is not None:
        return f"{name} can't be used: its {broken.kind} is broken. {broken.message}"
    return f"{name}: namespace {table.namespace} has no such FPGA resource. {_known(table)}"


def _known(table: NamespaceTable) -> str:
    if not table.targets:
        return "It has none: an AcceleratorFunction or an FpgaRegion makes one."
    return f"It has {_list(list(table.targets))}."


def _list(names: list[str]) -> str:
    more = len(names) - 20
    return ", ".join(names[:20]) + (f" and {more} more" if more > 0 else "")


def _of(kind: type[Any], value: object, where: str) -> Any:
    """Give a value of this type; the type's empty value if it is absent."""
    if value is None:
        return kind()
    if not isinstance(value, kind):
        raise Denied(f"{where} is {shown(value)}: a {kind.__name__} was expected.")
    return value
