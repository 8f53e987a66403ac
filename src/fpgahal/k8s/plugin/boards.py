# SPDX-License-Identifier: Apache-2.0
"""The boards' side of the plugin: `work.Work`, done with fpgahal's public API."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence

import fpgahal
from fpgahal import DeviceInfo, FpgaError
from fpgahal.k8s.plugin import allocation, inventory, preference
from fpgahal.k8s.plugin.cdi import CdiFolder, needs_cdi
from fpgahal.k8s.schemes.settings import Settings
from fpgahal.k8s.unit import Inventory, Unit

log = logging.getLogger(__name__)


class Boards:
    """What this machine has.

    Parameters
    ----------
    settings : Settings
        May be replaced at any time: the next scan follows.  Units that were found before keep theirs, or a container
        of mode region could be given away without its hook while the mode changes.
    cdi : CdiFolder
    hook : str
        Path, on the node, of the program that CDI devices name as their hook; empty: none.
    prepare : callable, optional
        Called with the units and the seconds left before a container starts.
    wish : callable, optional
        Gives the AFU id that is about to run on a resource's boards, or an empty text.
    """

    def __init__(
        self,
        settings: Settings,
        cdi: CdiFolder,
        hook: str = "",
        prepare: Callable[[Sequence[Unit], float], Awaitable[None]] | None = None,
        wish: Callable[[str], Awaitable[str]] | None = None,
    ) -> None:
        self.settings = settings
        self._cdi, self._hook, self._prepare, self._wish = cdi, hook, prepare, wish
        self._found_with: dict[tuple[str, str], Settings] = {}  # (resource, id) -> of the last scan that found it
        self.prestart = prepare is not None
        self._told: tuple[str, ...] = ()
        self._last = settings, list[DeviceInfo](), Inventory()  # of the last scan: what it was told, saw and found

    def scan(self) -> Inventory:
        """List what the node offers now."""
        settings = self.settings
        problems = inventory.driver_problems(fpgahal.kernel_drivers(), settings)
        for problem in problems:
            if problem not in self._told:  # once, not in each scan
                log.warning("Nothing can be offered: %s", problem)
        self._told = problems
        devices = fpgahal.devices()
        if (settings, devices) == self._last[:2]:
            return self._last[2]
        found = inventory.take(devices, settings)
        self._last = settings, devices, found
        self._found_with |= {(resource, id): settings for resource, units in found.resources.items() for id in units}
        return found

    def publish(self, units: Iterable[Unit]) -> dict[str, str]:
        """Write CDI files; give unit id -> why that failed."""
        failures = {}
        for unit in units:
            if needs_cdi(unit, self._settings_of(unit)):
                try:
                    self._cdi.write(unit, self._hook)
                except FpgaError as error:
                    failures[unit.id] = error.message
        return failures

    def retract(self, units: Iterable[Unit]) -> None:
        """Delete the CDI files of all units but these."""
        self._cdi.remove_others(unit for unit in units if needs_cdi(unit, self._settings_of(unit)))

    def allocate(self, units: Sequence[Unit]) -> allocation.Allocation:
        """Put a container's share together."""
        return allocation.allocate(units, self._settings_of(units[0]) if units else self.settings)

    async def prefer(self, resource: str, available: Sequence[Unit], must: Sequence[Unit], size: int) -> list[str]:
        """Choose units for a container."""
        open_choice = len(available) > size and any(unit.programmed_by_pod for unit in available)
        wanted = await self._wish(resource) if open_choice and self._wish is not None else ""
        return preference.prefer(available, must, size, wanted)

    async def prepare(self, units: Sequence[Unit], seconds: float) -> None:
        """Program and verify."""
        if self._prepare is not None:
            await self._prepare(units, seconds)

    def hooked(self, units: Iterable[Unit]) -> bool:
        """Tell whether a container with these units has the hook."""
        return bool(self._hook) and all(needs_cdi(unit, self._settings_of(unit)) for unit in units)

    def _settings_of(self, unit: Unit) -> Settings:
        return self._found_with.get((unit.resource, unit.id), self.settings)
