# SPDX-License-Identifier: Apache-2.0
"""What Prometheus reads, what probes are told, what sensors say, and what fits a report."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from manager_daemon import Daemon, running, until
from prometheus_client.parser import text_string_to_metric_families

import fpgahal
from fpgahal import manager
from fpgahal.manager import metrics
from fpgahal.manager.codes import Verb
from fpgahal.manager.control import Control
from fpgahal.manager.figures import BOUNDS, Figures, Histogram, quantile
from fpgahal.manager.report import fitting
from fpgahal.manager.sensors import Reading, readings
from fpgahal.manager.wire import HEADER_BYTES, MAX_FRAME, Report, pack

PAGE = (Path(__file__).parents[2] / "docs/manager.md").read_text()
ONES = np.ones(1000, np.uint32)


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=20) as answer:
        return str(answer.read().decode())


def samples(url: str) -> dict[str, float]:
    """Every sample, by its name and the values of its labels."""
    return {
        "/".join([sample.name, *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(get(url))
        for sample in family.samples
    }


def test_metrics_are_what_happened(tmp_path: Path) -> None:
    with running(tmp_path, "pac-a10", "--metrics", "127.0.0.1:0") as daemon, daemon.connect() as m:
        url = metrics_of(daemon)
        (board,) = [info.address for info in daemon.rack.devices()]
        before = samples(url)
        for _ in range(50):
            m.submit("vadd", a=ONES, b=ONES).result(20)
        requests = [m.submit("passthrough", src=ONES) for _ in range(30)]
        assert all(np.array_equal(one.result(20), ONES.view("u1")) for one in requests)
        with Control(daemon.socket) as control:
            control.want(Verb.CORDON)
        late = m.submit("vadd", a=ONES, b=ONES, deadline=0.05)
        with pytest.raises(manager.DeadlineError):
            late.result(20)
        found = samples(url)
        name = "fpgahal_manager_"
        assert found[f"{name}requests_total/done"] - before.get(f"{name}requests_total/done", 0) == 80
        assert found[f"{name}requests_total/deadline"] == 1
        assert found[f"{name}queue_wait_seconds_count/vadd"] == 50
        assert found[f"{name}queue_wait_seconds_count/passthrough"] == 30
        assert found[f"{name}queue_wait_seconds_bucket/vadd/+Inf"] == 50
        assert 1 <= found[f"{name}run_seconds_count/passthrough"] <= 30
        run = found[f"{name}run_seconds_sum/vadd"] + found[f"{name}run_seconds_sum/passthrough"]
        assert found[f"{name}board_busy_seconds_total/{board}"] == pytest.approx(run)
        assert found[f"{name}board_up/{board}"] == found[f"{name}board_cordoned/{board}"] == 1
        assert found[f"{name}board_resting_seconds/{board}"] == 0
        assert found[f"{name}board_reconfigurations_total/{board}"] == m.status()["reloads"] >= 1
        (user,) = (key for key in found if key.startswith(f"{name}bytes_moved_total"))
        assert found[user] == 51 * 3 * ONES.nbytes + 30 * 2 * ONES.nbytes
        assert found[f"{name}clients"] == 1
        assert found[f"{name}memory_bytes/{user.rpartition('/')[2]}"] > 0
        assert get(url.replace("metrics", "healthz")) == "ok\n"
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(url.replace("metrics", "other"))
        exposed = set(re.findall(r"^# TYPE (\S+)", get(url), re.MULTILINE))
        assert set(re.findall(r"`(fpgahal_manager_\w+)`", PAGE)) == exposed, "docs/manager.md lists them"


def metrics_of(daemon: Daemon) -> str:
    """Where they are: in what the manager printed, whose first line the Daemon has read."""
    assert daemon.process.stdout is not None
    text = "{" + "".join(iter(daemon.process.stdout.readline, "}\n")) + "}"
    return str(json.loads(text)["metrics"])


def test_a_manager_that_is_stuck_is_not_healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_PATIENCE", 0.05)
    stuck: Any = SimpleNamespace(call=lambda work: None)
    endpoint = metrics.Endpoint(("127.0.0.1", 0), metrics.Metrics(stuck, []))
    try:
        for path in ("healthz", "metrics"):
            with pytest.raises(urllib.error.HTTPError, match="503"):
                get(endpoint.url.replace("metrics", path))
        with pytest.raises(fpgahal.FpgaError, match="can't listen"):
            metrics.Endpoint(("127.0.0.1", int(endpoint.url.split(":")[2].split("/")[0])), metrics.Metrics(stuck, []))
    finally:
        endpoint.close()


def test_without_prometheus_client(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['prometheus_client'] = None\nfrom fpgahal.manager.app import main; sys.exit(main())"
    )
    line = [sys.executable, "-c", program, "--emulate", "pac-a10", "--socket", str(tmp_path / "s"), "--metrics"]
    done = subprocess.run([*line, "127.0.0.1:0"], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 3
    assert "fpgahal[manager]" in done.stderr


# --- figures ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 200), min_size=1, max_size=50), st.floats(0.01, 1))
def test_quantiles_are_right_within_a_bin(durations: list[float], q: float) -> None:
    histogram = Histogram()
    for one in durations:
        histogram.add(one)
    assert sum(histogram.counts) == len(durations)
    exact = sorted(durations)[max(0, int(np.ceil(q * len(durations) - 1e-9)) - 1)]
    found = quantile(histogram.counts, q)
    low, high = max([0.0, *(b for b in BOUNDS if b < exact)]), min([b for b in BOUNDS if b >= exact] or [BOUNDS[-1]])
    assert found is not None
    assert low <= found <= high


def test_no_quantile_of_nothing() -> None:
    assert quantile([0] * 5, 0.5) is None
    assert quantile(Figures().waited.counts, 0.99) is None


@pytest.mark.parametrize("many", [0, 1, 200])
def test_a_report_fits_a_frame(many: int) -> None:
    rows = [{"user": (1 << 32) - 1, "text": "x" * 150, "number": number} for number in range(many)]
    document = {"clients": rows, "users": rows, "accounts": rows, "boards": ["b"]}
    text = fitting(document)
    assert len(pack(Report(text))) <= MAX_FRAME
    assert HEADER_BYTES + len(text) == len(pack(Report(text)))
    found = json.loads(text)
    assert found["boards"] == ["b"]
    assert found.get("cut", False) is (many == 200)
    for name in ("clients", "users", "accounts"):
        assert len(found[name]) >= min(many, 50)
        assert found[name] == rows[: len(found[name])]


# --- sensors ----------------------------------------------------------------------------------------------------------


def test_sensors(tmp_path: Path) -> None:
    function = tmp_path / "sys/devices/pci0000:3a/0000:3b:00.0"
    fme = function / "fpga_region/region0/dfl-fme.0/hwmon/hwmon3"
    fme.mkdir(parents=True)
    (fme / "temp1_input").write_text("51500\n")
    (fme / "temp1_label").write_text("FPGA Core Temperature\n")
    (fme / "temp1_crit").write_text("100000\n")
    (fme / "power1_input").write_text("40250000\n")
    (fme / "temp2_input").write_text("no number\n")
    (fme / "in0_input").write_text("12000\n")
    (function / "subsystem").symlink_to(tmp_path / "sys")  # it leads back to itself
    devices = tmp_path / "sys/bus/pci/devices"
    devices.mkdir(parents=True)
    (devices / "0000:3b:00.0").symlink_to(function)
    info = fpgahal.DeviceInfo(bdf="0000:3b:00.0", root=str(tmp_path))
    assert sorted(readings(info)) == [
        Reading("power", "power1", 40.25),
        Reading("temp", "FPGA Core Temperature", 51.5),
    ]
    assert readings(fpgahal.DeviceInfo(bdf="0000:ff:00.0", root=str(tmp_path))) == []
    server: Any = SimpleNamespace(status=lambda: STATUS)

    def call(work: Callable[[], None]) -> None:
        work()

    server.call = call
    families = {family.name: family for family in metrics.Metrics(server, [info]).collect()}
    (sample,) = families["fpgahal_manager_board_temperature_celsius"].samples
    assert (sample.labels, sample.value) == ({"board": info.address, "sensor": "FPGA Core Temperature"}, 51.5)


STATUS: dict[str, Any] = {key: [] for key in ("boards", "users", "accounts", "bounds")}
STATUS |= {key: {} for key in ("figures", "ended", "waiting")} | {"requests": 0, "connections": 0}


# --- logs -------------------------------------------------------------------------------------------------------------


def test_logs_are_events_with_fields(tmp_path: Path) -> None:
    with running(tmp_path) as daemon:
        with daemon.connect() as m:
            m.submit("passthrough", src=ONES).result(20)
        until(lambda: any(line["message"] == "client gone" for line in daemon.messages()))
        with Control(daemon.socket) as control:
            control.want(Verb.CORDON)
        lines = [json.loads(line) for line in daemon.log.read_text().splitlines()]  # nothing else is there
    events = {line["message"]: line for line in lines}
    for message, fields in (
        ("client", {"client", "pid", "uid"}),
        ("client gone", {"client", "pid", "uid", "why"}),
        ("programmed", {"board", "image", "seconds"}),
        ("cordon", {"board", "client", "pid", "uid"}),
    ):
        assert set(events[message]) == {"time", "level", "logger", "message"} | fields
