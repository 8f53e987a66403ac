# SPDX-License-Identifier: Apache-2.0
"""The HTTP side: reviews over TLS on one port, health and metrics without it on another."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from fpgahal.k8s.api import Api
from fpgahal.k8s.names import af_resource, af_resource_2018
from fpgahal.k8s.webhook.accelerators import PREFIX, described
from fpgahal.k8s.webhook.boards import Boards
from fpgahal.k8s.webhook.certificate import Certificate
from fpgahal.k8s.webhook.metrics import Metrics
from fpgahal.k8s.webhook.review import NOWHERE, decide_body
from fpgahal.k8s.webhook.table import Naming, Table
from fpgahal.k8s.webhook.watch import Watch

MAX_BODY = 8 << 20  # bytes; the API server itself takes 3 MiB

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command line says.

    Attributes
    ----------
    certificate, key : Path
        PEM files.
    host : str
        Where to listen.
    port : int
        For reviews, with TLS; 0 takes a free one.
    status_port : int
        For /healthz, /readyz and /metrics, without TLS; 0 takes a free one.
    names_of_2018 : bool
        The nodes' plugins name functions by the AFU id alone.
    reload_seconds : float
        Between looks at the certificate's files.
    drain_seconds : float
        How long to go on serving after SIGTERM, while the Service still sends requests.
    catalogue : Path or None
        Images for pods that ask for accelerators.
    look_seconds : float
        How long to believe what was seen of nodes and pods; 0: don't look at them.
    """

    certificate: Path
    key: Path
    host: str = "0.0.0.0"
    port: int = 9443
    status_port: int = 8080
    names_of_2018: bool = False
    reload_seconds: float = 5.0
    drain_seconds: float = 5.0
    catalogue: Path | None = None
    look_seconds: float = 2.0


class Server:
    """Answers reviews from a table; `watch` says whether the table can be trusted, `boards` what is free."""

    def __init__(self, watch: Watch, metrics: Metrics, boards: Boards | None = None) -> None:
        self._watch, self._metrics, self._boards = watch, metrics, boards
        self.stopping = False

    def reviews(self) -> web.Application:
        """Give the application of the port with TLS."""
        app = web.Application(client_max_size=MAX_BODY)
        app.router.add_post("/pods", self._review)
        return app

    def status(self) -> web.Application:
        """Give the application of the port without."""
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._show_metrics)
        return app

    async def _review(self, request: web.Request) -> web.Response:
        begin = time.perf_counter()
        if request.content_type != "application/json":
            return _refuse(400, "Content-Type: application/json was expected.")
        body = await request.read()
        if not body:
            return _refuse(400, "The body is empty: an AdmissionReview was expected.")
        if not self._watch.synced:
            return _refuse(503, "The namespaces' tables are not known yet: try again.")
        cluster = NOWHERE
        if self._boards is not None and PREFIX.rstrip("/").encode() in body:  # "/" may be escaped
            cluster = await self._boards.cluster()
        decision = decide_body(body, self._watch.table, cluster)
        if decision.plan is not None:
            if self._boards is not None and not decision.dry_run:
                self._boards.reserve(decision.plan)
            log.info("Planned: %s", described(decision.plan), extra={"namespace": decision.namespace})
        self._metrics.reviewed(decision.result, time.perf_counter() - begin)
        if decision.denied:
            log.info("Denied: %s", decision.denied, extra={"uid": decision.uid, "namespace": decision.namespace})
        return web.Response(text=json.dumps(decision.document()), content_type="application/json")

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        if self.stopping:
            return _refuse(503, "stopping")
        if not self._watch.synced:
            return _refuse(503, "The AcceleratorFunctions and FpgaRegions are not known yet.")
        return web.Response(text="ok\n")

    async def _show_metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=self._metrics.text(), headers={"Content-Type": self._metrics.content_type})


def _refuse(status: int, why: str) -> web.Response:
    return web.Response(status=status, text=f"{why}\n")


async def serve(settings: Settings, api: Api, started: Callable[[int, int], None] | None = None) -> None:
    """Serve until SIGTERM or SIGINT; a second one ends the waiting.

    Parameters
    ----------
    settings : Settings
    api : Api
        Not yet open.
    started : callable, optional
        Called with the two ports when both listen.

    Raises
    ------
    CertificateError
        The certificate's files can't be used.
    CatalogueError
        The catalogue can't be used.
    OSError
        A port is taken.
    """
    certificate = Certificate(settings.certificate, settings.key)
    stop, stop_now = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (stop_now if stop.is_set() else stop).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    async with api:
        naming: Naming = (lambda _, afu_id: af_resource_2018(afu_id)) if settings.names_of_2018 else af_resource
        watch = Watch(api, Table(naming))
        boards = None
        if settings.catalogue is not None:
            boards = Boards(api, watch.table, settings.catalogue, settings.look_seconds)
        server = Server(watch, Metrics(watch, certificate), boards)
        reviews, status = (
            web.AppRunner(app, access_log=None, shutdown_timeout=10.0) for app in (server.reviews(), server.status())
        )
        tasks = [asyncio.create_task(watch.run()), asyncio.create_task(certificate.follow(settings.reload_seconds))]
        if boards is not None:
            tasks.append(asyncio.create_task(boards.follow(settings.reload_seconds)))
        try:
            for runner, port, context in (
                (reviews, settings.port, certificate.context),
                (status, settings.status_port, None),
            ):
                await runner.setup()
                await web.TCPSite(runner, settings.host, port, ssl_context=context).start()
            ports = reviews.addresses[0][1], status.addresses[0][1]
            log.info("Serving", extra={"port": ports[0], "status_port": ports[1]})
            if started is not None:
                started(*ports)
            await _first(asyncio.create_task(stop.wait()), *tasks)
            server.stopping = True
            log.info("Stopping", extra={"drain_seconds": settings.drain_seconds})
            await asyncio.wait([asyncio.create_task(stop_now.wait())], timeout=settings.drain_seconds)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for runner in (reviews, status):
                await runner.cleanup()


async def _first(*tasks: asyncio.Task[object]) -> None:
    """Wait for the first to end, and raise what it raised."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()
