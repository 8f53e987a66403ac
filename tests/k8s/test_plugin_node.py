# SPDX-License-Identifier: Apache-2.0
"""The node's loop: kubelets come and go, boards come and go, and what is not concerned notices nothing."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_kubelet import FakeKubelet
from fake_work import PAC, U250, FakeWork, Running, inventory, offering, unit, until
from prometheus_client.parser import text_string_to_metric_families

from fpgahal.k8s.plugin import hotplug, node
from fpgahal.k8s.plugin.kubelet import InstanceLock
from fpgahal.k8s.plugin.presence import Change, Presence, after, difference, unseen
from fpgahal.k8s.plugin.server import socket_name
from fpgahal.k8s.plugin.unit import Inventory, Skipped

ONE = "0000:01:00.0"


@pytest.fixture
def kubelet(tmp_path: Path) -> Iterator[FakeKubelet]:
    with FakeKubelet(tmp_path) as fake:
        yield fake


def sockets(kubelet: FakeKubelet) -> list[str]:
    return sorted(path.name for path in kubelet.folder.iterdir() if path.name != "kubelet.sock")


# --- registration -------------------------------------------------------------------------------------------------


def test_D1_no_kubelet_yet(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Not even its folder; then a folder, then a socket that nobody serves, then one that refuses."""
    caplog.set_level(logging.INFO)
    kubelet = FakeKubelet(tmp_path / "kubelet")
    with offering(kubelet, FakeWork(unit(1))) as plugin:
        until(lambda: "Waiting for kubelet's folder" in caplog.text)
        kubelet.folder.mkdir(parents=True)
        until(lambda: len(sockets(kubelet)) == 1)
        kubelet.start()
        kubelet.kill()
        until(lambda: len(sockets(kubelet)) == 1)
        until(lambda: "Not registered yet" in caplog.text)
        kubelet.refuse = "not today"
        kubelet.start()
        kubelet.wait(lambda: len(kubelet.refused) >= 2)
        until(lambda: "not today" in caplog.text)
        assert kubelet.registrations == []
        kubelet.refuse = ""
        kubelet.wait_devices(U250, ONE)
        (registration,) = kubelet.registrations
        assert registration.version == "v1beta1"
        assert registration.resource == U250
        assert [registration.endpoint] == sockets(kubelet)
        assert registration.authority == "localhost"
        until(lambda: not plugin.node.unregistered())
        kubelet.stop()


def test_D2_kubelet_dials_back_inside_register(kubelet: FakeKubelet) -> None:
    with offering(kubelet, FakeWork(unit(1), unit(2, PAC))):
        kubelet.wait_devices(U250, ONE)
        kubelet.wait_devices(PAC, "0000:02:00.0")
        assert all(one.seconds < 1.0 for one in kubelet.registrations)


def test_D3_our_socket_is_removed(kubelet: FakeKubelet) -> None:
    with offering(kubelet, FakeWork(unit(1), unit(2), unit(3, PAC))):
        kubelet.wait_devices(U250, ONE, "0000:02:00.0")
        kubelet.wait_devices(PAC, "0000:03:00.0")
        before = kubelet.messages(U250)[-1]
        (kubelet.folder / kubelet.registered(U250)[0].endpoint).unlink()
        begin = time.monotonic()
        kubelet.wait(lambda: len(kubelet.registered(U250)) == 2)
        kubelet.wait_devices(U250, ONE, "0000:02:00.0")
        assert time.monotonic() - begin < 5.0
        assert kubelet.messages(U250)[-1] == before
        assert len(kubelet.registered(PAC)) == 1, "who is not concerned does not notice"
        kubelet.admit("a", {U250: 2})


def test_D3_our_socket_is_removed_while_we_register(kubelet: FakeKubelet) -> None:
    """It was there before and is not after: that is no change that a look from now on would show."""
    removed = []

    def remove(endpoint: str) -> None:
        if not removed:
            (kubelet.folder / endpoint).unlink()
            removed.append(endpoint)

    kubelet.meddle = remove
    with offering(kubelet, FakeWork(unit(1))):
        kubelet.wait(lambda: len(kubelet.registered(U250)) == 2, 4.0)
        kubelet.wait_devices(U250, ONE)


