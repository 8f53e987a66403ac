# SPDX-License-Identifier: Apache-2.0
"""A fake API server's part for DRA: one node, ResourceClaims, and ResourceSlices with the real one's rules.

`check` is written from k8s.io/api's documentation of the types, and not from the driver: it is what a slice must pass.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

from aiohttp import web
from fake_api import FakeApi

DRIVER = "fpga.fpgahal.dev"
LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,31}")


class Invalid(Exception):
    """The server would answer 422."""


class FakeCluster(FakeApi):
    """Use it in ``with``, as FakeApi."""

    def __init__(self, node: str = "n1") -> None:
        super().__init__()
        self.node: dict[str, Any] = {"metadata": {"name": node, "uid": "node-uid", "labels": {}}}
        self.claims: dict[tuple[str, str], Any] = {}  # namespace, name
        self.slices: dict[str, Any] = {}
        self.drops: set[str] = set()  # fields that this server does not know
        self.rejects: set[str] = set()  # fields that it refuses
        self.writes = 0
        self.changes: list[dict[str, Any]] = []

    # --- for tests ------------------------------------------------------------------------------------------------

    def claim(self, name: str, *devices: str, uid: str = "", namespace: str = "default", **more: Any) -> Any:
        """Make a claim that was allocated these devices; ``share=…`` marks a share of one."""
        share = {"shareID": more["share"], "consumedCapacity": {"com.x/y": "1"}} if "share" in more else {}
        results = [
            {"request": f"r{n}", "driver": DRIVER, "pool": self.node["metadata"]["name"], "device": device, **share}
            for n, device in enumerate(devices)
        ]
        claim = {
            "metadata": {"name": name, "namespace": namespace, "uid": uid or f"uid-{name}"},
            "status": {"allocation": {"devices": {"results": results}}},
        }
        self.claims[namespace, name] = claim
        return claim

    def delete_slice(self, name: str) -> None:
        """Delete one, as kubelet does when it starts."""
        self._call(lambda: self._drop(name))

    def put_slice(self, name: str, document: Any) -> None:
        """Change one behind the driver's back."""
        self._call(lambda: self._store(name, document))

    def pool(self) -> list[Any]:
        """Give the slices as they are, by name."""
        return self._call(lambda: json.loads(json.dumps([self.slices[name] for name in sorted(self.slices)])))

    # --- the server -------------------------------------------------------------------------------------------------

    def _add_routes(self, app: web.Application) -> None:
        slices = "/apis/resource.k8s.io/v1/resourceslices"
        app.router.add_get("/api/v1/nodes/{name}", self._get_node)
        app.router.add_get("/apis/resource.k8s.io/v1/namespaces/{ns}/resourceclaims/{name}", self._get_claim)
        app.router.add_get(slices, self._get_slices)
        app.router.add_post(slices, self._create)
        app.router.add_put(f"{slices}/{{name}}", self._replace)
        app.router.add_delete(f"{slices}/{{name}}", self._delete_slice)

    def _refused(self, request: web.Request, kind: str) -> web.Response | None:
        self.requests.append((request.method, request.path_qs))
        status = self.refuse.get(kind) or self.refuse.get(request.method)
        return _status(status, "refused") if status else None

    async def _get_node(self, request: web.Request) -> web.Response:
        found = self.node if request.match_info["name"] == self.node["metadata"]["name"] else None
        return self._refused(request, "nodes") or (web.json_response(found) if found else _status(404, "no node"))

    async def _get_claim(self, request: web.Request) -> web.Response:
        found = self.claims.get((request.match_info["ns"], request.match_info["name"]))
        return self._refused(request, "claims") or (web.json_response(found) if found else _status(404, "no claim"))

    async def _get_slices(self, request: web.Request) -> web.StreamResponse:
        selector = dict(part.split("=") for part in request.query["fieldSelector"].split(","))
        assert selector == {"spec.driver": DRIVER, "spec.nodeName": self.node["metadata"]["name"]}
        if request.query.get("watch") != "1":
            return self._refused(request, "slices") or web.json_response(
                {"metadata": {"resourceVersion": str(self.version)}, "items": list(self.slices.values())}
            )
        if refused := self._refused(request, "WATCH"):
            return refused
        response = web.StreamResponse()
        await response.prepare(request)
        for item in list(self.slices.values()):
            await response.write(_line("ADDED", item))
        sent, ended = len(self.changes), asyncio.Event()
        self._streams.append((ended, request))
        while not ended.is_set():
            changed = self._changed
            for change in self.changes[sent:]:
                await response.write(_line(change["type"], change["object"]))
            sent = len(self.changes)
            waits = [asyncio.ensure_future(ended.wait()), asyncio.ensure_future(changed.wait())]
            _, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for task in pending:
                task.cancel()
        return response

    async def _create(self, request: web.Request) -> web.Response:
        document = await request.json()
        name = document["metadata"]["name"]
        if name in self.slices:
            return _status(409, "already exists")
        return self._refused(request, "slices") or self._written(name, document)

    async def _replace(self, request: web.Request) -> web.Response:
        document = await request.json()
        name = request.match_info["name"]
        if name not in self.slices:
            return _status(404, "no such slice")
        if document["metadata"]["resourceVersion"] != self.slices[name]["metadata"]["resourceVersion"]:
            return _status(409, "the object has been modified")
        return self._refused(request, "slices") or self._written(name, document)

    async def _delete_slice(self, request: web.Request) -> web.Response:
        if refused := self._refused(request, "slices"):
            return refused
        if request.match_info["name"] not in self.slices:
            return _status(404, "no such slice")
        self.writes += 1
        self._drop(request.match_info["name"])
        return web.json_response({"kind": "Status", "status": "Success"})

    def _written(self, name: str, document: Any) -> web.Response:
        assert (document["apiVersion"], document["kind"]) == ("resource.k8s.io/v1", "ResourceSlice")
        found = self.rejects & {*document["spec"], *(key for d in document["spec"].get("devices", []) for key in d)}
        if found:
            return _status(422, f"{found} is invalid")
        for field in self.drops:
            document["spec"].pop(field, None)
            for device in document["spec"].get("devices", []):
                device.pop(field, None)
        try:
            check_slice(document)
        except Invalid as error:
            return _status(422, str(error))
        self.writes += 1
        return web.json_response(self._store(name, document))

    def _store(self, name: str, document: Any) -> Any:
        self.version += 1
        document["metadata"]["resourceVersion"] = str(self.version)
        kind = "MODIFIED" if name in self.slices else "ADDED"
        self.slices[name] = document
        self.changes.append({"type": kind, "object": document})
        self._wake()
        return document

    def _drop(self, name: str) -> None:
        self.changes.append({"type": "DELETED", "object": self.slices.pop(name)})
        self._wake()


