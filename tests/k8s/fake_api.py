# SPDX-License-Identifier: Apache-2.0
"""A fake API server: lists, watches and status of custom resources, and the ways in which it fails.

It runs in a thread of its own.  What it keeps of the real one: one counter for resource versions, watches that
begin after a version, BOOKMARK events, 410 Gone for a version that was compacted, streams that end in order or
break off, merge patches of the status.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from aiohttp import web

from fpgahal.k8s.webhook.resources import Kind

T = TypeVar("T")


class FakeApi:
    """Use it in ``with``; every method may be called from any thread."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.objects: dict[tuple[str, str, str], Any] = {}  # plural, namespace, name
        self.events: list[tuple[int, str, str, Any]] = []  # version, type, plural, object
        self.version = 100
        self.compacted = 0  # versions before this are gone
        self.requests: list[tuple[str, str]] = []  # what was asked: method and path with query
        self.tokens: list[str] = []
        self.refuse: dict[str, int] = {}  # method, "WATCH", a kind of `lists`, or an object's name -> status
        self.gone_in_stream = False  # tell 410 as an ERROR event, not as a status
        self.garbage = b""  # sent once in the next stream
        self.told_gone = 0  # how often 410 was answered
        self.lists: dict[str, list[Any]] = {"nodes": [], "pods": []}  # only read
        self._streams: list[tuple[asyncio.Event, web.Request]] = []
        self._changed = asyncio.Event()  # replaced at each event
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._ready, self._stop = threading.Event(), asyncio.Event()

    # --- for tests ----------------------------------------------------------------------------------------------

    def put(self, document: Any) -> None:
        """Create or replace an object, as ``kubectl apply`` does."""
        self._call(lambda: self._put(document))

    def delete(self, document: Any) -> None:
        """Delete an object."""
        self._call(lambda: self._delete(document))

    def condition(self, document: Any) -> Any:
        """Give the one condition of an object; None if there is none."""
        held = self._call(lambda: self.objects.get(_key(document)))
        conditions = ((held or {}).get("status") or {}).get("conditions") or [None]
        assert len(conditions) == 1
        return conditions[0]

    def break_streams(self, *, in_order: bool = False) -> None:
        """End all watches: in order, as after their time, or by closing the connections."""
        self._call(lambda: self._end_streams(in_order))

    def miss(self, *, deleted: Any, created: Any) -> None:
        """Break all watches, change two objects, and forget the history, before anybody is back."""

        def change() -> None:
            self._end_streams(in_order=False)
            self._delete(deleted)
            self._put(created)
            self.version += 1
            self.compacted = self.version

        self._call(change)

    def bookmark(self) -> None:
        """Tell all watches the version that they have reached."""

        def tell() -> None:
            self.version += 1
            for kind in Kind:
                found = {"kind": kind.value, "metadata": {"resourceVersion": str(self.version)}}
                self.events.append((self.version, "BOOKMARK", kind.plural, found))
            self._wake()

        self._call(tell)

    def asked(self, method: str, part: str) -> int:
        """Count requests."""
        return self._call(lambda: sum(m == method and part in path for m, path in self.requests))

    # --- the server -----------------------------------------------------------------------------------------------

    def __enter__(self) -> FakeApi:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self.break_streams(in_order=True)
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _call(self, function: Callable[[], T]) -> T:
        async def run() -> T:
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        app = web.Application()
        self._add_routes(app)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=self._tls).start()
        self.port = runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._ready.set()
        await self._stop.wait()
        await runner.cleanup()

    def _add_routes(self, app: web.Application) -> None:
        app.router.add_get("/apis/fpga.intel.com/v2/{plural}", self._list)
        app.router.add_get("/api/v1/{plural}", self._core)
        app.router.add_patch("/apis/fpga.intel.com/v2/namespaces/{ns}/{plural}/{name}/status", self._status)

    async def _list(self, request: web.Request) -> web.StreamResponse:
        watching = request.query.get("watch") == "1"
        self.requests.append(("WATCH" if watching else "GET", request.path_qs))
        self.tokens.append(request.headers.get("Authorization", ""))
        if status := self.refuse.get("WATCH" if watching else "GET"):
            return _error(status)
        plural = request.match_info["plural"]
        if watching:
            return await self._watch(request, plural, int(request.query["resourceVersion"]))
        items = [held for (kind, *_), held in self.objects.items() if kind == plural]
        return web.json_response({"kind": "List", "metadata": {"resourceVersion": str(self.version)}, "items": items})

    async def _core(self, request: web.Request) -> web.Response:
        plural = request.match_info["plural"]
        self.requests.append(("GET", request.path_qs))
        if status := self.refuse.get(plural):
            return _error(status)
        begin, size = int(request.query.get("continue", "0=").rstrip("=")), int(request.query["limit"])
        more = {"continue": f"{begin + size}="} if begin + size < len(self.lists[plural]) else {}
        items = self.lists[plural][begin : begin + size]
        return web.json_response({"kind": "List", "metadata": {"resourceVersion": "1", **more}, "items": items})

    async def _watch(self, request: web.Request, plural: str, version: int) -> web.StreamResponse:
        self.told_gone += version < self.compacted
        if version < self.compacted and not self.gone_in_stream:
            return _error(410)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        if version < self.compacted:
            gone = {"kind": "Status", "code": 410, "message": "too old resource version"}
            await response.write(_line({"type": "ERROR", "object": gone}))
            return response
        garbage, self.garbage = self.garbage, b""
        if garbage:
            await response.write(garbage)
            return response
        ended = asyncio.Event()
        self._streams.append((ended, request))
        while not ended.is_set():
            for number, kind, of, document in [event for event in self.events if event[0] > version]:
                version = number
                if of == plural:
                    line = _line({"type": kind, "object": document})
                    await response.write(line[:20])  # events do not come in one piece
                    await response.write(line[20:])
            waits = [asyncio.ensure_future(ended.wait()), asyncio.ensure_future(self._changed.wait())]
            _, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for task in pending:
                task.cancel()
        return response

    async def _status(self, request: web.Request) -> web.Response:
        self.requests.append(("PATCH", request.path_qs))
        if status := self.refuse.get("PATCH") or self.refuse.get(request.match_info["name"]):
            return _error(status)
        assert request.content_type == "application/merge-patch+json"
        change = await request.json()
        assert set(change) == {"status"}
        held = self.objects.get((request.match_info["plural"], request.match_info["ns"], request.match_info["name"]))
        if held is None:
            return _error(404)
        self._put({**held, "status": {**held.get("status", {}), **change["status"]}}, grown=False)
        return web.json_response(held)

    def _put(self, document: Any, *, grown: bool = True) -> None:
        old = self.objects.get(_key(document))
        self.version += 1
        generation = (old["metadata"]["generation"] if old else 0) + grown
        metadata = {**document["metadata"], "resourceVersion": str(self.version), "generation": generation}
        status = {"status": old["status"]} if old and "status" in old else {}
        held = {**status, **document, "metadata": metadata}
        self.objects[_key(document)] = held
        self._tell("MODIFIED" if old else "ADDED", held)

    def _end_streams(self, in_order: bool) -> None:
        for event, request in self._streams:
            if not in_order and request.transport is not None:
                request.transport.abort()
            event.set()
        self._streams.clear()

    def _delete(self, document: Any) -> None:
        held = self.objects.pop(_key(document))
        self.version += 1
        self._tell("DELETED", {**held, "metadata": {**held["metadata"], "resourceVersion": str(self.version)}})

    def _tell(self, kind: str, held: Any) -> None:
        self.events.append((self.version, kind, _key(held)[0], held))
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _key(document: Any) -> tuple[str, str, str]:
    metadata = document["metadata"]
    return Kind(document["kind"]).plural, metadata["namespace"], metadata["name"]


def _line(event: Any) -> bytes:
    return json.dumps(event).encode() + b"\n"


def _error(status: int) -> web.Response:
    return web.json_response({"kind": "Status", "code": status, "message": f"refused with {status}"}, status=status)
