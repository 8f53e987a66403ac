# SPDX-License-Identifier: Apache-2.0
"""What the webhook knows of boards: the catalogue's file, and what is free in the cluster."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import aiohttp

from fpgahal.k8s import catalogue
from fpgahal.k8s.api import Api, ApiError
from fpgahal.k8s.capacity import free_boards
from fpgahal.k8s.planner import Offer, Plan
from fpgahal.k8s.webhook.accelerators import Cluster
from fpgahal.k8s.webhook.table import Table

LOOK_TIMEOUT = 3.0  # seconds; the API server waits ten for a review

log = logging.getLogger(__name__)


class Boards:
    """Keeps a table's catalogue up to date, and looks at nodes and pods when somebody asks for accelerators.

    Not for several threads.

    Parameters
    ----------
    api : Api
    table : Table
        Gets the catalogue.
    path : Path
        The catalogue.
    look_seconds : float
        What was seen is believed for so long; 0: never look, choose by the catalogue alone.

    Raises
    ------
    CatalogueError
        The catalogue can't be used.
    """

    def __init__(self, api: Api, table: Table, path: Path, look_seconds: float) -> None:
        self._api, self._table, self._path, self._look_seconds = api, table, path, look_seconds
        self._stamp = _stamp(path)
        self._catalogue = table.catalogue = catalogue.load(path)
        self._cluster = Cluster(groups=self._catalogue.groups)
        self._seen = 0.0  # when the nodes were looked at
        self._looking = asyncio.Lock()

    async def follow(self, seconds: float) -> None:
        """Take the catalogue again whenever its file changes; one that can't be used is reported, and not taken."""
        while True:
            await asyncio.sleep(seconds)
            stamp = _stamp(self._path)
            if stamp != self._stamp:
                self._stamp = stamp
                try:
                    found = await asyncio.to_thread(catalogue.load, self._path)
                except catalogue.CatalogueError as error:
                    log.error("The catalogue is not taken, the former one stays: %s", error)
                    continue
                self._catalogue = self._table.catalogue = found
                self._seen = 0.0
                log.info("The catalogue was taken", extra={"images": len(found.images), "groups": len(found.groups)})

    async def cluster(self) -> Cluster:
        """Give what is free; after a look at the cluster, if the last one was too long ago."""
        async with self._looking:  # of several reviews at a time, one looks
            if not self._look_seconds or time.monotonic() - self._seen >= self._look_seconds:
                self._cluster = await self._look()
                self._seen = time.monotonic()
            return self._cluster

    def reserve(self, plan: Plan) -> None:
        """Count a plan's boards as taken, until the next look sees the pod."""
        self._cluster = replace(
            self._cluster, free=tuple(_less(o, plan) if o.name == plan.offer.name else o for o in self._cluster.free)
        )

    async def _look(self) -> Cluster:
        groups = self._catalogue.groups
        if not self._look_seconds:
            return Cluster(groups=groups)
        boards = {image.board for image in self._catalogue.images}
        try:
            async with asyncio.timeout(LOOK_TIMEOUT):
                nodes, pods = await asyncio.gather(
                    self._api.get("/api/v1/nodes?resourceVersion=0"),  # from the API server's memory, not from etcd
                    self._api.get("/api/v1/pods?resourceVersion=0"),
                )
        except (ApiError, aiohttp.ClientError, TimeoutError) as error:
            log.warning(
                "Nodes and pods can't be seen, so boards are chosen by the catalogue alone: %s",
                str(error) or type(error).__name__,
                extra={"hint": "The service account needs list on nodes and pods, or --look-seconds 0."},
            )
            return Cluster(groups=groups)
        there, running = nodes.get("items") or [], pods.get("items") or []
        return Cluster(tuple(free_boards(there, running, boards)), tuple(free_boards(there, [], boards)), groups)


def _less(offer: Offer, plan: Plan) -> Offer:
    return replace(offer, boards=dict(Counter(offer.boards) - Counter(plan.boards)))


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
