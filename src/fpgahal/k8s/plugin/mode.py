# SPDX-License-Identifier: Apache-2.0
"""The mode as the node's annotation says it, followed while the plugin runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from urllib.parse import quote

from fpgahal.k8s.api import Api, ApiError
from fpgahal.k8s.backoff import Backoff
from fpgahal.k8s.schemes.settings import MODES

#: The first that is there counts: our own name, and that of Intel's plugin.
ANNOTATIONS = ("fpgahal.dev/device-plugin-mode", "fpga.intel.com/device-plugin-mode")

WATCH_SECONDS = 300
GONE = 410

log = logging.getLogger(__name__)


def mode_of(annotations: Mapping[str, str], flag: str) -> str:
    """Give the mode that a node's annotations ask for; `flag` if they ask for none, or for one that there is not."""
    for name in ANNOTATIONS:
        if name in annotations:
            asked = annotations[name]
            if asked in MODES:
                return asked
            log.warning(
                "The node's annotation %s=%s is no mode: keeping %s",
                name,
                asked,
                flag,
                extra={"hint": f"Modes are {', '.join(MODES)}."},
            )
            return flag
    return flag


class ModeWatch:
    """Follows one node's annotations; run it as a task.

    Parameters
    ----------
    api : Api
        Open.
    node : str
        The node's name.
    flag : str
        The mode where no annotation says another.
    changed : callable
        Called with each new mode.

    Attributes
    ----------
    mode : str
    told : asyncio.Event
        Set when the API server has answered for the first time, or failed to.
    """

    def __init__(self, api: Api, node: str, flag: str, changed: Callable[[str], None]) -> None:
        self._api, self._node, self._flag, self._changed = api, node, flag, changed
        self._path = f"/api/v1/nodes?fieldSelector={quote(f'metadata.name={node}', safe='')}"
        self.mode = flag
        self.told = asyncio.Event()

    async def run(self, *, first_wait: float = 0.5, longest_wait: float = 30.0) -> None:
        """Work until cancelled."""
        version = ""
        backoff = Backoff(first_wait, longest_wait)
        while True:
            try:
                if not version:
                    version = await self._list()
                    self.told.set()
                async for event in self._api.watch(self._path, version, WATCH_SECONDS):
                    metadata = event["object"]["metadata"]
                    version = str(metadata.get("resourceVersion") or version)
                    if event["type"] in ("ADDED", "MODIFIED"):
                        self._take(metadata)
                    backoff.reset()
                backoff.reset()
                wait = backoff.first
            except Exception as error:  # also what nobody thought of: nothing else follows the annotation
                wait = backoff.next()
                code = error.code if isinstance(error, ApiError) else None
                if code is not None and code < 429:
                    version = ""
                if code == GONE and backoff.failures == 1:
                    wait = 0.0
                else:
                    log.warning(
                        "The node's annotations can't be read: keeping mode %s: %s",
                        self.mode,
                        str(error) or type(error).__name__,
                        extra={"node": self._node, "retry_seconds": round(wait, 2), "hint": _hint(code)},
                    )
                self.told.set()
            await asyncio.sleep(wait)

    async def _list(self) -> str:
        document = await self._api.get(self._path)
        nodes = [one for one in document.get("items") or [] if isinstance(one, dict)]
        for node in nodes:
            self._take(node.get("metadata") or {})
        if not nodes:
            log.warning("There is no node %s: keeping mode %s", self._node, self.mode)
        return str((document.get("metadata") or {}).get("resourceVersion") or "0")

    def _take(self, metadata: Mapping[str, object]) -> None:
        if metadata.get("name") != self._node:
            return
        annotations = metadata.get("annotations")
        mode = mode_of(annotations if isinstance(annotations, dict) else {}, self._flag)
        if mode != self.mode:
            log.info("Mode %s instead of %s", mode, self.mode, extra={"node": self._node})
            self.mode = mode
            self._changed(mode)


def _hint(code: int | None) -> str:
    return "The service account needs get, list and watch on nodes." if code == 403 else ""
