# SPDX-License-Identifier: Apache-2.0
"""One resource's server, asked by a fake kubelet over a real socket."""

from __future__ import annotations

import asyncio
import socket
import stat
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from fake_kubelet import DEVICE_PLUGIN, AdmissionError, FakeKubelet, StartError
from fake_work import PAC, U250, FakeWork, Refusal, Running, offering, unit, until

from fpgahal.k8s import rpc
from fpgahal.k8s.plugin.metrics import Metrics
from fpgahal.k8s.plugin.server import ResourceServer, ServerError, socket_name
from fpgahal.k8s.proto import deviceplugin_pb2 as pb


@pytest.fixture
def kubelet(tmp_path: Path) -> Iterator[FakeKubelet]:
    with FakeKubelet(tmp_path) as fake:
        yield fake


def served(folder: Path, work: FakeWork, test: Callable[[ResourceServer], Awaitable[Any]]) -> Any:
    """Serve the work's U250s without a kubelet, run a test, and stop."""

    async def main() -> Any:
        server = ResourceServer(U250, folder, work, Metrics())
        server.update(work.found.resources[U250])
        await server.serve()
        try:
            return await test(server)
        finally:
            if server.serving:
                await server.stop()

    return asyncio.run(main())


async def ask(server: ResourceServer, name: str, request: Any) -> Any:
    async with rpc.channel(str(server.path)) as channel:
        return await rpc.call(channel, DEVICE_PLUGIN.methods_by_name[name])(request, timeout=5)


def allocate(*ids: str) -> Any:
    return pb.AllocateRequest(container_requests=[pb.ContainerAllocateRequest(devices_ids=ids)])


# --- Allocate -----------------------------------------------------------------------------------------------------


