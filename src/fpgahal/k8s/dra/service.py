# SPDX-License-Identifier: Apache-2.0
"""The running driver: its parts put together, until SIGTERM."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

import fpgahal
from fpgahal import ArgumentRangeError, FpgaError, ImageStore
from fpgahal.k8s import programming, rpc
from fpgahal.k8s.api import Api
from fpgahal.k8s.catalogue import CatalogueFile
from fpgahal.k8s.dra import DRIVER
from fpgahal.k8s.dra.cdi import ClaimFiles
from fpgahal.k8s.dra.checkpoint import BOOT_ID, Checkpoint
from fpgahal.k8s.dra.devices import Device, devices
from fpgahal.k8s.dra.driver import FAILURES, SERVICE, Driver
from fpgahal.k8s.dra.publisher import Publisher
from fpgahal.k8s.proto import pluginregistration_pb2 as registration_pb

REGISTRATION = registration_pb.DESCRIPTOR.services_by_name["Registration"]
VERSIONS = ("v1.DRAPlugin",)
CLEAN_UP_SECONDS = LABEL_SECONDS = 60.0
STOP_SECONDS = 25.0  # for a board that is being programmed; kubelet gives a pod 30 s

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Config:
    """What the command line says.

    Attributes
    ----------
    node : str
        This node's name.
    catalogue : Path or None
        Images that boards may be programmed with.
    store : Path
        Where their files are; a folder that is not there is none, and then images must be loaded already.
    program : bool
        Whether to load an image that is not loaded.
    kubelet_dir, cdi_dir : Path
    scan_seconds : float
        Between looks at the boards.
    instance : str
        The pod's uid, so that an old and a new driver can run side by side during an update; empty: one alone.
    """

    node: str
    catalogue: Path | None = None
    store: Path = Path("/srv/intel.com/fpga")
    program: bool = True
    kubelet_dir: Path = Path("/var/lib/kubelet")
    cdi_dir: Path = Path("/var/run/cdi")
    scan_seconds: float = 5.0
    instance: str = ""

    @property
    def folder(self) -> Path:
        """Where the driver's own files are."""
        return self.kubelet_dir / "plugins" / DRIVER

    @property
    def endpoint(self) -> Path:
        """The driver's socket."""
        return self.folder / (f"dra-{self.instance}.sock" if self.instance else "dra.sock")

    @property
    def registration(self) -> Path:
        """The socket by which kubelet finds the driver."""
        name = f"{DRIVER}-{self.instance}-reg.sock" if self.instance else f"{DRIVER}-reg.sock"
        return self.kubelet_dir / "plugins_registry" / name


class Registration:
    """Tells kubelet who this is."""

    def __init__(self, endpoint: Path) -> None:
        self._endpoint = endpoint
        self.registered = asyncio.Event()

    async def GetInfo(self, request: Any, context: Any) -> registration_pb.PluginInfo:  # noqa: N802
        """Answer kubelet's first question."""
        return registration_pb.PluginInfo(
            type="DRAPlugin", name=DRIVER, endpoint=str(self._endpoint), supported_versions=VERSIONS
        )

    async def NotifyRegistrationStatus(  # noqa: N802
        self, request: registration_pb.RegistrationStatus, context: Any
    ) -> registration_pb.RegistrationStatusResponse:
        """Learn what kubelet made of the answer."""
        if request.plugin_registered:
            log.info("Registered")
            self.registered.set()
        else:
            log.error("Kubelet does not take this driver: %s", request.error)
        return registration_pb.RegistrationStatusResponse()


