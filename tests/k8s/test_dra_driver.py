# SPDX-License-Identifier: Apache-2.0
"""Claims are prepared once, for one owner, with the image that they were given; on emulated boards."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from fake_cluster import FakeCluster, check_pool

import fpgahal
from fpgahal import AccessError, AFUMismatchError, DeviceBusyError, DeviceLostError, ImageStore
from fpgahal.k8s import rpc
from fpgahal.k8s.api import Api, ApiError
from fpgahal.k8s.dra.cdi import ClaimFiles, spec
from fpgahal.k8s.dra.checkpoint import COMPLETED, STARTED, Checkpoint, CheckpointError, Claim, Prepared
from fpgahal.k8s.dra.claims import ClaimError
from fpgahal.k8s.dra.devices import Device, devices
from fpgahal.k8s.dra.driver import SERVICE, Driver
from fpgahal.k8s.dra.service import REGISTRATION, Config, Registration, Service, serving
from fpgahal.k8s.planner import Image
from fpgahal.k8s.proto import dra_pb2 as pb
from fpgahal.k8s.proto import pluginregistration_pb2 as registration_pb

NLB0, NLB3 = "d8424dc4a4a3c413f89e433683f9040b", "f7df405cbd7acf7222f144b0b93acd18"
BOARD, OTHER = "0000-3b-00-0-0", "0000-3c-00-0-0"
NLB3_CATALOGUE = (
    f'[images.nlb3]\nboard = "fpgahal.dev/pac-a10"\naccelerators = {{ nlb3 = 1 }}\nafu_id = "{NLB3}"\n'
    'namespaces = ["*"]\n'
)
IMAGES = (
    Image("nlb3", "fpgahal.dev/pac-a10", {"nlb3": 4}, "", NLB3, ("*",)),
    Image("secret", "fpgahal.dev/pac-a10", {"secret": 1}, "", "0" * 32, ("team-a",)),
)


@dataclass
class Programmer:
    """Notes what was to be programmed; fails or waits on request."""

    calls: list[tuple[str, str, str, bool]] = field(default_factory=list)
    error: Exception | None = None
    begun: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event | None = None

    def __call__(self, device: Device, namespace: str, timeout: float, *, program: bool) -> None:
        assert device.image is not None
        self.calls.append((device.info.address, device.image.name, namespace, program))
        self.begun.set()
        if self.go_on is not None:
            assert self.go_on.wait(10)
        if self.error is not None:
            raise self.error


@dataclass
class Node:
    """A driver on a node with two emulated boards, and what it works with."""

    cluster: FakeCluster
    driver: Driver
    checkpoint: Checkpoint
    files: ClaimFiles
    programmer: Programmer
    found: list[Device]

    def again(self, **changes: Any) -> Driver:
        """A driver that starts after this one."""
        api = changes.pop("api", self.driver._api)
        return Driver("n1", api, changes.get("checkpoint", self.checkpoint), self.files, self.scan, self.programmer)

    def scan(self) -> list[Device]:
        return self.found

    async def prepare(self, name: str, uid: str = "", namespace: str = "default") -> tuple[str, ...]:
        return tuple(one.device for one in await self.driver.prepare(namespace, name, uid or f"uid-{name}"))

    def held(self) -> dict[str, str]:
        return {claim.name: claim.state for claim in self.checkpoint.claims().values()}

    def cdi(self) -> list[str]:
        return sorted(path.name for path in self.files.path.iterdir())


@pytest.fixture(scope="module")
def found() -> list[Device]:
    with fpgahal.emu.rack("pac-a10:2"):
        return devices(fpgahal.devices(), IMAGES)


@pytest.fixture
def scenario(tmp_path: Path, found: list[Device]) -> Callable[[Callable[[Node], Awaitable[None]]], None]:
    """Run a coroutine on a node."""

    def run(body: Callable[[Node], Awaitable[None]]) -> None:
        async def main(cluster: FakeCluster) -> None:
            (tmp_path / "cdi").mkdir()
            checkpoint, files = Checkpoint(tmp_path / "checkpoint.json", "boot-1"), ClaimFiles(tmp_path / "cdi")
            programmer = Programmer()
            async with Api(cluster.url) as api:
                node = Node(cluster, None, checkpoint, files, programmer, list(found))  # type: ignore[arg-type]
                node.driver = Driver("n1", api, checkpoint, files, node.scan, programmer)
                await body(node)

        with FakeCluster() as cluster:
            asyncio.run(main(cluster))

    return run


Scenario = Callable[[Callable[[Node], Awaitable[None]]], None]


def test_prepare_and_unprepare(scenario: Scenario) -> None:
    async def body(node: Node) -> None:
        node.cluster.claim("c", f"{BOARD}-nlb3", OTHER)
        assert await node.prepare("c") == (f"{BOARD}-nlb3", OTHER)
        assert node.programmer.calls == [("0000:3b:00.0/0", "nlb3", "default", True)]
        assert node.held() == {"c": COMPLETED}
        document = json.loads((node.files.path / "fpgahal.dev-claim-uid-c.json").read_text())
        assert document["kind"] == "fpgahal.dev/claim"
        assert [entry["name"] for entry in document["devices"]] == [f"uid-c_{BOARD}-nlb3", f"uid-c_{OTHER}"]
        await node.driver.unprepare("uid-c")
        assert (node.held(), node.cdi()) == ({}, [])
        await node.driver.unprepare("uid-c")

    scenario(body)


def test_prepare_is_idempotent(scenario: Scenario) -> None:
    async def body(node: Node) -> None:
        node.cluster.claim("c", f"{BOARD}-nlb3")
        first = await node.prepare("c")
        written = (node.checkpoint.path.stat().st_mtime_ns, node.checkpoint.path.stat().st_ino)
        assert await node.prepare("c") == first
        node.driver = node.again()  # the driver was restarted
        assert await node.prepare("c") == first
        assert len(node.programmer.calls) == 1
        assert (node.checkpoint.path.stat().st_mtime_ns, node.checkpoint.path.stat().st_ino) == written
        node.files.remove("uid-c")
        assert await node.prepare("c") == first
        assert len(node.programmer.calls) == 1
        assert node.cdi() == ["fpgahal.dev-claim-uid-c.json"]

    scenario(body)


def test_L6_claim_of_another_uid(scenario: Scenario) -> None:
    async def body(node: Node) -> None:
        node.cluster.claim("c", BOARD, uid="uid-new")
        with pytest.raises(ClaimError, match="its uid is uid-new, and uid-old was expected"):
            await node.prepare("c", "uid-old")
        assert (node.held(), node.cdi(), node.programmer.calls) == ({}, [], [])

    scenario(body)


def test_claims_that_have_nothing_here(scenario: Scenario) -> None:
    async def body(node: Node) -> None:
        with pytest.raises(ApiError, match="404"):
            await node.prepare("none")
        node.cluster.claim("c")["status"] = {}
        with pytest.raises(ClaimError, match="not allocated, or not here"):
            await node.prepare("c")
        claim = node.cluster.claim("c", BOARD)
        (result,) = claim["status"]["allocation"]["devices"]["results"]
        result["pool"] = "n2"
        with pytest.raises(ClaimError, match="not here"):
            await node.prepare("c")
        result.update(pool="n1", driver="gpu.example.com")
        with pytest.raises(ClaimError, match="not here"):
            await node.prepare("c")
        result.update(driver="fpga.fpgahal.dev", adminAccess=True)
        with pytest.raises(ClaimError, match="administrative access"):
            await node.prepare("c")
        result.update(adminAccess=False, consumedCapacity={"a": "0", "b": "0"})
        with pytest.raises(ClaimError, match="none of its accelerators"):
            await node.prepare("c")
        result.update(consumedCapacity={"a": "0", "b": "1"}, device="gone")
        with pytest.raises(DeviceLostError, match="The device gone is not there"):
            await node.prepare("c")
        assert node.held() == {}

    scenario(body)


def test_a_board_is_one_claims(scenario: Scenario) -> None:
    async def body(node: Node) -> None:
        node.cluster.claim("first", f"{BOARD}-nlb3")
        node.cluster.claim("second", f"{BOARD}-nlb3")
        node.cluster.claim("raw", BOARD)
        node.cluster.claim("both", f"{OTHER}-nlb3", OTHER)
        await node.prepare("first")
        for name in ("second", "raw"):
            with pytest.raises(DeviceBusyError, match=r"is held for the claim default/first \(uid-first\)"):
                await node.prepare(name)
        with pytest.raises(DeviceBusyError, match="default/both"):
            await node.prepare("both")
        assert node.held() == {"first": COMPLETED}
        await node.driver.unprepare("uid-first")
        assert await node.prepare("raw") == (BOARD,)

    scenario(body)


def test_claims_share_an_image(scenario: Scenario) -> None:
    async def body(node: Node) -> None:
        for n in range(3):
            node.cluster.claim(f"c{n}", f"{BOARD}-nlb3", share=f"share-{n}")
        node.cluster.claim("other", f"{BOARD}-secret", share="s", namespace="team-a")
        for n in range(3):
            await node.prepare(f"c{n}")
        # whoever is second finds it loaded, or fails: it must not be loaded below those who use it
        assert [call[-1] for call in node.programmer.calls] == [True, False, False]
        with pytest.raises(DeviceBusyError):
            await node.prepare("other", "uid-other", "team-a")
        await node.driver.unprepare("uid-c0")
        assert set(node.held()) == {"c1", "c2"}

    scenario(body)


def test_images_of_other_namespaces(scenario: Scenario) -> None:
    async def body(node: Node) -> None:
        node.cluster.claim("c", f"{BOARD}-secret")
        node.cluster.claim("c", f"{BOARD}-secret", namespace="team-a", uid="uid-a")
        with pytest.raises(AccessError, match="Namespace default may not have the image secret"):
            await node.prepare("c")
        assert await node.prepare("c", "uid-a", "team-a") == (f"{BOARD}-secret",)

    scenario(body)


def test_what_fails_is_let_go(scenario: Scenario) -> None:
    async def body(node: Node) -> None:
        node.cluster.claim("c", f"{BOARD}-nlb3")
        node.cluster.claim("d", BOARD)
        node.programmer.error = AFUMismatchError("another one is loaded")
        with pytest.raises(AFUMismatchError):
            await node.prepare("c")
        assert (node.held(), node.cdi()) == ({}, [])
        node.programmer.error = None
        os.rename(node.files.path, node.files.path.with_name("away"))  # the CDI file can't be written
        with pytest.raises(OSError, match="cdi"):
            await node.prepare("c")
        assert node.held() == {}
        os.rename(node.files.path.with_name("away"), node.files.path)
        await node.prepare("d")

    scenario(body)


def test_a_board_is_held_while_it_is_programmed(scenario: Scenario) -> None:
    async def body(node: Node) -> None:
        node.cluster.claim("c", f"{BOARD}-nlb3")
        node.cluster.claim("d", BOARD)
        node.programmer.go_on = threading.Event()
        first = asyncio.create_task(node.prepare("c"))
        assert await asyncio.to_thread(node.programmer.begun.wait, 10)
        assert await asyncio.to_thread(node.held) == {"c": STARTED}
        with pytest.raises(DeviceBusyError):
            await node.prepare("d")
        second = asyncio.create_task(node.prepare("c"))  # kubelet repeats itself
        first.cancel()  # and does not wait for the first
        await asyncio.gather(first, return_exceptions=True)
        node.programmer.go_on.set()
        assert await second == (f"{BOARD}-nlb3",)
        assert len(node.programmer.calls) == 1
        assert node.held() == {"c": COMPLETED}
        await node.driver.finish(10)

    scenario(body)


def test_a_killed_drivers_claim_is_taken_up(scenario: Scenario) -> None:
    async def body(node: Node) -> None:
        node.cluster.claim("c", f"{BOARD}-nlb3")
        node.cluster.claim("d", BOARD)
        left = Prepared("r0", "n1", f"{BOARD}-nlb3", "", "0000:3b:00.0/0")
        with node.checkpoint.changing() as claims:
            claims["uid-c"] = Claim("uid-c", "default", "c", STARTED, (left,))
        with pytest.raises(DeviceBusyError):
            await node.prepare("d")
        await node.prepare("c")
        assert len(node.programmer.calls) == 1
        assert node.held() == {"c": COMPLETED}

    scenario(body)


def test_after_a_reboot_nothing_is_prepared(scenario: Scenario) -> None:
    async def body(node: Node) -> None:
        node.cluster.claim("c", f"{BOARD}-nlb3")
        await node.prepare("c")
        rebooted = Checkpoint(node.checkpoint.path, "boot-2")
        assert rebooted.claims() == {}
        node.driver = node.again(checkpoint=rebooted)
        await node.driver.clean_up()
        assert node.cdi() == []
        await node.prepare("c")
        assert len(node.programmer.calls) == 2

    scenario(body)


def test_claims_that_are_gone_are_let_go(scenario: Scenario) -> None:
    async def body(node: Node) -> None:
        for name, board in (("gone", BOARD), ("kept", OTHER)):
            node.cluster.claim(name, board)
            await node.prepare(name)
        (node.files.path / "fpgahal.dev-claim-old.json").write_text("{}")
        (node.files.path / "fpgahal.dev-fpga-0000_3b_00.0.json").write_text("{}")  # the device plugin's
        await node.driver.clean_up()
        assert node.held() == {"gone": COMPLETED, "kept": COMPLETED}
        del node.cluster.claims["default", "gone"]
        node.cluster.claims["default", "kept"]["metadata"]["uid"] = "uid-kept"
        await node.driver.clean_up()
        assert node.held() == {"kept": COMPLETED}
        assert node.cdi() == ["fpgahal.dev-claim-uid-kept.json", "fpgahal.dev-fpga-0000_3b_00.0.json"]
        node.cluster.refuse["claims"] = 503
        with pytest.raises(ApiError):
            await node.driver.clean_up()
        assert node.held() == {"kept": COMPLETED}

    scenario(body)


def test_a_damaged_checkpoint_is_not_believed(scenario: Scenario) -> None:
    async def body(node: Node) -> None:
        node.cluster.claim("c", BOARD)
        await node.prepare("c")
        good = node.checkpoint.path.read_text()
        for bad in (
            "",
            "{}",
            "[]",
            good[:-9],
            good.replace(BOARD, OTHER),
            good.replace('"version": 1', '"version": 2'),
            good.replace("boot-1", "boot-0"),
        ):
            node.checkpoint.path.write_text(bad)
            with pytest.raises(CheckpointError, match="Drain the node"):
                node.checkpoint.claims()
            with pytest.raises(CheckpointError):
                await node.prepare("c")
            assert node.checkpoint.path.read_text() == bad

    scenario(body)


def test_uids_stay_in_their_folder(scenario: Scenario) -> None:
    async def body(node: Node) -> None:
        node.cluster.claim("c", BOARD, uid="../../x")
        with pytest.raises(ValueError, match="is no uid"):
            await node.prepare("c", "../../x")
        assert node.held() == {}

    scenario(body)


def test_cdi_document(found: list[Device]) -> None:
    document = spec("uid-1", found[:2])
    first = document["devices"][0]["containerEdits"]
    assert document["cdiVersion"] == "0.5.0"
    root = found[0].info.root
    assert first["env"] == ["FPGAHAL_DEVICE_0000_3b_00_0=0000:3b:00.0/0", f"FPGAHAL_EMU_RACK={root}"]
    assert first["mounts"][0]["hostPath"] == root
    real = replace(found[0].info, emulated=False, device_nodes=("/dev/intel-fpga-port.0", "/dev/intel-fpga-fme.0"))
    edits = spec("u", [replace(found[0], info=real)])["devices"][0]["containerEdits"]
    assert edits == {
        "env": ["FPGAHAL_DEVICE_0000_3b_00_0=0000:3b:00.0/0"],
        "deviceNodes": [{"path": "/dev/intel-fpga-port.0", "permissions": "rw"}],
    }


# --- kubelet's side ---------------------------------------------------------------------------------------------


async def ask(path: Path, service: Any, method: str, request: Any) -> Any:
    async with rpc.channel(str(path)) as channel:
        return await rpc.call(channel, service.methods_by_name[method])(request, timeout=10)


def test_L1_registration(tmp_path: Path) -> None:
    async def main() -> None:
        config = Config("n1", kubelet_dir=tmp_path)
        registration = Registration(config.endpoint)
        async with serving(config.registration, rpc.handlers(REGISTRATION, registration)):
            assert config.registration == tmp_path / "plugins_registry" / "fpga.fpgahal.dev-reg.sock"
            info = await ask(config.registration, REGISTRATION, "GetInfo", registration_pb.InfoRequest())
            assert (info.type, info.name) == ("DRAPlugin", "fpga.fpgahal.dev")
            assert Path(info.endpoint).is_absolute()
            assert "v1.DRAPlugin" in info.supported_versions
            status = registration_pb.RegistrationStatus(plugin_registered=True)
            await ask(config.registration, REGISTRATION, "NotifyRegistrationStatus", status)
            assert registration.registered.is_set()
            assert os.listdir(config.registration.parent) == [config.registration.name]
        assert os.listdir(config.registration.parent) == []

    asyncio.run(main())


def test_L1_service_paths() -> None:
    paths = {f"/{SERVICE.full_name}/{method.name}" for method in SERVICE.methods}
    package = "/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin"
    assert paths == {f"{package}/NodePrepareResources", f"{package}/NodeUnprepareResources"}
    assert {f"/{REGISTRATION.full_name}/{method.name}" for method in REGISTRATION.methods} == {
        "/pluginregistration.Registration/GetInfo",
        "/pluginregistration.Registration/NotifyRegistrationStatus",
    }


def test_L1_field_numbers_are_upstreams() -> None:
    """Bytes as another implementation would send them, by hand: (field << 3 | 2), length, contents."""
    request = pb.NodePrepareResourcesRequest.FromString(
        b"\x0a\x09\x0a\x02ns\x12\x01u\x1a\x01n"[:2] + b"\x0a\x02ns\x12\x01u\x1a\x00"
    )
    assert [(c.namespace, c.uid, c.name) for c in request.claims] == [("ns", "u", "")]
    device = pb.Device(request_names=["r"], pool_name="p", device_name="d", cdi_device_ids=["c"], share_id="s")
    assert device.SerializeToString() == b"\x0a\x01r\x12\x01p\x1a\x01d\x22\x01c\x2a\x01s"
    answer = pb.NodePrepareResourcesResponse(claims={"u": pb.NodePrepareResourceResponse(error="e")})
    assert answer.SerializeToString() == b"\x0a\x08\x0a\x01u\x12\x03\x12\x01e"
    info = registration_pb.PluginInfo(type="t", name="n", endpoint="e", supported_versions=["v"])
    assert info.SerializeToString() == b"\x0a\x01t\x12\x01n\x1a\x01e\x22\x01v"


def test_a_socket_whose_path_is_too_long(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path / ("x" * 120)):
            pass

    with pytest.raises(fpgahal.ArgumentRangeError, match="too long for a socket"):
        asyncio.run(main())


def test_L6_over_the_socket(scenario: Scenario, tmp_path: Path) -> None:
    async def body(node: Node) -> None:
        node.cluster.claim("good", f"{BOARD}-nlb3", share="s-1")
        node.cluster.claim("bad", OTHER, uid="uid-new")
        asked = pb.NodePrepareResourcesRequest(
            claims=[
                pb.Claim(namespace="default", name="good", uid="uid-good"),
                pb.Claim(namespace="default", name="bad", uid="uid-old"),
            ]
        )
        async with serving(tmp_path / "dra.sock", rpc.handlers(SERVICE, node.driver)):
            answer = await ask(tmp_path / "dra.sock", SERVICE, "NodePrepareResources", asked)
            assert set(answer.claims) == {"uid-good", "uid-old"}
            assert "its uid is uid-new" in answer.claims["uid-old"].error
            (device,) = answer.claims["uid-good"].devices
            assert (list(device.request_names), device.pool_name, device.device_name, device.share_id) == (
                ["r0"],
                "n1",
                f"{BOARD}-nlb3",
                "s-1",
            )
            assert list(device.cdi_device_ids) == [f"fpgahal.dev/claim=uid-good_{BOARD}-nlb3"]
            gone = pb.NodeUnprepareResourcesRequest(claims=asked.claims)
            answer = await ask(tmp_path / "dra.sock", SERVICE, "NodeUnprepareResources", gone)
            assert {uid: one.error for uid, one in answer.claims.items()} == {"uid-good": "", "uid-old": ""}
        assert node.held() == {}

    scenario(body)


# --- all of it ----------------------------------------------------------------------------------------------------


def test_programs_an_emulated_board(tmp_path: Path) -> None:
    """Image store, programming and read-back are the real ones; the board is emulated."""
    with fpgahal.emu.rack("pac-a10"):
        store = ImageStore(tmp_path / "store")
        board = fpgahal.emu.boards()["pac-a10"]
        store.add(fpgahal.emu.build_image("nlb3", board), namespaces=["default"])
        (tmp_path / "catalogue.toml").write_text(NLB3_CATALOGUE)
        service = Service(Config("n1", tmp_path / "catalogue.toml", store=tmp_path / "store"))
        (device,) = [one for one in service.scan() if one.image is not None and one.image.name == "nlb3"]
        with pytest.raises(AccessError):
            service.program(device, "team-b", 10, program=True)
        with pytest.raises(AFUMismatchError):
            service.program(device, "default", 10, program=False)
        service.program(device, "default", 10, program=True)
        (info,) = fpgahal.devices()
        assert info.afu_id is not None
        assert info.afu_id.hex == NLB3
        service.program(device, "default", 10, program=False)


@pytest.fixture
def rack(tmp_path: Path) -> Iterator[Path]:
    with fpgahal.emu.rack("pac-a10:2", dir=str(tmp_path / "rack"), keep=True) as made:
        yield Path(made.dir)


def test_the_command(tmp_path: Path, rack: Path) -> None:
    """`fpgahal-dra` from registration to SIGTERM: a claim is prepared, and its board runs the image."""
    store = ImageStore(tmp_path / "store")
    store.add(fpgahal.emu.build_image("nlb3", fpgahal.emu.boards()["pac-a10"]))
    catalogue = tmp_path / "catalogue.toml"
    catalogue.write_text(NLB3_CATALOGUE)
    config = Config("n1", kubelet_dir=tmp_path / "kubelet")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("KUBERNETES_", "POD_UID"))}
    with FakeCluster() as cluster:
        cluster.claim("c", f"{BOARD}-nlb3")
        options = {
            "node-name": "n1",
            "catalogue": catalogue,
            "store": tmp_path / "store",
            "kubelet-dir": tmp_path / "kubelet",
            "cdi-dir": tmp_path / "cdi",
            "api-server": cluster.url,
            "rack": rack,
            "scan-seconds": 0.1,
        }
        command = [sys.executable, "-m", "fpgahal.k8s.dra", *(f"--{name}={value}" for name, value in options.items())]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
            try:
                wait(lambda: config.registration.exists() or process.poll() is not None)
                info = asyncio.run(ask(config.registration, REGISTRATION, "GetInfo", registration_pb.InfoRequest()))
                wait(lambda: len(cluster.slices) == 2)
                check_pool(cluster.pool())
                claims = [pb.Claim(namespace="default", name="c", uid="uid-c")]
                asked = pb.NodePrepareResourcesRequest(claims=claims)
                answer = asyncio.run(ask(Path(info.endpoint), SERVICE, "NodePrepareResources", asked))
                assert answer.claims["uid-c"].error == ""
                assert (tmp_path / "cdi" / "fpgahal.dev-claim-uid-c.json").exists()
                loaded = {one.address: one.afu_id.hex for one in fpgahal.devices(str(rack)) if one.afu_id}
                assert loaded == {"0000:3b:00.0/0": NLB3, "0000:3c:00.0/0": NLB0}
                catalogue.write_text(NLB3_CATALOGUE.replace("images.nlb3", "images.other"))
                wait(lambda: f"{OTHER}-other" in str(cluster.slices))
            finally:
                process.send_signal(signal.SIGTERM)
                _, err = process.communicate(timeout=30)
        assert process.returncode == 0, err
        assert not config.registration.exists()
        assert not config.endpoint.exists()
        messages = [json.loads(line)["message"] for line in err.splitlines()]
        assert messages[-1] == "Stopping"
        assert {"Serving", "Published", "Prepared"} <= set(messages)


def wait(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_once(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from fpgahal.k8s.dra.app import main

    for name in ("FPGAHAL_EMULATE", "FPGAHAL_EMU_RACK", "NODE_NAME"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    assert main(["--once", "--json", "--node-name", "n1", "--emulate", "pac-a10:2"]) == 0
    found = json.loads(capsys.readouterr().out)["slices"]
    assert [device["name"] for device in found[1]["devices"]] == [BOARD, OTHER]
    assert main(["--once", "--emulate", "pac-a10"]) == 2
    assert "Set NODE_NAME" in capsys.readouterr().err
    assert main(["--node-name", "n1", "--catalogue", "/absent"]) == 3
    assert "/absent" in capsys.readouterr().err
    assert main(["--node-name", "n1", "--api-server", "127.0.0.1"]) == 2
    assert "is no URL" in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["aiohttp", "grpc", "google.protobuf"])
def test_without_the_extra(missing: str) -> None:
    program = f"import sys; sys.modules[{missing!r}] = None; from fpgahal.k8s.dra.app import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "--node-name", "n1", "--api-server", "http://127.0.0.1:9"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "fpgahal[k8s]" in done.stderr
