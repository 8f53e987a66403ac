# SPDX-License-Identifier: Apache-2.0
"""Keeps the node's ResourceSlices as they should be: written when something changes or is missing, else never."""

from __future__ import annotations

import asyncio
import copy
import logging
from collections.abc import Sequence
from typing import Any

import aiohttp

from fpgahal.k8s.api import Api, ApiError
from fpgahal.k8s.dra import DRIVER
from fpgahal.k8s.dra.devices import Device
from fpgahal.k8s.dra.slices import Spec, slice_name, specs

PATH = "/apis/resource.k8s.io/v1/resourceslices"
WATCH_SECONDS = 300
NOT_FOUND, INVALID = 404, 422
FAILURES = (ApiError, aiohttp.ClientError, TimeoutError)

log = logging.getLogger(__name__)


class Publisher:
    """The slices of one node's pool.

    Parameters
    ----------
    api : Api
        Open.
    node : str
    wait_seconds : float
        After a failure.
    """

    def __init__(self, api: Api, node: str, wait_seconds: float = 2.0) -> None:
        self._api, self._node, self._wait = api, node, wait_seconds
        self._path = f"{PATH}?fieldSelector=spec.driver%3D{DRIVER},spec.nodeName%3D{node}"
        self._owner: list[dict[str, Any]] = []
        self._devices: list[Device] | None = None
        self._changed = asyncio.Event()
        self._accepted: dict[str, tuple[Spec, Spec]] = {}  # by name: what was sent, what the server made of it
        self.partitions = True  # until the server turns out not to know them
        self.published = asyncio.Event()

    def offer(self, devices: Sequence[Device]) -> None:
        """Say what the node has now."""
        if self._devices != list(devices):
            self._devices = list(devices)
            self._changed.set()

    async def run(self) -> None:
        """Publish, for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch())
            tasks.create_task(self._publish())

    async def _watch(self) -> None:
        """Notice when somebody else changes or deletes slices: kubelet does, when it starts."""
        while True:
            try:
                async for event in self._api.watch(self._path, "0", WATCH_SECONDS):
                    if event["type"] != "BOOKMARK":
                        self._changed.set()
            except FAILURES as error:
                log.warning("Slices can't be watched: %s", str(error) or type(error).__name__)
            await asyncio.sleep(self._wait)
            self._changed.set()  # whatever was missed

    async def _publish(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            if self._devices is None:
                continue
            try:
                await self.reconcile(self._devices)
                self.published.set()
            except FAILURES as error:
                log.warning("Slices can't be published: %s", str(error) or type(error).__name__)
                self._changed.set()
                await asyncio.sleep(self._wait)

    async def reconcile(self, devices: Sequence[Device]) -> bool:
        """Compare the server's slices with what they should be, and write them if they differ.

        Returns
        -------
        bool
            Whether anything was written.
        """
        there = {item["metadata"]["name"]: item for item in (await self._api.get(self._path)).get("items") or []}
        wanted = {
            slice_name(self._node, index): spec
            for index, spec in enumerate(specs(self._node, devices, partitions=self.partitions))
        }
        generations = {item["spec"]["pool"]["generation"] for item in there.values()}
        if (
            there.keys() == wanted.keys()
            and len(generations) == 1
            and all(self._is(name, spec, there[name]) for name, spec in wanted.items())
        ):
            return False
        generation = max(generations, default=0) + 1
        try:
            for name, spec in wanted.items():
                await self._write(name, spec, generation, there.get(name))
        except ApiError as error:
            if error.code != INVALID or not self.partitions:
                raise
            return await self._without_partitions(devices, error.message)
        for name in there.keys() - wanted.keys():
            await self._delete(name)
        if self.partitions and any("sharedCounters" in sent and sent != made for sent, made in self._accepted.values()):
            return await self._without_partitions(devices, "It does not keep sharedCounters.")
        extra = {"slices": len(wanted), "devices": len(devices), "generation": generation}
        log.info("Published", extra=extra)
        return True

    def _is(self, name: str, spec: Spec, item: dict[str, Any]) -> bool:
        """Tell whether an object is what `spec` becomes; a server leaves out the fields that it does not know."""
        found = _plain(item["spec"])
        return found == spec or self._accepted.get(name) == (spec, found)

    async def _write(self, name: str, spec: Spec, generation: int, old: dict[str, Any] | None) -> None:
        full = copy.deepcopy(spec)
        full["pool"]["generation"] = generation
        metadata: dict[str, Any] = {"name": name, "ownerReferences": await self._owners()}
        document = {"apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "metadata": metadata, "spec": full}
        if old is None:
            answer = await self._api.create(PATH, document)
        else:
            metadata["resourceVersion"] = old["metadata"]["resourceVersion"]
            answer = await self._api.replace(f"{PATH}/{name}", document)
        self._accepted[name] = spec, _plain(answer["spec"])

    async def _delete(self, name: str) -> None:
        self._accepted.pop(name, None)
        try:
            await self._api.delete(f"{PATH}/{name}")
        except ApiError as error:
            if error.code != NOT_FOUND:
                raise

    async def _without_partitions(self, devices: Sequence[Device], why: str) -> bool:
        log.warning(
            "The API server does not take devices that exclude each other, so only boards are offered, no images: %s",
            why,
            extra={"hint": "Kubernetes 1.36, with the gates DRAPartitionableDevices and DRAConsumableCapacity."},
        )
        self.partitions = False
        return await self.reconcile(devices)

    async def _owners(self) -> list[dict[str, Any]]:
        """Have the slices deleted with their node."""
        if not self._owner:
            node = await self._api.get(f"/api/v1/nodes/{self._node}")
            uid = node["metadata"]["uid"]
            self._owner = [{"apiVersion": "v1", "kind": "Node", "name": self._node, "uid": uid, "controller": True}]
        return self._owner


def _plain(spec: Spec) -> Spec:
    """Give a slice without its pool's generation."""
    found = copy.deepcopy(spec)
    found["pool"].pop("generation", None)
    return found
