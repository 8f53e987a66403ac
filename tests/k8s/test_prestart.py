# SPDX-License-Identifier: Apache-2.0
"""PreStart: which pod holds a device, what it asks for, and the boards that run it before the container starts."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from aiohttp import web
from images import IF10, IF12, NLB0, NLB3, boards_of_the_cases, image

import fpgahal
from fpgahal import (
    AccessError,
    AFUMismatchError,
    ArgumentRangeError,
    DeviceInfo,
    DeviceNotFoundError,
    DeviceStateError,
    FpgaError,
    ImageNotFoundError,
    ImageStore,
    IncompatibleBitstreamError,
    ProgramError,
    ProgramTimeoutError,
)
from fpgahal.k8s import rpc
from fpgahal.k8s.api import Api
from fpgahal.k8s.plugin import prestart
from fpgahal.k8s.plugin.pods import Owner, Pods, PodsError
from fpgahal.k8s.plugin.unit import Unit
from fpgahal.k8s.programming import Outcome, ensure
from fpgahal.k8s.proto import podresources_pb2 as pb

REGION = f"fpga.intel.com/region-{IF10}"
PAIR = {"FPGA_REGION_1": IF10, "FPGA_AFU_1": NLB3}
SERVICE = pb.DESCRIPTOR.services_by_name["PodResourcesLister"]


class Kubelet:
    """The pod resources socket; `holds` is (namespace, pod, container, resource) -> ids."""

    def __init__(self) -> None:
        self.holds: dict[tuple[str, str, str, str], list[str]] = {}

    async def List(self, request: Any, context: Any) -> Any:
        answer = pb.ListPodResourcesResponse()
        for (namespace, pod, container, resource), ids in self.holds.items():
            one = answer.pod_resources.add(name=pod, namespace=namespace).containers.add(name=container)
            for id in ids:  # kubelet has one entry a device
                one.devices.add(resource_name=resource, device_ids=[id])
            one.devices.add(resource_name="other.io/x", device_ids=ids)
        return answer


@asynccontextmanager
async def kubelet(path: Path) -> AsyncIterator[Kubelet]:
    server, servant = grpc.aio.server(), Kubelet()
    server.add_generic_rpc_handlers((rpc.handlers(SERVICE, servant),))
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    try:
        yield servant
    finally:
        await server.stop(0)


@asynccontextmanager
async def api(pods: Mapping[str, Any]) -> AsyncIterator[Api]:
    """An API server with these pods, by ``namespace/name``."""

    async def get(request: web.Request) -> web.Response:
        found = pods.get(f"{request.match_info['ns']}/{request.match_info['name']}")
        return web.json_response(found or {"message": "no such pod"}, status=200 if found else 404)

    app = web.Application()
    app.router.add_get("/api/v1/namespaces/{ns}/pods/{name}", get)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with Api(f"http://127.0.0.1:{runner.addresses[0][1]}") as opened:
            yield opened
    finally:
        await runner.cleanup()


def pod(env: Mapping[str, str] | None = None, *more: dict[str, Any], name: str = "main") -> dict[str, Any]:
    entries = [{"name": key, "value": value} for key, value in (env or {}).items()]
    return {"spec": {"containers": [{"name": "sidecar"}, {"name": name, "env": [*entries, *more]}]}}


@pytest.fixture
def rack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[fpgahal.emu.Rack]:
    boards_of_the_cases(tmp_path, monkeypatch)
    with fpgahal.emu.rack("dcp10:2,dcp12") as made:
        yield made


@pytest.fixture
def store(rack: fpgahal.emu.Rack, tmp_path: Path) -> ImageStore:
    found = ImageStore(tmp_path / "store")
    for board in ("dcp10", "dcp12"):
        for afu in ("nlb0", "nlb3"):
            found.add(image(afu, board))
    return found


def units(infos: list[DeviceInfo], *, wanted: str = "", by_pod: bool = False) -> list[Unit]:
    return [Unit(f"fme.{n}", REGION, (info,), wanted=wanted, programmed_by_pod=by_pod) for n, info in enumerate(infos)]


def programmed(rack: fpgahal.emu.Rack) -> list[int]:
    return [rack.status(n).programmed for n in range(3)]


def prepare(given: list[Unit], store: ImageStore | None, pods: Pods | None = None, **more: Any) -> list[Outcome]:
    options = {"deadline": time.monotonic() + 20, **more}
    return asyncio.run(prestart.prepare(given, store=store, pods=pods, **options))


Body = Callable[[Kubelet, Pods], Awaitable[None]]


def with_pod(tmp_path: Path, document: dict[str, Any] | None, body: Body, *, namespace: str = "ns") -> None:
    """Run something while kubelet says that container main of pod p holds both devices."""

    async def run() -> None:
        async with (
            kubelet(tmp_path / "k.sock") as known,
            api({f"{namespace}/p": document} if document else {}) as server,
        ):
            known.holds[(namespace, "p", "main", REGION)] = ["fme.0", "fme.1"]
            await body(known, Pods(server, str(tmp_path / "k.sock")))

    asyncio.run(run())


# --- pods -----------------------------------------------------------------------------------------------------------


def test_the_owner_of_devices(tmp_path: Path) -> None:
    async def body(known: Kubelet, pods: Pods) -> None:
        owner = Owner("ns", "p", "main")
        assert await pods.owner(REGION, ["fme.1", "fme.0"]) == owner
        assert await pods.owner(REGION, ["fme.1"]) == owner
        assert await pods.owner(REGION, ["fme.0", "fme.7"]) is None
        assert await pods.owner("fpga.intel.com/other", ["fme.0"]) is None
        assert await pods.owner(REGION, []) is None
        known.holds[("ns", "q", "main", REGION)] = ["fme.1"]
        assert await pods.owner(REGION, ["fme.1"]) is None, "two containers: which one?"
        assert await pods.owner(REGION, ["fme.0"]) == owner
        assert await pods.env(owner) == {"A": "b", "EMPTY": ""}
        assert await pods.env(Owner("ns", "p", "sidecar")) == {}
        assert await pods.env(Owner("ns", "p", "gone")) is None
        assert await pods.env(Owner("ns", "gone", "main")) is None
        assert await Pods(None, str(tmp_path / "k.sock")).env(owner) is None

    more = ({"name": "EMPTY"}, {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}})
    with_pod(tmp_path, pod({"A": "b"}, *more), body)


def test_kubelet_and_api_server_may_be_away(tmp_path: Path) -> None:
    async def run() -> None:
        pods = Pods(None, str(tmp_path / "none.sock"))
        with pytest.raises(PodsError, match=r"UNAVAILABLE"):
            await pods.owner(REGION, ["fme.0"])
        async with Api("http://127.0.0.1:9") as closed:
            with pytest.raises(PodsError, match="does not answer"):
                await Pods(closed).env(Owner("ns", "p", "main"))

    asyncio.run(run())


@pytest.mark.parametrize("name", ["FPGA_REGION_1", "FPGA_AFU_1", "FPGAHAL_AFU"])
def test_what_is_programmed_is_spelled_out(
    name: str, tmp_path: Path, rack: fpgahal.emu.Rack, store: ImageStore
) -> None:
    secret = {"name": name, "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}}

    async def body(known: Kubelet, pods: Pods) -> None:
        given = units(rack.devices()[:2], by_pod=True)
        with pytest.raises(ArgumentRangeError, match=f"takes {name} from"):
            await prestart.prepare(given, store=store, pods=pods, deadline=time.monotonic() + 20)

    with_pod(tmp_path, pod({}, secret), body)


# --- prepare --------------------------------------------------------------------------------------------------------


def test_a_units_own_function_is_verified_or_loaded(rack: fpgahal.emu.Rack, store: ImageStore) -> None:
    given = units(rack.devices()[:2], wanted=NLB3)
    with pytest.raises(AFUMismatchError, match=f"expected {NLB3}"):
        prepare(given, store, program=False)
    with pytest.raises(AFUMismatchError):
        prepare(given, None)
    assert programmed(rack) == [0, 0, 0]
    done = prepare(given, store)
    assert [(one.afu_id, one.programmed) for one in done] == [(NLB3, True)] * 2
    assert [one.programmed for one in prepare(given, store)] == [False] * 2, "a restart of the container"
    assert [one.programmed for one in prepare(given, None, program=False)] == [False] * 2
    assert programmed(rack) == [1, 1, 0]


def test_nothing_is_asked_for(rack: fpgahal.emu.Rack, store: ImageStore) -> None:
    assert prepare(units(rack.devices()), store) == []
    assert prepare([], store) == []
    assert prepare(units(rack.devices(), by_pod=True), store) == [], "left to the hook"


def test_a_pods_pairs_are_loaded(
    tmp_path: Path, rack: fpgahal.emu.Rack, store: ImageStore, caplog: pytest.LogCaptureFixture
) -> None:
    env = PAIR | {"FPGA_REGION_2": IF10, "FPGA_AFU_2": NLB0, "FPGA_REGION_3": IF12, "FPGA_AFU_3": NLB3}
    caplog.set_level(logging.INFO)

    async def body(known: Kubelet, pods: Pods) -> None:
        given = units(rack.devices()[:2], by_pod=True)
        done = await prestart.prepare(given, store=store, pods=pods, deadline=time.monotonic() + 20)
        assert sorted((one.afu_id, one.programmed) for one in done) == [(NLB0, False), (NLB3, True)]
        with pytest.raises(DeviceNotFoundError, match="too few"):
            await prestart.prepare(given[:1], store=store, pods=pods, deadline=time.monotonic() + 20)

    with_pod(tmp_path, pod(env), body)
    assert programmed(rack) == [0, 1, 0], "the third pair is another resource's"
    (record,) = [record for record in caplog.records if record.message == "Programmed"]
    assert (vars(record)["pod"], vars(record)["afu_id"]) == ("p", NLB3)


def test_one_function_for_all_boards(tmp_path: Path, rack: fpgahal.emu.Rack, store: ImageStore) -> None:
    async def body(known: Kubelet, pods: Pods) -> None:
        infos, deadline = rack.devices()[:2], time.monotonic() + 20
        await prestart.prepare(units(infos), store=store, pods=pods, deadline=deadline)
        assert programmed(rack) == [1, 1, 0]
        with pytest.raises(ArgumentRangeError, match="as well"):
            await prestart.prepare(units(infos, wanted=NLB0), store=store, pods=pods, deadline=deadline)

    with_pod(tmp_path, pod({"FPGAHAL_AFU": NLB3}), body)


@pytest.mark.parametrize(("namespace", "allowed"), [("team-a", True), ("team-b", False)])
def test_the_allow_list_holds_in_prestart(
    namespace: str, allowed: bool, tmp_path: Path, rack: fpgahal.emu.Rack, store: ImageStore
) -> None:
    store.add(image("nlb3", "dcp10"), namespaces=["team-a"], force=True)

    async def body(known: Kubelet, pods: Pods) -> None:
        given = units(rack.devices()[:2], by_pod=True)
        with nullcontext() if allowed else pytest.raises(AccessError, match="team-b may not use"):
            await prestart.prepare(given, store=store, pods=pods, deadline=time.monotonic() + 20)

    with_pod(tmp_path, pod(PAIR), body, namespace=namespace)
    assert programmed(rack) == ([1, 0, 0] if allowed else [0, 0, 0])
    with pytest.raises(AccessError, match="not known"):
        prepare(units(rack.devices()[:1], wanted=NLB3), store)


def test_what_the_pod_says_is_left_to_the_hook_when_nobody_answers(
    tmp_path: Path, rack: fpgahal.emu.Rack, store: ImageStore, caplog: pytest.LogCaptureFixture
) -> None:
    away = Pods(None, str(tmp_path / "none.sock"))
    assert prepare(units(rack.devices()[:2], by_pod=True), store, away) == []
    assert "pod is not known" in caplog.text
    assert [one.afu_id for one in prepare(units(rack.devices()[:1], wanted=NLB3), store, away)] == [NLB3]


def test_boards_are_programmed_side_by_side(tmp_path: Path, store: ImageStore) -> None:
    with fpgahal.emu.rack("dcp10:2,dcp12", program_ms=600) as rack:
        begin = time.monotonic()
        prepare(units(rack.devices()[:2], wanted=NLB3), store)
        assert time.monotonic() - begin < 1.15
        assert programmed(rack) == [1, 1, 0]


def test_one_failure_does_not_stop_the_others(rack: fpgahal.emu.Rack, store: ImageStore) -> None:
    rack.fault(0, "program", count=1)
    with pytest.raises(ProgramError, match="was not loaded"):
        prepare(units(rack.devices()[:2], wanted=NLB3), store)
    assert programmed(rack)[1] == 1
    prepare(units(rack.devices()[:2], wanted=NLB3), store)
    assert programmed(rack)[1] == 1


def test_D13_the_deadline_holds(store: ImageStore) -> None:
    with fpgahal.emu.rack("dcp10:2,dcp12", program_ms=1500) as rack:
        begin = time.monotonic()
        with pytest.raises(ProgramTimeoutError, match="did not finish"):
            prepare(units(rack.devices()[:1], wanted=NLB3), store, deadline=begin + 0.3)
        assert time.monotonic() - begin < 1
        assert rack.status(0).state is fpgahal.emu.SlotState.PROGRAMMING
        (done,) = prepare(units(rack.devices()[:1], wanted=NLB3), store)  # kubelet's next try waits for the driver
        assert (done.afu_id, done.programmed) == (NLB3, False)
        assert programmed(rack) == [1, 0, 0]


# --- ensure ---------------------------------------------------------------------------------------------------------


def test_ensure_looks_again(rack: fpgahal.emu.Rack, store: ImageStore) -> None:
    """What it is given may be a scan ago."""
    before = rack.devices()[0]
    with fpgahal.open(before) as dev:
        dev.program(image("nlb3", "dcp10"))
    found = ensure(before, NLB3, store=store, namespace=None, timeout=10)
    assert found == Outcome(before.address, NLB3, False)
    with pytest.raises(AFUMismatchError, match=f"runs {NLB3}"):
        ensure(before, NLB0, store=store, namespace=None, timeout=10, program=False)
    rack.fault(0, "vanish")
    with pytest.raises(FpgaError, match="is gone"):
        ensure(before, NLB3, store=store, namespace=None, timeout=10)


def test_ensure_needs_no_image_of_what_runs(rack: fpgahal.emu.Rack, store: ImageStore) -> None:
    info = rack.devices()[0]
    store.remove(IF10, NLB0)
    store.remove(IF10, NLB3)
    assert not ensure(info, NLB0, store=store, namespace="any", timeout=10).programmed
    with pytest.raises(ImageNotFoundError):
        ensure(info, NLB3, store=store, namespace="any", timeout=10)
    with pytest.raises(AFUMismatchError):
        ensure(info, NLB3, store=store, namespace="any", timeout=10, program=False)


def test_ensure_waits_for_who_has_the_board_open(rack: fpgahal.emu.Rack, store: ImageStore) -> None:
    info = rack.devices()[0]
    with fpgahal.open(info), pytest.raises(FpgaError) as refused:
        ensure(info, NLB3, store=store, namespace=None, timeout=0.2)
    assert isinstance(refused.value, BlockingIOError)
    assert ensure(info, NLB3, store=store, namespace=None, timeout=10).programmed


def test_ensure_keeps_emulated_images_off_real_boards(
    rack: fpgahal.emu.Rack, store: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = [replace(info, emulated=False) for info in rack.devices()]
    monkeypatch.setattr(fpgahal, "devices", lambda root: real)
    with pytest.raises(IncompatibleBitstreamError, match="EMULATED boards only"):
        ensure(real[0], NLB3, store=store, namespace=None, timeout=1)
    assert programmed(rack) == [0, 0, 0]


def test_ensure_programs_no_board_without_an_interface_id(
    rack: fpgahal.emu.Rack, store: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a virtual machine that was given a port, whose management engine stays on the host."""
    port = [replace(rack.devices()[0], interface_id=None)]
    monkeypatch.setattr(fpgahal, "devices", lambda root: port)
    assert ensure(port[0], NLB0, store=store, namespace=None, timeout=1).afu_id == NLB0
    with pytest.raises(DeviceStateError, match="no interface id can be read"):
        ensure(port[0], NLB3, store=store, namespace=None, timeout=1)
    assert programmed(rack) == [0, 0, 0]
