# SPDX-License-Identifier: Apache-2.0
"""The OCI hook on emulated boards: H cases, and what Intel's hook gets wrong."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from images import HASH, IF10, IF12, NLB0, NLB3, aocx, boards_of_the_cases, gbs, image

import fpgahal
from fpgahal import DeviceInfo, DeviceNotFoundError, ImageStore
from fpgahal.k8s import hook

PAIR = {"FPGA_REGION_1": IF10, "FPGA_AFU_1": NLB3}


@dataclass
class Place:
    """A node with emulated boards, a store, and a container that is being made."""

    rack: fpgahal.emu.Rack
    store: ImageStore
    bundle: Path
    run: Callable[..., int]
    capsys: pytest.CaptureFixture[str]

    def container(self, env: dict[str, str], *ports: int | str, annotations: dict[str, str] | None = None) -> None:
        """Write config.json: a container with these variables and ports (numbers of intel-fpga-port)."""
        paths = [port if isinstance(port, str) else f"/dev/intel-fpga-port.{port}" for port in ports]
        config: dict[str, Any] = {
            "process": {"env": ["PATH=/bin", *(f"{name}={value}" for name, value in env.items())]},
            "linux": {"devices": [{"path": path, "type": "c", "major": 240, "minor": 0} for path in paths]},
        }
        if annotations is not None:
            config["annotations"] = annotations
        (self.bundle / "config.json").write_text(json.dumps(config))

    def state(self, **more: Any) -> dict[str, Any]:
        return {"ociVersion": "1.0.2", "id": "c1", "status": "creating", "pid": 1, "bundle": str(self.bundle), **more}

    def loaded(self) -> list[str]:
        return [info.afu_id.hex if info.afu_id else "" for info in self.rack.devices()]

    def programmed(self) -> list[int]:
        return [self.rack.status(info).programmed for info in self.rack.devices()]

    def error(self) -> str:
        return self.capsys.readouterr().err


@pytest.fixture
def specs() -> tuple[str, ...]:
    return ("dcp10:2,dcp12",)


@pytest.fixture
def place(
    specs: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Place]:
    boards_of_the_cases(tmp_path, monkeypatch)
    rack = fpgahal.emu.rack(*specs)
    store = ImageStore(tmp_path / "store")
    for board in ("dcp10", "dcp12"):
        for afu in ("nlb0", "nlb3"):
            store.add(image(afu, board))
    (tmp_path / "bundle").mkdir()

    def run(*options: str, stdin: bytes | None = None, program: bool = True) -> int:
        data = json.dumps(made.state()).encode() if stdin is None else stdin
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        given = ["--rack", rack.dir, "--store", store.folder, *(["--program"] if program else []), *options]
        return hook.main(given)

    made = Place(rack, store, tmp_path / "bundle", run, capsys)
    made.container(PAIR, 0)
    yield made
    rack.close()


# --- H cases --------------------------------------------------------------------------------------------------------


def test_H1_programs_once_and_reads_back(place: Place) -> None:
    assert place.run() == 0
    assert place.loaded() == [NLB3, NLB0, NLB0]
    assert place.programmed() == [1, 0, 0]
    assert place.error() == ""


def test_H2_what_runs_already_is_not_programmed(place: Place) -> None:
    place.container(PAIR | {"FPGA_AFU_1": NLB0}, 0)
    assert place.run() == 0
    assert place.run(program=False) == 0
    assert place.programmed() == [0, 0, 0]


@pytest.mark.parametrize(
    "stdin",
    [b"", b"{", b'"1234"', b"1234", b"{}", b'{"bundle": 1}', b'{"bundle": "/no/such/folder"}', b"[" * 100_000, b"\xff"],
)
def test_H3_a_broken_state_is_refused(stdin: bytes, place: Place) -> None:
    assert place.run(stdin=stdin) != 0
    assert place.programmed() == [0, 0, 0]
    assert "state" in place.error()


GOOD = {"process": {"env": ["A=b"]}, "linux": {"devices": [{"path": "/dev/x", "major": 1, "minor": 2}]}}


@pytest.mark.parametrize(
    "config",
    [
        None,
        "{",
        "[]",
        {},
        {"linux": GOOD["linux"]},
        {**GOOD, "process": {}},
        {**GOOD, "process": {"env": []}},
        {**GOOD, "process": {"env": "A=b"}},
        {**GOOD, "process": {"env": ["FPGA_REGION_1"]}},
        {**GOOD, "process": {"env": [f"FPGA_AFU_1={NLB0}", f"FPGA_AFU_1={NLB3}", f"FPGA_REGION_1={IF10}"]}},
        {"process": GOOD["process"]},
        {**GOOD, "linux": {}},
        {**GOOD, "linux": {"devices": []}},
        {**GOOD, "linux": {"devices": ["/dev/x"]}},
        {**GOOD, "linux": {"devices": [{"path": "/dev/x", "major": "1", "minor": 2}]}},
        {**GOOD, "annotations": []},
    ],
)
def test_H4_a_broken_configuration_is_refused(config: Any, place: Place) -> None:
    path = place.bundle / "config.json"
    if config is None:
        path.unlink()
    else:
        path.write_text(config if isinstance(config, str) else json.dumps(config))
    with pytest.raises(hook.HookError, match=r"config\.json"):
        hook.container(place.state(), emulated=False)
    assert place.run() != 0


TEXT = st.text(max_size=8) | st.sampled_from(("A=b", "FPGA_AFU_1=", "/dev/x"))
SCALAR = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
ANY = st.recursive(SCALAR, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3))
NEARLY = st.fixed_dictionaries(
    {},
    optional={
        "process": ANY | st.fixed_dictionaries({"env": ANY | st.lists(TEXT | SCALAR, max_size=4)}),
        "linux": ANY
        | st.fixed_dictionaries(
            {
                "devices": st.lists(
                    ANY | st.fixed_dictionaries({"path": TEXT | SCALAR}, optional={"major": SCALAR, "minor": SCALAR})
                )
            }
        ),
        "annotations": ANY | st.dictionaries(TEXT, TEXT),
    },
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(config=ANY | NEARLY, annotations=ANY, emulated=st.booleans())
def test_H4_any_configuration_is_understood_or_refused(
    config: Any, annotations: Any, emulated: bool, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    state = hook.state(json.dumps({"bundle": str(tmp_path), "annotations": annotations}).encode())
    try:
        found = hook.container(state, emulated=emulated)
    except hook.HookError:
        return
    assert found.env
    assert found.nodes or emulated


@pytest.mark.parametrize(
    "env",
    [{}, {"FPGA_AFU_1": NLB3}, {"FPGA_REGION_1": IF10}, PAIR | {"FPGA_REGION_2": IF10}, PAIR | {"FPGA_AFU_2": NLB3}],
)
def test_H5_halves_of_pairs_are_refused(env: dict[str, str], place: Place) -> None:
    place.container(env, 0, 1)
    assert place.run() != 0
    assert place.programmed() == [0, 0, 0]
    assert "FPGA_" in place.error()


@pytest.mark.parametrize("ports", [("/dev/not-FPGA-device",), (9,), (2,), ()])
def test_H6_no_fpga_port_of_that_region(ports: tuple[Any, ...], place: Place) -> None:
    place.container(PAIR, *ports)
    assert place.run() != 0
    assert place.programmed() == [0, 0, 0]


def test_H7_a_failed_programming_is_refused(place: Place) -> None:
    place.rack.fault(0, "program", count=1)
    assert place.run() != 0
    assert NLB3 not in place.loaded()
    assert NLB3 in place.error()
    assert place.run() == 0, "kubelet's next try"


def test_H7_another_afu_after_programming_is_refused(place: Place) -> None:
    place.rack.fault(0, "wrong-afu", count=1)
    assert place.run() != 0
    text = place.error()
    assert "programmed function" in text
    assert f"instead of {NLB3}" in text


def test_H8_a_missing_image_is_refused(place: Place) -> None:
    place.store.remove(IF10, NLB3)
    assert place.run() != 0
    assert f"{IF10}/{NLB3}: bitstream not found" in place.error()
    assert place.programmed() == [0, 0, 0]


@pytest.mark.parametrize("annotations", [None, {}, {"com.intel.fpga.mode": "fpga.intel.com/af"}, {"other": "x"}])
def test_H17_without_intels_annotation_nothing_is_done(annotations: dict[str, str] | None, place: Place) -> None:
    more = {} if annotations is None else {"annotations": annotations}
    assert place.run("--intel-annotation", stdin=json.dumps(place.state(**more)).encode()) == 0
    assert place.programmed() == [0, 0, 0]
    right = {"annotations": {"com.intel.fpga.mode": "fpga.intel.com/region"}}
    assert place.run("--intel-annotation", stdin=json.dumps(place.state(**right)).encode()) == 0
    assert place.programmed() == [1, 0, 0]


def start(place: Place, *options: str, silent: bool = False) -> subprocess.Popen[str]:
    """Start the hook as runc does: with no environment at all."""
    code = f"import sys; sys.path[:] = {sys.path!r}; from fpgahal.k8s.hook import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "--rack", place.rack.dir, "--store", place.store.folder, *options]
    pipe = subprocess.PIPE
    file = place.bundle / "state.json"
    file.write_text(json.dumps(place.state()))
    with file.open() as state:
        given = pipe if silent else state
        return subprocess.Popen(command, stdin=given, stdout=pipe, stderr=pipe, text=True, env={}, cwd="/")


def test_H19_works_without_path_or_any_environment(place: Place) -> None:
    process = start(place, "--program")
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, "", "")
    assert place.loaded() == [NLB3, NLB0, NLB0]


def test_a_container_does_not_wait_for_what_is_not_needed() -> None:
    """These take as long to import as all the rest."""
    code = (
        "import sys, fpgahal.k8s.hook, fpgahal.k8s.programming; fpgahal.ImageStore().list(); fpgahal.devices(); "
        "print(*sys.modules)"
    )
    known = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    slow = {"numpy", "hashlib", "asyncio", "aiohttp", "grpc", "rich", "ctypes", "fpgahal.emu"}
    assert not slow & set(known.split())


# --- several boards, several containers ---------------------------------------------------------------------------


def test_the_second_region_is_seen_to_when_the_first_is_fine(place: Place) -> None:
    """Intel's hook returned success as soon as one region ran what was wanted."""
    place.container({"FPGA_REGION_1": IF10, "FPGA_AFU_1": NLB0, "FPGA_REGION_2": IF12, "FPGA_AFU_2": NLB3}, 0, 2)
    assert place.run() == 0
    assert place.loaded() == [NLB0, NLB0, NLB3]
    assert place.programmed() == [0, 0, 1]


