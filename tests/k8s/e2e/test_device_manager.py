# SPDX-License-Identifier: Apache-2.0
"""The plugin's process under kubelet's own device manager and pod-resources server (tests/k8s/kubelet)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from device_manager import DeviceManager, Refused, pod
from node import AFU0, AFU3, BOARD, DEMO, FUNCTION3, OWN, REGION, orchestrated
from plugin_process import PluginProcess
from podman import Podman
from waiting import until

import fpgahal
from fpgahal import ImageStore, emu

BOARDS = ("0000:3b:00.0/0", "0000:3c:00.0/0")
MINE = "FPGAHAL_VISIBLE_DEVICES"


class Node:
    """Two emulated boards, kubelet's device manager, and a plugin that is started with a test's options."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        short = Path(stack.enter_context(TemporaryDirectory(prefix="var-")))  # a socket's path has 107 bytes
        self.folder, self.stack = folder, stack
        self.rack = stack.enter_context(emu.rack(f"{BOARD}:2", dir=folder / "rack"))
        self.store = ImageStore(folder / "store")
        self.cdi = folder / "cdi"
        self.cdi.mkdir()
        self.kubelet = stack.enter_context(DeviceManager(Path(os.environ["FPGAHAL_KUBELET"]), short))
        self.kubelet.begin()

    def plugin(self, *options: str) -> PluginProcess:
        """Start the plugin."""
        hook = shutil.which("fpgahal-hook", path=os.environ["PATH"]) or "/no/hook"
        fixed = ["--rack", self.rack.dir, "--store", self.store.folder, "--cdi-dir", str(self.cdi), "--hook", hook]
        log = self.folder / "plugin.log"
        process = PluginProcess(self.kubelet.kubelet, *fixed, "--scan-seconds", "0.2", *options, log=log)
        return self.stack.enter_context(process)

    def program(self, position: int, name: str) -> None:
        """Load another image, behind the plugin's back."""
        with fpgahal.open(self.rack.devices()[position]) as dev:
            dev.program(emu.build_image(name, emu.boards()[BOARD]))

    def add(self, name: str, **more: Any) -> None:
        """Put an image into the store."""
        path = self.folder / f"{name}.gbs"
        path.write_bytes(emu.build_image(name, emu.boards()[BOARD]))
        self.store.add(path, **more)

    def offers(self, resource: str, capacity: int, allocatable: int) -> None:
        """Wait until the node's status says this."""
        self.kubelet.wait({resource: capacity}, {resource: allocatable})


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with ExitStack() as stack:
        yield Node(tmp_path, stack)


# --- a pod's life -------------------------------------------------------------------------------------------------


def test_a_pod_gets_a_board_and_nobody_else_does(node: Node) -> None:
    node.plugin()
    node.offers(OWN, 2, 2)
    kubelet = node.kubelet
    kubelet.ask("admit", pod=pod("one", {OWN: 1}))
    kubelet.ask("admit", pod=pod("two", {OWN: 1}))
    granted = [kubelet.run(name) for name in ("one", "two")]
    assert {one.env[MINE] for one in granted} == set(BOARDS)
    with pytest.raises(Refused, match="Requested: 1, Available: 0"):
        kubelet.ask("admit", pod=pod("three", {OWN: 1}))
    kubelet.ask("remove", name="one")
    kubelet.ask("admit", pod=pod("four", {OWN: 1}))
    assert kubelet.run("four").env[MINE] == granted[0].env[MINE]


def test_its_answer_is_the_whole_of_what_the_container_needs(node: Node) -> None:
    node.add("nlb3")
    node.plugin("--schemes=intel", "--mode=region")
    node.offers(REGION, 2, 2)
    node.kubelet.ask("admit", pod=pod("both", {REGION: 2}))
    granted = node.kubelet.run("both")
    assert granted.env[MINE] == ",".join(BOARDS)
    assert sorted(granted.cdi) == ["fpgahal.dev/fpga=intel-fpga-fme.0", "fpgahal.dev/fpga=intel-fpga-fme.1"]
    assert granted.devices == {REGION: ("intel-fpga-fme.0", "intel-fpga-fme.1")}
    if shutil.which("podman"):  # the device manager's own answer, in a real container
        with Podman(node.cdi) as podman:
            result = podman.run(granted, podman.interpreter, *DEMO, "--device", BOARDS[0], env=orchestrated(AFU3, AFU3))
        assert result.returncode == 0, result.stderr
        assert [node.rack.status(position).afu_id.hex for position in (0, 1)] == [AFU3, AFU3]


