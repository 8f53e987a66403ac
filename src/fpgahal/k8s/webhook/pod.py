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
from fpgahal.k8s.webhook.container import PARTS, Denied, Operation, asked, containers, escaped, listed, of
from fpgahal.k8s.webhook.resources import Mode
from fpgahal.k8s.webhook.table import NamespaceTable

PREFIX = f"{INTEL_DOMAIN}/"
RESERVED = ("FPGA_REGION", "FPGA_AFU")  # variables that begin so are the webhook's

Pair: TypeAlias = tuple[str, str]  # interface id, AFU id

_VARIABLE = re.compile("(FPGA_REGION|FPGA_AFU)_([1-9][0-9]{0,3})")


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
    for path, title, container in containers(pod):
        try:
            patch += _container_patch(container, path, table)
        except Denied as denied:
            raise Denied(f"{title}: {denied}") from None
    return patch


def _container_patch(container: Mapping[str, Any], path: str, table: NamespaceTable) -> list[Operation]:
    wanted = asked(container, PREFIX)
    claimed = _claimed(container)
    mapped: dict[str, int] = {}
    held: dict[str, int] = {}  # names of nodes, asked for as they are
    for name, count in wanted.items():
        if name in table.targets:
            mapped[name] = count
        elif is_intel_node_name(name.removeprefix(PREFIX)):
            held[name] = count
        else:
            raise Denied(_unknown(name, table))
    modes = {table.targets[name].mode: name for name, count in mapped.items() if count}
    modes |= {_held_mode(name, claimed, table): name for name, count in held.items() if count}
    _check_claims(claimed, container, table)
    if len(modes) > 1:
        names = " and ".join(f"{name} ({mode})" for mode, name in sorted(modes.items()))
        raise Denied(f"{names} need nodes in different modes: use a container for each.")
    if wanted or claimed:
        _check_env_from(container)
    return [*_resource_patch(mapped, held, path, table), *_env_patch(container, mapped, len(claimed), path, table)]


def _variables(container: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for entry in of(list, container.get("env"), "env"):
        variable = of(dict, entry, "env")
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


def _check_claims(claimed: list[Pair], container: Mapping[str, Any], table: NamespaceTable) -> None:
    """Accept variables only as a former review of ours left them: each pair mapped, and a unit for each."""
    for number, pair in enumerate(claimed, 1):
        if pair not in table.programmable:
            images = "" if table.images is None else ", and no image of the catalogue that it may have,"
            raise Denied(
                f"{_forged(f'FPGA_REGION_{number}')}  No AcceleratorFunction of namespace {table.namespace}{images} "
                "has that pair of ids."
            )
    for interface, count in Counter(interface for interface, _ in claimed).items():
        boards = {table.boards[pair] for pair in claimed if pair[0] == interface and pair in table.boards}
        region = f"{PREFIX}region-{interface}"
        regions, others = (
            sum(asked(container, name).get(name, 0) for name in names) for names in ({region}, boards - {region})
        )
        if not regions <= count <= regions + others:
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
        raise Denied(f"{name} does not say which function to program: ask for {listed(aliases)}.")
    raise Denied(f"{name} is a name of nodes, and nothing in namespace {table.namespace} maps to it. {_known(table)}")


def _check_env_from(container: Mapping[str, Any]) -> None:
    """Refuse variables from elsewhere that could be called like ours, because what is there can't be seen here."""
    for entry in of(list, container.get("envFrom"), "envFrom"):
        prefix = of(str, of(dict, entry, "envFrom").get("prefix"), "envFrom")
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
    parts = [f"{path}/resources/{part}" for part in PARTS]
    patch: list[Operation] = [{"op": "remove", "path": f"{part}/{escaped(name)}"} for name in mapped for part in parts]
    for real, count in sorted(totals.items()):
        if count:
            total = str(count + held.get(real, 0))
            patch += [{"op": "add", "path": f"{part}/{escaped(real)}", "value": total} for part in parts]
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
    return f"It has {listed(list(table.targets))}."