def test_two_equal_regions_are_two_boards(place: Place) -> None:
    place.container(PAIR | {"FPGA_REGION_2": IF10, "FPGA_AFU_2": NLB3}, 1, 0)
    assert place.run() == 0
    assert place.loaded() == [NLB3, NLB3, NLB0]
    assert place.run() == 0
    assert place.programmed() == [1, 1, 0]
    place.container(PAIR | {"FPGA_REGION_2": IF10, "FPGA_AFU_2": NLB3}, 1)
    assert place.run() != 0
    assert "too few" in place.error()


def test_one_function_for_all_boards(place: Place) -> None:
    place.container({"FPGAHAL_AFU": NLB3}, 0, 2)
    assert place.run() == 0
    assert place.loaded() == [NLB3, NLB0, NLB3]
    place.container(PAIR | {"FPGAHAL_AFU": NLB0}, 0)
    assert place.run() != 0
    assert "as well" in place.error()
    assert place.programmed() == [1, 0, 1]


def test_two_containers_at_once_program_once(place: Place) -> None:
    with fpgahal.emu.rack("dcp10", program_ms=400) as place.rack:
        processes = [start(place, "--program") for _ in range(3)]
        ends = [process.communicate(timeout=30) for process in processes]
        assert [(process.returncode, *end) for process, end in zip(processes, ends, strict=True)] == [(0, "", "")] * 3
        assert place.loaded() == [NLB3]
        assert place.programmed() == [1]


