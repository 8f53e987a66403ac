# SPDX-License-Identifier: Apache-2.0
"""The gRPC server of one resource: kubelet's DevicePlugin service on a socket of its own."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import grpc

from fpgahal import DeviceNotFoundError, DeviceStateError, FpgaError
from fpgahal.k8s import rpc
from fpgahal.k8s.plugin.metrics import Metrics
from fpgahal.k8s.plugin.unit import Unit
from fpgahal.k8s.plugin.work import Share, Work
from fpgahal.k8s.proto import deviceplugin_pb2 as pb

PREFIX = "fpgahal-"  # of the names of our sockets
PRESTART_SECONDS = 30.0  # kubelet's deadline
MARGIN_SECONDS = 0.5  # left for the answer
GRACE_SECONDS = 1.0  # for calls under way when a server stops; who is being programmed gets more

T = TypeVar("T")

SERVICE = pb.DESCRIPTOR.services_by_name["DevicePlugin"]

log = logging.getLogger(__name__)

_ABSENT = (0, 0)
_numbers = itertools.count()


class ServerError(FpgaError, RuntimeError):
    """A server can't be started or stopped as it is."""


def socket_name(resource: str, folder: Path) -> str:
    """Name the socket of a resource: readable, and short enough for a unix socket in that folder.

    Raises
    ------
    ServerError
        The folder's path leaves no room.
    """
    name = f"{PREFIX}{resource.replace('/', '-')}.sock"
    room = rpc.MAX_SOCKET_PATH - len(os.fsencode(folder)) - 1
    if len(name) <= room:
        return name
    import hashlib  # not at import time: it loads OpenSSL

    tail = f"-{hashlib.sha256(resource.encode()).hexdigest()[:12]}.sock"
    if room < len(PREFIX) + len(tail):
        raise ServerError(
            f"{folder} is too long for a folder of sockets: a socket's path has at most {rpc.MAX_SOCKET_PATH} bytes."
        )
    return name[: room - len(tail)] + tail