def test_the_plugins_choice_is_taken(node: Node) -> None:
    node.plugin()
    node.offers(OWN, 2, 2)
    for number in range(6):  # without a preference, Go's maps would give one or the other
        node.kubelet.ask("admit", pod=pod(f"pod{number}", {OWN: 1}))
        assert node.kubelet.run(f"pod{number}").env[MINE] == BOARDS[0]
        node.kubelet.ask("remove", name=f"pod{number}")


def test_an_init_container_and_the_container_after_it_share_a_board(node: Node) -> None:
    node.plugin()
    node.offers(OWN, 2, 2)
    init = [{"name": "first", "limits": {OWN: 1}}]
    node.kubelet.ask("admit", pod=pod("one", {OWN: 1}, init=init))
    assert node.kubelet.run("one", "first").env == node.kubelet.run("one").env
    node.kubelet.ask("admit", pod=pod("two", {OWN: 1}))


def test_D14_each_start_of_a_container_is_verified(node: Node) -> None:
    node.program(1, "nlb3")
    node.plugin("--schemes=intel", "--no-program")
    until(lambda: node.kubelet.counts()[1].get(FUNCTION3) == 1)
    node.kubelet.ask("admit", pod=pod("demo", {FUNCTION3: 1}))
    for _ in range(2):
        assert node.kubelet.run("demo").env[MINE] == BOARDS[1]
    node.program(1, "nlb0")
    with pytest.raises(Refused, match="PreStartContainer rpc failed"):
        node.kubelet.run("demo")


def test_kubelets_pod_resources_say_whose_namespace_it_is(node: Node) -> None:
    node.add("nlb3", namespaces=["finance"])
    node.program(1, "nlb3")
    node.plugin("--schemes=intel")
    until(lambda: node.kubelet.counts()[1].get(FUNCTION3) == 1)
    node.kubelet.ask("admit", pod=pod("theirs", {FUNCTION3: 1}, namespace="guests"))
    with pytest.raises(Refused, match=r"PermissionDenied.*Namespace guests may not use"):
        node.kubelet.run("theirs")
    node.kubelet.ask("remove", name="theirs")
    node.kubelet.ask("admit", pod=pod("ours", {FUNCTION3: 1}, namespace="finance"))
    assert node.kubelet.run("ours").env[MINE] == BOARDS[1]


# --- what fails ---------------------------------------------------------------------------------------------------


def test_C6_an_unhealthy_board_counts_but_is_not_handed_out(node: Node) -> None:
    node.plugin()
    node.offers(OWN, 2, 2)
    node.kubelet.ask("admit", pod=pod("one", {OWN: 1}))
    assert node.kubelet.ask("status", name="one") == {"main": {"0000:3b:00.0": "Healthy"}}
    node.rack.fault(0, "vanish")
    node.offers(OWN, 2, 1)
    assert node.kubelet.ask("status", name="one") == {"main": {"0000:3b:00.0": "Unhealthy"}}
    with pytest.raises(Refused, match="can't be used now"):
        node.kubelet.run("one")
    node.rack.clear(0)
    node.offers(OWN, 2, 2)
    node.kubelet.run("one")


def test_a_killed_plugin_comes_back(node: Node) -> None:
    plugin = node.plugin()
    node.offers(OWN, 2, 2)
    node.kubelet.ask("admit", pod=pod("one", {OWN: 1}))
    for _ in range(3):
        plugin.kill()
        node.offers(OWN, 2, 0)
        with pytest.raises(Refused, match="no healthy devices"):
            node.kubelet.ask("admit", pod=pod("two", {OWN: 1}))
        plugin.start()
        node.offers(OWN, 2, 2)
    assert node.kubelet.run("one").env[MINE] == BOARDS[0]
    node.kubelet.ask("admit", pod=pod("two", {OWN: 1}))
    assert node.kubelet.run("two").env[MINE] == BOARDS[1]


