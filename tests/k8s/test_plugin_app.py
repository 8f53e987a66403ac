# SPDX-License-Identifier: Apache-2.0
"""The command fpgahal-plugin, as a process of its own: options, life and death."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fake_kubelet import FakeKubelet, StartError
from fake_nodes import FakeNodes
from fake_work import PAC, U250
from given import boards_of
from images import NLB3, image
from waiting import soon as until

import fpgahal
from fpgahal import ArgumentRangeError
from fpgahal.k8s.plugin.config import Config, load

COMMAND = [sys.executable, "-m", "fpgahal.k8s.plugin"]
INTELS = "fpga.intel.com/device-plugin-mode"


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FPGAHAL_", "KUBERNETES_"))}
    return {**kept, **more}


def command(*args: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *args], env=environment(**variables), capture_output=True, text=True, timeout=60, check=False
    )


class Plugin:
    """A plugin's process, which offers the boards of a rack."""

    def __init__(self, kubelet: FakeKubelet, rack: str, *args: str, **variables: str) -> None:
        self.log = kubelet.root / f"plugin-{len(os.listdir(kubelet.root))}.log"
        options = ["--kubelet-dir", str(kubelet.root), "--cdi-dir", str(kubelet.root / "cdi"), "--rack", rack]
        options += [
            "--store",
            str(kubelet.root / "images"),
            "--status-host",
            "127.0.0.1",
            "--status-port",
            "0",
            "--json",
        ]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*COMMAND, *options, *args], env=environment(**variables), stderr=log, stdout=log
            )

    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def said(self, text: str) -> list[Any]:
        return [line for line in self.lines() if text in line["message"]]

    def get(self, path: str) -> tuple[int, str]:
        port = until(lambda: self.said("Serving"))[0]["status_port"]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(20)


@contextmanager
def plugin(kubelet: FakeKubelet, rack: str, *args: str, **variables: str) -> Iterator[Plugin]:
    found = Plugin(kubelet, rack, *args, **variables)
    try:
        yield found
        if found.process.poll() is None:
            assert found.end() == 0
        assert not any("traceback" in line for line in found.lines())
    finally:
        found.process.kill()
        found.process.wait()


@pytest.fixture
def kubelet(tmp_path: Path) -> Iterator[FakeKubelet]:
    with FakeKubelet(tmp_path / "k") as fake:
        yield fake


@pytest.fixture
def rack() -> Iterator[fpgahal.emu.Rack]:
    with fpgahal.emu.rack("pac-a10:2,u250") as found:
        yield found


# --- life -----------------------------------------------------------------------------------------------------------


def test_from_start_to_sigterm(kubelet: FakeKubelet, rack: fpgahal.emu.Rack) -> None:
    first, second = (info.bdf for info in rack.devices()[:2])
    with plugin(kubelet, rack.dir, "--scan-seconds", "0.1", "--grace-seconds", "60") as running:
        kubelet.wait_devices(PAC, first, second)
        kubelet.wait(lambda: kubelet.allocatable() == {PAC: 2, U250: 1})
        granted = kubelet.admit("a", {PAC: 1})
        assert boards_of(granted.env) in (f"{first}/0", f"{second}/0")
        assert running.get("/healthz") == (200, "ok\n")
        assert running.get("/readyz") == (200, "ok\n")
        assert f'fpgahal_plugin_units{{resource="{PAC}",healthy="true"}} 2' in running.get("/metrics")[1]
        rack.fault(first, "vanish")
        kubelet.wait_devices(PAC, second)
        assert kubelet.capacity()[PAC] == 2
        rack.clear(first)
        kubelet.wait_devices(PAC, first, second)
        assert len(kubelet.registrations) == 2
        kubelet.stop()
        until(lambda: running.get("/readyz")[0] == 503)
        assert PAC in running.get("/readyz")[1]
        kubelet.start()
        kubelet.wait_devices(PAC, first, second)
        kubelet.wait(lambda: kubelet.allocatable() == {PAC: 2, U250: 1})
        assert running.end() == 0
        assert [path.name for path in kubelet.folder.iterdir()] == ["kubelet.sock"]
        kubelet.wait(lambda: kubelet.allocatable() == {PAC: 0, U250: 0})
        assert kubelet.capacity() == {PAC: 2, U250: 1}, "a plugin that is replaced takes no capacity away"