def test_a_hook_that_is_killed_leaves_the_board_to_the_next(place: Place) -> None:
    with fpgahal.emu.rack("dcp10", program_ms=500) as place.rack:
        with start(place, "--program") as process:
            while place.rack.status(0).state is not fpgahal.emu.SlotState.PROGRAMMING:
                assert process.poll() is None
            process.kill()
        assert place.run("--rack", place.rack.dir) == 0
        assert place.loaded() == [NLB3]


# --- who may use what, and which bytes ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", hook.NAMESPACES)
def test_the_allow_list_holds_on_the_node(name: str, place: Place) -> None:
    place.store.add(image("nlb3", "dcp10"), namespaces=["team-a"], force=True)
    for notes in (None, {}, {name: "team-b"}, {name: ""}):
        place.container(PAIR, 0, annotations=notes)
        assert place.run() != 0
        assert "may not use" in place.error()
    assert place.programmed() == [0, 0, 0]
    place.container(PAIR, 0, annotations={name: "team-a"})
    assert place.run() == 0
    # what another team left on the board is not a way around
    place.container(PAIR, 0, annotations={name: "team-b"})
    assert place.run() != 0
    assert place.run(program=False) != 0


def test_two_namespaces_are_none(place: Place) -> None:
    place.container(PAIR, 0, annotations=dict(zip(hook.NAMESPACES, ("a", "b"), strict=True)))
    assert place.run() != 0
    assert "two namespaces" in place.error()


