# SPDX-License-Identifier: Apache-2.0
"""A pod's whole way with real containers: the plugin's process answers kubelet, podman and runc do what it says.

Boards are emulated, kubelet is `fake_kubelet`.  What is refused is refused by runc, because the hook that our CDI file
names ended with an error: the container's program never starts.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_kubelet import Granted
from node import AFU0, AFU3, DEMO, FUNCTION3, OWN, REGION, Node, node, orchestrated
from podman import Podman
from waiting import until

from fpgahal.k8s.plugin.cdi import CdiFolder
from fpgahal.k8s.plugin.unit import DeviceNode, Unit

BOARD0, BOARD1 = "0000:3b:00.0/0", "0000:3c:00.0/0"
WHAT_IT_SEES = "import fpgahal; print(*(info.address for info in fpgahal.devices()))"
MODES = {"af": ("--schemes=intel", "--mode=af", "--cdi"), "region": ("--schemes=intel", "--mode=region")}


@pytest.fixture
def preprogrammed(tmp_path: Path) -> Iterator[Node]:
    """Mode af, and nothing may be programmed: board 0 runs NLB0, board 1 NLB3."""
    with node(tmp_path, *MODES["af"], "--no-program") as found:
        found.program(1, "nlb3")
        yield found


@pytest.fixture
def region(tmp_path: Path) -> Iterator[Node]:
    """Mode region: both boards run NLB0, and the plugin may program."""
    with node(tmp_path, *MODES["region"]) as found:
        yield found


@pytest.fixture
def verifying(tmp_path: Path) -> Iterator[Node]:
    """Mode region, where nothing may be programmed."""
    with node(tmp_path, *MODES["region"], "--no-program") as found:
        yield found


def refused(result: subprocess.CompletedProcess[str], *words: str) -> None:
    """Check that a container was refused when it was made, with a reason that its owner can read."""
    assert result.returncode in (125, 126, 127), result
    assert result.stdout == ""
    for word in words:
        assert word in result.stderr, result.stderr


def succeeded(result: subprocess.CompletedProcess[str]) -> None:
    """Check that NLB3 ran in a container."""
    assert result.returncode == 0, result.stderr
    assert "1024       1024        1024" in result.stdout
    assert "EMULATED" in result.stdout


# --- the right function -------------------------------------------------------------------------------------------


def test_nlb3_runs_on_the_board_that_runs_it(preprogrammed: Node) -> None:
    granted = preprogrammed.admit("demo", FUNCTION3)
    before = preprogrammed.programmed()
    preprogrammed.kubelet.start_container("demo")
    succeeded(preprogrammed.demo(granted))
    assert preprogrammed.programmed() == before  # the demonstration would have programmed a wrong board


def test_a_container_sees_its_own_board_only(preprogrammed: Node) -> None:
    granted = preprogrammed.admit("demo", FUNCTION3)
    result = preprogrammed.podman.python(granted, WHAT_IT_SEES)
    assert (result.returncode, result.stdout) == (0, f"{BOARD1}\n"), result.stderr
    assert granted.env["FPGAHAL_VISIBLE_DEVICES"] == BOARD1


def test_a_region_is_programmed_for_the_pod(region: Node) -> None:
    granted = region.admit("demo", REGION)
    assert region.programmed() == [0, 0]
    succeeded(region.demo(granted, orchestrated(AFU3)))
    assert sorted(region.programmed()) == [0, 1]
    succeeded(region.demo(granted, orchestrated(AFU3)))  # a restart: it runs that already
    assert sorted(region.programmed()) == [0, 1]


def test_two_boards_in_one_container_get_a_function_each(tmp_path: Path) -> None:
    with node(tmp_path, *MODES["region"], images=("nlb0", "nlb3")) as found:
        granted = found.admit("demo", REGION, 2)
        assert len(granted.cdi) == 2
        result = found.run(granted, found.podman.interpreter, "-c", WHAT_IT_SEES, env=orchestrated(AFU3, AFU0))
        assert (result.returncode, result.stdout) == (0, f"{BOARD0} {BOARD1}\n"), result.stderr
        assert {found.loaded(0), found.loaded(1)} == {AFU0, AFU3}
        three = next(board for board, position in ((BOARD0, 0), (BOARD1, 1)) if found.loaded(position) == AFU3)
        succeeded(found.demo(granted, orchestrated(AFU3, AFU0), board=three))


def test_two_pods_at_the_same_time_have_a_board_each(region: Node) -> None:
    pods = [region.admit(name, REGION) for name in ("one", "two")]
    assert region.kubelet.overlaps() == {}
    started = [
        region.podman.start(granted, region.podman.interpreter, *DEMO, env=orchestrated(AFU3)) for granted in pods
    ]
    for process in started:
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        assert "EMULATED" in output
    assert region.programmed() == [1, 1]


def test_a_board_of_our_own_scheme_needs_no_wish(tmp_path: Path) -> None:
    with node(tmp_path, "--cdi") as found:
        granted = found.admit("demo", OWN)
        result = found.podman.python(granted, WHAT_IT_SEES)
        assert (result.returncode, result.stdout.strip()) == (0, granted.env["FPGAHAL_VISIBLE_DEVICES"])
        succeeded(found.demo(granted, {"FPGAHAL_AFU": AFU3}))
        assert sorted(found.programmed()) == [0, 1]


# --- refused ------------------------------------------------------------------------------------------------------


def test_the_wrong_function_is_refused(preprogrammed: Node) -> None:
    granted = preprogrammed.admit("demo", FUNCTION3)
    preprogrammed.plugin.kill()  # nobody is there to notice, but for the hook
    preprogrammed.program(1, "nlb0")
    refused(preprogrammed.demo(granted), BOARD1, AFU3)
    preprogrammed.program(1, "nlb3")
    succeeded(preprogrammed.demo(granted))


def test_a_function_that_nobody_may_load_is_refused(verifying: Node) -> None:
    granted = verifying.admit("demo", REGION)
    refused(verifying.demo(granted, orchestrated(AFU3)), AFU0, AFU3)
    assert verifying.programmed() == [0, 0]


def test_a_missing_image_is_refused(tmp_path: Path) -> None:
    with node(tmp_path, *MODES["region"], images=()) as found:
        granted = found.admit("demo", REGION)
        refused(found.demo(granted, orchestrated(AFU3)), AFU3, "not found")
        assert found.programmed() == [0, 0]


def test_a_changed_image_is_refused(region: Node) -> None:
    image = Path(next(one for one in region.store.list() if one.afu_id == AFU3).path)
    data = bytearray(image.read_bytes())
    data[-1] ^= 1
    image.write_bytes(data)
    granted = region.admit("demo", REGION)
    refused(region.demo(granted, orchestrated(AFU3)), "SHA-256")
    assert region.programmed() == [0, 0]


def test_a_namespace_that_is_not_on_the_list_is_refused(tmp_path: Path) -> None:
    with node(tmp_path, *MODES["region"], images=()) as found:
        path = tmp_path / "nlb3.gbs"
        path.write_bytes(found.image("nlb3"))
        found.store.add(path, namespaces=["finance"])
        granted = found.admit("demo", REGION)
        refused(found.demo(granted, orchestrated(AFU3), namespace="guests"), "guests", "finance")
        refused(found.podman.run(granted, "/bin/true", env=orchestrated(AFU3)), "namespace is not known")
        assert found.programmed() == [0, 0]
        succeeded(found.demo(granted, orchestrated(AFU3), namespace="finance"))


def test_a_region_without_a_word_of_what_it_shall_run_is_refused(region: Node) -> None:
    granted = region.admit("demo", REGION)
    refused(region.demo(granted), "FPGA_REGION_1")
    refused(region.demo(granted, {"FPGA_REGION_1": orchestrated(AFU3)["FPGA_REGION_1"]}), "FPGA_AFU_1")


def test_more_functions_than_boards_are_refused(region: Node) -> None:
    granted = region.admit("demo", REGION)
    refused(region.demo(granted, orchestrated(AFU3, AFU0)))
    assert region.programmed() == [0, 0]


def test_a_hook_that_is_not_there_is_no_way_around_it(tmp_path: Path) -> None:
    missing = tmp_path / "no-hook"
    with node(tmp_path, *MODES["region"], "--hook", str(missing)) as found:
        refused(found.demo(found.admit("demo", REGION), orchestrated(AFU3)), str(missing))


def test_a_board_that_broke_after_its_allocation_is_refused(preprogrammed: Node) -> None:
    granted = preprogrammed.admit("demo", FUNCTION3)
    preprogrammed.rack.fault(1, "vanish")
    refused(preprogrammed.demo(granted), BOARD1)


def test_a_failed_reconfiguration_is_refused(region: Node) -> None:
    granted = region.admit("demo", REGION)
    for position in (0, 1):
        region.rack.fault(position, "wrong-afu")
    refused(region.demo(granted, orchestrated(AFU3)), "instead of")


# --- the files ----------------------------------------------------------------------------------------------------


def test_a_container_gets_nothing_of_a_device_that_is_gone(tmp_path: Path) -> None:
    with node(tmp_path, *MODES["region"], "--grace-seconds", "0.2") as found:
        granted = found.admit("demo", REGION, 2)
        assert len(list(found.cdi.iterdir())) == 2
        found.rack.fault(0, "vanish")
        until(lambda: len(list(found.cdi.iterdir())) == 1, lambda: str(list(found.cdi.iterdir())))
        refused(found.demo(granted, orchestrated(AFU3)), granted.cdi[0])


def test_real_device_nodes_arrive_under_their_own_names(tmp_path: Path) -> None:
    """A unit with character devices: emulated boards have none."""
    device = DeviceNode("/dev/intel-fpga-port.0", "/dev/full")
    name = CdiFolder(str(tmp_path)).write(Unit("intel-fpga-port.0", REGION, nodes=(device,)))
    with Podman(tmp_path) as podman:
        result = podman.run(Granted({}, {}, {}, {}, {}, (name,)), "stat", "-c", "%t:%T %n", device.path)
    assert result.stdout == f"1:7 {device.path}\n", result.stderr
