# SPDX-License-Identifier: Apache-2.0
"""/metrics for Prometheus, and /healthz, over HTTP.

Nothing is counted here: a scrape asks the thread that reads from clients for a report, and puts that into
Prometheus' words, so that requests do not pay for it.
"""

from __future__ import annotations

import http.server
import logging
import socket
import threading
from collections.abc import Iterable, Iterator
from queue import Empty, SimpleQueue
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

import fpgahal
from fpgahal import DeviceInfo, FpgaError
from fpgahal.manager.sensors import readings
from fpgahal.manager.server import Server

_PATIENCE = 2.0  # seconds that the thread that reads from clients may take
_PREFIX = "fpgahal_manager"
_LOG = logging.getLogger(__name__)


class Stuck(Exception):
    """The manager does not answer."""


class Metrics(Collector):
    """What Prometheus reads.

    Parameters
    ----------
    server : Server
    devices : sequence of DeviceInfo
        For their sensors.
    """

    def __init__(self, server: Server, devices: Iterable[DeviceInfo]) -> None:
        self._server = server
        self._devices = tuple(devices)

    def status(self) -> dict[str, Any]:
        """Ask the thread that reads from clients.

        Raises
        ------
        Stuck
        """
        answer: SimpleQueue[dict[str, Any]] = SimpleQueue()
        self._server.call(lambda: answer.put(self._server.status()))
        try:
            return answer.get(timeout=_PATIENCE)
        except Empty:
            raise Stuck(f"The manager has not looked at its clients for {_PATIENCE:g} s.") from None

    def collect(self) -> Iterator[Metric]:
        """Give all families."""
        status = self.status()
        yield InfoMetricFamily(_PREFIX, "The manager.", {"version": fpgahal.__version__})
        yield from self._boards(status["boards"])
        for key, name, help in (
            ("waited", "queue_wait_seconds", "From a request's arrival until a board began it."),
            ("ran", "run_seconds", "Board time of a run, which may be of many requests."),
        ):
            family = HistogramMetricFamily(f"{_PREFIX}_{name}", help, labels=["accelerator"])
            for accelerator, figures in status["figures"].items():
                bins = _cumulative(status["bounds"], figures[key]["counts"])
                family.add_metric([accelerator], bins, figures[key]["sum"])
            yield family
        yield _labelled(CounterMetricFamily, "requests", "Requests that ended, by outcome.", "outcome", status["ended"])
        yield _labelled(GaugeMetricFamily, "waiting", "Requests that wait.", "accelerator", status["waiting"])
        yield GaugeMetricFamily(f"{_PREFIX}_requests_live", "Requests that wait or run.", status["requests"])
        yield GaugeMetricFamily(f"{_PREFIX}_clients", "Connections.", status["connections"])
        users = {str(user["user"]): user for user in status["users"]}
        for key, name, help in (
            ("bytes_moved", "bytes_moved", "Bytes of the arrays of requests that were accepted."),
            ("board_seconds", "board_seconds", "Board time that users have had, reloads for them included."),
        ):
            values = {uid: user[key] for uid, user in users.items()}
            yield _labelled(CounterMetricFamily, name, help, "user", values)
        accounts = {str(account["user"]): account for account in status["accounts"]}
        for key, name, help in (
            ("buffers", "buffers", "Buffers that are registered."),
            ("memory", "memory_bytes", "Bytes of the buffers that are registered."),
        ):
            values = {uid: account[key] for uid, account in accounts.items()}
            yield _labelled(GaugeMetricFamily, name, help, "user", values)

    def _boards(self, boards: list[dict[str, Any]]) -> Iterator[Metric]:
        by_address = {board["address"]: board for board in boards}
        for key, kind, name, help in (
            ("up", GaugeMetricFamily, "board_up", "1 if the board answers."),
            ("cordoned", GaugeMetricFamily, "board_cordoned", "1 if it gets no requests."),
            ("resting_seconds", GaugeMetricFamily, "board_resting_seconds", "Until it is tried again."),
            ("busy_seconds", CounterMetricFamily, "board_busy_seconds", "Time for which it ran."),
            ("reloads", CounterMetricFamily, "board_reconfigurations", "Images that it was given."),
        ):
            values = {address: float(board[key]) for address, board in by_address.items()}
            yield _labelled(kind, name, help, "board", values)
        about = GaugeMetricFamily(
            f"{_PREFIX}_board_info", "1.", labels=["board", "name", "emulated", "state", "loaded"]
        )
        for board in boards:
            emulated = str(board["emulated"]).lower()
            about.add_metric([board["address"], board["name"], emulated, board["state"], board["loaded"] or ""], 1)
        yield about
        families = {
            "temp": GaugeMetricFamily(
                f"{_PREFIX}_board_temperature_celsius", "As hwmon has it.", labels=["board", "sensor"]
            ),
            "power": GaugeMetricFamily(f"{_PREFIX}_board_power_watts", "As hwmon has it.", labels=["board", "sensor"]),
        }
        for info in self._devices:
            for reading in readings(info):
                families[reading.kind].add_metric([info.address, reading.sensor], reading.value)
        yield from families.values()