def test_a_terminated_plugin_leaves_no_socket(node: Node) -> None:
    plugin = node.plugin()
    node.offers(OWN, 2, 2)
    assert plugin.terminate() == 0
    node.offers(OWN, 2, 0)
    assert [path.name for path in node.kubelet.sockets.iterdir() if path.is_socket()] == ["kubelet.sock"]


def test_D3_a_removed_socket_is_made_anew(node: Node) -> None:
    node.plugin()
    node.offers(OWN, 2, 2)
    for _ in range(5):  # kubelet marks devices by name: the old stream must have ended before there is a new one
        own = next(path for path in node.kubelet.sockets.glob("fpgahal-*.sock"))
        before = own.stat().st_ino
        own.unlink()
        until(lambda old=before, path=own: path.exists() and path.stat().st_ino != old)
        node.offers(OWN, 2, 2)
    node.kubelet.ask("admit", pod=pod("one", {OWN: 1}))
    assert node.kubelet.run("one").env[MINE] == BOARDS[0]


def test_a_restarted_kubelet_finds_plugin_and_pods_again(node: Node) -> None:
    node.plugin()
    node.offers(OWN, 2, 2)
    running = pod("one", {OWN: 1})
    node.kubelet.ask("admit", pod=running)
    board = node.kubelet.run("one").env[MINE]
    for _ in range(3):
        node.kubelet.kill()
        node.kubelet.begin(running=[running])
        node.offers(OWN, 2, 2)
    assert node.kubelet.run("one").env[MINE] == board  # from kubelet's checkpoint; Allocate is not called again
    node.kubelet.ask("admit", pod=pod("two", {OWN: 1}))
    assert node.kubelet.run("two").env[MINE] != board


def test_a_plugin_may_start_before_kubelet(node: Node) -> None:
    node.kubelet.kill()
    node.plugin()
    until(lambda: "Not registered yet" in (node.folder / "plugin.log").read_text())
    node.kubelet.begin()
    node.offers(OWN, 2, 2)


# --- names --------------------------------------------------------------------------------------------------------


SCHEMES = {
    "own": ("pac-a10:2,u250", (), {OWN: 2, "fpgahal.dev/u250": 1}),
    "intel 2018": ("pac-a10:2", ("--intel-names=2018",), {f"fpga.intel.com/af-{AFU0}": 2}),
    "intel regiondevel": ("pac-a10", ("--mode=regiondevel",), {REGION: 1}),
    "xilinx": (
        "u250,aws-f1",
        (),
        {
            "amd.com/xilinx_u250_gen3x16_xdma_shell_3_1-0": 1,
            "amd.com/xilinx_aws-vu9p-f1_shell-v04261818_201920_3-43981": 1,
        },
    ),
    "inaccel": ("u250,aws-f1,pac-a10", (), {"xilinx/u250": 1, "xilinx/aws-vu9p-f1": 1, "intel/pac_a10": 1}),
    "bcom": ("pac-a10:2", (), {"b-com.com/accelerator": 2}),
    "bcom-counter": ("pac-a10", ("--bcom-units=512",), {"b-com.com/accelerator": 512}),
}


@pytest.mark.parametrize("name", SCHEMES)
def test_kubelet_takes_the_names_of_each_scheme(tmp_path: Path, name: str) -> None:
    boards, options, expected = SCHEMES[name]
    with ExitStack() as stack:
        short = Path(stack.enter_context(TemporaryDirectory(prefix="var-")))
        kubelet = stack.enter_context(DeviceManager(Path(os.environ["FPGAHAL_KUBELET"]), short))
        kubelet.begin()
        fixed = ("--emulate", boards, "--rack", str(tmp_path / "rack"), "--cdi-dir", str(tmp_path / "cdi"))
        scheme = f"--schemes={name.partition(' ')[0]}"
        stack.enter_context(PluginProcess(kubelet.kubelet, *fixed, scheme, *options, log=tmp_path / "log"))
        kubelet.wait(expected, expected)
