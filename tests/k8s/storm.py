# SPDX-License-Identifier: Apache-2.0
"""A storm of random events, in whatever order Hypothesis thinks of, over the plugin with emulated boards.

Boards are pulled and put back, break and recover, are programmed by somebody else; pods come, start, restart and go;
kubelet restarts, the plugin is killed, its sockets are removed, the node's mode changes.  Whatever happens:

* no board is in two containers, under whatever names;
* a container that was allowed to start has boards that run what it wants, until somebody else's hand changes that;
* a board that nothing happened to is never told to be unhealthy, nor left out;
* when things settle, kubelet knows exactly the boards that are well.

`test_plugin_storm.py` runs it.
"""

from __future__ import annotations

import base64
import functools
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from fake_kubelet import AdmissionError, FakeKubelet, StartError
from fake_nodes import FakeNodes
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from storm_plugins import Plugin, PluginThread

import fpgahal
from fpgahal import ImageStore, emu
from fpgahal.k8s.names import af_resource

RACK = "pac-a10:2,d5005,u250:2"
IMAGES = {"pac-a10": ("nlb0", "nlb3"), "d5005": ("nlb0", "nlb3"), "u250": ("vadd", "passthrough")}
MOSTLY = st.sampled_from((True, True, True, False))
MOST_BAD = 3  # boards at the same time: what nobody can be given tells little
SETTLED = 20.0  # seconds, on a machine that does other things, too


@functools.cache
def images() -> dict[tuple[str, str], bytes]:
    """Images by board and name."""
    kinds = emu.boards()
    return {(kind, name): emu.build_image(name, kinds[kind]) for kind, names in IMAGES.items() for name in names}


def afu_of(resource: str) -> str:
    """The function in a name of mode af."""
    return base64.urlsafe_b64decode(resource.rpartition(".")[2] + "=").hex()[32:]


@dataclass
class Board:
    """What the story knows of one board."""

    bdf: str
    kind: str
    interface: str
    nodes: tuple[Path, ...]  # the application's first
    resource: str = ""  # and id: what it is offered as
    id: str = ""
    present: bool = True
    broken: bool = False
    known: bool = True  # whether this run of the plugin has certainly offered it
    disturbed: bool = False  # since the last time that all had settled
    spoilt: bool = False  # the next reconfiguration goes wrong

    @property
    def well(self) -> bool:
        return self.present and not self.broken


@dataclass
class Pod:
    """What the story knows of one pod."""

    name: str
    resource: str
    boards: list[Board]
    wants: list[str] = field(default_factory=list)  # AFU ids
    started: bool = False  # and nobody else has touched its boards since


