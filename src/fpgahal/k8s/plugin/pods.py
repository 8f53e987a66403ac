# SPDX-License-Identifier: Apache-2.0
"""Which container a device was given to, and what that container's variables are.

Kubelet tells PreStartContainer no more than device ids.  Its pod resources socket says which pod and container hold
an id, and the API server has that pod.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import aiohttp
import grpc

from fpgahal import ArgumentRangeError, FpgaError
from fpgahal.k8s import rpc, wanted
from fpgahal.k8s.api import Api, ApiError
from fpgahal.k8s.proto import podresources_pb2 as pb

SOCKET = "/var/lib/kubelet/pod-resources/kubelet.sock"
TIMEOUT = 5.0  # seconds, for either question: a container waits

_LIST = pb.DESCRIPTOR.services_by_name["PodResourcesLister"].methods_by_name["List"]


class PodsError(FpgaError, OSError):
    """Kubelet or the API server did not say; or what they say makes no sense."""


@dataclass(frozen=True, slots=True)
class Owner:
    """The container that holds a device."""

    namespace: str
    pod: str
    container: str


class Pods:
    """The pods of this node.

    Parameters
    ----------
    api : Api, optional
        An open connection; without one, only owners are known.
    socket : str
        Kubelet's pod resources socket.
    """

    def __init__(self, api: Api | None = None, socket: str = SOCKET) -> None:
        self._api = api
        self._socket = socket

    async def owner(self, resource: str, ids: Iterable[str]) -> Owner | None:
        """Find the one container that holds all of these devices; None if kubelet names none, or several.

        (It lists init containers only if they go on running, and gives their devices to the containers after them.)

        Raises
        ------
        PodsError
            Kubelet does not answer.
        """
        asked = set(ids)
        try:
            async with rpc.channel(self._socket) as channel:
                answer = await rpc.call(channel, _LIST)(pb.ListPodResourcesRequest(), timeout=TIMEOUT)
        except grpc.aio.AioRpcError as error:
            raise PodsError(
                f"Kubelet does not say which pod has {resource}: {error.code().name}, {error.details()}.",
                hint=f"The plugin needs kubelet's socket {self._socket}.",
            ) from None
        found = [
            Owner(pod.namespace, pod.name, container.name)
            for pod in answer.pod_resources
            for container in pod.containers
            if asked <= {id for one in container.devices if one.resource_name == resource for id in one.device_ids}
        ]
        return found[0] if len(found) == 1 and asked else None

    async def env(self, owner: Owner) -> dict[str, str] | None:
        """Read the variables that a container's pod spells out; None without API access, or if the pod is gone.

        Raises
        ------
        PodsError
            The API server refuses or does not answer.
        ArgumentRangeError
            One of the variables that say what to program is not spelled out (``valueFrom``): its value could be
            another one when the container starts.
        """
        if self._api is None:
            return None
        try:
            pod = await self._api.get(f"/api/v1/namespaces/{owner.namespace}/pods/{owner.pod}")
        except ApiError as error:
            if error.code == 404:
                return None
            raise PodsError(f"The API server does not say what pod {owner.pod} is: {error.message}") from None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise PodsError(f"The API server does not answer: {type(error).__name__}: {error}.") from None
        spec = pod.get("spec") or {}
        for container in [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]:
            if container.get("name") == owner.container:
                return _variables(container, owner)
        return None


def _variables(container: Any, owner: Owner) -> dict[str, str]:
    found: dict[str, str] = {}
    for entry in container.get("env") or []:
        name = str(entry.get("name", ""))
        if "valueFrom" in entry:
            if name.startswith((wanted.REGION, wanted.AFU, wanted.FOR_ALL)):
                raise ArgumentRangeError(
                    f"Container {owner.container} of {owner.namespace}/{owner.pod} takes {name} from "
                    f"{json.dumps(entry['valueFrom'])[:80]}.",
                    hint="Give its value in the pod itself.",
                )
            continue
        found[name] = str(entry.get("value") or "")
    return found