def test_D6_allocate_of_an_unknown_id_names_it(tmp_path: Path) -> None:
    async def test(server: ResourceServer) -> None:
        with pytest.raises(grpc.aio.AioRpcError, match=r"no device '0000:99:00\.0'; it has: 0000:01:00\.0") as caught:
            await ask(server, "Allocate", allocate("0000:01:00.0", "0000:99:00.0"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND

    served(tmp_path, FakeWork(unit(1)), test)


def test_D6_allocate_of_an_unhealthy_id_says_why(tmp_path: Path) -> None:
    async def test(server: ResourceServer) -> None:
        with pytest.raises(grpc.aio.AioRpcError, match=r"0000:01:00\.0 can't be used now: on fire") as caught:
            await ask(server, "Allocate", allocate("0000:01:00.0"))
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION

    served(tmp_path, FakeWork(unit(1, reason="on fire")), test)


def test_D16_allocate_before_anybody_listens(tmp_path: Path) -> None:
    async def test(server: ResourceServer) -> None:
        assert server.streams == 0
        answer = await ask(server, "Allocate", allocate("0000:01:00.0"))
        (container,) = answer.container_responses
        assert container.envs["FPGAHAL_VISIBLE_DEVICES"] == "0000:01:00.0/0"
        assert [(one.host_path, one.permissions) for one in container.devices] == [("/dev/dri/renderD129", "rw")]
        assert dict(container.annotations) == {"note": "value"}

    served(tmp_path, FakeWork(unit(1)), test)


def test_a_cdi_file_that_cannot_be_written_refuses_the_container(tmp_path: Path) -> None:
    """Intel's plugin only logs it: the container then runs without the hook that would check its function."""
    work = FakeWork(unit(1), cdi=True)

    async def test(server: ResourceServer) -> None:
        answer = await ask(server, "Allocate", allocate("0000:01:00.0"))
        assert [one.name for one in answer.container_responses[0].cdi_devices] == ["fpgahal.dev/fpga=0000:01:00.0"]
        work.unwritable["0000:01:00.0"] = "No room for the CDI file."
        with pytest.raises(grpc.aio.AioRpcError, match="No room for the CDI file"):
            await ask(server, "Allocate", allocate("0000:01:00.0"))

    served(tmp_path, work, test)


def test_what_nobody_thought_of_fails_one_call_only(tmp_path: Path) -> None:
    work = FakeWork(unit(1))

    async def test(server: ResourceServer) -> None:
        work.allocating = lambda units: units[5]  # type: ignore[assignment, return-value]
        with pytest.raises(grpc.aio.AioRpcError, match="IndexError") as caught:
            await ask(server, "Allocate", allocate("0000:01:00.0"))
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        work.allocating = lambda units: None
        await ask(server, "Allocate", allocate("0000:01:00.0"))

    served(tmp_path, work, test)


def test_preference_is_ours_and_forgives_stale_ids(kubelet: FakeKubelet, tmp_path: Path) -> None:
    work = FakeWork(unit(1), unit(2), unit(3))
    with offering(kubelet, work):
        kubelet.wait_devices(U250, *(unit(n).id for n in (1, 2, 3)))
        assert kubelet.admit("a", {U250: 2}).devices[U250] == ("0000:03:00.0", "0000:02:00.0")
        assert kubelet.admit("b", {U250: 1}).devices[U250] == ("0000:01:00.0",)

    async def test(server: ResourceServer) -> None:
        request = pb.ContainerPreferredAllocationRequest(
            available_deviceIDs=["0000:01:00.0", "gone"], must_include_deviceIDs=["gone"], allocation_size=1
        )
        answer = await ask(
            server, "GetPreferredAllocation", pb.PreferredAllocationRequest(container_requests=[request])
        )
        assert list(answer.container_responses[0].deviceIDs) == ["0000:01:00.0"]

    served(tmp_path, FakeWork(unit(1)), test)


# --- ListAndWatch -------------------------------------------------------------------------------------------------


def test_C6_each_message_is_the_whole_list(kubelet: FakeKubelet) -> None:
    work = FakeWork(unit(1), unit(2, numa=1), unit(3))
    with offering(kubelet, work) as plugin:
        kubelet.wait_devices(U250, *(unit(n).id for n in (1, 2, 3)))
        assert kubelet.numa(U250, "0000:02:00.0") == (1,)
        work.break_down(2)
        plugin.look()
        kubelet.wait_devices(U250, "0000:01:00.0", "0000:03:00.0")
        assert kubelet.capacity() == {U250: 3}
        assert kubelet.allocatable() == {U250: 2}
        work.break_down(2, "")
        plugin.look()
        kubelet.wait_devices(U250, *(unit(n).id for n in (1, 2, 3)))
        lists = kubelet.messages(U250)
        assert [sorted(one) for one in lists] == [[f"0000:0{n}:00.0" for n in (1, 2, 3)]] * 3
        assert [one["0000:02:00.0"].health for one in lists] == ["Healthy", "Unhealthy", "Healthy"]


def test_a_list_that_says_the_same_is_not_sent(kubelet: FakeKubelet) -> None:
    with offering(kubelet, FakeWork(unit(1))) as plugin:
        kubelet.wait_devices(U250, "0000:01:00.0")
        plugin.find(unit(1, env={"NEW": "variable"}))
        plugin.find(unit(1), unit(2))
        kubelet.wait_devices(U250, "0000:01:00.0", "0000:02:00.0")
        assert len(kubelet.messages(U250)) == 2


def test_open_streams_delay_no_other_call(tmp_path: Path) -> None:
    """A server with a thread for each call is used up by streams, which never end."""

    async def test(server: ResourceServer) -> None:
        async with rpc.channel(str(server.path)) as channel:
            method = DEVICE_PLUGIN.methods_by_name["ListAndWatch"]
            streams = [rpc.call(channel, method)(pb.Empty()) for _ in range(50)]
            lists = await asyncio.gather(*(stream.read() for stream in streams))
            assert all(len(one.devices) == 1 for one in lists)
            assert server.streams == 50
            await ask(server, "Allocate", allocate("0000:01:00.0"))
        while server.streams:  # who hangs up is forgotten
            await asyncio.sleep(0.005)

    served(tmp_path, FakeWork(unit(1)), test)


def test_512_devices_in_one_list(kubelet: FakeKubelet) -> None:
    units = [unit(n % 256, env={}, numa=n % 2) for n in range(256)]
    with offering(kubelet, FakeWork(*units, *(unit(n, PAC) for n in range(256)))):
        kubelet.wait(lambda: kubelet.allocatable() == {U250: 256, PAC: 256})


# --- PreStartContainer --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prestart", [False, True])
def test_D13_prestart_is_asked_for_only_if_it_does_something(kubelet: FakeKubelet, prestart: bool) -> None:
    work = FakeWork(unit(1), prestart=prestart)
    with offering(kubelet, work):
        kubelet.wait_devices(U250, "0000:01:00.0")
        assert kubelet.registered(U250)[0].pre_start_required == prestart
        assert kubelet.registered(U250)[0].get_preferred_allocation_available
        kubelet.admit("a", {U250: 1})
        kubelet.start_container("a")
        assert len(work.prepared) == prestart


def test_D13_prestart_of_an_unknown_or_unhealthy_unit(tmp_path: Path) -> None:
    work = FakeWork(unit(1), unit(2, reason="on fire"), prestart=True)

    async def test(server: ResourceServer) -> None:
        for id, why in (("0000:99:00.0", "no device '0000:99:00.0'"), ("0000:02:00.0", "on fire")):
            with pytest.raises(grpc.aio.AioRpcError, match=why):
                await ask(server, "PreStartContainer", pb.PreStartContainerRequest(devices_ids=["0000:01:00.0", id]))
        assert work.prepared == []

    served(tmp_path, work, test)


def test_D13_prestart_gives_up_before_kubelet_does(tmp_path: Path) -> None:
    async def hang(units: object) -> None:
        await asyncio.Event().wait()

    work = FakeWork(unit(1), prestart=True)
    work.preparing = hang
    with FakeKubelet(tmp_path, prestart_seconds=1.0) as kubelet, offering(kubelet, work) as plugin:
        kubelet.wait_devices(U250, "0000:01:00.0")
        kubelet.admit("a", {U250: 1})
        with pytest.raises(StartError, match=r"DEADLINE_EXCEEDED: fpgahal\.dev/u250: the board was not ready in time"):
            kubelet.start_container("a")
        assert work.cancelled == 1
        assert 0 < work.prepared[0][1] < 1.0
        work.preparing = None
        kubelet.start_container("a")  # kubelet tries again
        assert b'prestart_total{resource="fpgahal.dev/u250",result="DEADLINE_EXCEEDED"} 1' in plugin.metrics.text()


def test_D13_the_reason_for_a_refusal_reaches_the_pod(kubelet: FakeKubelet) -> None:
    async def refuse(units: object) -> None:
        raise Refusal("Namespace a may not use this image.", hint="`fpgahal images list` shows who may.")

    work = FakeWork(unit(1), prestart=True)
    work.preparing = refuse
    with offering(kubelet, work):
        kubelet.wait_devices(U250, "0000:01:00.0")
        kubelet.admit("a", {U250: 1})
        with pytest.raises(StartError, match=r"not use this image\. `fpgahal images list` shows who may"):
            kubelet.start_container("a")


def test_D14_a_restarted_container_is_prepared_again(kubelet: FakeKubelet) -> None:
    work = FakeWork(unit(1), unit(2), prestart=True)
    with offering(kubelet, work):
        kubelet.wait_devices(U250, "0000:01:00.0", "0000:02:00.0")
        kubelet.admit("a", {U250: 2})
        for _ in range(3):
            kubelet.start_container("a")
        assert [ids for ids, _ in work.prepared] == [["0000:01:00.0", "0000:02:00.0"]] * 3
        assert [call[0] for call in kubelet.calls].count("Allocate") == 1


def test_programming_one_board_delays_no_other_call(kubelet: FakeKubelet) -> None:
    entered, leave = threading.Event(), threading.Event()

    async def program(units: object) -> None:
        entered.set()
        assert await asyncio.to_thread(leave.wait, 10)

    work = FakeWork(unit(1), unit(2), prestart=True)
    work.preparing = program
    with offering(kubelet, work) as plugin:
        kubelet.wait_devices(U250, "0000:01:00.0", "0000:02:00.0")
        kubelet.admit("a", {U250: 1})
        starting = threading.Thread(target=kubelet.start_container, args=["a"])
        starting.start()
        assert entered.wait(10)
        kubelet.admit("b", {U250: 1})
        plugin.find(unit(1), unit(2), unit(3))
        kubelet.wait_devices(U250, *(unit(n).id for n in (1, 2, 3)))
        leave.set()
        starting.join(10)


# --- sockets ------------------------------------------------------------------------------------------------------


def test_D18_stop_before_serve_is_an_error(tmp_path: Path) -> None:
    async def main() -> None:
        server = ResourceServer(U250, tmp_path, FakeWork(unit(1)), Metrics())
        with pytest.raises(ServerError, match=r"is not being served\.\n  serve\(\) comes before stop\(\)"):
            await server.stop()
        await server.serve()
        with pytest.raises(ServerError, match="already"):
            await server.serve()
        await server.stop()
        with pytest.raises(ServerError, match="not being served"):
            await server.stop()
        await server.serve()
        await server.stop()
        assert list(tmp_path.iterdir()) == []

    asyncio.run(main())


def test_socket_names_fit_and_differ() -> None:
    folder = Path("/var/lib/kubelet/device-plugins")
    af = "fpga.intel.com/af-695.{}.aVKNtusxV3qMNmj5-qCB9vffQFy9es9yIvFEsLk6zRg"
    names = [socket_name(resource, folder) for resource in (af.format("d84"), af.format("f7d"), U250)]
    assert names[2] == "fpgahal-fpgahal.dev-u250.sock"
    assert len(set(names)) == 3
    assert all(name.startswith("fpgahal-") and len(f"{folder}/{name}") <= 107 for name in names)
    assert names[0].startswith("fpgahal-fpga.intel.com-af-695.d84.")
    assert socket_name(af.format("d84"), folder) == names[0], "the same after each restart"
    deep = Path("/" + "x" * 70)
    assert len(f"{deep}/{socket_name(U250 + 'y' * 40, deep)}") == 107
    with pytest.raises(ServerError, match="too long"):
        socket_name(af, Path("/" + "x" * 90))


def test_a_long_name_is_registered_whole(tmp_path: Path) -> None:
    """The name is hashed in the socket's file only."""
    resource = "fpga.intel.com/af-695.d84.aVKNtusxV3qMNmj5-qCB9thCTcSko8QT-J5DNoP5BAs"
    with FakeKubelet(tmp_path) as kubelet, offering(kubelet, FakeWork(unit(1, resource))):
        kubelet.wait_devices(resource, "0000:01:00.0")
        (registration,) = kubelet.registered(resource)
        assert len(registration.endpoint) < len(resource) + 8
        kubelet.admit("a", {resource: 1})


def test_another_programs_socket_is_not_taken(tmp_path: Path) -> None:
    async def main() -> None:
        server = ResourceServer(U250, tmp_path, FakeWork(unit(1)), Metrics())
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(server.path))
            other.listen()
            inode = server.path.stat().st_ino
            with pytest.raises(ServerError, match="Another process serves"):
                await server.serve()
            assert server.path.stat().st_ino == inode
        await server.serve()  # now it is dead: its file is replaced
        assert server.present
        assert stat.S_IMODE(server.path.stat().st_mode) == 0o600
        server.path.unlink()
        assert not server.present
        server.path.write_text("another's")
        await server.stop()
        assert server.path.read_text() == "another's"

    asyncio.run(main())


def test_stop_ends_streams_and_calls(tmp_path: Path) -> None:
    """A server with a stream that nobody cancels must stop within its grace."""

    async def test(server: ResourceServer) -> None:
        async with rpc.channel(str(server.path)) as channel:
            stream = rpc.call(channel, DEVICE_PLUGIN.methods_by_name["ListAndWatch"])(pb.Empty())
            assert len((await stream.read()).devices) == 1
            last = asyncio.ensure_future(stream.read())
            await asyncio.sleep(0)
            begin = time.monotonic()
            await server.stop(gone=True, grace=30.0)
            assert time.monotonic() - begin < 10.0
            assert list((await last).devices) == [], "kubelet is told that there are none any more"
            assert await stream.read() is grpc.aio.EOF
            assert server.streams == 0

    served(tmp_path, FakeWork(unit(1)), test)


def test_a_pod_whose_plugin_is_gone_is_refused(kubelet: FakeKubelet) -> None:
    """Of the fake kubelet: what is asserted with it means something."""
    work = FakeWork(unit(1))
    running = Running(kubelet, work)
    running.start()
    kubelet.wait_devices(U250, "0000:01:00.0")
    kubelet.admit("a", {U250: 1})
    with pytest.raises(AdmissionError, match="Requested: 1, Available: 0"):
        kubelet.admit("b", {U250: 1})
    running.stop()
    kubelet.wait(lambda: kubelet.allocatable() == {U250: 0})
    assert kubelet.capacity() == {U250: 1}
    kubelet.remove("a")
    with pytest.raises(AdmissionError):
        kubelet.admit("c", {U250: 1})
    kubelet.grace = 0.0
    until(lambda: kubelet.capacity() == {U250: 0})
