# SPDX-License-Identifier: Apache-2.0
"""A storm of random events, in whatever order Hypothesis thinks of, over the plugin with emulated boards.

Boards are pulled and put back, break and recover, are programmed by somebody else; pods come, start, restart and go;
kubelet restarts, the plugin is killed, its sockets are removed.  Whatever happens:

* no board is in two containers, in whatever names;
* a container that was allowed to start has boards that run what it wants, until somebody else's hand changes that;
* a board that nothing happened to is never told to be unhealthy, nor left out;
* when things settle, kubelet knows exactly the boards that are well.

`test_plugin_storm.py` runs it.
"""

from __future__ import annotations

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


@dataclass
class Board:
    """What the story knows of one board."""

    position: int
    bdf: str
    kind: str
    resource: str
    id: str
    nodes: tuple[Path, ...]
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
        self.api = FakeNodes()
        self.api.__enter__()
        self.plugin = self.make(self.folder, self.api.url)
        self.plugin.start()
        self.boards = [self._board(position) for position in range(len(self.rack.devices()))]
        self.pods: dict[str, Pod] = {}
        self.names = 0
        self.read: dict[str, tuple[int, int]] = {}  # resource -> number of its registration, messages looked at
        self.settle()

    def _board(self, position: int) -> Board:
        info = self.rack.devices()[position]
        kind = self.rack.board(position).name
        nodes = tuple(Path(node) for node in info.device_nodes)
        if info.driver == "opae":
            fme = next(node.name for node in nodes if "fme" in node.name)
            return Board(position, info.bdf, kind, f"fpga.intel.com/region-{info.interface_id.hex}", fme, nodes)
        return Board(position, info.bdf, kind, f"fpgahal.dev/{kind}", info.bdf, nodes)

    # --- the boards ---------------------------------------------------------------------------------------------

    def _touch(self, board: Board) -> None:
        board.disturbed = True
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
        for pod in self.pods.values():
            if board in pod.boards:
                pod.started = False

    @precondition(lambda self: any(board.well for board in self.boards))
    @rule(data=st.data())
    def spoil(self, data: st.DataObject) -> None:
        """The next reconfiguration of a board fails, or another function answers after it."""
        board = self._some(data, (board for board in self.boards if board.well))
        self.rack.fault(board.bdf, data.draw(st.sampled_from(("program", "wrong-afu"))), count=1)
        board.spoilt = True

    # --- the pods -----------------------------------------------------------------------------------------------

    @rule(kind=st.sampled_from(sorted(IMAGES)), count=st.integers(1, 2), calm=MOSTLY, data=st.data())
    def admit(self, kind: str, count: int, calm: bool, data: st.DataObject) -> None:
        if calm:
            self.settle()
            for old in [old for old, pod in self.pods.items() if pod.boards[0].kind == kind]:
                self.kubelet.remove(old)
                del self.pods[old]
        count = min(count, sum(board.kind == kind for board in self.boards))
        resource = next(board.resource for board in self.boards if board.kind == kind)
        self.names += 1
        name = f"pod{self.names}"
        wants = [data.draw(st.sampled_from(self.images[kind])) for _ in range(count)]
        if kind == "u250":
            wants = wants[:1] * count  # FPGAHAL_AFU is one for all
            variables = {"FPGAHAL_AFU": wants[0]}
        else:
            region = resource.rpartition("-")[2]
            variables = {
                variable: value
                for n, afu in enumerate(wants, 1)
                for variable, value in ((f"FPGA_REGION_{n}", region), (f"FPGA_AFU_{n}", afu))
            }
        self.api.pods["default", name] = variables
        held = {board.id for pod in self.pods.values() for board in pod.boards}
        same = [board for board in self.boards if board.resource == resource and board.id not in held]
        certain = [board for board in same if board.well and not board.disturbed]
        try:
            granted = self.kubelet.admit(name, {resource: count})
        except AdmissionError:
            if len(certain) >= count and self.quiet:
                raise
            Storm.events["pod refused"] += 1
            return
        Storm.events["admitted"] += 1
        chosen = [board for board in self.boards if board.id in granted.devices[resource]]
        assert len(chosen) == count
        seen = set(granted.env["FPGAHAL_VISIBLE_DEVICES"].split(","))
        assert seen == {f"{board.bdf}/0" for board in chosen}
        assert kind == "u250" or len(granted.cdi) == count
        self.pods[name] = Pod(name, chosen, wants)
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
            if self.quiet and all(board.well and not board.disturbed and not board.spoilt for board in pod.boards):
                raise
            Storm.events["start refused"] += 1
            return
        pod.started = True
        Storm.events["started"] += 1

    @precondition(lambda self: self.pods)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.pods)))
        self.kubelet.remove(name)
        del self.pods[name]

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
        for name in {board.resource for board in self.boards}:
            told = self.kubelet.devices(name)
            there = {board.id: board for board in self.boards if board.resource == name}
            found += [f"{id} of {name} is told" for id in told.keys() - there.keys()]
            for id, board in there.items():
                unheard_of = not board.well and not board.known and id not in told
                if told.get(id) is not board.well and not unheard_of:
                    found.append(f"{id} of {name} is told to be {told.get(id)}, but {board}")
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
                    if board.resource == name and board.well and not board.disturbed:
                        told = message[board.id].health if board.id in message else "left out"
                        assert told == "Healthy", f"{board.id} of {name}: {told}, but nothing happened to it"

    def teardown(self) -> None:
        self.plugin.close()
        self.api.__exit__()
        self.kubelet.stop()
        self.rack.close()
        shutil.rmtree(self.folder)
