# SPDX-License-Identifier: Apache-2.0
"""What the pod that is being admitted wants to run: so that it gets a board on which that runs already.

When kubelet asks which devices to take it names no pod.  But the pod is bound to this node, asks for the resource, and
has no container yet.  Where several such pods want different functions, nobody knows which one is meant.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

import aiohttp

from fpgahal import ArgumentRangeError
from fpgahal.k8s import wanted
from fpgahal.k8s.api import Api, ApiError

TIMEOUT = 0.5  # seconds: a pod waits for its admission, and without an answer it only may be programmed needlessly

log = logging.getLogger(__name__)


async def wish(api: Api, node: str, resource: str) -> str:
    """Give the one AFU id that pods which are being admitted want on this resource's boards; empty if unknown.

    Parameters
    ----------
    api : Api
        Open.
    node : str
        This node's name.
    resource : str
    """
    selector = quote(f"spec.nodeName={node},status.phase=Pending", safe="")
    try:
        async with asyncio.timeout(TIMEOUT):
            document = await api.get(f"/api/v1/pods?fieldSelector={selector}")
    except (ApiError, aiohttp.ClientError, TimeoutError, OSError) as error:
        log.info("What is about to run is not known: %s", str(error) or type(error).__name__)
        return ""
    functions = {afu for pod in document.get("items") or [] for afu in functions_of(pod, resource)}
    return functions.pop() if len(functions) == 1 else ""


def functions_of(pod: Mapping[str, Any], resource: str) -> Iterator[str]:
    """Give the AFU ids that a pod without containers wants on this resource's boards."""
    if (pod.get("status") or {}).get("containerStatuses"):
        return
    spec = pod.get("spec") or {}
    for container in [*(spec.get("initContainers") or []), *(spec.get("containers") or [])]:
        if resource not in ((container.get("resources") or {}).get("limits") or {}):
            continue
        env = {str(entry.get("name")): str(entry.get("value") or "") for entry in container.get("env") or []}
        try:
            named = wanted.of_all(env)
            others = "/region-" in resource  # a region's name says which pairs are about it
            yield from [named] if named else [p.afu for p in wanted.pairs(env) if p.region in resource or not others]
        except ArgumentRangeError:  # PreStartContainer will say so
            continue
