# SPDX-License-Identifier: Apache-2.0
"""/healthz, /readyz and /metrics, over HTTP."""

from __future__ import annotations

import time

from aiohttp import web

from fpgahal.k8s.plugin.metrics import CONTENT_TYPE, Metrics
from fpgahal.k8s.plugin.node import SCAN_SECONDS, Node


class Status:
    """What a probe is told.

    Parameters
    ----------
    node : Node
    metrics : Metrics
    turn_seconds : float
        How often the node looks at its boards.
    """

    def __init__(self, node: Node, metrics: Metrics, turn_seconds: float) -> None:
        self._node, self._metrics = node, metrics
        self._longest = 3 * (turn_seconds + SCAN_SECONDS)
        self._turns = (-1, time.monotonic())  # and when that number was first seen

    def app(self) -> web.Application:
        """Give the application."""
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._show_metrics)
        return app

    async def _healthz(self, _: web.Request) -> web.Response:
        now = time.monotonic()
        if self._node.standby or self._node.turns != self._turns[0]:
            self._turns = self._node.turns, now
        if now - self._turns[1] > self._longest:
            return _no("The boards are not looked at any more.")
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        if self._node.closing:
            return _no("stopping")
        if self._node.standby:  # ready to take over: a rolling update waits for this before it ends the old instance
            return web.Response(text="ok: standby\n")
        if not self._node.turns:
            return _no("The boards have not been looked at yet.")
        waiting = self._node.unregistered()
        if waiting:
            return _no(f"Not registered with kubelet: {', '.join(waiting)}.")
        return web.Response(text="ok\n")

    async def _show_metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=self._metrics.text(), headers={"Content-Type": CONTENT_TYPE})


def _no(why: str) -> web.Response:
    return web.Response(status=503, text=f"{why}\n")
