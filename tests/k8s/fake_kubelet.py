# SPDX-License-Identifier: Apache-2.0
"""A fake kubelet: the real APIs over real unix sockets, with the semantics that plugins stumble over.

``with FakeKubelet(tmp_path) as kubelet:`` makes ``tmp_path/device-plugins/kubelet.sock`` and
``tmp_path/pod-resources/kubelet.sock``; start a plugin with ``--kubelet-dir tmp_path``.  Threads and blocking gRPC
only: any method may be called from any thread (from a coroutine: ``await asyncio.to_thread(kubelet.admit, …)``).

What it keeps of the real one (kubelet 1.34, pkg/kubelet/cm/devicemanager, in words of our own):

* Register checks the version and the name (an extended resource's), then *dials back and calls
  GetDevicePluginOptions before it answers*, within 10 s; then it reads ListAndWatch.  ``:authority`` is localhost.
* Each message of the stream replaces the list.  Unhealthy devices count in `capacity`, not in `allocatable`.
  When a stream ends all are unhealthy (*by name*: who registers again before kubelet has seen the end of the old
  stream has a new endpoint that is stopped); after `grace` (5 min) the capacity is 0, for ever.
* A start wipes the folder, but for its checkpoint and for folders; allocations survive it, registrations do not.
* `admit` is a pod's admission: for each container and resource GetPreferredAllocation (if the plugin has it; only
  what is free counts of the answer), then one Allocate with one container; a failure is `AdmissionError`, for good.
* `start_container`: PreStartContainer (if the plugin asked for it) with a deadline of 30 s; again at each restart
  of the container, while Allocate is called once.  There is no call when a pod ends (`remove`).
* No device is given to two containers; that two *resources* stand for one board only the plugin knows:
  `overlaps` lists the device files, and the boards in FPGAHAL_VISIBLE_DEVICES, that several live containers hold.
"""

from __future__ import annotations

import os
import random
import re
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from concurrent import futures
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from fpgahal.k8s import rpc
from fpgahal.k8s.proto import deviceplugin_pb2 as pb
from fpgahal.k8s.proto import podresources_pb2

CHECKPOINT = "kubelet_internal_checkpoint"
LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
NAME = re.compile(rf"(?P<prefix>{LABEL}(\.{LABEL})*)/(?P<name>[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)")
DEVICE_PLUGIN = pb.DESCRIPTOR.services_by_name["DevicePlugin"]
REGISTRATION = pb.DESCRIPTOR.services_by_name["Registration"]
POD_RESOURCES = podresources_pb2.DESCRIPTOR.services_by_name["PodResourcesLister"]


class AdmissionError(Exception):
    """UnexpectedAdmissionError: this pod will never run; its controller makes another one."""


class StartError(Exception):
    """CreateContainerConfigError: kubelet tries again."""


@dataclass(frozen=True)
class Registration:
    """What one successful Register said."""

    version: str
    endpoint: str
    resource: str
    pre_start_required: bool
    get_preferred_allocation_available: bool
    authority: str  # the :authority that the plugin sent
    seconds: float  # that Register took


@dataclass(frozen=True)
class Granted:
    """What a container got: kubelet's merged answer of Allocate for one container."""

    devices: Mapping[str, tuple[str, ...]]  # resource -> ids
    env: Mapping[str, str]
    nodes: Mapping[str, tuple[str, str]]  # path in the container -> host path, permissions
    mounts: Mapping[str, tuple[str, bool]]  # path in the container -> host path, read only
    annotations: Mapping[str, str]
    cdi: tuple[str, ...]


@dataclass
class Endpoint:
    """One registered socket."""

    resource: str
    channel: grpc.Channel
    options: Any
    stream: Any = None
    stopped: float | None = None  # when the stream ended
    messages: list[dict[str, pb.Device]] = field(default_factory=list)

    def call(self, name: str, request: Any, timeout: float | None = None) -> Any:
        return rpc.call(self.channel, DEVICE_PLUGIN.methods_by_name[name])(request, timeout=timeout)