def test_a_changed_image_is_refused(place: Place) -> None:
    path = Path(place.store.find(IF10, NLB3).path)
    path.write_bytes(path.read_bytes() + b"x")
    assert place.run() != 0
    assert "was changed" in place.error()
    assert place.programmed() == [0, 0, 0]


def test_an_image_that_is_not_in_the_index_is_refused(place: Place) -> None:
    data = Path(place.store.find(IF10, NLB3).path).read_bytes()
    place.store.remove(IF10, NLB3)
    path = Path(place.store.folder, IF10, f"{NLB3}.gbs")
    path.write_bytes(data)
    assert place.run() != 0
    assert "nobody vouched" in place.error()


def test_verify_only_never_programs(place: Place) -> None:
    assert place.run(program=False) != 0
    text = place.error()
    assert NLB0 in text
    assert f"expected {NLB3}" in text
    assert place.programmed() == [0, 0, 0]


def test_an_opencl_image_is_always_programmed(place: Place) -> None:
    """Its AFU id is that of all OpenCL images, so what the board shows proves nothing."""
    place.store.add(aocx(image("nlb3", "dcp10")))
    place.container(PAIR | {"FPGA_AFU_1": HASH}, 0)
    assert place.run(program=False) != 0
    assert "does not tell which OpenCL image" in place.error()
    assert place.run() == 0
    assert place.run() == 0
    assert place.programmed() == [2, 0, 0]


# --- --device: boards of any vendor ---------------------------------------------------------------------------------


@pytest.fixture
def mixed(place: Place) -> Iterator[Place]:
    with fpgahal.emu.rack("dcp10", "u250", "aws-f1") as rack:
        place.rack = rack
        place.container({"FPGAHAL_DEVICE_X": "y"}, "/dev/null")
        yield place


@pytest.mark.parametrize("board", ["u250", "aws-f1", "dcp10"])
def test_a_board_of_any_vendor_is_verified(board: str, mixed: Place) -> None:
    stored = mixed.store.add(image("vadd" if board != "dcp10" else "hello", board), force=True)
    info = next(one for one in mixed.rack.devices() if mixed.rack.board(one).name == board)
    given = ("--rack", mixed.rack.dir, "--device", f"{info.address}={uuid.UUID(stored.afu_id)}")
    assert mixed.run(*given, program=False) != 0
    assert f"expected {stored.afu_id}" in mixed.error()
    assert mixed.run(*given) == 0
    assert mixed.run(*given, program=False) == 0
    assert mixed.rack.status(info).programmed == 1


def test_a_board_may_be_asked_for_by_the_container(mixed: Place) -> None:
    info = next(one for one in mixed.rack.devices() if one.driver == "opae")
    given = ("--rack", mixed.rack.dir, "--device", info.address)
    assert mixed.run(*given) == 0, "nothing is asked for"
    mixed.container({"FPGAHAL_AFU": NLB3}, "/dev/null")
    assert mixed.run(*given, program=False) != 0
    assert mixed.run(*given) == 0
    assert mixed.rack.status(info).programmed == 1
    assert mixed.run(*given[:-1], f"{info.address}={NLB0}") != 0
    assert "as well" in mixed.error()
    assert mixed.run(*given[:-1], "0000:99:00.0/0") != 0
    assert "no board 0000:99:00.0/0" in mixed.error()
    assert mixed.run(*given[:-1], f"{info.address}=no-id") != 0
    mixed.rack.fault(info, "vanish")
    assert mixed.run(*given) != 0


