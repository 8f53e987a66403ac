# SPDX-License-Identifier: Apache-2.0
"""A fake API server that has nodes (list and watch of one by field selector) and pods.  It runs in its own thread."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Mapping
from typing import Any

from aiohttp import web


class FakeNodes:
    """Use it in ``with``; every method may be called from any thread."""

    def __init__(self, **annotations: Mapping[str, str]) -> None:
        self.nodes = {name: self._node(name, dict(found), 1) for name, found in annotations.items()}
        self.pods: dict[tuple[str, str], dict[str, str]] = {}  # (namespace, name) -> variables of container main
        self.pending: list[dict[str, Any]] = []  # pods that are bound to a node and have no container yet
        self.asked: list[str] = []  # field selectors of pods
        self.version = 1
        self.events: list[tuple[int, dict[str, Any]]] = []
        self.refuse = 0  # HTTP status for all requests
        self.gone = 0  # how many of the next watches get 410
        self.lists = self.watches = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._ready, self._stop, self._news = threading.Event(), asyncio.Event(), asyncio.Event()

    def annotate(self, name: str, annotations: Mapping[str, str]) -> None:
        """Replace a node's annotations."""

        async def change() -> None:
            self.version += 1
            self.nodes[name] = self._node(name, dict(annotations), self.version)
            self.events.append((self.version, {"type": "MODIFIED", "object": self.nodes[name]}))
            self._news.set()
            self._news = asyncio.Event()

        asyncio.run_coroutine_threadsafe(change(), self._loop).result(10)

    def __enter__(self) -> FakeNodes:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    @staticmethod
    def _node(name: str, annotations: dict[str, str], version: int) -> dict[str, Any]:
        return {"metadata": {"name": name, "annotations": annotations, "resourceVersion": str(version)}}

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        app = web.Application()
        app.router.add_get("/api/v1/nodes", self._answer)
        app.router.add_get("/api/v1/pods", self._pods)
        app.router.add_get("/api/v1/namespaces/{ns}/pods/{name}", self._pod)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        self._ready.set()
        await self._stop.wait()
        self._news.set()
        await runner.cleanup()

    async def _pods(self, request: web.Request) -> web.Response:
        self.asked.append(request.query["fieldSelector"])
        if self.refuse:
            return web.json_response({"message": "refused"}, status=self.refuse)
        return web.json_response({"items": self.pending})

    async def _pod(self, request: web.Request) -> web.Response:
        env = self.pods.get((request.match_info["ns"], request.match_info["name"]))
        if env is None:
            return web.json_response({"message": "not found"}, status=404)
        container = {"name": "main", "env": [{"name": name, "value": value} for name, value in env.items()]}
        return web.json_response({"metadata": dict(request.match_info), "spec": {"containers": [container]}})

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        field, _, name = request.query["fieldSelector"].partition("=")
        assert field == "metadata.name"
        if self.refuse:
            return web.json_response({"message": "refused"}, status=self.refuse)
        if request.query.get("watch") != "1":
            self.lists += 1
            items = [node for own, node in self.nodes.items() if own == name]
            return web.json_response({"metadata": {"resourceVersion": str(self.version)}, "items": items})
        self.watches += 1
        if self.gone:
            self.gone -= 1
            return web.json_response({"message": "too old"}, status=410)
        version = int(request.query["resourceVersion"])
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        while not self._stop.is_set():
            news = self._news
            for number, event in self.events:
                if number > version and event["object"]["metadata"]["name"] == name:
                    version = number
                    await response.write(json.dumps(event).encode() + b"\n")
            await news.wait()
        return response