class Storm(RuleBasedStateMachine):
    """One node's story."""

    events: ClassVar[Counter[str]] = Counter()
    make: ClassVar[Callable[[Path, str], Plugin]] = PluginThread

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="storm-"))
        self.rack = emu.rack(RACK, dir=self.folder / "rack")
        self.rack.__enter__()
        self.store = ImageStore(self.folder / "store")
        self.images: dict[str, list[str]] = {}
        for (kind, name), image in images().items():
            path = self.folder / f"{kind}-{name}.{'xclbin' if kind == 'u250' else 'gbs'}"
            path.write_bytes(image)
            self.images.setdefault(kind, []).append(self.store.add(path).afu_id)
        self.kubelet = FakeKubelet(self.folder)
        self.kubelet.start()
        self.api = FakeNodes(n1={})
        self.api.__enter__()
        self.plugin = self.make(self.folder, self.api.url)
        self.plugin.start()
        self.boards = [self._board(position) for position in range(len(self.rack.devices()))]
        self.mode = "region"
        for board in self.boards:
            self._name(board)
        self.pods: dict[str, Pod] = {}
        self.names = 0
        self.read: dict[str, tuple[int, int]] = {}  # resource -> number of its registration, messages looked at
        self.settle()

    def _board(self, position: int) -> Board:
        info = self.rack.devices()[position]
        interface = info.interface_id.hex if info.interface_id else ""
        nodes = tuple(Path(node) for node in info.device_nodes)
        return Board(info.bdf, self.rack.board(position).name, interface, nodes)

    # --- the boards ---------------------------------------------------------------------------------------------

    def _name(self, board: Board) -> None:
        """Say what a board is offered as."""
        afu = self.rack.status(board.bdf).afu_id
        if board.kind == "u250":
            name = f"fpgahal.dev/{board.kind}", board.bdf
        elif self.mode == "region":
            name = f"fpga.intel.com/region-{board.interface}", board.nodes[1].name
        else:
            name = f"fpga.intel.com/{af_resource(board.interface, afu.hex)}", board.nodes[0].name
        if name != (board.resource, board.id):
            board.resource, board.id = name
            board.known, board.disturbed = False, True

    def _elsewhere(self, board: Board) -> bool:
        """Whether a pod has it under another name."""
        return any(board in pod.boards and pod.resource != board.resource for pod in self.pods.values())

    def _offered(self, board: Board) -> bool:
        """Whether it may be handed out."""
        return board.well and not self._elsewhere(board)

    def _touch(self, board: Board) -> None:
        board.disturbed = True
        if board.well:
            self._name(board)
        for pod in self.pods.values():
            if board in pod.boards:
                pod.started = False
        self.plugin.wake()

    def _some(self, data: st.DataObject, boards: Iterable[Board]) -> Board:
        known = list(boards)
        return known[data.draw(st.integers(0, len(known) - 1))]

    @precondition(lambda self: sum(not board.well for board in self.boards) < MOST_BAD)
    @rule(data=st.data())
    def unplug(self, data: st.DataObject) -> None:
        board = self._some(data, (board for board in self.boards if board.present))
        self.rack.fault(board.bdf, "vanish")
        board.present = False
        self._touch(board)

    @precondition(lambda self: not all(board.present for board in self.boards))
    @rule(data=st.data())
    def plug(self, data: st.DataObject) -> None:
        board = self._some(data, (board for board in self.boards if not board.present))
        self.rack.clear(board.bdf)
        board.present, board.broken = True, False
        self._touch(board)

    @precondition(lambda self: sum(not board.well for board in self.boards) < MOST_BAD)
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        board = self._some(data, (board for board in self.boards if board.well))
        for node in board.nodes:
            node.rename(node.with_name(f".{node.name}"))
        board.broken = True
        self._touch(board)

    @precondition(lambda self: any(board.present and board.broken for board in self.boards))
    @rule(data=st.data())
    def recover(self, data: st.DataObject) -> None:
        board = self._some(data, (board for board in self.boards if board.present and board.broken))
        for node in board.nodes:
            node.with_name(f".{node.name}").rename(node)
        board.broken = False
        self._touch(board)

    @precondition(lambda self: any(board.well for board in self.boards))
    @rule(data=st.data())
    def program(self, data: st.DataObject) -> None:
        """Somebody loads another image, be it in use or not."""
        board = self._some(data, (board for board in self.boards if board.well))
        name = data.draw(st.sampled_from(IMAGES[board.kind]))
        with suppress(fpgahal.FpgaError) if board.spoilt else nullcontext(), fpgahal.open(board.bdf) as dev:
            dev.program(images()[board.kind, name])
        disturbed = board.disturbed
        self._touch(board)
        if self.mode == "region" or board.kind == "u250":  # its name has nothing to do with it
            board.disturbed = disturbed

    @precondition(lambda self: self.mode == "region" and any(board.well for board in self.boards))
    @rule(data=st.data())
    def spoil(self, data: st.DataObject) -> None:
        """The next reconfiguration of a board fails, or another function answers after it."""
        board = self._some(data, (board for board in self.boards if board.well))
        self.rack.fault(board.bdf, data.draw(st.sampled_from(("program", "wrong-afu"))), count=1)
        board.spoilt = True

    @rule()
    def change_mode(self) -> None:
        self.settle()
        self.mode = "af" if self.mode == "region" else "region"
        self.api.annotate("n1", {"fpga.intel.com/device-plugin-mode": self.mode})
        self.plugin.switch(self.mode)
        for board in self.boards:
            if board.well:
                self._name(board)

    # --- the pods -----------------------------------------------------------------------------------------------

    @rule(kind=st.sampled_from(sorted(IMAGES)), count=st.integers(1, 2), calm=MOSTLY, data=st.data())
    def admit(self, kind: str, count: int, calm: bool, data: st.DataObject) -> None:
        if calm:
            self.settle()
            for old in [old for old, pod in self.pods.items() if pod.boards[0].kind == kind]:
                self._remove(old)
            self.settle()
        count = min(count, sum(board.kind == kind for board in self.boards))
        resource = self._some(data, (board for board in self.boards if board.kind == kind)).resource
        self.names += 1
        name = f"pod{self.names}"
        wants = [data.draw(st.sampled_from(self.images[kind])) for _ in range(count)]
        if kind == "u250":
            wants = wants[:1] * count  # FPGAHAL_AFU is one for all
            variables = {"FPGAHAL_AFU": wants[0]}
        elif self.mode == "af":
            variables, wants = {}, []
        else:
            region = resource.rpartition("-")[2]
            variables = {
                variable: value
                for n, afu in enumerate(wants, 1)
                for variable, value in ((f"FPGA_REGION_{n}", region), (f"FPGA_AFU_{n}", afu))
            }
        self.api.pods["default", name] = variables
        held = {board.bdf for pod in self.pods.values() for board in pod.boards}
        same = [board for board in self.boards if board.resource == resource and board.bdf not in held]
        certain = [board for board in same if board.well and not board.disturbed]
        try:
            granted = self.kubelet.admit(name, {resource: count})
        except AdmissionError:
            if len(certain) >= count and self.quiet:
                raise
            Storm.events["pod refused"] += 1
            return
        Storm.events["admitted"] += 1
        seen = granted.env["FPGAHAL_VISIBLE_DEVICES"].split(",")
        chosen = [board for board in self.boards if f"{board.bdf}/0" in seen]
        assert len(chosen) == len(seen) == count
        assert "/region-" not in resource or len(granted.cdi) == count
        wants = wants or [afu_of(resource)] * count
        self.pods[name] = Pod(name, resource, chosen, wants)
        if calm:
            self.run(self.pods[name])

    @precondition(lambda self: self.pods)
    @rule(calm=MOSTLY, data=st.data())
    def restart(self, calm: bool, data: st.DataObject) -> None:
        """A container starts again, or for the first time."""
        if calm:
            self.settle()
        self.run(self.pods[data.draw(st.sampled_from(sorted(self.pods)))])

    def run(self, pod: Pod) -> None:
        """Do what kubelet does when a container starts."""
        pod.started = False
        try:
            self.kubelet.start_container(pod.name)
        except StartError:
            same = all(board.resource == pod.resource for board in pod.boards)
            calm = all(board.well and not board.disturbed and not board.spoilt for board in pod.boards)
            if self.quiet and same and calm:
                raise
            Storm.events["start refused"] += 1
            return
        pod.started = True
        Storm.events["started"] += 1
        for board in pod.boards:
            self._name(board)

    @precondition(lambda self: self.pods)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        self._remove(data.draw(st.sampled_from(sorted(self.pods))))

    def _remove(self, name: str) -> None:
        self.kubelet.remove(name)
        for board in self.pods.pop(name).boards:
            board.disturbed = True  # kept back until the plugin asks again, if it has another name now

    # --- the processes ------------------------------------------------------------------------------------------

    @rule(kill=st.booleans())
    def restart_kubelet(self, kill: bool) -> None:
        self.kubelet.restart(kill=kill)
        self.quiet = False

    @rule()
    def kill_plugin(self) -> None:
        self.plugin.kill()
        for board in self.boards:
            board.known = False
        self.plugin.start()
        self.quiet = False

    @rule(data=st.data())
    def remove_socket(self, data: st.DataObject) -> None:
        sockets = sorted((self.folder / "device-plugins").glob("fpgahal-*.sock"))
        if sockets:
            sockets[data.draw(st.integers(0, len(sockets) - 1))].unlink(missing_ok=True)
            self.quiet = False

    # --- what always holds --------------------------------------------------------------------------------------

    @rule()
    def settle(self) -> None:
        """Wait until kubelet knows exactly the boards that are well."""
        self.plugin.scan()
        try:
            self.kubelet.wait(lambda: not self.misbeliefs(), SETTLED)
        except AssertionError:
            raise AssertionError("; ".join(self.misbeliefs())) from None
        self.look()
        self.quiet = True
        for board in self.boards:
            board.known |= board.well
            board.disturbed = False
            if board.spoilt and board.present:
                self.rack.clear(board.bdf)
                board.spoilt = False

    def misbeliefs(self) -> list[str]:
        """What kubelet believes that is not so."""
        found = []
        for name in self.kubelet.capacity():
            told = self.kubelet.devices(name)
            there = {board.id for board in self.boards if board.resource == name}
            found += [f"{id} of {name} is told" for id, well in told.items() if well and id not in there]
        for board in self.boards:
            told = self.kubelet.devices(board.resource)
            unheard_of = not board.well and not board.known and board.id not in told
            if told.get(board.id) is not self._offered(board) and not unheard_of:
                found.append(f"{board.id} of {board.resource} is told to be {told.get(board.id)}, but {board}")
        return found

    @invariant()
    def count(self) -> None:
        Storm.events["all"] += 1

    @invariant()
    def no_board_is_in_two_containers(self) -> None:
        assert self.kubelet.overlaps() == {}

    @invariant()
    def started_containers_have_what_they_want(self) -> None:
        for pod in self.pods.values():
            if pod.started:
                loaded = Counter(self.rack.status(board.bdf).afu_id.hex for board in pod.boards)
                assert loaded == Counter(pod.wants), f"{pod.name} wants {pod.wants}, but {dict(loaded)} are loaded"

    @invariant()
    def look(self) -> None:
        """No list since the last look says anything bad of a board that nothing happened to."""
        for name in {board.resource for board in self.boards}:
            registration, messages = len(self.kubelet.registered(name)), self.kubelet.messages(name)
            before, looked_at = self.read.get(name, (0, 0))
            new = messages[looked_at:] if registration == before else messages
            self.read[name] = registration, len(messages)
            for message in new:
                for board in self.boards:
                    if board.resource == name and self._offered(board) and not board.disturbed:
                        told = message[board.id].health if board.id in message else "left out"
                        assert told == "Healthy", f"{board.id} of {name}: {told}, but nothing happened to it"

    def teardown(self) -> None:
        self.plugin.close()
        self.api.__exit__()
        self.kubelet.stop()
        self.rack.close()
        shutil.rmtree(self.folder)