def test_a_board_without_an_image_gets_one(mixed: Place) -> None:
    """After a failed reconfiguration it is unhealthy for want of an image, and no other reason."""
    info = next(one for one in mixed.rack.devices() if one.driver == "opae")
    given = ("--rack", mixed.rack.dir, "--device", f"{info.address}={NLB3}")
    mixed.rack.fault(info, "program", count=1)
    assert mixed.run(*given) != 0
    assert mixed.run(*given, program=False) != 0
    assert mixed.run(*given) == 0


def test_emulated_boards_of_a_cdi_file(place: Place) -> None:
    """Their nodes are files in a mounted folder: the container has no device nodes, but the CDI file's variables."""
    infos = place.rack.devices()[:2]
    pairs = {f"FPGA_{kind}_{n}": value for n in (1, 2) for kind, value in (("REGION", IF10), ("AFU", NLB3))}
    place.container(pairs | {f"FPGAHAL_DEVICE_{n}": info.address for n, info in enumerate(infos)})
    config = json.loads((place.bundle / "config.json").read_text())
    del config["linux"]
    (place.bundle / "config.json").write_text(json.dumps(config))
    assert place.run() == 0
    assert place.loaded() == [NLB3, NLB3, NLB0]


# --- real device nodes ------------------------------------------------------------------------------------------------


def test_a_real_board_is_known_by_its_nodes_number() -> None:
    """Paths are names that a pod may choose; /dev/null and /dev/zero stand for two ports."""
    boards = [
        DeviceInfo(bdf=f"0000:0{n}:00.0", driver="opae", device_nodes=(node,))
        for n, node in enumerate(("/dev/null", "/dev/zero"))
    ]

    def given(*nodes: tuple[str, int, int]) -> hook.Container:
        return hook.Container("c", {"FPGAHAL_DEVICE_X": boards[1].address}, nodes, {})

    assert hook.slots(given(("/dev/anything", 1, 3)), boards) == [boards[0]]
    assert hook.slots(given(("/dev/a", 1, 5), ("/dev/b", 1, 3), ("/dev/c", 1, 3)), boards) == [boards[1], boards[0]]
    for nodes in ([("/dev/null", 1, 7)], [("/dev/a", 1, 3), ("/dev/dfl-port.0", 1, 7)], []):
        with pytest.raises(DeviceNotFoundError):
            hook.slots(given(*nodes), boards)


# --- time, and wrong use ----------------------------------------------------------------------------------------------


def test_a_runtime_that_sends_nothing_is_not_waited_for(place: Place) -> None:
    process = start(place, "--timeout", "0.2", silent=True)
    assert process.wait(30) != 0
    _, err = process.communicate()
    assert "longer than its --timeout" in err


def test_programming_that_takes_too_long_is_refused(place: Place) -> None:
    with fpgahal.emu.rack("dcp10", program_ms=60_000) as place.rack:
        begin = time.monotonic()
        process = start(place, "--program", "--timeout", "0.5")
        _, err = process.communicate(timeout=30)
        assert process.returncode != 0
        assert "did not finish programming" in err
        assert time.monotonic() - begin < 20


@pytest.mark.parametrize("options", [("--timeout", "0"), ("--timeout", "x"), ("extra",), ("--rack", "/tmp")])
def test_wrong_use(options: tuple[str, ...], place: Place) -> None:
    assert place.run(*options) != 0
    assert place.error().startswith("fpgahal-hook: error: ")


def test_a_real_image_for_a_real_board_is_refused_on_another_shell(place: Place) -> None:
    """IF12's file under IF10's name, with an index that says it is right."""
    import hashlib

    wrong = gbs(IF12, NLB3)
    path = Path(place.store.find(IF10, NLB3).path)
    path.write_bytes(wrong)
    index = Path(place.store.folder, "index.json")
    document = json.loads(index.read_text())
    document["images"][f"{IF10}/{NLB3}.gbs"] |= {"sha256": hashlib.sha256(wrong).hexdigest(), "size": len(wrong)}
    index.write_text(json.dumps(document))
    assert place.run() != 0
    assert "holds another image" in place.error()
    assert place.programmed() == [0, 0, 0]