class Service:
    """One run of the driver.

    Raises
    ------
    CatalogueError
        The catalogue can't be used.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self._images = CatalogueFile(config.catalogue) if config.catalogue is not None else None
        self.labels: dict[str, str] = {}  # of the node

    def scan(self) -> list[Device]:
        """Give the devices as they are now."""
        images = self._images.catalogue.images if self._images is not None else ()
        return devices(fpgahal.devices(), images, self.labels)

    def program(self, device: Device, namespace: str, timeout: float, *, program: bool) -> None:
        """Make a board run its image, or raise."""
        assert device.image is not None
        store = ImageStore(self.config.store) if self.config.store.is_dir() else None
        programming.ensure(
            device.info,
            device.image.afu_id,
            store=store,
            namespace=namespace,
            timeout=timeout,
            program=program and self.config.program,
        )

    async def run(self, api: Api, started: Callable[[], None] | None = None) -> None:
        """Serve until SIGTERM or SIGINT.

        Parameters
        ----------
        api : Api
            Not yet open.
        started : callable, optional
            Called when kubelet can find the driver.

        Raises
        ------
        CheckpointError
            The file of a former run can't be believed.
        ArgumentRangeError
            A socket's path is too long.
        OSError
            A folder is not there or can't be written.
        """
        config = self.config
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        config.folder.mkdir(parents=True, exist_ok=True)
        config.cdi_dir.mkdir(parents=True, exist_ok=True)
        checkpoint = Checkpoint(config.folder / "checkpoint.json", BOOT_ID.read_text().strip())
        checkpoint.claims()  # one that can't be believed ends the driver at once
        async with api:
            driver = Driver(config.node, api, checkpoint, ClaimFiles(config.cdi_dir), self.scan, self.program)
            publisher = Publisher(api, config.node)
            registration = Registration(config.endpoint)
            tasks = [
                asyncio.create_task(work)
                for work in (publisher.run(), self._watch_boards(api, publisher), self._clean_up(driver))
            ]
            try:
                async with (
                    serving(config.endpoint, rpc.handlers(SERVICE, driver)),
                    serving(config.registration, rpc.handlers(REGISTRATION, registration)),
                ):
                    log.info("Serving", extra={"node": config.node, "endpoint": str(config.endpoint)})
                    if started is not None:
                        started()
                    stopped = asyncio.create_task(stop.wait())
                    done, _ = await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
                    stopped.cancel()
                    for task in done - {stopped}:
                        task.result()  # they end only by an error
                    log.info("Stopping")
                await driver.finish(STOP_SECONDS)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch_boards(self, api: Api, publisher: Publisher) -> None:
        """Offer what is there, again and again: sysfs is read, no board is opened."""
        asked = -LABEL_SECONDS
        while True:
            try:
                if time.monotonic() - asked >= LABEL_SECONDS:
                    node = await api.get(f"/api/v1/nodes/{self.config.node}")
                    self.labels = dict((node.get("metadata") or {}).get("labels") or {})
                    asked = time.monotonic()
                publisher.offer(await asyncio.to_thread(self.scan))
                if self._images is not None and await asyncio.to_thread(self._images.refresh):
                    log.info("The catalogue was taken", extra={"images": len(self._images.catalogue.images)})
                    continue
            except FAILURES as error:
                log.warning("The boards can't be offered: %s", str(error) or type(error).__name__)
            await asyncio.sleep(self.config.scan_seconds)

    async def _clean_up(self, driver: Driver) -> None:
        while True:
            try:
                await driver.clean_up()
            except FAILURES as error:
                log.warning("Old claims can't be looked for: %s", str(error) or type(error).__name__)
            await asyncio.sleep(CLEAN_UP_SECONDS)


@asynccontextmanager
async def serving(path: Path, *handlers: grpc.GenericRpcHandler[Any, Any]) -> AsyncIterator[None]:
    """Serve on a unix socket that appears under its name when it is ready, and is gone at the end.

    Raises
    ------
    ArgumentRangeError
        The path is too long for a socket.
    FpgaError, OSError
        No socket can be made there.
    """
    aside = path.with_name(f".{path.name}")  # kubelet leaves out what begins with a dot
    if len(os.fsencode(aside)) > rpc.MAX_SOCKET_PATH:
        raise ArgumentRangeError(f"{path} is too long for a socket: {rpc.MAX_SOCKET_PATH} bytes is the most.")
    path.parent.mkdir(parents=True, exist_ok=True)
    aside.unlink(missing_ok=True)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(handlers)
    try:
        server.add_insecure_port(f"unix:{aside}")
    except RuntimeError as error:  # gRPC does not tell why
        raise FpgaError(f"No socket can be made in {path.parent}: {error}.") from None
    await server.start()
    made = os.stat(aside).st_ino
    try:
        os.chmod(aside, 0o600)
        os.replace(aside, path)
        yield
    finally:
        if _inode(path) == made:  # not a successor's
            path.unlink(missing_ok=True)
        await server.stop(5.0)


def _inode(path: Path) -> int:
    try:
        return os.stat(path).st_ino
    except FileNotFoundError:
        return 0
