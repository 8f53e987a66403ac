# SPDX-License-Identifier: Apache-2.0
"""The node's loop: look at the boards, compare, start, update and stop the servers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

import grpc

from fpgahal.k8s import rpc
from fpgahal.k8s.plugin.holdings import Holding, withheld
from fpgahal.k8s.plugin.hotplug import Hotplug
from fpgahal.k8s.plugin.kubelet import InstanceLock, Kubelet, Registration
from fpgahal.k8s.plugin.metrics import Metrics
from fpgahal.k8s.plugin.presence import Presence, after, difference, unseen
from fpgahal.k8s.plugin.server import GRACE_SECONDS, ResourceServer
from fpgahal.k8s.plugin.work import Work
from fpgahal.k8s.unit import Inventory, Unit

SCAN_SECONDS = 10.0  # a scan takes milliseconds: one that takes so long hangs in a driver
LOCK_SECONDS = 0.2  # between attempts to take the lock

log = logging.getLogger(__name__)


class Offered(NamedTuple):
    """One resource's server, and the task that keeps it registered."""

    server: ResourceServer
    registration: Registration
    task: asyncio.Task[None]


class Node:
    """Offers what the boards' side finds; run it as a task, then `close` it.

    Parameters
    ----------
    kubelet : Kubelet
    work : Work
    metrics : Metrics
    scan_seconds : float
        Between scans, where no event asks for one.
    grace_seconds : float
        How long a board that is not seen is kept, unhealthy.
    held : callable, optional
        Asks kubelet what pods have; without it, a board whose name changes may be given to a second pod.

    Attributes
    ----------
    inventory : Inventory
        What is offered now.
    standby : bool
        Whether another instance serves this kubelet: then this one waits.
    turns : int
        How many scans ended.
    closing : bool
    """

    def __init__(
        self,
        kubelet: Kubelet,
        work: Work,
        metrics: Metrics,
        *,
        scan_seconds: float = 5.0,
        grace_seconds: float = 60.0,
        held: Callable[[], Awaitable[tuple[Holding, ...]]] | None = None,
    ) -> None:
        self._kubelet, self._work, self._metrics = kubelet, work, metrics
        self._scan_seconds, self._grace_seconds = scan_seconds, grace_seconds
        self._held = held
        self._holdings: tuple[Holding, ...] = ()
        self._names: Mapping[str, frozenset[str]] = {}  # resource -> ids
        self._asked = 0  # how often kubelet was asked what pods have, since names changed
        self._lock = InstanceLock(kubelet.folder)
        self._presence = Presence()
        self._offered: dict[str, Offered] = {}
        self._scanning: asyncio.Task[Inventory] | None = None
        self._failing_since: float | None = None
        self._unpublished: Mapping[str, str] = {}
        self._published: Inventory | None = None
        self._hotplug: Hotplug | None = None
        self.inventory = Inventory()
        self.standby = False
        self.turns = 0
        self.closing = False
        metrics.inventory = lambda: self.inventory
        metrics.streams = lambda: {name: one.server.streams for name, one in self._offered.items()}

    async def run(self) -> None:
        """Work until cancelled."""
        with Hotplug() as self._hotplug:
            while True:
                await self._take_lock()
                try:
                    await self._turn()
                except Exception:  # whatever it is, what is offered stays offered
                    log.exception("Looking at the boards failed")
                rpc.check_cancelled()
                await self._hotplug.wait(self._scan_seconds)

    def wake(self) -> None:
        """Have the boards looked at now."""
        if self._hotplug is not None:
            self._hotplug.wake()

    def unregistered(self) -> list[str]:
        """Give the resources whose list kubelet does not follow."""
        return [name for name, one in self._offered.items() if not one.registration.followed]

    async def close(self, grace: float = GRACE_SECONDS) -> None:
        """Stop all servers and remove their sockets; calls under way get `grace` seconds."""
        self.closing = True
        await asyncio.gather(*(self._withdraw(resource, grace=grace) for resource in list(self._offered)))
        self._lock.release()

    # --- a turn -------------------------------------------------------------------------------------------------

    async def _take_lock(self) -> None:
        told = ""
        while not self._lock.held:
            try:
                if self._lock.take():
                    if not self._offered:
                        self._kubelet.tidy()
                    break
                why = "Another instance of the plugin serves this kubelet: waiting until it ends"
            except OSError as error:
                why = f"Waiting for kubelet's folder: {error.strerror}: {self._kubelet.folder}"
            self.standby = why.startswith("Another")
            if why != told:
                log.info(why)
                told = why
            await asyncio.sleep(LOCK_SECONDS)
        self.standby = False

    async def _turn(self) -> None:
        begin = time.perf_counter()
        seen, why = await self._scan()
        now = time.monotonic()
        wanted: Inventory | None = None
        if seen is not None:
            self._failing_since = None
            self._presence = after(self._presence, seen, now, self._grace_seconds)
            wanted = self._presence.inventory
        else:
            log.warning("The boards can't be looked at: %s", why)
            self._failing_since = now if self._failing_since is None else self._failing_since
            # One failed scan says nothing of any board; when they go on failing, nobody knows how the boards are.
            if now - self._failing_since >= 3 * self._scan_seconds:
                wanted = unseen(self._presence, f"the boards can't be looked at: {why}").inventory
        self._metrics.scanned("ok" if seen is not None else "failed", time.perf_counter() - begin)
        if wanted is not None:
            await self._apply(await self._publish(await self._withhold(wanted)))
        self.turns += 1

    async def _scan(self) -> tuple[Inventory | None, str]:
        """Scan in a thread; one that hangs is waited for in the next turns, not doubled."""
        task = self._scanning or asyncio.create_task(asyncio.to_thread(self._work.scan))
        self._scanning = task
        await asyncio.wait({task}, timeout=SCAN_SECONDS)
        if not task.done():
            return None, f"a scan has hung for more than {SCAN_SECONDS:.0f} s"
        self._scanning = None
        error = task.exception()
        if error is not None:
            return None, str(error) or type(error).__name__
        return task.result(), ""

    async def _withhold(self, wanted: Inventory) -> Inventory:
        """Keep back what pods have under other names.

        Kubelet is asked when names have changed, twice, because a pod may be given an old name meanwhile; and as long
        as something is kept back.
        """
        names = {resource: frozenset(units) for resource, units in wanted.resources.items()}
        if names != self._names:
            self._names, self._asked = names, 0
        if self._held is not None and (self._asked < 2 or withheld(wanted, self._holdings) is not wanted):
            try:
                self._holdings = await self._held()
                self._asked += 1
            except grpc.RpcError as error:  # asked again in the next turn
                rpc.check_cancelled()
                log.debug("Kubelet does not say what pods have: %s", error)
        return withheld(wanted, self._holdings)

    async def _publish(self, wanted: Inventory) -> Inventory:
        """Write the files that containers need; units whose file can't be written are not fit to be handed out."""
        if wanted != self._published or self._unpublished:
            units = list(all_units(wanted))
            self._unpublished = await asyncio.to_thread(self._work.publish, units)
            try:
                await asyncio.to_thread(self._work.retract, units)
            except Exception as error:  # a file too many does no harm
                log.warning("%s", error)
            self._published = wanted
        failed = self._unpublished
        return wanted._replace(
            resources={
                resource: {
                    id: replace(unit, reason=unit.reason or failed[id]) if id in failed else unit
                    for id, unit in units.items()
                }
                for resource, units in wanted.resources.items()
            },
        )

    async def _apply(self, wanted: Inventory) -> None:
        change = difference(self.inventory, wanted)
        _tell(self.inventory, wanted)
        before, self.inventory = self.inventory, wanted
        for resource in change.removed:
            await self._withdraw(resource, gone=True)
        for resource in change.updated:
            if resource in self._offered:
                self._offered[resource].server.update(wanted.resources[resource])
        for resource in wanted.resources:
            if resource not in self._offered:
                try:
                    self._offer(resource, wanted.resources[resource])
                except Exception as error:  # its name leaves no room for a socket; the others are offered
                    if resource not in before.resources:
                        log.error("%s can't be offered: %s", resource, error)

    def _offer(self, resource: str, units: Mapping[str, Unit]) -> None:
        server = ResourceServer(resource, self._kubelet.folder, self._work, self._metrics)
        server.update(units)
        registration = Registration(self._kubelet, server, self._metrics)
        self._offered[resource] = Offered(server, registration, asyncio.create_task(registration.run()))

    async def _withdraw(self, resource: str, *, gone: bool = False, grace: float = GRACE_SECONDS) -> None:
        offered = self._offered.pop(resource)
        offered.task.cancel()
        await asyncio.gather(offered.task, return_exceptions=True)
        if offered.server.serving:
            await offered.server.stop(gone=gone, grace=grace)


def all_units(inventory: Inventory) -> Iterator[Unit]:
    """Give the units of all resources."""
    for units in inventory.resources.values():
        yield from units.values()


def _tell(before: Inventory, now: Inventory) -> None:
    """Log what has changed."""
    for skip in now.skipped:
        if skip not in before.skipped:
            log.warning("Not offered: %s: %s", skip.address, skip.reason, extra={"board": skip.address})
    for resource in {**before.resources, **now.resources}:
        old, new = before.resources.get(resource, {}), now.resources.get(resource, {})
        for id in {**old, **new}:
            extra = {"resource": resource, "unit": id}
            if id not in new:
                log.info("Gone: %s", id, extra=extra)
            elif id not in old:
                log.info("Offered: %s%s", id, f" (unhealthy: {new[id].reason})" if new[id].reason else "", extra=extra)
            elif new[id].reason != old[id].reason:
                level = logging.WARNING if new[id].reason else logging.INFO
                log.log(level, "%s: %s", id, new[id].reason or "healthy again", extra=extra)
