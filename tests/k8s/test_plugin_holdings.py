# SPDX-License-Identifier: Apache-2.0
"""A board that a pod has under another name is not given to a second one."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_kubelet import AdmissionError, FakeKubelet
from fake_nodes import FakeNodes
from plugin_process import PluginProcess

from fpgahal import DeviceInfo, emu
from fpgahal.k8s.plugin.holdings import Holding, names, withheld
from fpgahal.k8s.plugin.unit import Inventory, Unit

BOARD = DeviceInfo("0000:06:00.0", device_nodes=("/dev/intel-fpga-port.0", "/dev/intel-fpga-fme.0"))
OTHER = DeviceInfo("0000:42:00.0", device_nodes=("/dev/intel-fpga-port.1", "/dev/intel-fpga-fme.1"))
REGION = "fpga.intel.com/region-1"
NOW = Inventory(
    {
        REGION: {
            name: Unit(name, REGION, (info,))
            for name, info in (("intel-fpga-fme.0", BOARD), ("intel-fpga-fme.1", OTHER))
        }
    }
)
MODE = "fpga.intel.com/device-plugin-mode"


@pytest.mark.parametrize("id", ["intel-fpga-port.0", "0000:06:00.0", "06:00.0", "0000:06:00.0-0"])
def test_any_name_of_a_board_counts(id: str) -> None:
    found = withheld(NOW, [Holding("some.domain/thing", id, "default/demo")]).resources[REGION]
    assert found["intel-fpga-fme.0"].reason == "pod default/demo still has it as some.domain/thing"
    assert found["intel-fpga-fme.1"].healthy


def test_under_its_own_name_a_board_may_be_had() -> None:
    assert withheld(NOW, [Holding(REGION, "intel-fpga-fme.0", "default/demo")]) is NOW
    assert withheld(NOW, [Holding("a.domain/nic", "0000:07:00.0", "default/demo")]) is NOW


def test_ids_of_two_boards_never_meet() -> None:
    assert not names(BOARD) & names(OTHER)


def test_another_mode_gives_no_board_to_a_second_pod(tmp_path: Path) -> None:
    """Nor does a plugin that was killed, and begins in the new mode."""
    log = tmp_path / "log"
    with (
        emu.rack("pac-a10:2", dir=tmp_path / "rack") as rack,
        FakeNodes(n1={}) as api,
        FakeKubelet(tmp_path) as kubelet,
    ):
        options = ["--rack", rack.dir, "--cdi-dir", str(tmp_path / "cdi"), "--schemes=intel", "--mode=af", "--hook=/h"]
        options += [f"--api-server={api.url}", "--node-name=n1", "--scan-seconds=0.1"]
        with PluginProcess(tmp_path, *options, log=log) as plugin:
            kubelet.wait(lambda: sum(kubelet.allocatable().values()) == 2)
            (function,) = kubelet.capacity()
            kubelet.admit("demo", {function: 1})
            kubelet.wait(lambda: api.watches)
            api.annotate("n1", {MODE: "region"})
            kubelet.wait(lambda: sum(kubelet.capacity().values()) == 2 and kubelet.capacity()[function] == 0)
            (region,) = set(kubelet.capacity()) - {function}
            for _ in range(2):
                kubelet.wait(lambda: kubelet.allocatable()[region] == 1)
                kubelet.admit("second", {region: 1})
                assert kubelet.overlaps() == {}
                with pytest.raises(AdmissionError):
                    kubelet.admit("third", {region: 1})
                kubelet.remove("second")
                plugin.kill()
                plugin.start()
            kubelet.wait(lambda: kubelet.allocatable()[region] == 1)
            kubelet.remove("demo")
            kubelet.wait(lambda: kubelet.allocatable()[region] == 2)
