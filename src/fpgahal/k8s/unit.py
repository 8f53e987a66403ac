# SPDX-License-Identifier: Apache-2.0
"""What kubelet hands out: a unit has an id, is listed under one resource, and stands for one slot or several."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

from fpgahal import DeviceInfo


class DeviceNode(NamedTuple):
    """A device file that a container gets.

    Attributes
    ----------
    path : str
        In the container.
    host_path : str
        On the node; the same but for emulated boards.
    permissions : str
        ``"rw"``: a container never creates nodes.
    """

    path: str
    host_path: str
    permissions: str = "rw"


class Mount(NamedTuple):
    """A folder or file that a container gets; emulated boards live in one."""

    path: str
    host_path: str
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Unit:
    """One device in kubelet's words.

    Attributes
    ----------
    id : str
        Device id, at most 63 characters, the same after each restart.
    resource : str
        Full name: ``"fpga.intel.com/af-ce4.d84.…"``.
    slots : tuple of DeviceInfo
        What it stands for; one, except where a scheme offers a whole card or only counts.
    reason : str
        Why it is unhealthy, or empty.
    nodes, mounts : tuple
        What a container gets.
    env, annotations : mapping of str to str
        What the container is told, beside the list of its boards; a scheme's own names.
    numa_nodes : tuple of int
    wanted : str
        AFU id (canonical hex) that must be loaded when a container starts, or empty: any, or named by the pod.
    programmed_by_pod : bool
        Whether the pod's FPGA_REGION_n and FPGA_AFU_n say what is to be loaded.
    """

    id: str
    resource: str
    slots: tuple[DeviceInfo, ...] = ()
    reason: str = ""
    nodes: tuple[DeviceNode, ...] = ()
    mounts: tuple[Mount, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    numa_nodes: tuple[int, ...] = ()
    wanted: str = ""
    programmed_by_pod: bool = False

    @property
    def healthy(self) -> bool:
        """Whether kubelet may hand it out."""
        return not self.reason


class Skipped(NamedTuple):
    """A board that is not offered, and why."""

    address: str
    reason: str


class Inventory(NamedTuple):
    """All that a node offers: resource name -> device id -> unit."""

    resources: Mapping[str, Mapping[str, Unit]] = MappingProxyType({})
    skipped: tuple[Skipped, ...] = ()
