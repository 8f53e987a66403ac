# SPDX-License-Identifier: Apache-2.0
"""Kubelet's side: its registration socket, and keeping one server registered whatever happens to either."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

import grpc

from fpgahal.k8s import rpc
from fpgahal.k8s.backoff import Backoff
from fpgahal.k8s.plugin.metrics import Metrics
from fpgahal.k8s.plugin.server import PREFIX, ResourceServer
from fpgahal.k8s.proto import deviceplugin_pb2 as pb

VERSION = "v1beta1"
REGISTER = pb.DESCRIPTOR.services_by_name["Registration"].methods_by_name["Register"]

REGISTER_SECONDS = 15.0  # kubelet itself waits 10 s for our answers to its calls
POLL_SECONDS = 0.5  # between looks at the sockets' files, while kubelet follows the list
WAITING_SECONDS = 0.05  # and while it does not: pods that come to the node meanwhile are refused for good
STREAM_SECONDS = 5.0  # without a stream after a registration: register again
# Kubelet marks a resource's devices by name when it sees the end of a stream: let it, before there is a new one.
SETTLE_SECONDS = 0.5

log = logging.getLogger(__name__)

Identity: TypeAlias = tuple[int, int]  # inode, and ctime in ns, because a new socket may get the old one's inode


class Kubelet:
    """Kubelet's folder for device plugins.

    Parameters
    ----------
    root : Path
        Kubelet's root folder: ``/var/lib/kubelet``, elsewhere in some distributions.
    """

    def __init__(self, root: Path) -> None:
        self.folder = root / "device-plugins"
        self.socket = self.folder / "kubelet.sock"

    def identity(self) -> Identity | None:
        """Tell this kubelet's socket from the next one's; None if there is none."""
        try:
            found = self.socket.stat()
        except OSError:
            return None
        return found.st_ino, found.st_ctime_ns

    async def register(self, server: ResourceServer) -> None:
        """Register a server, which must answer already: kubelet calls back before this returns.

        Raises
        ------
        grpc.RpcError
            Kubelet is not there, or refused.
        """
        request = pb.RegisterRequest(
            version=VERSION, endpoint=server.path.name, resource_name=server.resource, options=server.options
        )
        async with rpc.channel(str(self.socket)) as channel:
            await rpc.call(channel, REGISTER)(request, timeout=REGISTER_SECONDS)

    def tidy(self) -> None:
        """Remove sockets that a killed instance left; the caller holds the `InstanceLock`."""
        for path in [*self.folder.glob(f"{PREFIX}*.sock"), *self.folder.glob(f".{PREFIX}*")]:
            with suppress(OSError):
                path.unlink()


class InstanceLock:
    """One instance of the plugin at a time: in a rolling update the new one waits until the old one has gone.

    The lock is on kubelet's folder itself: a lock file in it would be wiped when kubelet starts.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._fd = -1

    @property
    def held(self) -> bool:
        """Whether this process has the lock, on the folder that is there now."""
        if self._fd < 0:
            return False
        try:
            return os.path.samestat(os.fstat(self._fd), self._folder.stat())
        except OSError:
            return False

    def take(self) -> bool:
        """Try to take it; False if another instance has it.

        Raises
        ------
        OSError
            The folder is not there.
        """
        if self.held:
            return True
        self.release()
        fd = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        except OSError:
            os.close(fd)
            raise
        self._fd = fd
        return True

    def release(self) -> None:
        """Let go of it, if it is held."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Registration:
    """Keeps a server serving and registered; run it as a task.

    Parameters
    ----------
    kubelet : Kubelet
    server : ResourceServer
    metrics : Metrics
    """

    def __init__(self, kubelet: Kubelet, server: ResourceServer, metrics: Metrics) -> None:
        self._kubelet, self._server, self._metrics = kubelet, server, metrics
        self._with: Identity | None = None  # the kubelet that knows us
        self._at = 0.0  # when we registered
        self._news = asyncio.Event()
        server.on_change = self._news.set

    @property
    def followed(self) -> bool:
        """Whether kubelet knows the server, and reads its list."""
        return self._with is not None and self._server.streams > 0

    async def run(self) -> None:
        """Work until cancelled."""
        backoff = Backoff(0.1, 5.0)
        while True:
            before = self._situation()
            try:
                await self._ensure()
                backoff.reset()
                await self._until(self._unsettled)
            except Exception as error:
                rpc.check_cancelled()
                wait = backoff.next()
                told = error.details() if isinstance(error, grpc.aio.AioRpcError) else str(error)
                log.warning(
                    "Not registered yet: %s",
                    told or type(error).__name__,
                    extra={"resource": self._server.resource, "retry_seconds": round(wait, 2)},
                )
                self._metrics.registered(self._server.resource, "failed")
                await self._until(self._other_than(before), wait)

    async def _ensure(self) -> None:
        server = self._server
        if server.serving and not server.present:
            log.info("Our socket is gone: making it anew", extra={"resource": server.resource})
            await self._end()
        identity = self._kubelet.identity()
        if identity != self._with and server.streams:  # a new kubelet, and the old one's stream is still there
            await self._end()
        if not server.serving:
            self._with = None
            await server.serve()
        if identity is None:
            if self._with is not None:
                log.info("Kubelet is gone: waiting for it", extra={"resource": server.resource})
            self._with = None
            return
        if identity != self._with or self._lost():
            await self._kubelet.register(server)
            self._with, self._at = identity, time.monotonic()
            self._metrics.registered(server.resource, "ok")
            log.info("Registered", extra={"resource": server.resource, "socket": server.path.name})

    async def _end(self) -> None:
        followed = self._server.streams > 0
        self._with = None
        await self._server.stop()
        if followed:
            await asyncio.sleep(SETTLE_SECONDS)

    def _lost(self) -> bool:
        """Whether kubelet knows us, but has not followed the list for a while."""
        return not self._server.streams and time.monotonic() - self._at >= STREAM_SECONDS

    def _situation(self) -> tuple[Identity | None, bool]:
        """Tell what kubelet's socket is, and whether ours is there."""
        return self._kubelet.identity(), self._server.serving and self._server.present

    def _other_than(self, before: tuple[Identity | None, bool]) -> Callable[[], bool]:
        return lambda: self._situation() != before

    def _unsettled(self) -> bool:
        """Whether there is something to do."""
        return self._situation() != (self._with, True) or (self._with is not None and self._lost())

    async def _until(self, condition: Callable[[], bool], seconds: float = float("inf")) -> None:
        """Return when something is so, at the latest after so many seconds."""
        end = time.monotonic() + seconds
        while not condition() and (left := end - time.monotonic()) > 0:
            self._news.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left, POLL_SECONDS if self.followed else WAITING_SECONDS)):
                    await self._news.wait()
