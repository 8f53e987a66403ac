# SPDX-License-Identifier: Apache-2.0
"""A boards' side for tests: offers what the test says, fails how the test says; and the plugin's loop in a thread."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

from fake_kubelet import FakeKubelet

from fpgahal import DeviceInfo, DeviceStateError, FpgaError
from fpgahal.k8s.plugin.allocation import Allocation
from fpgahal.k8s.plugin.kubelet import Kubelet
from fpgahal.k8s.plugin.metrics import Metrics
from fpgahal.k8s.plugin.node import Node
from fpgahal.k8s.plugin.unit import DeviceNode, Inventory, Skipped, Unit

T = TypeVar("T")
U250 = "fpgahal.dev/u250"
PAC = "fpgahal.dev/pac-a10"


def unit(number: int, resource: str = U250, *, reason: str = "", numa: int = 0, **more: Any) -> Unit:
    """A unit of one board; the number makes its address."""
    bdf = f"0000:{number:02x}:00.0"
    node = f"/dev/dri/renderD{number + 128}"
    return Unit(bdf, resource, (DeviceInfo(bdf),), reason, (DeviceNode(node, node),), numa_nodes=(numa,), **more)


def inventory(*units: Unit, skipped: Sequence[Skipped] = ()) -> Inventory:
    resources: dict[str, dict[str, Unit]] = {}
    for one in units:
        resources.setdefault(one.resource, {})[one.id] = one
    return Inventory(resources, tuple(skipped))


class FakeWork:
    """See `fpgahal.k8s.plugin.work.Work`."""

    def __init__(self, *units: Unit, prestart: bool = False, cdi: bool = False) -> None:
        self.found = inventory(*units)
        self.prestart = prestart
        self.cdi = cdi
        self.scans = 0
        self.broken: Exception | None = None  # what scan raises
        self.hang = threading.Event()  # cleared: scans hang
        self.hang.set()
        self.unwritable: dict[str, str] = {}  # unit id -> why publish fails
        self.kept: list[str] = []  # what `retract` left
        self.prepared: list[tuple[list[str], float]] = []
        self.preparing: Callable[[Sequence[Unit]], Any] | None = None  # coroutine function
        self.cancelled = 0
        self.allocating: Callable[[Sequence[Unit]], None] = lambda units: None

    def scan(self) -> Inventory:
        self.scans += 1
        assert self.hang.wait(30)
        if self.broken is not None:
            raise self.broken
        return self.found

    def publish(self, units: Iterable[Unit]) -> Mapping[str, str]:
        return {one.id: self.unwritable[one.id] for one in units if one.id in self.unwritable}

    def retract(self, units: Iterable[Unit]) -> None:
        self.kept = [one.id for one in units]

    def allocate(self, units: Sequence[Unit]) -> Allocation:
        self.allocating(units)
        for one in units:
            if not one.healthy:
                raise DeviceStateError(f"Device {one.id} can't be used now: {one.reason}.")
        boards = ",".join(info.address for one in units for info in one.slots)
        return Allocation(
            {"FPGAHAL_VISIBLE_DEVICES": boards},
            {"note": "value"},
            (),
            tuple(node for one in units for node in one.nodes),
            tuple(f"fpgahal.dev/fpga={one.id}" for one in units) if self.cdi else (),
        )

    async def prefer(self, resource: str, available: Sequence[Unit], must: Sequence[Unit], size: int) -> list[str]:
        return sorted((one.id for one in available), reverse=True)[:size]

    async def prepare(self, units: Sequence[Unit], seconds: float) -> None:
        self.prepared.append((sorted(one.id for one in units), seconds))
        if self.preparing is not None:
            try:
                await self.preparing(units)
            except asyncio.CancelledError:
                self.cancelled += 1
                raise

    def break_down(self, number: int, why: str = "on fire") -> None:
        """Make a unit that is found unhealthy; an empty reason makes it healthy."""
        units = [one for units in self.found.resources.values() for one in units.values()]
        bdf = unit(number).id
        self.found = inventory(*(replace(one, reason=why) if one.id == bdf else one for one in units))


class Running:
    """A Node that runs in a thread."""

    def __init__(self, kubelet: FakeKubelet, work: Any, **options: float) -> None:
        self.metrics = Metrics()
        self.work = work
        self._kubelet, self._options = kubelet, options
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)
        self._started = threading.Event()
        self._failure: BaseException | None = None

    def start(self) -> None:
        self._thread.start()
        assert self._started.wait(10)

    def call(self, function: Callable[[], T]) -> T:
        """Call something in the plugin's loop."""

        async def run() -> T:
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(10)

    def find(self, *units: Unit, skipped: Sequence[Skipped] = ()) -> None:
        """Change what is found, and have it looked at."""
        self.work.found = inventory(*units, skipped=skipped)
        self.look()

    def look(self) -> None:
        """Return when the boards have been looked at once more: by a scan that begins from now on."""
        scans = self.work.scans
        self.call(self.node.wake)
        until(lambda: self.node.turns > scans)

    def stop(self) -> None:
        if self._thread.is_alive():
            self.loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(10)
        assert not self._thread.is_alive()
        if self._failure is not None:
            raise self._failure

    async def _main(self) -> None:
        self._stop, self.loop = asyncio.Event(), asyncio.get_running_loop()
        self.node = Node(Kubelet(self._kubelet.root), self.work, self.metrics, **self._options)
        task = asyncio.create_task(self.node.run())
        self._started.set()
        await self._stop.wait()
        if task.done():
            self._failure = task.exception() or AssertionError("the loop ended")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await self.node.close()


@contextmanager
def offering(kubelet: FakeKubelet, work: Any, **options: float) -> Iterator[Running]:
    """Run the plugin's loop with this boards' side until the end of the block."""
    running = Running(kubelet, work, **options)
    running.start()
    try:
        yield running
    finally:
        running.stop()


def until(condition: Callable[[], T], seconds: float = 10.0) -> T:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


class Refusal(FpgaError, ValueError):
    """What a board's side may raise."""