def test_sigkill_and_a_new_process(kubelet: FakeKubelet, rack: fpgahal.emu.Rack) -> None:
    with plugin(kubelet, rack.dir, "--no-prestart") as running:
        kubelet.wait(lambda: kubelet.allocatable() == {PAC: 2, U250: 1})
        kubelet.admit("a", {PAC: 1})
        assert running.end(signal.SIGKILL) == -signal.SIGKILL
        running.log.write_text("")
    kubelet.wait(lambda: kubelet.allocatable() == {PAC: 0, U250: 0})
    assert len(list(kubelet.folder.iterdir())) == 3, "it left its sockets"
    with plugin(kubelet, rack.dir, "--no-prestart"):
        kubelet.wait(lambda: kubelet.allocatable() == {PAC: 2, U250: 1})
        kubelet.admit("b", {PAC: 1})
        assert kubelet.overlaps() == {}


def test_a_rolling_update(kubelet: FakeKubelet, rack: fpgahal.emu.Rack) -> None:
    with plugin(kubelet, rack.dir, "--no-prestart") as old:
        kubelet.wait(lambda: kubelet.allocatable() == {PAC: 2, U250: 1})
        with plugin(kubelet, rack.dir, "--no-prestart") as new:
            until(lambda: new.said("Another instance"))
            assert new.get("/readyz") == (200, "ok: standby\n"), "or the update would never end the old one"
            assert kubelet.allocatable() == {PAC: 2, U250: 1}
            assert old.end() == 0
            kubelet.wait(lambda: len(kubelet.registrations) == 4)
            kubelet.wait(lambda: kubelet.allocatable() == {PAC: 2, U250: 1})
            until(lambda: new.get("/readyz") == (200, "ok\n"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_there_is_a_kubelet(tmp_path: Path, rack: fpgahal.emu.Rack, number: signal.Signals) -> None:
    (tmp_path / "k").mkdir()
    with plugin(FakeKubelet(tmp_path / "k"), rack.dir) as running:
        until(lambda: running.said("Waiting for kubelet's folder"))
        assert running.end(number) == 0


def test_the_status_port_is_taken(kubelet: FakeKubelet, rack: fpgahal.emu.Rack) -> None:
    """Boards are offered all the same; that nobody can probe it is told."""
    with plugin(kubelet, rack.dir) as first:
        port = until(lambda: first.said("Serving"))[0]["status_port"]
        with plugin(kubelet, rack.dir, "--status-port", str(port)) as second:
            until(lambda: second.said("No status server"))
            assert second.process.poll() is None


# --- mode -----------------------------------------------------------------------------------------------------------


def test_E1_the_annotation_switches_a_running_plugin(kubelet: FakeKubelet, rack: fpgahal.emu.Rack) -> None:
    """And before the first registration, because kubelet never forgets a resource."""
    with (
        FakeNodes(n1={INTELS: "region"}) as api,
        plugin(
            kubelet, rack.dir, "--schemes", "intel", "--mode", "af", "--api-server", api.url, NODE_NAME="n1"
        ) as running,
    ):
        kubelet.wait(lambda: sum(kubelet.allocatable().values()) == 2)
        (region,) = kubelet.capacity()
        assert region.startswith("fpga.intel.com/region-")
        until(lambda: api.watches)
        api.annotate("n1", {})
        kubelet.wait(lambda: sum(kubelet.allocatable().values()) == 2 and kubelet.capacity()[region] == 0)
        (function,) = set(kubelet.capacity()) - {region}
        assert function.startswith("fpga.intel.com/af-")
        assert 'mode="af"' in running.get("/metrics")[1]
        api.annotate("n1", {INTELS: "region"})
        kubelet.wait(lambda: kubelet.allocatable() == {region: 2, function: 0})


def test_E1_no_api_server_no_delay(kubelet: FakeKubelet, rack: fpgahal.emu.Rack) -> None:
    options = ["--schemes", "intel", "--mode", "region", "--api-server", "http://127.0.0.1:9"]
    with plugin(kubelet, rack.dir, *options, NODE_NAME="n1") as running:
        kubelet.wait(lambda: sum(kubelet.allocatable().values()) == 2)
        assert all("region-" in resource for resource in kubelet.capacity())
        assert running.said("keeping mode region")


# --- programming ----------------------------------------------------------------------------------------------------


def test_D14_containers_get_their_function_programmed_at_each_start(
    kubelet: FakeKubelet, rack: fpgahal.emu.Rack, tmp_path: Path
) -> None:
    """The whole way: webhook's variables, kubelet's pod resources, the store, the board."""
    nlb3 = tmp_path / "nlb3.gbs"
    nlb3.write_bytes(image("nlb3", "pac-a10"))
    store = fpgahal.ImageStore(kubelet.root / "images")
    store.add(nlb3)
    interface = rack.devices()[0].interface_id
    assert interface is not None
    region = f"fpga.intel.com/region-{interface.hex}"
    wish = {"FPGA_REGION_1": interface.hex, "FPGA_AFU_1": NLB3}
    second = rack.devices()[1].address
    with fpgahal.open(second) as board:
        board.program(image("nlb3", "pac-a10"))
    with FakeNodes(n1={INTELS: "region"}) as api:
        env = [{"name": name, "value": value} for name, value in wish.items()]
        main = {"name": "main", "env": env, "resources": {"limits": {region: "1"}}}
        api.pending = [{"spec": {"containers": [main]}, "status": {"phase": "Pending"}}]
        api.pods = {("default", "good"): wish, ("default", "bad"): {**wish, "FPGA_AFU_1": "0" * 31 + "1"}}
        options = ["--schemes", "intel", "--api-server", api.url]
        with plugin(kubelet, rack.dir, *options, NODE_NAME="n1") as running:
            kubelet.wait(lambda: kubelet.allocatable() == {region: 2})
            assert kubelet.registered(region)[0].pre_start_required
            until(lambda: running.said("Serving"))
            granted = kubelet.admit("good", {region: 1})
            assert len(granted.cdi) == 1
            address = boards_of(granted.env)
            assert address == second, "it runs there already"
            for _ in range(2):
                kubelet.start_container("good")
                assert loaded(rack, address) == NLB3
                with fpgahal.open(address) as board:  # as another container would leave it
                    board.program(image("nlb0", "pac-a10"))
                assert loaded(rack, address) != NLB3
            kubelet.start_container("good")
            assert loaded(rack, address) == NLB3
            kubelet.admit("bad", {region: 1})
            with pytest.raises(StartError, match="NOT_FOUND: "):
                kubelet.start_container("bad")
            assert len(running.said("Programmed")) == 2
            assert kubelet.overlaps() == {}


def loaded(rack: fpgahal.emu.Rack, address: str) -> str:
    (afu_id,) = (info.afu_id for info in rack.devices() if info.address == address)
    return afu_id.hex if afu_id else ""


# --- --once ---------------------------------------------------------------------------------------------------------


def test_once(rack: fpgahal.emu.Rack) -> None:
    done = command("--once", "--json", "--rack", rack.dir)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert {name: len(units) for name, units in document["resources"].items()} == {PAC: 2, U250: 1}
    (u250,) = document["resources"][U250]
    assert u250["healthy"]
    assert u250["emulated"]
    text = command("--once", "--emulate", "u250")
    assert "EMULATED" in text.stdout
    assert U250 in text.stdout


def test_B9_a_machine_without_drivers_says_so() -> None:
    if fpgahal.kernel_drivers():
        pytest.skip("this machine has a driver for FPGA boards")
    done = command("--once", "--schemes", "intel,xilinx")
    assert done.returncode == 0
    assert "scheme intel: kernel driver not loaded; expected dfl or intel-fpga" in done.stdout
    assert "scheme xilinx: kernel driver not loaded; expected xocl" in done.stdout


def test_what_containers_are_told_is_not_for_the_plugin(rack: fpgahal.emu.Rack) -> None:
    told = {"FPGAHAL_VISIBLE_DEVICES": "0000:99:00.0", "FPGAHAL_DEVICE_0000_99_00_0": "0000:99:00.0/0"}
    done = command("--once", "--json", "--rack", rack.dir, **told)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["resources"][PAC]) == 2
    assert "FPGAHAL_VISIBLE_DEVICES=0000:99:00.0 is ignored" in done.stderr


def test_a_rack_is_made_once_and_kept(tmp_path: Path) -> None:
    folder = tmp_path / "rack"
    for _ in range(2):
        done = command("--once", "--json", "--emulate", "pac-a10:2", "--rack", str(folder))
        assert done.returncode == 0, done.stderr
        assert len(json.loads(done.stdout)["resources"][PAC]) == 2
    assert command("--once", "--rack", str(tmp_path / "none")).returncode == 3


# --- configuration --------------------------------------------------------------------------------------------------


def test_flags_go_before_variables_and_those_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "plugin.toml"
    file.write_text(
        'schemes = ["intel", "own"]\nmode = "region"\nscan-seconds = 1\ngrace_seconds = 2.5\ncdi = true\n'
        'store = "/images"\n[xilinx-names]\n"u200-*-*" = "deviceType"\n'
    )
    variables = {
        "FPGAHAL_PLUGIN_MODE": "regiondevel",
        "FPGAHAL_PLUGIN_SCAN_SECONDS": "3",
        "FPGAHAL_PLUGIN_PRESTART": "off",
        "FPGAHAL_PLUGIN_STORE": "",
        "NODE_NAME": "n1",
    }
    config = load({"scan_seconds": "4", "schemes": "xilinx, own"}, variables, file)
    assert config.schemes == ("xilinx", "own")
    assert (config.mode, config.scan_seconds, config.grace_seconds) == ("regiondevel", 4.0, 2.5)
    assert (config.cdi, config.prestart, config.node_name) == (True, False, "n1")
    assert config.store == Path("/images")
    assert config.settings().xilinx_names == {"u200-*-*": "deviceType"}
    assert load({}, {}) == Config()


def test_amd_names_come_from_a_file(tmp_path: Path) -> None:
    names = tmp_path / "NameCustomize.json"
    names.write_text('{"u200-*-*": "deviceType"}')
    assert load({"xilinx_names": str(names)}, {}).xilinx_names == {"u200-*-*": "deviceType"}
    names.write_text("[]")
    with pytest.raises(ArgumentRangeError):
        load({"xilinx_names": str(names)}, {})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("scheme = 'own'", "there is no option 'scheme'; there are schemes"),
        ("scan_seconds = 'fast'", "scan_seconds = 'fast': expected a number"),
        ("scan_seconds = 0", "expected 0.05 to 86400 seconds"),
        ("scan_seconds = nan", "expected 0.05 to 86400 seconds"),
        ("status_port = 99999", "is no port"),
        ("status_port = true", "expected a whole number"),
        ("cdi = 'maybe'", "expected true or false"),
        ("hook = 'bin/hook'", "an absolute path was expected"),
        ("log_level = 'loud'", "expected one of debug, info"),
        ("schemes = 'intel", "is no TOML"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, text: str, why: str) -> None:
    file = tmp_path / "plugin.toml"
    file.write_text(text)
    with pytest.raises(ArgumentRangeError) as caught:
        load({}, {}, file)
    assert why in str(caught.value)


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (["--mode", "unparsable"], "'unparsable'"),
        (["--schemes", "own,nonsense"], "'nonsense' is no naming scheme"),
        (["--schemes", "own,own"], "twice"),
        (["--api-server", "localhost:8001"], "is no URL"),
        (["--nonsense"], "Unrecognized arguments: --nonsense"),
        (["--emulate", "nonsense"], "nonsense"),
    ],
)
def test_wrong_usage(args: list[str], why: str) -> None:
    done = command("--once", *args)
    assert done.returncode in (2, 3)
    assert why in done.stderr
    assert "Traceback" not in done.stderr


def test_help_names_every_option() -> None:
    done = command("--help")
    assert done.returncode == 0
    assert all(f"--{name.replace('_', '-')}" in done.stdout for name in Config.__dataclass_fields__)
