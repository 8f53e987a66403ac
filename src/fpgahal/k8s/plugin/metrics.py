# SPDX-License-Identifier: Apache-2.0
"""What Prometheus reads.

Counts are kept in plain dictionaries, and turned into Prometheus' text when somebody asks for it: the plugin registers
before it imports what it does not need for that.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from fpgahal.k8s.plugin.unit import Inventory

if TYPE_CHECKING:
    from prometheus_client.core import Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Counts what happens; what *is*, it asks `inventory` and `streams`.

    Attributes
    ----------
    inventory : callable
        Gives what is offered now.
    streams : callable
        Gives resource -> number of streams that kubelet reads.
    mode : callable
        Gives the mode.
    """

    def __init__(self) -> None:
        self.inventory: Callable[[], Inventory] = Inventory
        self.streams: Callable[[], dict[str, int]] = dict
        self.mode: Callable[[], str] = str
        self._counts: Counter[tuple[str, str, str]] = Counter()  # name, resource, result
        self._seconds: defaultdict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0.0])  # count, sum
        self._allocated: Counter[tuple[str, str]] = Counter()

    def registered(self, resource: str, result: str) -> None:
        """Count a registration: ``"ok"`` or ``"failed"``."""
        self._counts["fpgahal_plugin_registrations", resource, result] += 1

    def called(self, method: str, resource: str, result: str, seconds: float) -> None:
        """Count a call of kubelet's; `result` is ``"ok"`` or the gRPC code."""
        self._counts[f"fpgahal_plugin_{method}", resource, result] += 1
        self._time(f"fpgahal_plugin_{method}_seconds", resource, seconds)

    def allocated(self, resource: str, number: int) -> None:
        """Count units that were handed out; kubelet alone knows when a container gives them back."""
        self._counts["fpgahal_plugin_units_allocated", resource, ""] += number

    def scanned(self, result: str, seconds: float) -> None:
        """Count a scan: ``"ok"`` or ``"failed"``."""
        self._counts["fpgahal_plugin_scans", "", result] += 1
        self._time("fpgahal_plugin_scan_seconds", "", seconds)

    def text(self) -> bytes:
        """Give all metrics in Prometheus' text format."""
        from prometheus_client import CollectorRegistry, generate_latest

        registry = CollectorRegistry()
        registry.register(_Collected(self))
        return generate_latest(registry)

    def _time(self, name: str, resource: str, seconds: float) -> None:
        counted = self._seconds[name, resource]
        counted[0] += 1
        counted[1] += seconds


_HELP = {
    "fpgahal_plugin_registrations": "Registrations with kubelet, by result.",
    "fpgahal_plugin_allocate": "Calls of Allocate, by result.",
    "fpgahal_plugin_allocate_seconds": "Time for Allocate.",
    "fpgahal_plugin_prefer": "Calls of GetPreferredAllocation, by result.",
    "fpgahal_plugin_prefer_seconds": "Time for GetPreferredAllocation.",
    "fpgahal_plugin_prestart": "Calls of PreStartContainer, by result.",
    "fpgahal_plugin_prestart_seconds": "Time for PreStartContainer: verifying, and programming where need be.",
    "fpgahal_plugin_units_allocated": "Units that containers were given.",
    "fpgahal_plugin_scans": "Scans for boards, by result.",
    "fpgahal_plugin_scan_seconds": "Time for a scan.",
}


class _Collected:
    """The metrics as prometheus_client wants them."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily

        metrics = self._metrics
        inventory = metrics.inventory()
        units = GaugeMetricFamily("fpgahal_plugin_units", "Units that are offered.", labels=["resource", "healthy"])
        for resource, offered in inventory.resources.items():
            well = sum(unit.healthy for unit in offered.values())
            units.add_metric([resource, "true"], well)
            units.add_metric([resource, "false"], len(offered) - well)
        yield units
        yield GaugeMetricFamily("fpgahal_plugin_skipped", "Boards that are not offered.", value=len(inventory.skipped))
        streams = GaugeMetricFamily(
            "fpgahal_plugin_streams", "1 if kubelet follows the resource's list.", labels=["resource"]
        )
        for resource, number in metrics.streams().items():
            streams.add_metric([resource], number)
        yield streams
        mode = GaugeMetricFamily("fpgahal_plugin_mode", "The mode, as a label.", labels=["mode"])
        mode.add_metric([metrics.mode()], 1)
        yield mode
        counters: dict[str, CounterMetricFamily] = {}
        for (name, resource, result), number in sorted(metrics._counts.items()):
            labels = {"resource": resource, "result": result}
            labels = {label: value for label, value in labels.items() if value}
            if name not in counters:
                counters[name] = CounterMetricFamily(name, _HELP[name], labels=list(labels))
            counters[name].add_metric(list(labels.values()), number)
        yield from counters.values()
        summaries: dict[str, SummaryMetricFamily] = {}
        for (name, resource), (count, total) in sorted(metrics._seconds.items()):
            if name not in summaries:
                summaries[name] = SummaryMetricFamily(name, _HELP[name], labels=["resource"] if resource else [])
            summaries[name].add_metric([resource] if resource else [], int(count), total)
        yield from summaries.values()
