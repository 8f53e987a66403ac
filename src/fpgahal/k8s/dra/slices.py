# SPDX-License-Identifier: Apache-2.0
"""A node's devices as ResourceSlices (``resource.k8s.io/v1``).  Pure functions.

Limits and rules are those of Kubernetes 1.37 (k8s.io/api, resource/v1/types.go): counters stand in slices of their
own, at most 8 sets each; 64 devices a slice where they consume counters; 32 attributes and capacities a device (so the
catalogue takes 20 accelerators an image); names of capacities are C identifiers, with or without a domain.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any, TypeAlias

from fpgahal import DeviceInfo
from fpgahal.k8s.dra import DRIVER
from fpgahal.k8s.dra.devices import Device, board_name
from fpgahal.k8s.labels import label_value
from fpgahal.k8s.planner import Image
from fpgahal.k8s.schemes import inaccel, own

DEVICES_PER_SLICE = 64
COUNTER_SETS_PER_SLICE = 8
COUNTER = "image"

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,31}")
_DOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")

Spec: TypeAlias = dict[str, Any]


def specs(node: str, devices: Sequence[Device], *, partitions: bool = True) -> list[Spec]:
    """Write the slices of a node's pool; what they lack is the pool's generation.

    Parameters
    ----------
    node : str
    devices : sequence of Device
    partitions : bool
        False for clusters without shared counters and consumable capacity (before Kubernetes 1.36): then boards are
        offered as they are, and no images, because two images of one board would not exclude each other.

    Returns
    -------
    list of dict
        At least one: a pool without slices is one whose driver has not said anything yet.
    """
    if not partitions:
        devices = [device for device in devices if device.image is None]
    boards = list(dict.fromkeys(board_name(device.info) for device in devices)) if partitions else []
    counters = [{"name": name, "counters": {COUNTER: {"value": "1"}}} for name in boards]
    documents = [_device(device, partitions) for device in devices]
    parts: list[Spec] = [{"sharedCounters": part} for part in _chunks(counters, COUNTER_SETS_PER_SLICE)]
    parts += [{"devices": part} for part in _chunks(documents, DEVICES_PER_SLICE)] or [{}]
    pool = {"name": node, "resourceSliceCount": len(parts)}
    return [{"driver": DRIVER, "nodeName": node, "pool": pool, **part} for part in parts]


def slice_name(node: str, index: int) -> str:
    """Name a slice: the same at each start, so that there are never two of the same contents."""
    name = f"{node}-{DRIVER}-{index}"
    return name if len(name) <= 253 else f"{hashlib.sha256(node.encode()).hexdigest()[:40]}-{DRIVER}-{index}"


def capacity_name(accelerator: str) -> str:
    """Name an accelerator as a capacity: ``com.inaccel.xgboost.exact`` is ``com.inaccel.xgboost/exact``.

    One that has not that form loses what a C identifier can't have, and gets a hash, so that it stays its own.
    """
    domain, _, name = accelerator.rpartition(".")
    if _IDENTIFIER.fullmatch(name) and (not domain or (_DOMAIN.fullmatch(domain) and len(domain) <= 63)):
        return f"{domain}/{name}" if domain else name
    text = re.sub("[^A-Za-z0-9_]", "_", accelerator)[:22]
    return f"_{text}_{hashlib.sha256(accelerator.encode()).hexdigest()[:8]}"


def _device(device: Device, partitions: bool) -> Spec:
    attributes = _attributes(device.info) | {"kind": {"string": "image" if device.image else "board"}}
    found: Spec = {"name": device.name, "attributes": attributes}
    if device.image is not None:
        attributes["image"] = {"string": device.image.name}
        attributes["afuId"] = {"string": device.image.afu_id}
        found["allowMultipleAllocations"] = True
        found["capacity"] = _capacity(device.image)
    if partitions:
        consumed = {COUNTER: {"value": "1"}}
        found["consumesCounters"] = [{"counterSet": board_name(device.info), "counters": consumed}]
    return found


def _attributes(info: DeviceInfo) -> Spec:
    texts = {
        "board": own.family(info),
        "address": info.address,
        "driver": info.kernel_driver,
        "shell": label_value(inaccel.shell_label(info)),
        "interfaceId": info.interface_id.hex if info.interface_id else "",
        "resource.kubernetes.io/pciBusID": info.bdf,
    }
    found: Spec = {name: {"string": text} for name, text in texts.items() if text}
    if info.numa_node >= 0:
        found["numaNode"] = {"int": info.numa_node}
    return found | {"emulated": {"bool": info.emulated}}


def _capacity(image: Image) -> Spec:
    """Write an image's replicas as capacities that several claims share.

    A request that does not name a capacity consumes its default.  Of an image with one accelerator that is one unit;
    of one with several it is none, or who wants one of them would take one of each.
    """
    alone = len(image.accelerators) == 1
    found: Spec = {}
    for accelerator, count in sorted(image.accelerators.items()):
        least = "1" if alone else "0"
        limits = {"min": least} if alone and count == 1 else {"min": least, "step": "1"}  # min + step must be there
        policy = {"default": least, "validRange": limits}
        found[capacity_name(accelerator)] = {"value": str(count), "requestPolicy": policy}
    return found


def _chunks(items: Sequence[Spec], size: int) -> list[list[Spec]]:
    return [list(items[start : start + size]) for start in range(0, len(items), size)]
