# SPDX-License-Identifier: Apache-2.0
"""The device plugin as users start it: a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self


class PluginProcess:
    """``fpgahal-plugin`` for kubelet's folder `kubelet`; use it in ``with``.

    Parameters
    ----------
    kubelet : Path
    *options : str
    log : Path
        What it logs is appended to this file.
    """

    def __init__(self, kubelet: Path, *options: str, log: Path) -> None:
        self._command = [sys.executable, "-m", "fpgahal.k8s.plugin", "--kubelet-dir", str(kubelet)]
        self._command += ["--status-port", "-1", *options]
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self.started = 0.0  # time.monotonic()

    def start(self) -> None:
        """Start it; it registers when it is ready."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("FPGAHAL_EMU")}
        with self._log.open("ab") as log:
            self.started = time.monotonic()
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, env=kept)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def resident(self) -> float:
        """Resident memory, MiB."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def kill(self) -> None:
        """SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)

    def terminate(self) -> int:
        """SIGTERM; give its exit code."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(30)

    def log(self) -> str:
        """What it logged."""
        return self._log.read_text() if self._log.exists() else ""

    def end(self) -> None:
        """Leave no process behind."""
        if self._process is not None and self._process.poll() is None:
            self.kill()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end()
        if value is not None:
            print(self.log())
