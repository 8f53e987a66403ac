# SPDX-License-Identifier: Apache-2.0
"""The running plugin: its parts put together, until SIGTERM.

Registration comes first.  What it does not need (the status server, the API server's client, programming) is imported
afterwards and in a thread: pods that are bound to the node meanwhile are refused for good.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import logging
import os
import signal
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fpgahal.k8s.plugin.boards import Boards
from fpgahal.k8s.plugin.cdi import CdiFolder
from fpgahal.k8s.plugin.config import Config
from fpgahal.k8s.plugin.holdings import holdings
from fpgahal.k8s.plugin.kubelet import Kubelet
from fpgahal.k8s.plugin.metrics import Metrics
from fpgahal.k8s.plugin.node import Node
from fpgahal.k8s.unit import Unit

if TYPE_CHECKING:
    from fpgahal.k8s.api import Api

MODE_SECONDS = 3.0  # how long the first registration waits for the node's annotation
STATUS_SECONDS = 1.0  # and how long everything else waits for the first registration
STOP_SECONDS = 25.0  # for a board that is being programmed; kubelet gives a pod 30 s

log = logging.getLogger(__name__)


def hook_options(config: Config) -> tuple[str, ...]:
    """Give what the hook is told of the configuration: it loads images where nobody did before it."""
    program = ("--program",) if config.program and not config.prestart else ()
    return *program, "--store", str(config.store)


class Service:
    """One run of the plugin."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.metrics = Metrics()
        prepare = self._prepare if config.prestart else None
        self._pod_resources = str(config.kubelet_dir / "pod-resources" / "kubelet.sock")
        cdi = CdiFolder(str(config.cdi_dir), hook_options(config))
        self.boards = Boards(config.settings(), cdi, config.hook, prepare, self._wish)
        self.node = Node(
            Kubelet(config.kubelet_dir),
            self.boards,
            self.metrics,
            scan_seconds=config.scan_seconds,
            grace_seconds=config.grace_seconds,
            held=lambda: holdings(self._pod_resources),
        )
        self.metrics.mode = lambda: self.boards.settings.mode
        self._api: Api | None = None
        self._opened = asyncio.Event()  # `_api` is what it will be
        self._tasks: list[asyncio.Task[Any]] = []

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT; a second one does not wait for boards that are being programmed."""
        stop, stop_now = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, lambda: (stop_now if stop.is_set() else stop).set())
        async with AsyncExitStack() as stack:
            follows_mode = "intel" in self.config.schemes and self._has_api()
            if follows_mode:
                await self._follow_mode(stack)
            node = self._begin(self.node.run())
            self._begin(self._rest(stack, api=not follows_mode))
            stopped = self._begin(stop.wait())
            await asyncio.wait([node, stopped], return_when=asyncio.FIRST_COMPLETED)
            log.info("Stopping")
            for task in self._tasks:
                task.cancel()
            results = await asyncio.gather(*self._tasks, return_exceptions=True)
            ends = [asyncio.create_task(self.node.close(STOP_SECONDS)), asyncio.create_task(stop_now.wait())]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for task in ends:
                task.cancel()
            await asyncio.gather(*ends, return_exceptions=True)
            for result in results:
                if isinstance(result, Exception):
                    raise result

    # --- parts --------------------------------------------------------------------------------------------------

    def _begin(self, work: Any) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._tasks.append(task)
        return task

    def _has_api(self) -> bool:
        return bool(self.config.api_server or os.environ.get("KUBERNETES_SERVICE_HOST"))

    async def _open_api(self, stack: AsyncExitStack) -> Api | None:
        """Connect to the API server, where there is one; without it the plugin works, but knows less."""
        try:
            if self._has_api():
                api = await _imported("fpgahal.k8s.api")
                url = self.config.api_server
                self._api = await stack.enter_async_context(api.Api(url) if url else api.Api.of_pod())
        except Exception as error:
            log.warning("No API server: %s", error)
        finally:
            self._opened.set()
        return self._api

    async def _follow_mode(self, stack: AsyncExitStack) -> None:
        """Learn the mode before the first registration: a resource that was registered stays on the node for ever."""
        api = await self._open_api(stack)
        if api is None:
            return
        if not self.config.node_name:
            log.warning("Which node this is, is not known: the mode is %s (set NODE_NAME)", self.config.mode)
            return
        mode = await _imported("fpgahal.k8s.plugin.mode")
        watch = mode.ModeWatch(api, self.config.node_name, self.config.mode, self.switch)
        self._begin(watch.run())
        try:
            async with asyncio.timeout(MODE_SECONDS):
                await watch.told.wait()
        except TimeoutError:
            log.warning("The API server does not answer: the mode is %s for now", self.config.mode)

    def switch(self, mode: str) -> None:
        """Go over to another mode."""
        self.boards.settings = replace(self.boards.settings, mode=mode)
        self.node.wake()

    async def _rest(self, stack: AsyncExitStack, *, api: bool) -> None:
        end = time.monotonic() + STATUS_SECONDS
        while (not self.node.turns or self.node.unregistered()) and time.monotonic() < end:
            await asyncio.sleep(0.01)
        gc.freeze()  # what is there now stays: no call of kubelet's need wait until all of it was looked through
        gc.enable()
        if api:
            await self._open_api(stack)
        try:
            if self.config.status_port >= 0:
                await self._serve_status(stack)
            if self.config.prestart:  # so that the first container does not wait for it
                await _imported("fpgahal.k8s.plugin.prestart")
        except Exception as error:  # boards are offered all the same
            log.error("No status server, or no programming: %s: %s", type(error).__name__, error)
        gc.freeze()

    async def _serve_status(self, stack: AsyncExitStack) -> None:
        status = await _imported("fpgahal.k8s.plugin.status")
        web = await _imported("aiohttp.web")
        app = status.Status(self.node, self.metrics, self.config.scan_seconds).app()
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, self.config.status_host, self.config.status_port).start()
        log.info("Serving", extra={"status_port": runner.addresses[0][1]})

    async def _prepare(self, units: Sequence[Unit], seconds: float) -> None:
        """Program and verify: what `prestart` does, with what this plugin has of store and API server."""
        deadline = time.monotonic() + seconds
        prestart = await _imported("fpgahal.k8s.plugin.prestart")
        pods = await _imported("fpgahal.k8s.plugin.pods")
        store = await _imported("fpgahal")
        await self._opened.wait()
        try:
            await prestart.prepare(
                units,
                store=store.ImageStore(self.config.store) if self.config.store.is_dir() else None,
                pods=pods.Pods(self._api, self._pod_resources),
                deadline=deadline,
                program=self.config.program,
                hook=self.boards.hooked(units),
            )
        finally:
            self.node.wake()  # another image may be loaded now: labels, preference and mode af want to know

    async def _wish(self, resource: str) -> str:
        """Ask which function is about to run, if there is somebody to ask."""
        if self._api is None or not self.config.node_name:
            return ""
        pending = await _imported("fpgahal.k8s.plugin.pending")
        return str(await pending.wish(self._api, self.config.node_name, resource))


async def _imported(name: str) -> Any:
    """Import in a thread, so that kubelet's calls are answered meanwhile."""
    return await asyncio.to_thread(importlib.import_module, name)
