# SPDX-License-Identifier: Apache-2.0
"""The boards' side of the plugin: `work.Work`, done with fpgahal's public API."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence

import fpgahal
from fpgahal import FpgaError
from fpgahal.k8s.plugin import allocation, inventory, preference
from fpgahal.k8s.plugin.cdi import CdiFolder, needs_cdi
from fpgahal.k8s.plugin.unit import Inventory, Unit
from fpgahal.k8s.schemes.settings import Settings


class Boards:
    """What this machine has.

    Parameters
    ----------
    settings : Settings
        May be replaced at any time: the next scan follows.
    cdi : CdiFolder
    hook : str
        Path, on the node, of the program that CDI devices name as their hook; empty: none.
    prepare : callable, optional
        Called with the units and the seconds left before a container starts.
    """

    def __init__(
        self,
        settings: Settings,
        cdi: CdiFolder,
        hook: str = "",
        prepare: Callable[[Sequence[Unit], float], Awaitable[None]] | None = None,
    ) -> None:
        self.settings = settings
        self._cdi, self._hook, self._prepare = cdi, hook, prepare
        self.prestart = prepare is not None

    def scan(self) -> Inventory:
        """List what the node offers now."""
        return inventory.take(fpgahal.devices(), self.settings)

    def publish(self, units: Iterable[Unit]) -> dict[str, str]:
        """Write CDI files; give unit id -> why that failed."""
        failures = {}
        for unit in units:
            if needs_cdi(unit, self.settings):
                try:
                    self._cdi.write(unit, self._hook)
                except FpgaError as error:
                    failures[unit.id] = error.message
        return failures

    def retract(self, units: Iterable[Unit]) -> None:
        """Delete the CDI files of all units but these."""
        self._cdi.remove_others(unit for unit in units if needs_cdi(unit, self.settings))

    def allocate(self, units: Sequence[Unit]) -> allocation.Allocation:
        """Put a container's share together."""
        return allocation.allocate(units, self.settings)

    def prefer(self, available: Sequence[Unit], must: Sequence[Unit], size: int) -> list[str]:
        """Choose units for a container."""
        return preference.prefer(available, must, size)

    async def prepare(self, units: Sequence[Unit], seconds: float) -> None:
        """Program and verify."""
        if self._prepare is not None:
            await self._prepare(units, seconds)
