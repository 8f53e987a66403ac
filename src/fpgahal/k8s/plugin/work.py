# SPDX-License-Identifier: Apache-2.0
"""What the gRPC servers and the node's loop ask of the boards; `boards` does it, tests have their own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from fpgahal.k8s.plugin.unit import DeviceNode, Inventory, Mount, Unit


class Share(Protocol):
    """What one container gets (an `allocation.Allocation`)."""

    @property
    def env(self) -> Mapping[str, str]: ...
    @property
    def annotations(self) -> Mapping[str, str]: ...
    @property
    def mounts(self) -> tuple[Mount, ...]: ...
    @property
    def nodes(self) -> tuple[DeviceNode, ...]: ...
    @property
    def cdi(self) -> tuple[str, ...]: ...


class Work(Protocol):
    """The boards' side.  What may block says so: it is called in a thread."""

    #: Whether containers wait for `prepare`: kubelet is told at registration.
    prestart: bool

    def scan(self) -> Inventory:
        """List what the node offers now.  Blocks."""
        ...

    def publish(self, units: Iterable[Unit]) -> Mapping[str, str]:
        """Write the files that containers of these units need; give unit id -> why that failed.  Blocks."""
        ...

    def retract(self, units: Iterable[Unit]) -> None:
        """Delete the files of all units but these.  Blocks."""
        ...

    def allocate(self, units: Sequence[Unit]) -> Share:
        """Put a container's share together; an FpgaError says why it can't have it."""
        ...

    async def prefer(self, resource: str, available: Sequence[Unit], must: Sequence[Unit], size: int) -> list[str]:
        """Choose units of a resource for a container: ids."""
        ...

    async def prepare(self, units: Sequence[Unit], seconds: float) -> None:
        """Program and verify before a container starts, in so many seconds; an FpgaError says why it must not."""
        ...
