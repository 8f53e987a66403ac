# SPDX-License-Identifier: Apache-2.0
"""A node for the tests: two emulated PACs, an image store, a fake kubelet, the plugin's process, and podman."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from fake_kubelet import FakeKubelet, Granted
from plugin_process import PluginProcess
from podman import Podman

import fpgahal
from fpgahal import ImageStore, emu
from fpgahal.k8s.names import af_resource, region_resource
from fpgahal.kernels import NLB0, NLB3

BOARD = "pac-a10"
SHELL = emu.boards()[BOARD].interface_id.hex
AFU0, AFU3 = (one.AFU_ID.hex for one in (NLB0, NLB3))
REGION = f"fpga.intel.com/{region_resource(SHELL)}"
FUNCTION0, FUNCTION3 = (f"fpga.intel.com/{af_resource(SHELL, afu)}" for afu in (AFU0, AFU3))
OWN = "fpgahal.dev/pac-a10"

#: What the source document's pods do; it must not need to program anything.
DEMO = ("-m", "fpgahal.bench", "nlb", "--mode", "trput", "--begin", "1024", "--end", "1024")


def orchestrated(*afus: str) -> dict[str, str]:
    """What the webhook writes into a pod that asks for these functions."""
    pairs = enumerate(afus, 1)
    return {name: value for n, afu in pairs for name, value in ((f"FPGA_REGION_{n}", SHELL), (f"FPGA_AFU_{n}", afu))}


@dataclass(frozen=True)
class Node:
    """What a test needs."""

    rack: emu.Rack
    store: ImageStore
    kubelet: FakeKubelet
    plugin: PluginProcess
    podman: Podman
    cdi: Path

    def image(self, name: str) -> bytes:
        """An image for these boards."""
        return emu.build_image(name, emu.boards()[BOARD])

    def program(self, position: int, name: str) -> None:
        """Load another image, behind the plugin's back."""
        with fpgahal.open(self.rack.devices()[position]) as dev:
            dev.program(self.image(name))

    def loaded(self, position: int) -> str:
        """Which function a board runs."""
        return self.rack.status(position).afu_id.hex

    def programmed(self) -> list[int]:
        """How often each board was programmed."""
        return [self.rack.status(position).programmed for position in range(len(self.rack.devices()))]

    def admit(self, pod: str, resource: str, count: int = 1) -> Granted:
        """Admit a pod as soon as the node offers so many devices."""
        self.kubelet.wait(lambda: self.kubelet.allocatable().get(resource, 0) >= count)
        return self.kubelet.admit(pod, {resource: count})

    def run(
        self, granted: Granted, *command: str, env: Mapping[str, str] | None = None, namespace: str = "default"
    ) -> subprocess.CompletedProcess[str]:
        """Run a container as CRI runtimes do: they note the pod's namespace."""
        return self.podman.run(
            granted, *command, env=env, annotations={"io.kubernetes.cri.sandbox-namespace": namespace}
        )

    def demo(
        self, granted: Granted, env: Mapping[str, str] | None = None, *, board: str = "", namespace: str = "default"
    ) -> subprocess.CompletedProcess[str]:
        """Run NLB3 in a container."""
        more = ("--device", board) if board else ()
        return self.run(granted, self.podman.interpreter, *DEMO, *more, env=env, namespace=namespace)


@contextmanager
def node(folder: Path, *options: str, boards: str = f"{BOARD}:2", images: Sequence[str] = ("nlb3",)) -> Iterator[Node]:
    """Set a node up; `options` are the plugin's."""
    hook = shutil.which("fpgahal-hook", path=f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}")
    assert hook is not None, "fpgahal is not installed: nox -s k8s"
    cdi = folder / "cdi"
    cdi.mkdir()
    with ExitStack() as stack:
        rack = stack.enter_context(emu.rack(boards, dir=folder / "rack"))
        store = ImageStore(folder / "store")
        for name in images:
            path = folder / f"{name}.gbs"
            path.write_bytes(emu.build_image(name, emu.boards()[BOARD]))
            store.add(path)
        short = Path(stack.enter_context(TemporaryDirectory(prefix="kubelet-")))  # a socket's path has 107 bytes
        kubelet = stack.enter_context(FakeKubelet(short))
        fixed = ["--rack", rack.dir, "--store", str(folder / "store"), "--cdi-dir", str(cdi), "--hook", hook]
        plugin = PluginProcess(short, *fixed, "--scan-seconds", "0.2", *options, log=folder / "plugin.log")
        stack.enter_context(plugin)
        yield Node(rack, store, kubelet, plugin, stack.enter_context(Podman(cdi)), cdi)
