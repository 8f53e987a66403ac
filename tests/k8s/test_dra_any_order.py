# SPDX-License-Identifier: Apache-2.0
"""Whatever kubelet asks for, in whatever order, and whenever the driver is killed: a board is never two claims'."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fake_cluster import DRIVER
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import fpgahal
from fpgahal import AFUMismatchError, FpgaError
from fpgahal.k8s.api import ApiError
from fpgahal.k8s.dra.cdi import ClaimFiles
from fpgahal.k8s.dra.checkpoint import COMPLETED, Checkpoint
from fpgahal.k8s.dra.devices import Device, devices
from fpgahal.k8s.dra.driver import Driver
from fpgahal.k8s.planner import Image

IMAGES = [Image(name, "fpgahal.dev/pac-a10", {name: 2}, "", f"{n:032x}", ("*",)) for n, name in enumerate("ab", 1)]
NAMES = [f"claim-{n}" for n in range(4)]


class Killed(BaseException):
    """SIGKILL, as far as a test can have it: nothing is tidied up."""


@dataclass
class Objects:
    """An API server that has these claims."""

    claims: dict[str, Any]

    async def get(self, path: str) -> Any:
        name = path.rpartition("/")[2]
        if name not in self.claims:
            raise ApiError("no such claim", code=404)
        return self.claims[name]


class Node(RuleBasedStateMachine):
    """A node whose driver may be killed while it programs."""

    @initialize()
    def start(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name)
        with fpgahal.emu.rack("pac-a10:2"):
            self.devices: list[Device] = devices(fpgahal.devices(), IMAGES)
        self.objects = Objects({})
        self.loaded: dict[str, str] = {}  # board -> image
        self.boot = 1
        self.running: dict[str, str] = {}  # claim's uid -> device, of containers that were told of it
        self.uids = 0
        self.restart()

    def teardown(self) -> None:
        self.folder.cleanup()

    @rule(name=st.sampled_from(NAMES))
    def lose_image(self, name: str) -> None:
        """Somebody else programs the board of a claim that has not got it yet."""
        for claim in self.checkpoint.claims().values():
            if claim.name == name and not self.users(claim.devices[0].address):
                self.loaded[claim.devices[0].address] = "somebody else's"

    @rule()
    def restart(self) -> None:
        """The driver, not the machine."""
        self.checkpoint = Checkpoint(self.path / "checkpoint.json", f"boot-{self.boot}")
        files = ClaimFiles(self.path)
        api: Any = self.objects
        self.driver = Driver("n1", api, self.checkpoint, files, lambda: self.devices, self.program)
        self.fate = "works"

    @rule(really=st.sampled_from([False, False, True]))
    def reboot(self, really: bool) -> None:
        if not really:
            return
        self.boot += 1
        self.running.clear()
        self.loaded.clear()
        self.restart()

    def program(self, device: Device, namespace: str, timeout: float, *, program: bool) -> None:
        assert device.image is not None
        address = device.info.address
        if self.loaded.get(address) != device.image.name:
            if not program:
                raise AFUMismatchError("another image is loaded")
            if self.fate == "fails":
                raise AFUMismatchError("it did not take the image")
            assert not self.users(address), "programmed below a container"
            self.loaded[address] = device.image.name
        if self.fate == "killed":
            raise Killed

    def users(self, address: str) -> list[str]:
        """The running claims of a board."""
        by_name = {device.name: device.info.address for device in self.devices}
        return [uid for uid, name in self.running.items() if by_name[name] == address]

    def allocate(self, name: str, device: int, shared: bool) -> None:
        """The scheduler, which is not to be relied upon, gives a claim a device."""
        self.uids += 1
        chosen = self.devices[device]
        share = {"shareID": f"s{self.uids}"} if shared and chosen.image else {}
        result = {"request": "r", "driver": DRIVER, "pool": "n1", "device": chosen.name, **share}
        self.objects.claims[name] = {
            "metadata": {"name": name, "namespace": "ns", "uid": f"uid-{self.uids}"},
            "status": {"allocation": {"devices": {"results": [result]}}},
        }

    @rule(
        name=st.sampled_from(NAMES),
        device=st.sampled_from([0, 1, 1, 2, 2, 3, 4, 5]),
        shared=st.booleans(),
        fate=st.sampled_from(["works", "works", "works", "fails", "killed"]),
    )
    def prepare(self, name: str, device: int, shared: bool, fate: str) -> None:
        if name not in self.objects.claims:
            self.allocate(name, device, shared)
        uid = self.objects.claims[name]["metadata"]["uid"]
        self.fate = fate
        if fate == "killed":
            self.driver._let_go = lambda uid: None  # type: ignore[method-assign]  # who is killed tidies nothing up
        try:
            # below the driver's shield: an exception like Killed would end the event loop
            (prepared,) = asyncio.run(self.driver._prepare("ns", name, uid))
        except FpgaError:
            return
        except Killed:
            return
        finally:
            self.fate = "works"
            if fate == "killed":
                self.restart()
        self.running[uid] = prepared.device

    @rule(name=st.sampled_from(NAMES))
    def end(self, name: str) -> None:
        """The last pod of a claim ends."""
        if name in self.objects.claims:
            uid = self.objects.claims[name]["metadata"]["uid"]
            self.running.pop(uid, None)
            asyncio.run(self.driver.unprepare(uid))
            del self.objects.claims[name]

    @rule(name=st.sampled_from(NAMES))
    def forget(self, name: str) -> None:
        """A claim ends while no driver runs; the next one finds out."""
        if name in self.objects.claims:
            self.running.pop(self.objects.claims.pop(name)["metadata"]["uid"], None)
            self.restart()
            asyncio.run(self.driver.clean_up())

    @invariant()
    def a_board_is_one_claims_or_shared_by_claims_of_one_image(self) -> None:
        if not hasattr(self, "checkpoint"):
            return
        held = self.checkpoint.claims()
        assert set(self.running) <= set(held)
        by_board: dict[str, list[Any]] = {}
        for claim in held.values():
            for one in claim.devices:
                by_board.setdefault(one.address, []).append(one)
        for users in by_board.values():
            assert len(users) == 1 or (len({one.device for one in users}) == 1 and all(one.share_id for one in users))
        images = {device.name: device.image for device in self.devices}
        addresses = {device.name: device.info.address for device in self.devices}
        for uid, name in self.running.items():
            assert held[uid].state == COMPLETED
            assert (self.path / f"fpgahal.dev-claim-{uid}.json").exists()
            image = images[name]
            assert image is None or self.loaded[addresses[name]] == image.name


Node.TestCase.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
TestNode = pytest.mark.timeout(120)(Node.TestCase)
