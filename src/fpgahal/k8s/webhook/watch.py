# SPDX-License-Identifier: Apache-2.0
"""Keeps the table equal to what the API server holds, and writes on each object whether it can be used."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeAlias

import aiohttp

from fpgahal.k8s.api import Api, ApiError
from fpgahal.k8s.backoff import Backoff
from fpgahal.k8s.webhook.resources import GROUP, VERSION, Broken, Kind, key, parse
from fpgahal.k8s.webhook.table import Table

CONDITION = "Accepted"
WATCH_SECONDS = 300
FORBIDDEN, NOT_FOUND, GONE, INVALID = 403, 404, 410, 422
BUSY = 429  # this and above: the server's own trouble

log = logging.getLogger(__name__)

Id: TypeAlias = tuple[Kind, str, str]  # kind, namespace, name
FAILURES = (ApiError, aiohttp.ClientError, TimeoutError, OSError)


class Watch:
    """Lists and watches both kinds in all namespaces; run it as a task.

    Parameters
    ----------
    api : Api
        Open.
    table : Table
        What is kept up to date.
    first_wait, longest_wait : float
        Seconds between attempts after failures.

    Attributes
    ----------
    restarts : dict of Kind to int
        How often a list or stream of a kind failed and was begun again.
    """

    def __init__(self, api: Api, table: Table, *, first_wait: float = 0.5, longest_wait: float = 30.0) -> None:
        self._api, self.table = api, table
        self._waits = first_wait, longest_wait
        self._listed: set[Kind] = set()
        self._synced = asyncio.Event()
        self._seen: dict[Id, tuple[int, dict[str, Any]]] = {}  # generation, and the condition that the object carries
        self._unsure: asyncio.Queue[str] = asyncio.Queue()  # namespaces whose conditions may be out of date
        self._waiting: set[str] = set()  # those in the queue
        self.restarts = dict.fromkeys(Kind, 0)

    @property
    def synced(self) -> bool:
        """Both kinds were listed: the table can be trusted."""
        return self._synced.is_set()

    async def wait_synced(self) -> None:
        """Return when the table can be trusted."""
        await self._synced.wait()

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for kind in Kind:
                tasks.create_task(self._follow(kind))
            tasks.create_task(self._report())

    # --- reading ------------------------------------------------------------------------------------------

    async def _follow(self, kind: Kind) -> None:
        version = ""
        backoff = Backoff(*self._waits)
        while True:
            try:
                if not version:
                    version = await self._list(kind)
                async for event in self._api.watch(_path(kind), version, WATCH_SECONDS):
                    version = self._take(kind, event) or version
                    backoff.reset()
                backoff.reset()
                wait = backoff.first  # the stream was ended in order; a server that does so at once is not pressed
            except FAILURES as error:
                self.restarts[kind] += 1
                wait = backoff.next()
                code = (error.code or 0) if isinstance(error, ApiError) else BUSY
                if code < BUSY:
                    version = ""  # a list must tell where to begin; a stream that only broke is taken up again
                if code == GONE and backoff.failures == 1:
                    wait = 0.0
                extra = {"kind": kind, "retry_seconds": round(wait, 2), "hint": _hint(code)}
                log.warning("%s: %s", kind, str(error) or type(error).__name__, extra=extra)
            await asyncio.sleep(wait)

    async def _list(self, kind: Kind) -> str:
        document = await self._api.get(_path(kind))
        items = [item for item in document.get("items") or [] if isinstance(item, dict) and key(item)[1]]
        before = self.table.namespaces()
        self.table.replace(kind, [parse(kind, item) for item in items])
        for known in [known for known in self._seen if known[0] is kind]:
            del self._seen[known]
        for item in items:
            self._note(kind, item)
        self._listed.add(kind)
        log.info("%s: %d listed", kind, len(items), extra={"kind": kind, "objects": len(items)})
        if self._listed == set(Kind):
            self._synced.set()
        self._doubt({*before, *self.table.namespaces()})
        return str((document.get("metadata") or {}).get("resourceVersion") or "0")

    def _take(self, kind: Kind, event: Mapping[str, Any]) -> str:
        item = event["object"]
        namespace, name = key(item)
        if event["type"] in ("ADDED", "MODIFIED"):
            self.table.put(parse(kind, item))
            self._note(kind, item)
        elif event["type"] == "DELETED":
            self.table.drop(kind, namespace, name)
            self._seen.pop((kind, namespace, name), None)
        if event["type"] != "BOOKMARK":
            self._doubt([namespace])
        return str(item["metadata"].get("resourceVersion") or "")

    def _note(self, kind: Kind, item: Mapping[str, Any]) -> None:
        status = item.get("status")
        conditions = status.get("conditions") if isinstance(status, dict) else None
        found = [c for c in conditions or [] if isinstance(c, dict) and c.get("type") == CONDITION]
        self._seen[kind, *key(item)] = item["metadata"].get("generation") or 0, found[0] if found else {}

    # --- writing ------------------------------------------------------------------------------------------

    def _doubt(self, namespaces: Iterable[str]) -> None:
        for namespace in sorted(set(namespaces) - self._waiting):
            self._waiting.add(namespace)
            self._unsure.put_nowait(namespace)

    async def _report(self) -> None:
        """Write conditions that are missing or out of date; several replicas may, they write the same."""
        await self._synced.wait()  # a name that both kinds use is known only then
        backoff = Backoff(*self._waits)
        while True:
            namespace = await self._unsure.get()
            self._waiting.discard(namespace)
            try:
                for own in [own for own in self._seen if own[1] == namespace]:
                    if own in self._seen:  # still
                        await self._write(own)
                backoff.reset()
            except FAILURES as error:
                wait = backoff.next()
                log.warning(
                    "Conditions of namespace %s can't be written: %s", namespace, error, extra={"retry_seconds": wait}
                )
                self._doubt([namespace])
                await asyncio.sleep(wait)

    async def _write(self, own: Id) -> None:
        kind, namespace, name = own
        generation, told = self._seen[own]
        broken = self.table.verdict(*own)
        condition = condition_of(broken, generation, told)
        if condition == told:
            return
        if broken is not None:
            log.warning("%s %s/%s: %s", *own, broken.message, extra={"reason": broken.reason})
        try:
            await self._api.merge(f"{_path(kind, namespace)}/{name}/status", {"status": {"conditions": [condition]}})
        except ApiError as error:
            # Deleted meanwhile; or (before Kubernetes 1.30) a spec that the schema refuses can't get a status either.
            if error.code not in (NOT_FOUND, INVALID):
                raise
            log.warning("%s %s/%s has no condition: %s", *own, error.message)
        if self._seen.get(own) == (generation, told):
            self._seen[own] = generation, condition


def condition_of(broken: Broken | None, generation: int, told: Mapping[str, Any]) -> dict[str, Any]:
    """Give the condition that an object must carry; `told`, which it carries, if that says the same."""
    condition = {
        "type": CONDITION,
        "status": "True" if broken is None else "False",
        "observedGeneration": generation,
        "reason": "Mapped" if broken is None else broken.reason,
        "message": "Pods of this namespace may use it." if broken is None else broken.message,
    }
    since = told.get("lastTransitionTime")
    if since is None or told.get("status") != condition["status"]:
        since = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return {**condition, "lastTransitionTime": since}


def _path(kind: Kind, namespace: str = "") -> str:
    within = f"namespaces/{namespace}/" if namespace else ""
    return f"/apis/{GROUP}/{VERSION}/{within}{kind.plural}"


def _hint(code: int) -> str:
    if code == NOT_FOUND:
        return "Are the CustomResourceDefinitions there?  `fpgahal-webhook crds | kubectl apply -f -` makes them."
    if code == FORBIDDEN:
        return "The service account needs get, list and watch on both kinds, and patch on their status."
    return ""