def _cumulative(bounds: list[float], counts: list[int]) -> list[tuple[str, float]]:
    bins, total = [], 0
    for bound, count in zip([*map(repr, bounds), "+Inf"], counts, strict=True):
        total += count
        bins.append((bound, float(total)))
    return bins


def _labelled(
    kind: type[CounterMetricFamily | GaugeMetricFamily], name: str, help: str, label: str, values: dict[str, float]
) -> Metric:
    family = kind(f"{_PREFIX}_{name}", help, labels=[label])
    for value, number in values.items():
        family.add_metric([value], number)
    return family


class Endpoint:
    """The HTTP server, in threads of its own.

    Parameters
    ----------
    address : tuple
        Host and port; port 0 takes a free one.
    metrics : Metrics

    Attributes
    ----------
    url : str
        Where it is.

    Raises
    ------
    FpgaError
        Somebody else has the port, or there is no such address.
    """

    def __init__(self, address: tuple[str, int], metrics: Metrics) -> None:
        registry = CollectorRegistry(auto_describe=False)

        class Handler(http.server.BaseHTTPRequestHandler):
            timeout = 5.0  # who says nothing does not keep a thread

            def do_GET(self) -> None:
                try:
                    if self.path == "/healthz":
                        metrics.status()
                        self._answer(200, b"ok\n")
                    elif self.path.partition("?")[0] == "/metrics":
                        self._answer(200, generate_latest(registry), CONTENT_TYPE_PLAIN_0_0_4)
                    else:
                        self._answer(404, b"There are /metrics and /healthz.\n")
                except Stuck as error:
                    self._answer(503, f"{error}\n".encode())

            def _answer(self, code: int, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
                self.send_response(code)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                _LOG.debug(format % args)

        class Listener(http.server.ThreadingHTTPServer):
            address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET

            def handle_error(self, request: object, client_address: object) -> None:
                _LOG.debug("a scrape was not answered", exc_info=True)  # who asked has gone

        try:
            self._http = Listener(address, Handler)
        except OSError as error:
            raise FpgaError(
                f"{address[0]}:{address[1]}: can't listen there: {error.strerror or error}.",
                hint="Name another port with --metrics.",
            ) from error
        registry.register(metrics)
        host = f"[{address[0]}]" if ":" in address[0] else address[0]
        self.url = f"http://{host}:{self._http.server_address[1]}/metrics"
        threading.Thread(target=self._http.serve_forever, name="metrics", daemon=True).start()

    def close(self) -> None:
        """Stop."""
        self._http.shutdown()
        self._http.server_close()


__all__ = ["Endpoint", "Metrics"]