@pytest.mark.parametrize("kill", [False, True])
def test_kubelet_restarts(kubelet: FakeKubelet, kill: bool) -> None:
    with offering(kubelet, FakeWork(unit(1), unit(2), unit(3, PAC))):
        for number in (1, 2, 3):
            kubelet.wait_devices(U250, ONE, "0000:02:00.0")
            kubelet.wait_devices(PAC, "0000:03:00.0")
            assert len(kubelet.registered(U250)) == number
            kubelet.admit("a", {U250: 1})
            kubelet.restart(kill=kill)
        kubelet.wait_devices(U250, ONE, "0000:02:00.0")
        assert kubelet.admit("b", {U250: 1}).devices != kubelet.admit("a", {U250: 1}).devices
        assert kubelet.overlaps() == {}


def test_kubelet_stays_away_for_a_while(kubelet: FakeKubelet) -> None:
    with offering(kubelet, FakeWork(unit(1))) as plugin:
        kubelet.wait_devices(U250, ONE)
        kubelet.kill()
        until(plugin.node.unregistered)
        plugin.find(unit(1), unit(2))
        kubelet.start()
        kubelet.wait_devices(U250, ONE, "0000:02:00.0")


def test_a_kubelet_that_lets_the_stream_go_is_told_again(kubelet: FakeKubelet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fpgahal.k8s.plugin.kubelet.STREAM_SECONDS", 0.2)
    with offering(kubelet, FakeWork(unit(1))):
        kubelet.wait_devices(U250, ONE)
        kubelet._endpoints[U250].stream.cancel()
        kubelet.wait(lambda: len(kubelet.registered(U250)) == 2)
        kubelet.wait_devices(U250, ONE)


def test_kubelet_socket_is_another_one_though_the_stream_lives(kubelet: FakeKubelet) -> None:
    with offering(kubelet, FakeWork(unit(1))):
        kubelet.wait_devices(U250, ONE)
        kubelet.socket.chmod(0o666)  # another ctime
        kubelet.wait(lambda: len(kubelet.registered(U250)) == 2)
        kubelet.wait_devices(U250, ONE)


# --- a second instance --------------------------------------------------------------------------------------------


def test_a_second_instance_waits_for_the_first(kubelet: FakeKubelet, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    first = Running(kubelet, FakeWork(unit(1)))
    first.start()
    kubelet.wait_devices(U250, ONE)
    made = (kubelet.folder / sockets(kubelet)[0]).stat().st_ctime_ns
    with offering(kubelet, FakeWork(unit(1))) as second:
        until(lambda: second.node.standby)
        kubelet.restart()  # both see it; the lock must survive the wiping
        kubelet.wait(lambda: len(kubelet.registrations) == 2)
        kubelet.wait_devices(U250, ONE)
        assert second.node.standby
        assert second.node.turns == 0
        assert (kubelet.folder / sockets(kubelet)[0]).stat().st_ctime_ns > made
        first.stop()
        kubelet.wait(lambda: len(kubelet.registrations) == 3)
        kubelet.wait_devices(U250, ONE)
        assert not second.node.standby
    assert "Another instance" in caplog.text
    assert sockets(kubelet) == []


def test_a_killed_instance_leaves_nothing_in_the_way(kubelet: FakeKubelet) -> None:
    for name in ("fpgahal-fpgahal.dev-gone.sock", ".fpgahal-1-1", "nvidia.sock"):
        (kubelet.folder / name).write_text("")
    with offering(kubelet, FakeWork(unit(1))):
        kubelet.wait_devices(U250, ONE)
        assert sockets(kubelet) == [socket_name(U250, kubelet.folder), "nvidia.sock"]


def test_the_lock_follows_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "device-plugins"
    folder.mkdir()
    one, other = InstanceLock(folder), InstanceLock(folder)
    assert one.take()
    assert not other.take()
    folder.rmdir()
    folder.mkdir()
    assert not one.held
    assert other.take()
    assert not one.take()
    other.release()
    assert one.take()
    one.release()


# --- boards -------------------------------------------------------------------------------------------------------


def test_C3_differences() -> None:
    a, b, both = inventory(unit(1)), inventory(unit(2)), inventory(unit(1), unit(2, PAC))
    assert difference(Inventory(), Inventory()) == difference(a, inventory(unit(1))) == Change()
    assert difference(Inventory(), a) == Change(added=(U250,))
    assert difference(a, b) == Change(updated=(U250,))
    assert difference(a, Inventory()) == Change(removed=(U250,))
    assert difference(a, both) == Change(added=(PAC,))
    assert difference(a, inventory(unit(1, reason="hot"))) == Change(updated=(U250,))


def test_C3_resources_come_and_go(kubelet: FakeKubelet) -> None:
    with offering(kubelet, FakeWork(), grace_seconds=0.0) as plugin:
        plugin.look()
        assert kubelet.registrations == []
        plugin.find(unit(1))
        kubelet.wait_devices(U250, ONE)
        plugin.find(unit(2), unit(3, PAC))
        kubelet.wait_devices(U250, "0000:02:00.0")
        kubelet.wait_devices(PAC, "0000:03:00.0")
        plugin.find(unit(3, PAC))
        kubelet.wait(lambda: kubelet.capacity() == {U250: 0, PAC: 1}, 2.0)  # at once, not after five minutes
        assert sockets(kubelet) == [socket_name(PAC, kubelet.folder)]
        assert len(kubelet.registrations) == 2
        plugin.find(unit(1), unit(3, PAC))
        kubelet.wait_devices(U250, ONE)
        assert len(kubelet.registered(PAC)) == 1


def test_a_board_that_vanishes_is_unhealthy_first() -> None:
    start = after(Presence(), inventory(unit(1), unit(2)), 0.0, 60.0)
    gone = after(start, inventory(unit(2)), 5.0, 60.0)
    assert [one.reason for one in gone.inventory.resources[U250].values()] == ["it is not there now", ""]
    assert list(gone.inventory.resources[U250]) == [ONE, "0000:02:00.0"], "in the order that kubelet knows"
    later = after(gone, inventory(unit(2)), 64.9, 60.0)
    assert len(later.inventory.resources[U250]) == 2
    assert list(after(later, inventory(unit(2)), 65.0, 60.0).inventory.resources[U250]) == ["0000:02:00.0"]
    back = after(later, inventory(unit(1), unit(2)), 64.9, 60.0)
    assert all(one.healthy for one in back.inventory.resources[U250].values())
    again = after(back, inventory(unit(2)), 70.0, 60.0)
    assert again.missing == {(U250, ONE): 70.0}, "the time begins anew"


def test_the_last_board_of_a_resource_vanishes() -> None:
    gone = after(after(Presence(), inventory(unit(1)), 0.0, 60.0), Inventory(), 1.0, 60.0)
    assert not gone.inventory.resources[U250][ONE].healthy
    assert after(gone, Inventory(), 61.0, 60.0).inventory.resources == {}


def test_a_board_that_is_skipped_for_a_while_says_why() -> None:
    start = after(Presence(), inventory(unit(1)), 0.0, 60.0)
    skipped = after(start, inventory(skipped=[Skipped(f"{ONE}/0", "afu_id: EBUSY")]), 1.0, 60.0)
    assert skipped.inventory.resources[U250][ONE].reason == "afu_id: EBUSY"


def test_a_board_that_is_offered_otherwise_is_not_kept() -> None:
    """Another image was loaded, or another mode is on: two names for one board would be two boards to kubelet."""
    start = after(Presence(), inventory(unit(1), unit(2)), 0.0, 60.0)
    other = after(start, inventory(unit(1, PAC), unit(2)), 1.0, 60.0)
    assert list(other.inventory.resources[U250]) == ["0000:02:00.0"]
    assert list(other.inventory.resources[PAC]) == [ONE]


def test_unseen_boards_are_unhealthy() -> None:
    start = after(Presence(), inventory(unit(1), unit(2, PAC)), 0.0, 60.0)
    blind = unseen(start, "no sysfs")
    assert [unit.reason for unit in node.all_units(blind.inventory)] == ["no sysfs"] * 2


def test_a_board_vanishes_and_comes_back(kubelet: FakeKubelet) -> None:
    with offering(kubelet, FakeWork(unit(1), unit(2), unit(3, PAC))) as plugin:
        kubelet.wait_devices(U250, ONE, "0000:02:00.0")
        kubelet.wait_devices(PAC, "0000:03:00.0")
        plugin.find(unit(2))
        kubelet.wait_devices(U250, "0000:02:00.0")
        kubelet.wait_devices(PAC)
        assert kubelet.capacity() == {U250: 2, PAC: 1}
        plugin.find(unit(1), unit(2), unit(3, PAC))
        kubelet.wait_devices(U250, ONE, "0000:02:00.0")
        kubelet.wait_devices(PAC, "0000:03:00.0")
        assert len(kubelet.registrations) == 2


# --- what goes wrong ------------------------------------------------------------------------------------------------


def test_a_scan_that_fails_once_changes_nothing(kubelet: FakeKubelet, caplog: pytest.LogCaptureFixture) -> None:
    work = FakeWork(unit(1))
    with offering(kubelet, work) as plugin:
        kubelet.wait_devices(U250, ONE)
        work.broken = OSError("sysfs is away")
        plugin.look()
        work.broken = None
        plugin.look()
        assert "sysfs is away" in caplog.text
        assert len(kubelet.messages(U250)) == 1


def test_scans_that_go_on_failing_make_boards_unhealthy(kubelet: FakeKubelet) -> None:
    work = FakeWork(unit(1))
    with offering(kubelet, work, scan_seconds=0.05) as plugin:
        kubelet.wait_devices(U250, ONE)
        work.broken = ValueError("sysfs is away")
        kubelet.wait_devices(U250)
        unit_now = plugin.node.inventory.resources[U250][ONE]
        assert unit_now.reason == "the boards can't be looked at: sysfs is away"
        work.broken = None
        kubelet.wait_devices(U250, ONE)


def test_a_scan_that_hangs_is_not_doubled(kubelet: FakeKubelet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "SCAN_SECONDS", 0.05)
    work = FakeWork(unit(1))
    with offering(kubelet, work, scan_seconds=0.05):
        kubelet.wait_devices(U250, ONE)
        work.hang.clear()
        try:
            kubelet.wait_devices(U250)
            scans = work.scans
            time.sleep(0.3)  # in which nothing must happen
            assert work.scans == scans
        finally:
            work.hang.set()
        kubelet.wait_devices(U250, ONE)


def test_a_unit_whose_files_cannot_be_written_is_not_handed_out(kubelet: FakeKubelet) -> None:
    work = FakeWork(unit(1), unit(2))
    work.unwritable[ONE] = "No room for the CDI file."
    with offering(kubelet, work) as plugin:
        kubelet.wait_devices(U250, "0000:02:00.0")
        assert plugin.node.inventory.resources[U250][ONE].reason == "No room for the CDI file."
        work.unwritable.clear()
        plugin.look()
        kubelet.wait_devices(U250, ONE, "0000:02:00.0")


def test_files_of_boards_that_are_gone_are_deleted(kubelet: FakeKubelet) -> None:
    work = FakeWork(unit(1), unit(2))
    with offering(kubelet, work, grace_seconds=0.0) as plugin:
        until(lambda: work.kept == [ONE, "0000:02:00.0"])
        plugin.find(unit(2))
        assert work.kept == ["0000:02:00.0"]


def test_a_resource_that_cannot_be_offered_leaves_the_others_alone(
    kubelet: FakeKubelet, caplog: pytest.LogCaptureFixture
) -> None:
    """Kubelet refuses the name; the plugin lives, and goes on trying."""
    with offering(kubelet, FakeWork(unit(1), unit(2, "kubernetes.io/fpga"))) as plugin:
        kubelet.wait_devices(U250, ONE)
        kubelet.wait(lambda: len(kubelet.refused) >= 2)
        until(lambda: 'the ResourceName "kubernetes.io/fpga" is invalid' in caplog.text)
        until(lambda: plugin.node.unregistered() == ["kubernetes.io/fpga"])


def test_an_error_of_our_own_does_not_end_the_loop(
    kubelet: FakeKubelet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a bug")

    with offering(kubelet, FakeWork(unit(1))) as plugin:
        kubelet.wait_devices(U250, ONE)
        with monkeypatch.context() as patch:
            patch.setattr(node, "difference", broken)
            plugin.call(plugin.node.wake)
            until(lambda: "a bug" in caplog.text)
        plugin.find(unit(1), unit(2))
        kubelet.wait_devices(U250, ONE, "0000:02:00.0")


# --- uevents --------------------------------------------------------------------------------------------------------


def event(subsystem: str) -> bytes:
    return b"\0".join(
        [b"add@/devices/x", b"ACTION=add", b"DEVPATH=/devices/x", b"SUBSYSTEM=" + subsystem.encode(), b""]
    )


def test_events_that_concern_boards() -> None:
    assert all(hotplug.concerns_boards(event(name)) for name in ("pci", "fpga_region", "fpga", "drm", "dfl"))
    assert not any(hotplug.concerns_boards(event(name)) for name in ("block", "net", "pcix", ""))
    assert not hotplug.concerns_boards(b"libudev\0\xfe\xed\xca\xfe")
    assert not hotplug.concerns_boards(b"")


class Events:
    """A netlink socket of which the test says what comes."""

    def __init__(self, *messages: Any) -> None:
        self.messages = list(messages)

    def recvfrom(self, size: int) -> Any:
        if not self.messages:
            raise BlockingIOError
        message = self.messages.pop(0)
        if isinstance(message, Exception):
            raise message
        return message


@pytest.mark.parametrize(
    ("message", "wakes"),
    [
        ((event("pci"), (0, 1)), True),
        ((event("net"), (0, 1)), False),
        ((event("pci"), (4711, 0)), False),  # any process may send there
        (OSError(105, "No buffer space available"), True),  # events were lost
    ],
)
def test_which_messages_wake(message: Any, wakes: bool) -> None:
    async def main() -> bool:
        found = hotplug.Hotplug()
        found._socket = Events(message)  # type: ignore[assignment]
        found._read()
        return found._event.is_set()

    assert asyncio.run(main()) == wakes


def test_many_events_are_one_scan(kubelet: FakeKubelet) -> None:
    work = FakeWork(unit(1))
    with offering(kubelet, work) as plugin:
        kubelet.wait_devices(U250, ONE)
        before = work.scans
        plugin.call(lambda: [plugin.node.wake() for _ in range(20)])
        until(lambda: work.scans == before + 1)
        plugin.look()
        assert work.scans == before + 2


def test_without_uevents_there_are_scans(
    kubelet: FakeKubelet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse() -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(hotplug, "open_uevents", refuse)
    work = FakeWork(unit(1))
    with offering(kubelet, work, scan_seconds=0.05):
        kubelet.wait_devices(U250, ONE)
        work.found = inventory(unit(1), unit(2))
        kubelet.wait_devices(U250, ONE, "0000:02:00.0")
    assert "No uevents" in caplog.text


def test_the_kernels_own_event_leads_to_a_scan(kubelet: FakeKubelet) -> None:
    functions = sorted(Path("/sys/bus/pci/devices").glob("*/uevent"))
    if not functions or not os.access(functions[0], os.W_OK):
        pytest.skip("only root can ask for an event, of a PCI function")
    work = FakeWork(unit(1))
    with offering(kubelet, work, scan_seconds=60.0) as plugin:
        kubelet.wait_devices(U250, ONE)
        if plugin.node._hotplug is None or plugin.node._hotplug._socket is None:
            pytest.skip("no uevents here")
        scans = work.scans
        try:
            functions[0].write_text("change")
        except OSError as error:
            pytest.skip(f"no event can be asked for: {error}")
        until(lambda: work.scans > scans, 5.0)


# --- metrics --------------------------------------------------------------------------------------------------------


def test_metrics(kubelet: FakeKubelet) -> None:
    skipped = Skipped("0000:09:00.0/0", "odd")
    work = FakeWork(unit(1), unit(2, reason="hot"), prestart=True)
    with offering(kubelet, work) as plugin:
        kubelet.wait_devices(U250, ONE)
        plugin.find(unit(1), unit(2, reason="hot"), skipped=[skipped])
        kubelet.admit("a", {U250: 1})
        kubelet.start_container("a")
        plugin.metrics.mode = lambda: 'odd "\\\n'
        text = plugin.metrics.text().decode()
        values = {
            (sample.name, *sorted(sample.labels.values())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
    assert values["fpgahal_plugin_units", U250, "true"] == 1
    assert values["fpgahal_plugin_units", "false", U250] == 1
    assert values["fpgahal_plugin_skipped",] == 1
    assert values["fpgahal_plugin_streams", U250] == 1
    assert values["fpgahal_plugin_mode", 'odd "\\\n'] == 1
    assert values["fpgahal_plugin_registrations_total", U250, "ok"] == 1
    assert values["fpgahal_plugin_units_allocated_total", U250] == 1
    assert values["fpgahal_plugin_allocate_total", U250, "ok"] == 1
    assert values["fpgahal_plugin_prefer_total", U250, "ok"] == 1
    assert values["fpgahal_plugin_prestart_total", U250, "ok"] == 1
    assert values["fpgahal_plugin_prestart_seconds_count", U250] == 1
    assert values["fpgahal_plugin_scans_total", "ok"] >= 2
    assert 0 < values["fpgahal_plugin_scan_seconds_sum",] < 10
