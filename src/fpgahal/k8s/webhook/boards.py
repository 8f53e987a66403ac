# SPDX-License-Identifier: Apache-2.0
"""What the webhook knows of boards: the catalogue's file, and what is free in the cluster."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp

from fpgahal.k8s.api import Api, ApiError
from fpgahal.k8s.capacity import free_boards, pod_boards
from fpgahal.k8s.catalogue import CatalogueError, CatalogueFile
from fpgahal.k8s.planner import Offer, Plan
from fpgahal.k8s.webhook.accelerators import Cluster
from fpgahal.k8s.webhook.table import Table

LOOK_TIMEOUT = 3.0  # seconds; the API server waits ten for a review
PAGE = 250  # objects
UNFINISHED = "status.phase!%3DSucceeded,status.phase!%3DFailed"

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
        self._api, self._table, self._look_seconds = api, table, look_seconds
        self._file = CatalogueFile(path)
        table.catalogue = self._file.catalogue
        self._cluster = Cluster()
        self._seen = 0.0  # when the nodes were looked at
        self._looking = asyncio.Lock()

    async def follow(self, seconds: float) -> None:
        """Take the catalogue again whenever its file changes; one that can't be used is reported, and not taken."""
        while True:
            await asyncio.sleep(seconds)
            try:
                if not await asyncio.to_thread(self._file.refresh):
                    continue
            except CatalogueError as error:
                log.error("The catalogue is not taken, the former one stays: %s", error)
                continue
            found = self._table.catalogue = self._file.catalogue
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
        groups = self._file.catalogue.groups
        if not self._look_seconds:
            return Cluster(groups=groups)
        boards = {image.board for image in self._file.catalogue.images}
        try:
            async with asyncio.timeout(LOOK_TIMEOUT):
                there = [node async for node in self._items("nodes", "")]
                running = [
                    pod async for pod in self._items("pods", f"&fieldSelector={UNFINISHED}") if pod_boards(pod, boards)
                ]
        except (ApiError, aiohttp.ClientError, TimeoutError) as error:
            log.warning(
                "Nodes and pods can't be seen, so boards are chosen by the catalogue alone: %s",
                str(error) or type(error).__name__,
                extra={"hint": "The service account needs list on nodes and pods, or --look-seconds 0."},
            )
            return Cluster(groups=groups)
        return Cluster(tuple(free_boards(there, running, boards)), tuple(free_boards(there, [], boards)), groups)

    async def _items(self, plural: str, query: str) -> AsyncIterator[dict[str, Any]]:
        """Read a list page by page: that of a large cluster's pods would not fit into this process's memory limit."""
        more = ""
        while True:
            page = await self._api.get(f"/api/v1/{plural}?limit={PAGE}{query}{more}")
            for item in page.get("items") or []:
                yield item
            token = (page.get("metadata") or {}).get("continue")
            if not token:
                return
            more = f"&continue={quote(token, safe='')}"


def _less(offer: Offer, plan: Plan) -> Offer:
    return replace(offer, boards=dict(Counter(offer.boards) - Counter(plan.boards)))