class ResourceServer:
    """Serves one resource to kubelet.

    Parameters
    ----------
    resource : str
    folder : Path
        Kubelet's folder for plugins.
    work : Work
    metrics : Metrics
    changed : callable
        Called when a stream begins or ends.
    """

    def __init__(
        self,
        resource: str,
        folder: Path,
        work: Work,
        metrics: Metrics,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self.resource = resource
        self.path = folder / socket_name(resource, folder)
        self.streams = 0
        self.on_change = changed
        self._work, self._metrics = work, metrics
        self._units: Mapping[str, Unit] = {}
        self._list = pb.ListAndWatchResponse()
        self._news = asyncio.Event()  # replaced by each news
        self._server: grpc.aio.Server | None = None
        self._file = _ABSENT  # our socket: inode and ctime, because another file may get our inode
        self._closing = False

    @property
    def options(self) -> pb.DevicePluginOptions:
        """What kubelet is told at registration."""
        return pb.DevicePluginOptions(pre_start_required=self._work.prestart, get_preferred_allocation_available=True)

    @property
    def serving(self) -> bool:
        """Whether it was started, and not stopped."""
        return self._server is not None

    @property
    def present(self) -> bool:
        """Whether the socket's file is there, and ours."""
        return self._file == _identity(self.path) != _ABSENT

    def update(self, units: Mapping[str, Unit]) -> None:
        """Offer these from now on; kubelet is told if that changes its list."""
        self._units = units
        message = list_of(units.values())
        if message != self._list:
            self._list = message
            self._wake()

    async def serve(self) -> None:
        """Bind the socket and answer.

        The socket is made under another name and renamed: gRPC would remove whatever has the name when it binds and
        again when it stops.

        Raises
        ------
        ServerError
            It serves already, or somebody else serves under that name.
        OSError
            The folder is not there, or may not be written.
        """
        if self._server is not None:
            raise ServerError(f"{self.resource} is being served already.")
        if _answers(self.path):
            raise ServerError(
                f"Another process serves {self.path}.", hint="Is another device plugin for these boards running?"
            )
        aside = self.path.with_name(f".{PREFIX}{os.getpid()}-{next(_numbers)}")
        if not self.path.parent.is_dir():
            raise FileNotFoundError(2, "There is no such folder", str(self.path.parent))
        self._closing = False
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((rpc.handlers(SERVICE, self),))
        try:
            server.add_insecure_port(f"unix:{aside}")
        except RuntimeError as error:  # gRPC does not tell why
            raise ServerError(f"No socket can be made in {self.path.parent}: {error}.") from None
        try:
            await server.start()
            os.chmod(aside, 0o600)
            os.rename(aside, self.path)
        except BaseException:  # also cancelled: nobody else knows this server
            await server.stop(None)
            raise
        self._file = _identity(self.path)
        self._server = server

    async def stop(self, *, gone: bool = False, grace: float = GRACE_SECONDS) -> None:
        """End streams and calls, and remove the socket.

        Parameters
        ----------
        gone : bool
            Tell kubelet first that there are no devices any more: else it keeps the last number for five minutes.
        grace : float
            Seconds for calls under way.

        Raises
        ------
        ServerError
            It does not serve.
        """
        if self._server is None:
            raise ServerError(f"{self.resource} is not being served.", hint="serve() comes before stop().")
        server, self._server = self._server, None
        if gone:
            self.update({})
        if self.present:
            with suppress(OSError):
                self.path.unlink()
        self._closing = True
        self._wake()
        await server.stop(grace)

    # --- kubelet's calls ----------------------------------------------------------------------------------------

    async def GetDevicePluginOptions(self, request: Any, context: Any) -> pb.DevicePluginOptions:  # noqa: N802
        """Say which of the optional calls are wanted."""
        return self.options

    async def ListAndWatch(self, request: Any, context: Any) -> AsyncIterator[pb.ListAndWatchResponse]:  # noqa: N802
        """Give the whole list now and after each change."""
        self.streams += 1
        self.on_change()
        sent = None
        try:
            while True:
                news, message = self._news, self._list
                if message is not sent:
                    yield message
                    sent = message
                if self._closing:
                    return
                await news.wait()
        finally:
            self.streams -= 1
            self.on_change()

    async def GetPreferredAllocation(self, request: Any, context: Any) -> pb.PreferredAllocationResponse:  # noqa: N802
        """Choose units for containers."""

        async def choose() -> pb.PreferredAllocationResponse:
            response = pb.PreferredAllocationResponse()
            for one in request.container_requests:
                # Kubelet may not have read our last list yet: what is no more is no choice.
                available, must = (
                    [self._units[id] for id in ids if id in self._units]
                    for ids in (one.available_deviceIDs, one.must_include_deviceIDs)
                )
                chosen = await self._work.prefer(self.resource, available, must, one.allocation_size)
                response.container_responses.add(deviceIDs=chosen)
            return response

        return await self._answer("prefer", context, choose)

    async def Allocate(self, request: Any, context: Any) -> pb.AllocateResponse:  # noqa: N802
        """Give containers their share."""

        async def allocate() -> pb.AllocateResponse:
            response = pb.AllocateResponse()
            for one in request.container_requests:
                units = self._named(one.devices_ids)
                share = self._work.allocate(units)
                if share.cdi:  # else the container runtime would refuse the container, or run it without the hook
                    failures = await asyncio.to_thread(self._work.publish, units)
                    for why in failures.values():
                        raise DeviceStateError(why)
                response.container_responses.append(share_of(share))
                self._metrics.allocated(self.resource, len(units))
                log.info("Allocated", extra={"resource": self.resource, "units": list(one.devices_ids)})
            return response

        return await self._answer("allocate", context, allocate)

    async def PreStartContainer(self, request: Any, context: Any) -> pb.PreStartContainerResponse:  # noqa: N802
        """Have the boards programmed and verified, before each start of a container."""
        left = context.time_remaining()
        seconds = min(PRESTART_SECONDS if left is None else left, PRESTART_SECONDS) - MARGIN_SECONDS

        async def prepare() -> pb.PreStartContainerResponse:
            units = self._named(request.devices_ids)
            for unit in units:
                if not unit.healthy:
                    raise DeviceStateError(f"Device {unit.id} of {unit.resource} can't be used now: {unit.reason}.")
            if self._work.prestart:
                async with asyncio.timeout(seconds):
                    await self._work.prepare(units, seconds)
            return pb.PreStartContainerResponse()

        return await self._answer("prestart", context, prepare)

    async def _answer(self, method: str, context: Any, work: Callable[[], Awaitable[T]]) -> T:
        """Run a call; what it raises becomes a gRPC error, whose text kubelet writes into the pod's events."""
        begin = time.perf_counter()
        code, text = grpc.StatusCode.OK, ""
        try:
            return await work()
        except FpgaError as error:
            code, text = code_of(error), f"{error.message} {error.hint}".strip()
        except TimeoutError:
            code, text = grpc.StatusCode.DEADLINE_EXCEEDED, f"{self.resource}: the board was not ready in time."
        except Exception as error:
            log.exception("%s failed", method, extra={"resource": self.resource})
            code, text = grpc.StatusCode.INTERNAL, f"{self.resource}: {type(error).__name__}: {error}"
        finally:
            result = "ok" if code is grpc.StatusCode.OK else code.name
            self._metrics.called(method, self.resource, result, time.perf_counter() - begin)
        log.warning("%s refused: %s", method, text, extra={"resource": self.resource})
        await context.abort(code, text)
        raise AssertionError("abort raises")

    def _named(self, ids: Iterable[str]) -> list[Unit]:
        found = []
        for id in ids:
            if id not in self._units:
                known = ", ".join(self._units) or "none"
                raise DeviceNotFoundError(f"{self.resource} has no device {id!r}; it has: {known}.")
            found.append(self._units[id])
        return found

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


def list_of(units: Iterable[Unit]) -> pb.ListAndWatchResponse:
    """Give kubelet's list of units."""
    return pb.ListAndWatchResponse(
        devices=[
            pb.Device(
                ID=unit.id,
                health="Healthy" if unit.healthy else "Unhealthy",
                topology=pb.TopologyInfo(nodes=[pb.NUMANode(ID=node) for node in unit.numa_nodes])
                if unit.numa_nodes
                else None,
            )
            for unit in units
        ]
    )


def share_of(share: Share) -> pb.ContainerAllocateResponse:
    """Give a container's share in kubelet's words."""
    return pb.ContainerAllocateResponse(
        envs=share.env,
        mounts=[
            pb.Mount(container_path=one.path, host_path=one.host_path, read_only=one.read_only) for one in share.mounts
        ],
        devices=[
            pb.DeviceSpec(container_path=one.path, host_path=one.host_path, permissions=one.permissions)
            for one in share.nodes
        ],
        annotations=share.annotations,
        cdi_devices=[pb.CDIDevice(name=name) for name in share.cdi],
    )


def code_of(error: FpgaError) -> grpc.StatusCode:
    """Give the gRPC code for what a call raised."""
    if isinstance(error, LookupError):
        return grpc.StatusCode.NOT_FOUND
    if isinstance(error, TimeoutError):
        return grpc.StatusCode.DEADLINE_EXCEEDED
    if isinstance(error, PermissionError):
        return grpc.StatusCode.PERMISSION_DENIED
    return grpc.StatusCode.FAILED_PRECONDITION


def _identity(path: Path) -> tuple[int, int]:
    try:
        found = path.lstat()
    except OSError:
        return _ABSENT
    return found.st_ino, found.st_ctime_ns


def _answers(path: Path) -> bool:
    """Tell whether a process listens on a socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(os.fspath(path))
        except BlockingIOError:
            return True  # its queue is full
        except OSError:
            return False
    return True
