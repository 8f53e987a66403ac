# SPDX-License-Identifier: Apache-2.0
"""What Prometheus reads, in its text format.

Not by prometheus_client, as the webhook's: that costs 4 MiB and 0.1 s on every node, and the format is lines of text.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeAlias

from fpgahal.k8s.plugin.unit import Inventory

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_COUNTED = {
    "registrations": "Registrations with kubelet, by result.",
    "allocate": "Calls of Allocate, by result.",
    "prefer": "Calls of GetPreferredAllocation, by result.",
    "prestart": "Calls of PreStartContainer, by result.",
    "units_allocated": "Units that containers were given; when they give them back kubelet alone knows.",
    "scans": "Scans for boards, by result.",
}
_TIMED = {
    "allocate_seconds": "Time for Allocate.",
    "prefer_seconds": "Time for GetPreferredAllocation.",
    "prestart_seconds": "Time for PreStartContainer: verifying, and programming where need be.",
    "scan_seconds": "Time for a scan.",
}

Labels: TypeAlias = tuple[tuple[str, str], ...]
Sample: TypeAlias = tuple[str, Labels, float]  # what follows the name, labels, value


class Metrics:
    """Counts what happens; what *is*, it asks when somebody reads.

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
        self.streams: Callable[[], Mapping[str, int]] = dict
        self.mode: Callable[[], str] = str
        self._counts: defaultdict[str, Counter[Labels]] = defaultdict(Counter)
        self._seconds: defaultdict[str, defaultdict[Labels, list[float]]] = defaultdict(
            lambda: defaultdict(lambda: [0, 0.0])  # number, sum
        )

    def registered(self, resource: str, result: str) -> None:
        """Count a registration: ``"ok"`` or ``"failed"``."""
        self._counts["registrations"][("resource", resource), ("result", result)] += 1

    def called(self, method: str, resource: str, result: str, seconds: float) -> None:
        """Count a call of kubelet's: allocate, prefer or prestart; `result` is ``"ok"`` or the gRPC code."""
        self._counts[method][("resource", resource), ("result", result)] += 1
        self._time(f"{method}_seconds", (("resource", resource),), seconds)

    def allocated(self, resource: str, number: int) -> None:
        """Count units that were handed out."""
        self._counts["units_allocated"][(("resource", resource),)] += number

    def scanned(self, result: str, seconds: float) -> None:
        """Count a scan: ``"ok"`` or ``"failed"``."""
        self._counts["scans"][(("result", result),)] += 1
        self._time("scan_seconds", (), seconds)

    def text(self) -> bytes:
        """Give all metrics."""
        return "".join(self._families()).encode()

    def _time(self, name: str, labels: Labels, seconds: float) -> None:
        known = self._seconds[name][labels]
        known[0] += 1
        known[1] += seconds

    def _families(self) -> Iterator[str]:
        inventory = self.inventory()
        units: list[Sample] = []
        for resource, offered in inventory.resources.items():
            well = sum(unit.healthy for unit in offered.values())
            for healthy, count in (("true", well), ("false", len(offered) - well)):
                units.append(("", (("resource", resource), ("healthy", healthy)), count))
        streams = [("", (("resource", resource),), number) for resource, number in self.streams().items()]
        yield _family("units", "gauge", "Units that are offered.", units)
        yield _family("skipped", "gauge", "Boards that are not offered.", [("", (), len(inventory.skipped))])
        yield _family("streams", "gauge", "1 if kubelet follows the resource's list.", streams)
        yield _family("mode", "gauge", "The mode, as a label.", [("", (("mode", self.mode()),), 1)])
        for name, help in _COUNTED.items():
            counts = self._counts[name].items()
            yield _family(f"{name}_total", "counter", help, [("", labels, number) for labels, number in counts])
        for name, help in _TIMED.items():
            samples: list[Sample] = []
            for labels, (number, total) in self._seconds[name].items():
                samples += [("_count", labels, number), ("_sum", labels, total)]
            yield _family(name, "summary", help, samples)


def _family(name: str, kind: str, help: str, samples: Iterable[Sample]) -> str:
    name = f"fpgahal_plugin_{name}"
    lines = [f"# HELP {name} {help}", f"# TYPE {name} {kind}"]
    for suffix, labels, value in samples:
        inner = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels)
        lines.append(f"{name}{suffix}{f'{{{inner}}}' if inner else ''} {value}")
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
