# SPDX-License-Identifier: Apache-2.0
"""Kubelet's own device manager (tests/k8s/kubelet, in Go), as a process that this one asks."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fake_kubelet import Granted
from waiting import until

IN_ITS_NAMESPACE = 'mount --bind "$1" /var/lib && exec "$2" -v=4'


class Refused(Exception):
    """What kubelet would write into the pod's status."""


class DeviceManager:
    """The device manager and the pod-resources server below `folder`, which stands for /var/lib.

    What was asked and answered is the transcript: a list of pairs.
    """

    def __init__(self, program: Path, folder: Path) -> None:
        self._program, self._folder = program, folder
        self.kubelet = folder / "kubelet"
        self.sockets = self.kubelet / "device-plugins"
        self.sockets.mkdir(parents=True, exist_ok=True)
        self.transcript: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self._process: subprocess.Popen[str] | None = None

    def begin(self, running: Sequence[Mapping[str, Any]] = ()) -> None:
        """Start kubelet; `running` are pods that the container runtime still runs."""
        log = (self._folder / "kubelet.log").open("a")
        self._process = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", IN_ITS_NAMESPACE, "sh", self._folder, self._program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        log.close()
        self.ask("begin", running=list(running))

    def kill(self) -> None:
        """SIGKILL, as a crash or an upgrade of kubelet."""
        assert self._process is not None
        self._process.kill()
        self._process.communicate()

    def ask(self, do: str, **more: Any) -> dict[str, Any]:
        """Ask for something and wait for the answer; raises Refused."""
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        asked = {"do": do, **more}
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"kubelet's device manager ended: {self.log()[-2000:]}"
        answer: dict[str, Any] = json.loads(line)
        self.transcript.append((asked, answer))
        if "error" in answer:
            raise Refused(answer["error"])
        return answer

    def run(self, name: str, container: str = "main") -> Granted:
        """Do what precedes each start of a container; give what the container runtime is told."""
        found = self.ask("run", name=name, container=container)
        return Granted(
            {resource: tuple(ids) for resource, ids in found["ids"].items()},
            found["envs"],
            {one["PathInContainer"]: (one["PathOnHost"], one["Permissions"]) for one in found["devices"] or ()},
            {one["ContainerPath"]: (one["HostPath"], one["ReadOnly"]) for one in found["mounts"] or ()},
            found["annotations"],
            tuple(found["cdi"]),
        )

    def counts(self) -> tuple[dict[str, int], dict[str, int]]:
        """Give capacity and allocatable of each resource."""
        found = self.ask("capacity")
        return found["capacity"], found["allocatable"]

    def wait(self, capacity: Mapping[str, int], allocatable: Mapping[str, int]) -> None:
        """Wait until the node offers this, and nothing else."""
        wanted = (dict(capacity), dict(allocatable))
        until(lambda: self.counts() == wanted, lambda: f"{self.counts()}, expected {wanted}")

    def log(self) -> str:
        """What kubelet logged."""
        return (self._folder / "kubelet.log").read_text()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()
        for asked, answer in self.transcript if value is not None else ():
            print(json.dumps(asked), json.dumps(answer))


def pod(name: str, limits: Mapping[str, int], *, namespace: str = "default", **more: Any) -> dict[str, Any]:
    """Describe a pod of one container, ``main``."""
    containers = [{"name": "main", "limits": dict(limits)}]
    return {"name": name, "namespace": namespace, "containers": containers, **more}