def _status(code: int, message: str) -> web.Response:
    return web.json_response({"kind": "Status", "code": code, "message": message}, status=code)


def _line(kind: str, item: Any) -> bytes:
    return json.dumps({"type": kind, "object": item}).encode() + b"\n"


def check_slice(document: Any) -> None:
    """Refuse what the API server would refuse in one slice."""
    spec = document["spec"]
    _must(SUBDOMAIN.fullmatch(document["metadata"]["name"]), "metadata.name")
    _must(not (spec.get("devices") and spec.get("sharedCounters")), "devices or sharedCounters, not both")
    _must(sum(key in spec for key in ("nodeName", "nodeSelector", "allNodes", "perDeviceNodeSelection")) == 1, "node")
    _must(spec["pool"]["resourceSliceCount"] > 0, "resourceSliceCount")
    _must(isinstance(spec["pool"]["generation"], int), "generation")
    sets = spec.get("sharedCounters", [])
    _must(len(sets) <= 8 and len({s["name"] for s in sets}) == len(sets), "counter sets")
    for one in sets:
        _must(all(LABEL.fullmatch(name) for name in (one["name"], *one["counters"])), "counter's name")
        _must(1 <= len(one["counters"]) <= 32, "counters")
    devices = spec.get("devices", [])
    plain = not any("consumesCounters" in device or "taints" in device for device in devices)
    _must(len(devices) <= (128 if plain else 64), "devices")
    _must(len({device["name"] for device in devices}) == len(devices), "devices' names")
    for device in devices:
        _check_device(device)


def _check_device(device: Any) -> None:
    _must(LABEL.fullmatch(device["name"]), f"device's name {device['name']!r}")
    attributes, capacity = device.get("attributes", {}), device.get("capacity", {})
    _must(len(attributes) + len(capacity) <= 32, "attributes and capacities")
    for name in (*attributes, *capacity):
        domain, _, identifier = name.rpartition("/")
        _must(IDENTIFIER.fullmatch(identifier), f"identifier {identifier!r}")
        _must(not domain or (SUBDOMAIN.fullmatch(domain) and len(domain) <= 63), f"domain {domain!r}")
    for value in attributes.values():
        _must(len(value) == 1 and set(value) <= {"string", "int", "bool", "version"}, "attribute's value")
        _must(len(str(next(iter(value.values())))) <= 64, "attribute's length")
    _must(len(device.get("consumesCounters", [])) <= 2, "consumesCounters")
    for one in capacity.values():
        policy = one.get("requestPolicy")
        if policy is not None:
            _must(device.get("allowMultipleAllocations") or "allowMultipleAllocations" not in device, "requestPolicy")
            value, default, limits = int(one["value"]), int(policy["default"]), policy["validRange"]
            least, step = int(limits["min"]), int(limits.get("step", 0))
            _must(0 <= least <= default <= value and least + step <= value, f"range {limits} of {value}")
            _must(not step or default % step == 0, "default")


def check_pool(slices: list[Any]) -> None:
    """Make sure that a pool's slices are one consistent pool."""
    for document in slices:
        check_slice(document)
    pools = [document["spec"]["pool"] for document in slices]
    _must(len({pool["generation"] for pool in pools}) == 1, "one generation")
    _must({pool["resourceSliceCount"] for pool in pools} == {len(slices)}, "resourceSliceCount")
    devices = [device for document in slices for device in document["spec"].get("devices", [])]
    _must(len({device["name"] for device in devices}) == len(devices), "devices' names in the pool")
    counters = {
        one["name"]: one["counters"] for document in slices for one in document["spec"].get("sharedCounters", [])
    }
    for device in devices:
        for consumed in device.get("consumesCounters", []):
            for name, amount in consumed["counters"].items():
                _must(int(amount["value"]) <= int(counters[consumed["counterSet"]][name]["value"]), "counter")


def _must(condition: object, what: str) -> None:
    if not condition:
        raise Invalid(what)
