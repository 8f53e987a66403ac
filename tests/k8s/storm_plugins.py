# SPDX-License-Identifier: Apache-2.0
"""The plugin under the storm: in this process, where thousands of lives are quick, and as a process that is killed."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import threading
import time
import urllib.request
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from plugin_process import PluginProcess
from waiting import until

from fpgahal import ImageStore
from fpgahal.k8s.api import Api
from fpgahal.k8s.plugin import prestart
from fpgahal.k8s.plugin.boards import Boards
from fpgahal.k8s.plugin.cdi import CdiFolder
from fpgahal.k8s.plugin.holdings import holdings
from fpgahal.k8s.plugin.kubelet import Kubelet
from fpgahal.k8s.plugin.metrics import Metrics
from fpgahal.k8s.plugin.node import Node
from fpgahal.k8s.plugin.pods import Pods
from fpgahal.k8s.plugin.unit import Unit
from fpgahal.k8s.schemes.settings import Settings

SETTINGS = Settings(("intel", "own"), mode="region")
GRACE = 3600  # seconds: boards that are pulled are not forgotten while a story lasts


class Plugin(Protocol):
    """What a story does to the plugin."""

    def start(self) -> None: ...

    def kill(self) -> None:
        """SIGKILL."""
        ...

    def wake(self) -> None:
        """As a uevent does."""
        ...

    def scan(self) -> None:
        """Wait until the boards were looked at, by a scan that began after this."""
        ...

    def switch(self, mode: str) -> None:
        """The node's annotation changes."""
        ...

    def close(self) -> None:
        """The story is over."""
        ...


class PluginThread:
    """The plugin's node in a thread of its own."""

    def __init__(self, folder: Path, api: str) -> None:
        self._folder, self._api = folder, api
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._settings = SETTINGS
        self._pod_resources = str(folder / "pod-resources" / "kubelet.sock")

    def start(self) -> None:
        self._do(self._start())

    async def _start(self) -> None:
        cdi = CdiFolder(str(self._folder / "cdi"))
        self._boards = Boards(self._settings, cdi, "/no/hook", prepare=self._prepare)
        self._node = Node(
            Kubelet(self._folder),
            self._boards,
            Metrics(),
            scan_seconds=0.5,
            grace_seconds=GRACE,
            held=lambda: holdings(self._pod_resources),
        )
        self._task = asyncio.create_task(self._node.run())

    async def _prepare(self, units: Sequence[Unit], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        async with Api(self._api) as api:
            pods = Pods(api, self._pod_resources)
            store = ImageStore(self._folder / "store")
            await prestart.prepare(units, store=store, pods=pods, deadline=deadline)

    def kill(self) -> None:
        """End it as SIGKILL does, nearly: the sockets' files stay, and nobody listens."""
        sockets = list((self._folder / "device-plugins").glob("fpgahal-*.sock"))
        self._do(self._end())
        for path in sockets:
            with socket.socket(socket.AF_UNIX) as dead:
                dead.bind(os.fspath(path))

    async def _end(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._node.close(0.0)

    def wake(self) -> None:
        self._loop.call_soon_threadsafe(self._node.wake)

    def switch(self, mode: str) -> None:
        self._settings = self._boards.settings = replace(self._settings, mode=mode)
        self.wake()

    def scan(self) -> None:
        for _ in range(2):  # one may be under way
            turns = self._node.turns
            self.wake()
            until(lambda before=turns: self._node.turns > before, lambda: "no scan ends")

    def close(self) -> None:
        self._do(self._end())
        self._do(self._drain())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _drain(self) -> None:
        """Wait for scans that a killed process would not have ended."""
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()}, return_exceptions=True)

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(30)


class PluginAlone:
    """``fpgahal-plugin`` in a process of its own."""

    def __init__(self, folder: Path, api: str) -> None:
        options = [
            f"--schemes={','.join(SETTINGS.schemes)}",
            f"--mode={SETTINGS.mode}",
            f"--api-server={api}",
            "--node-name=n1",
        ]
        options += ["--scan-seconds=0.05", f"--grace-seconds={GRACE}", "--hook=/no/hook", f"--cdi-dir={folder / 'cdi'}"]
        options += [f"--rack={folder / 'rack'}", f"--store={folder / 'store'}"]
        options += ["--json", "--status-host=127.0.0.1", "--status-port=0"]
        self._process = PluginProcess(folder, *options, log=folder / "plugin.log")

    def start(self) -> None:
        self._before = len(self._process.log())
        self._process.start()

    def kill(self) -> None:
        self._process.kill()

    def wake(self) -> None:
        """It looks often enough."""

    def switch(self, mode: str) -> None:
        """It watches the API server."""

    def scan(self) -> None:
        before = self._scans()
        until(lambda: self._scans() >= before + 2)  # one may be under way

    def _scans(self) -> int:
        until(self._ports, self._process.log)
        with urllib.request.urlopen(f"http://127.0.0.1:{self._ports()[0]}/metrics", timeout=10) as answer:
            found = re.findall(r"^fpgahal_plugin_scans_total\{.*\} ([0-9]+)", answer.read().decode(), re.MULTILINE)
        return sum(map(int, found))

    def _ports(self) -> list[int]:
        lines = [
            line for line in self._process.log()[self._before :].splitlines(keepends=True) if "status_port" in line
        ]
        return [json.loads(line)["status_port"] for line in lines if line.endswith("\n")]

    def close(self) -> None:
        try:
            self.scan()  # while it is being loaded, SIGTERM would end it like any other program
            assert self._process.terminate() == 0, self._process.log()
        finally:
            self._process.end()
