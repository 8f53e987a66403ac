# SPDX-License-Identifier: Apache-2.0
"""Real containers: Debian's podman and runc, without images.

A container's root is a few empty folders; the host's /usr and this interpreter are mounted into it, read-only.  Podman
gets storage of its own, and a mount namespace in which /run/cdi is the test's folder: the machine keeps no trace.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self

from fake_kubelet import Granted
from waiting import until

SECONDS = 60.0
ROOT_FOLDERS = ("dev", "etc", "proc", "run", "sys", "tmp", "usr", "var")
ROOT_LINKS = ("bin", "sbin", "lib", "lib64")  # into /usr, as on the host

# A limit that may not be raised must not be asked for: podman asks for more unless it is told.
LIMITS = ("--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024")
AS_A_POD = ("--network=none", "--cap-drop=all", "--security-opt=no-new-privileges")

IN_ITS_NAMESPACE = 'mkdir -p /run/cdi && mount --bind "$1" /run/cdi && shift && exec "$@"'


class Podman:
    """One node's container runtime; `cdi` is its folder of CDI files.  Use it in ``with``."""

    def __init__(self, cdi: Path) -> None:
        self._cdi = cdi
        self._temporary = TemporaryDirectory(prefix="podman-")  # podman refuses a path of more than 50 characters
        self._folder = Path(self._temporary.name)
        self._root = self._folder / "root"
        for name in ROOT_FOLDERS:
            (self._root / name).mkdir(parents=True)
        for name in ROOT_LINKS:
            (self._root / name).symlink_to(f"usr/{name}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # What tidies up after a container is a process of its own, and not always done when podman is.
        until(lambda: not self._podman("ps", "--all", "--quiet").communicate(timeout=SECONDS)[0])
        self._temporary.cleanup()

    def run(self, granted: Granted | None, *command: str, **more: Any) -> subprocess.CompletedProcess[str]:
        """Run a command in a container, to its end; parameters as for `start`."""
        with self.start(granted, *command, **more) as process:
            output, errors = process.communicate(timeout=SECONDS)
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    def start(
        self,
        granted: Granted | None,
        *command: str,
        env: Mapping[str, str] | None = None,
        annotations: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[str]:
        """Start a command in a container that gets what kubelet hands to the runtime, and nothing else of the host.

        Parameters
        ----------
        granted : Granted or None
            The device plugin's answer to Allocate; None: the pod asked for no device.
        command : str
        env : mapping
            The pod's own variables.
        annotations : mapping
            What the runtime writes into config.json: of which namespace the pod is.
        """
        options = [*_pairs("--env", env or {}), *_pairs("--annotation", annotations or {})]
        if granted is not None:
            options += [*_pairs("--env", granted.env), *_pairs("--annotation", granted.annotations)]
            for inside, (host, read_only) in granted.mounts.items():
                options.append(f"--volume={host}:{inside}{':ro' if read_only else ''}")
            options += [f"--device={host}:{inside}:{mode}" for inside, (host, mode) in granted.nodes.items()]
            options += [f"--device={name}" for name in granted.cdi]
        return self._podman("run", "--rm", *LIMITS, *AS_A_POD, *_host(), *options, "--rootfs", self._root, *command)

    def python(self, granted: Granted | None, code: str, **more: Any) -> subprocess.CompletedProcess[str]:
        """Run Python code in a container."""
        return self.run(granted, sys.executable, "-c", code, **more)

    @property
    def interpreter(self) -> str:
        """This interpreter, which is in each container."""
        return sys.executable

    def _podman(self, *words: str | Path) -> subprocess.Popen[str]:
        own = (f"--root={self._folder}/storage", f"--runroot={self._folder}/run", f"--tmpdir={self._folder}/tmp")
        how = ("--runtime=runc", "--cgroup-manager=cgroupfs", "--events-backend=none", "--log-level=error")
        shell = ("unshare", "--mount", "sh", "-c", IN_ITS_NAMESPACE, "sh", self._cdi)
        command = [*map(str, (*shell, "podman", *own, *how, *words))]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _pairs(option: str, values: Mapping[str, str]) -> Iterator[str]:
    return (f"{option}={name}={value}" for name, value in values.items())


def _host() -> Iterator[str]:
    """Mount what this interpreter is made of."""
    path = os.environ.get("PYTHONPATH", "")
    folders = {Path(entry) for entry in ("/usr", sys.prefix, sys.base_prefix, *filter(None, path.split(":")))}
    for folder in sorted(folders):
        if not any(folder != other and folder.is_relative_to(other) for other in folders):
            yield f"--volume={folder}:{folder}:ro"
    yield f"--env=PYTHONPATH={path}"
