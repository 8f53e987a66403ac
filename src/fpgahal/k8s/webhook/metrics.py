# SPDX-License-Identifier: Apache-2.0
"""What Prometheus reads."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fpgahal.k8s.webhook.certificate import Certificate
from fpgahal.k8s.webhook.resources import Kind
from fpgahal.k8s.webhook.watch import Watch


class Metrics(Collector):
    """Counts reviews; the rest is asked of `watch` and `certificate` when somebody reads."""

    content_type = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self, watch: Watch, certificate: Certificate) -> None:
        self._watch, self._certificate = watch, certificate
        self._registry = CollectorRegistry()
        self._reviews = Counter(
            "fpgahal_webhook_reviews", "Pods reviewed, by result.", ["result"], registry=self._registry
        )
        for result in ("allowed", "patched", "denied"):
            self._reviews.labels(result)
        self._seconds = Histogram(
            "fpgahal_webhook_review_seconds",
            "Time for a review, its body read.",
            buckets=[0.0001 * 2**n for n in range(12)],
            registry=self._registry,
        )
        self._registry.register(self)

    def reviewed(self, result: str, seconds: float) -> None:
        """Count one review."""
        self._reviews.labels(result).inc()
        self._seconds.observe(seconds)

    def text(self) -> bytes:
        """Give all metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Read what others count."""
        table = self._watch.table
        tables = [table.namespace(namespace) for namespace in table.namespaces()]
        yield GaugeMetricFamily("fpgahal_webhook_synced", "1 if both kinds were listed.", value=self._watch.synced)
        yield GaugeMetricFamily(
            "fpgahal_webhook_mappings", "Names that pods may use.", value=sum(len(t.targets) for t in tables)
        )
        yield GaugeMetricFamily(
            "fpgahal_webhook_broken", "Names that can't be used.", value=sum(len(t.broken) for t in tables)
        )
        restarts = CounterMetricFamily(
            "fpgahal_webhook_watch_restarts", "Lists and watches that failed and were begun again.", labels=["kind"]
        )
        for kind in Kind:
            restarts.add_metric([kind.value], self._watch.restarts[kind])
        yield restarts
        renewals = CounterMetricFamily(
            "fpgahal_webhook_certificate_renewals", "New certificate files, by result.", labels=["result"]
        )
        renewals.add_metric(["taken"], self._certificate.renewals)
        renewals.add_metric(["unsound"], self._certificate.failures)
        yield renewals