class FakeKubelet:
    """Use it in ``with``, or `start` and `stop` it.

    Parameters
    ----------
    root : path
        Kubelet's root folder; made if it is not there.
    prestart_seconds : float
        Deadline of PreStartContainer.
    dial_seconds : float
        Deadline for dialling back in Register.
    grace : float
        Seconds after the end of a stream until the capacity is 0.
    """

    def __init__(
        self,
        root: Path | str,
        *,
        prestart_seconds: float = 30.0,
        dial_seconds: float = 10.0,
        grace: float = 300.0,
        seed: int = 0,
    ) -> None:
        self.root = Path(root)
        self.folder = self.root / "device-plugins"
        self.socket = self.folder / "kubelet.sock"
        self.prestart_seconds, self.dial_seconds, self.grace = prestart_seconds, dial_seconds, grace
        self.registrations: list[Registration] = []
        self.refused: list[str] = []  # why Register refused
        self.refuse = ""  # if not empty: Register refuses with it
        self.meddle: Callable[[str], None] = lambda endpoint: None  # called before Register answers
        self.pods: dict[tuple[str, str], dict[str, Granted]] = {}  # (namespace, pod) -> container -> what it got
        self.calls: list[tuple[str, str, tuple[str, ...]]] = []  # method, resource, ids
        self._endpoints: dict[str, Endpoint] = {}
        self._known: set[str] = set()  # resources that the node's status will name for ever
        self._random = random.Random(seed)
        self._changed = threading.Condition(threading.RLock())
        self._servers: list[grpc.Server] = []
        self._life = 0  # number of starts

    # --- its life -----------------------------------------------------------------------------------------------

    def __enter__(self) -> FakeKubelet:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        return bool(self._servers)

    def start(self) -> None:
        """Wipe the folder and serve."""
        assert not self._servers, "it runs"
        self._life += 1
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in self.folder.iterdir():
            if path.name != CHECKPOINT and not (path.is_dir() and not path.is_symlink()):
                path.unlink(missing_ok=True)
        pods = self.root / "pod-resources"
        pods.mkdir(exist_ok=True)
        (pods / "kubelet.sock").unlink(missing_ok=True)
        for service, servant, path in (
            (POD_RESOURCES, self, pods / "kubelet.sock"),
            (REGISTRATION, self, self.socket),
        ):
            server = grpc.server(futures.ThreadPoolExecutor(max_workers=32))
            server.add_generic_rpc_handlers((rpc.handlers(service, servant),))
            assert server.add_insecure_port(f"unix:{path}")
            server.start()
            self._servers.append(server)

    def stop(self) -> None:
        """End as after SIGTERM: the sockets go."""
        self._end(leave_sockets=False)

    def kill(self) -> None:
        """End as after SIGKILL: the files of the sockets stay, and nobody listens."""
        self._end(leave_sockets=True)

    def restart(self, *, kill: bool = False) -> None:
        """End and start."""
        self._end(leave_sockets=kill)
        self.start()

    def _end(self, leave_sockets: bool) -> None:
        with self._changed:
            servers, self._servers = self._servers, []
            endpoints, self._endpoints = self._endpoints, {}
        for endpoint in endpoints.values():
            _hang_up(endpoint)
        for server in servers:
            server.stop(None).wait(10)
        for path in (self.socket, self.root / "pod-resources" / "kubelet.sock") if servers else ():
            path.unlink(missing_ok=True)
            if leave_sockets:
                with socket.socket(socket.AF_UNIX) as dead:
                    dead.bind(os.fspath(path))

    # --- the Registration service --------------------------------------------------------------------------------

    def Register(self, request: Any, context: grpc.ServicerContext) -> Any:
        begin = time.monotonic()
        why = self.refuse or unregistrable(request)
        if why:
            self._refuse(context, why)
        # As gRPC in Go does it: each registration has a connection of its own.
        channel = grpc.insecure_channel(
            f"unix:{self.folder / request.endpoint}",
            options=[("grpc.default_authority", "localhost"), ("grpc.use_local_subchannel_pool", 1)],
        )
        try:
            grpc.channel_ready_future(channel).result(self.dial_seconds)
            get_options = rpc.call(channel, DEVICE_PLUGIN.methods_by_name["GetDevicePluginOptions"])
            options = get_options(pb.Empty(), timeout=self.dial_seconds)
        except (grpc.FutureTimeoutError, grpc.RpcError) as error:
            channel.close()
            self._refuse(context, f"failed to dial device plugin: {error!r}")
        endpoint = Endpoint(request.resource_name, channel, options)
        endpoint.stream = rpc.call(channel, DEVICE_PLUGIN.methods_by_name["ListAndWatch"])(pb.Empty())
        with self._changed:
            if not self._servers:  # ended meanwhile
                _hang_up(endpoint)
                context.abort(grpc.StatusCode.UNAVAILABLE, "kubelet ends")
            self._endpoints[request.resource_name] = endpoint
            self._known.add(request.resource_name)
            self.registrations.append(
                Registration(
                    request.version,
                    request.endpoint,
                    request.resource_name,
                    options.pre_start_required,
                    options.get_preferred_allocation_available,
                    context._rpc_event.call_details.host.decode(),  # type: ignore[attr-defined]
                    time.monotonic() - begin,
                )
            )
            self._changed.notify_all()
        threading.Thread(target=self._read, args=[endpoint, self._life], daemon=True).start()
        self.meddle(request.endpoint)
        return pb.Empty()

    def _refuse(self, context: grpc.ServicerContext, why: str) -> None:
        with self._changed:
            self.refused.append(why)
            self._changed.notify_all()
        context.abort(grpc.StatusCode.UNKNOWN, why)

    def _read(self, endpoint: Endpoint, life: int) -> None:
        try:
            for message in endpoint.stream:
                devices = {device.ID: device for device in message.devices}
                assert len(devices) == len(message.devices), "an id twice in one list"
                with self._changed:
                    endpoint.messages.append(devices)
                    self._changed.notify_all()
        except grpc.RpcError:
            pass
        with self._changed:
            present = self._endpoints.get(endpoint.resource)
            for one in (endpoint, present if life == self._life else None):
                if one is not None:
                    one.stopped = time.monotonic()
            self._changed.notify_all()
        endpoint.channel.close()

    # --- the PodResourcesLister service --------------------------------------------------------------------------

    def List(self, request: Any, context: grpc.ServicerContext) -> Any:
        with self._changed:
            return podresources_pb2.ListPodResourcesResponse(
                pod_resources=[
                    podresources_pb2.PodResources(
                        name=name,
                        namespace=namespace,
                        containers=[
                            podresources_pb2.ContainerResources(
                                name=container,
                                devices=[  # one entry for each device, as the real one has it
                                    podresources_pb2.ContainerDevices(resource_name=resource, device_ids=[one])
                                    for resource, ids in granted.devices.items()
                                    for one in ids
                                ],
                            )
                            for container, granted in containers.items()
                        ],
                    )
                    for (namespace, name), containers in self.pods.items()
                ]
            )

    # --- what the node's status says -------------------------------------------------------------------------------

    def devices(self, resource: str) -> dict[str, bool]:
        """Give device id -> healthy."""
        with self._changed:
            endpoint = self._endpoints.get(resource)
            if endpoint is None or not endpoint.messages:
                return {}
            if endpoint.stopped is not None:
                gone = time.monotonic() - endpoint.stopped > self.grace
                return {} if gone else dict.fromkeys(endpoint.messages[-1], False)
            return {one.ID: one.health == "Healthy" for one in endpoint.messages[-1].values()}

    def capacity(self) -> dict[str, int]:
        """Give resource -> number of devices, of all that ever were registered."""
        with self._changed:
            return {resource: len(self.devices(resource)) for resource in sorted(self._known)}

    def allocatable(self) -> dict[str, int]:
        """Give resource -> number of healthy devices."""
        with self._changed:
            return {resource: sum(self.devices(resource).values()) for resource in sorted(self._known)}

    def messages(self, resource: str) -> list[dict[str, pb.Device]]:
        """Give all lists of the resource's present registration, oldest first."""
        with self._changed:
            endpoint = self._endpoints.get(resource)
            return list(endpoint.messages) if endpoint else []

    def numa(self, resource: str, device: str) -> tuple[int, ...]:
        """Give the NUMA nodes that the plugin named for a device."""
        return tuple(node.ID for node in self.messages(resource)[-1][device].topology.nodes)

    def registered(self, resource: str) -> list[Registration]:
        """Give the registrations of one resource, oldest first."""
        with self._changed:
            return [one for one in self.registrations if one.resource == resource]

    def wait(self, condition: Callable[[], Any], seconds: float = 10.0) -> Any:
        """Return what `condition` gives as soon as that is true; it is asked when anything changed here."""
        end = time.monotonic() + seconds
        with self._changed:
            while True:
                found = condition()
                if found:
                    return found
                left = end - time.monotonic()
                if left <= 0:
                    raise AssertionError(f"it did not happen within {seconds} s: {self.registrations} {self.refused}")
                self._changed.wait(min(left, 0.05))

    def wait_devices(self, resource: str, *healthy: str, seconds: float = 10.0) -> None:
        """Wait until exactly these devices of a resource are healthy."""
        self.wait(lambda: {one for one, well in self.devices(resource).items() if well} == set(healthy), seconds)

    # --- pods --------------------------------------------------------------------------------------------------------

    def admit(
        self, pod: str, wanted: Mapping[str, int], *, namespace: str = "default", container: str = "main"
    ) -> Granted:
        """Allocate for one container of a pod, as at the pod's admission; a container that has its devices keeps them.

        Raises
        ------
        AdmissionError
            Not enough healthy devices are free, or the plugin refused.
        """
        containers = self.pods.setdefault((namespace, pod), {})
        if container in containers:
            return containers[container]
        parts = []
        taken: dict[str, tuple[str, ...]] = {}
        try:
            for resource, number in sorted(wanted.items()):
                taken[resource] = self._choose(pod, resource, number, taken)
                parts.append(self._allocate(resource, taken[resource]))
        except AdmissionError:
            if not containers:
                del self.pods[namespace, pod]
            raise
        granted = _merge(taken, parts)
        with self._changed:
            containers[container] = granted
            self._changed.notify_all()
        return granted

    def start_container(self, pod: str, *, namespace: str = "default", container: str = "main") -> None:
        """Do what kubelet does before it creates a container, the first time and at each restart.

        Raises
        ------
        StartError
            The plugin refused, is gone, or did not answer in time.
        """
        for resource, ids in self.pods[namespace, pod][container].devices.items():
            endpoint = self._endpoints.get(resource)
            if endpoint is None or endpoint.stopped is not None:
                raise StartError(f"the endpoint of {resource} is stopped")
            if endpoint.options.pre_start_required:
                try:
                    self._call(endpoint, "PreStartContainer", ids, self.prestart_seconds)
                except grpc.RpcError as error:
                    raise StartError(f"{error.code().name}: {error.details()}") from error

    def remove(self, pod: str, *, namespace: str = "default") -> None:
        """Forget a pod: its devices are free, and no plugin hears of it."""
        with self._changed:
            del self.pods[namespace, pod]
            self._changed.notify_all()

    def in_use(self, resource: str) -> set[str]:
        """Give the ids of a resource that containers hold."""
        with self._changed:
            return {
                one
                for containers in self.pods.values()
                for granted in containers.values()
                for one in granted.devices.get(resource, ())
            }

    def overlaps(self) -> dict[str, list[str]]:
        """Give each device file and each board (address) that more than one live container holds, with the holders."""
        holders = defaultdict(list)
        with self._changed:
            for (namespace, pod), containers in self.pods.items():
                for container, granted in containers.items():
                    boards = filter(None, granted.env.get("FPGAHAL_VISIBLE_DEVICES", "").split(","))
                    for thing in {*(host for host, _ in granted.nodes.values()), *boards}:
                        holders[thing].append(f"{namespace}/{pod}/{container}")
        return {thing: who for thing, who in holders.items() if len(who) > 1}

    def _choose(self, pod: str, resource: str, number: int, taken: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
        with self._changed:
            endpoint = self._endpoints.get(resource)
            healthy = {one for one, well in self.devices(resource).items() if well}
            free = sorted(healthy - self.in_use(resource))
        if endpoint is None or number > len(free):
            raise AdmissionError(
                f"requested number of devices unavailable for {resource}. Requested: {number}, Available: {len(free)}"
            )
        self._random.shuffle(free)
        chosen: list[str] = []
        if endpoint.options.get_preferred_allocation_available:
            request = pb.PreferredAllocationRequest(
                container_requests=[
                    pb.ContainerPreferredAllocationRequest(available_deviceIDs=free, allocation_size=number)
                ]
            )
            self.calls.append(("GetPreferredAllocation", resource, tuple(free)))
            try:
                response = endpoint.call("GetPreferredAllocation", request)
            except grpc.RpcError as error:
                raise AdmissionError(f"{error.code().name}: {error.details()}") from error
            if response.container_responses:
                chosen = [one for one in response.container_responses[0].deviceIDs if one in free]
        chosen += [one for one in free if one not in chosen]
        return tuple(chosen[:number])

    def _allocate(self, resource: str, ids: tuple[str, ...]) -> Any:
        try:
            response = self._call(self._endpoints[resource], "Allocate", ids, None)
        except KeyError:
            raise AdmissionError(f"endpoint of {resource} is gone") from None
        except grpc.RpcError as error:
            raise AdmissionError(f"{error.code().name}: {error.details()}") from error
        if not response.container_responses:
            raise AdmissionError(f"{resource}: no container response")
        return response.container_responses[0]

    def _call(self, endpoint: Endpoint, method: str, ids: Iterable[str], timeout: float | None) -> Any:
        mixed = self._random.sample(list(ids), len(list(ids)))  # kubelet's sets have no order
        self.calls.append((method, endpoint.resource, tuple(mixed)))
        if method == "PreStartContainer":
            return endpoint.call(method, pb.PreStartContainerRequest(devices_ids=mixed), timeout)
        request = pb.AllocateRequest(container_requests=[pb.ContainerAllocateRequest(devices_ids=mixed)])
        return endpoint.call(method, request, timeout)


def unregistrable(request: Any) -> str:
    """Say why kubelet refuses a registration; empty if it does not."""
    if request.version != "v1beta1":
        return (
            f'requested API version "{request.version}" is not supported by kubelet. Supported version is ["v1beta1"]'
        )
    match = NAME.fullmatch(request.resource_name)
    if (
        match is None
        or len(match["name"]) > 63
        or len(match["prefix"]) > 253 - len("requests.")
        or match["prefix"].startswith("requests.")
        or match["prefix"] == "kubernetes.io"
        or match["prefix"].endswith(".kubernetes.io")
    ):
        return f'the ResourceName "{request.resource_name}" is invalid'
    if "/" in request.endpoint or not request.endpoint:
        return f'the endpoint "{request.endpoint}" is no file name'
    return ""


def _hang_up(endpoint: Endpoint) -> None:
    if endpoint.stream is not None:
        endpoint.stream.cancel()
    endpoint.channel.close()


def _merge(devices: Mapping[str, tuple[str, ...]], parts: Iterable[Any]) -> Granted:
    env: dict[str, str] = {}
    nodes: dict[str, tuple[str, str]] = {}
    mounts: dict[str, tuple[str, bool]] = {}
    annotations: dict[str, str] = {}
    cdi: list[str] = []
    for part in parts:
        env |= part.envs
        nodes |= {one.container_path: (one.host_path, one.permissions) for one in part.devices}
        mounts |= {one.container_path: (one.host_path, one.read_only) for one in part.mounts}
        annotations |= part.annotations
        cdi += [one.name for one in part.cdi_devices if one.name not in cdi]
    return Granted(dict(devices), env, nodes, mounts, annotations, tuple(cdi))
