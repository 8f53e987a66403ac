# SPDX-License-Identifier: Apache-2.0
"""Boards that pods have under another name than the one under which they are offered now.

A board's name changes while a pod has it when another image is loaded (mode af), when the node goes over to another
mode, or when the plugin is configured anew.  Kubelet counts by resource and id, so for kubelet the new name is free,
and it would give the board to a second pod.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from posixpath import basename
from typing import NamedTuple

from fpgahal import DeviceInfo
from fpgahal.k8s import rpc
from fpgahal.k8s.proto import podresources_pb2 as pb
from fpgahal.k8s.unit import Inventory, Unit

TIMEOUT = 2.0  # seconds for kubelet's answer

_LIST = pb.DESCRIPTOR.services_by_name["PodResourcesLister"].methods_by_name["List"]


class Holding(NamedTuple):
    """A device that a pod has."""

    resource: str
    id: str
    pod: str


async def holdings(socket: str) -> tuple[Holding, ...]:
    """Ask kubelet which devices pods have, be they ours or other plugins'.

    Raises
    ------
    grpc.RpcError
        Kubelet does not answer.
    """
    async with rpc.channel(socket) as channel:
        answer = await rpc.call(channel, _LIST)(pb.ListPodResourcesRequest(), timeout=TIMEOUT)
    return tuple(
        Holding(devices.resource_name, id, f"{pod.namespace}/{pod.name}")
        for pod in answer.pod_resources
        for container in pod.containers
        for devices in container.devices
        for id in devices.device_ids
    )


def withheld(inventory: Inventory, held: Iterable[Holding]) -> Inventory:
    """Make unhealthy what a pod has under another name; it is well again when the pod has ended."""
    holders: dict[str, list[Holding]] = {}
    for one in held:
        if one.id not in inventory.resources.get(one.resource, {}):
            holders.setdefault(one.id, []).append(one)
    if not holders:
        return inventory

    def judged(unit: Unit) -> Unit:
        others = [one for info in unit.slots for id in names(info) for one in holders.get(id, ())]
        if not others or unit.reason:
            return unit
        return replace(unit, reason="; ".join(f"pod {one.pod} still has it as {one.resource}" for one in others))

    resources = {
        resource: {id: judged(unit) for id, unit in units.items()} for resource, units in inventory.resources.items()
    }
    return inventory._replace(resources=resources) if resources != inventory.resources else inventory


def names(info: DeviceInfo) -> set[str]:
    """Give the device ids that schemes call a board by: its address in several forms, and its device nodes."""
    short = info.bdf.removeprefix("0000:")
    return {info.bdf, f"{info.bdf}-{info.slot}", short, *(basename(node) for node in info.device_nodes)}
