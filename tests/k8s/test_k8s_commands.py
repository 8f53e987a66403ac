# SPDX-License-Identifier: Apache-2.0
"""``fpgahal k8s ...``, the autoscaler's tags, a node's labels, and what is free on which node."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from planner_cases import EXACT, F1, U250, U280, catalogue_file

import fpgahal
from fpgahal import ArgumentRangeError
from fpgahal.cli import GROUP, main
from fpgahal.k8s import autoscaler
from fpgahal.k8s.capacity import free_boards, pod_boards
from fpgahal.k8s.labels import label_value, node_labels
from fpgahal.k8s.plugin.inventory import take
from fpgahal.k8s.schemes.settings import Settings

ROOT = Path(__file__).parents[2]
DECLARED = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"][GROUP]

Run = Callable[..., Any]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run `fpgahal k8s`, with the entry points that pyproject.toml declares; give what it prints."""
    found = [EntryPoint(name, value, GROUP) for name, value in DECLARED.items()]
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: found if group == GROUP else [])
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))  # boards of one's own
    for name in ("FPGAHAL_EMULATE", "FPGAHAL_EMU_RACK"):
        monkeypatch.setenv(name, "")  # so that what --emulate sets is undone
        monkeypatch.delenv(name)

    def run(*argv: object, code: int = 0) -> Any:
        assert main(["k8s", *map(str, argv)]) == code
        out = capsys.readouterr()
        if code:
            return out.err
        return json.loads(out.out) if "--json" in argv else out.out

    return run


# --- K5 ------------------------------------------------------------------------------------------------------


def test_K5_autoscaler_tags(run: Run) -> None:
    template = "k8s.io/cluster-autoscaler/node-template"
    assert run("autoscaler-tags", "--instance-type", "f1.4xlarge").splitlines() == [
        f"{template}/resources/xilinx/aws-vu9p-f1=2",
        f"{template}/label/node.kubernetes.io/instance-type=f1.4xlarge",
    ]


@pytest.mark.parametrize(
    ("kind", "count"),
    [
        ("f1.2xlarge", 1),
        ("f1.4xlarge", 2),
        ("f1.16xlarge", 8),
        ("f2.6xlarge", 1),
        ("f2.12xlarge", 2),
        ("f2.48xlarge", 8),
    ],
)
def test_instance_types(kind: str, count: int, run: Run) -> None:
    found = run("autoscaler-tags", "--instance-type", kind, "--json")
    assert list(found["boards"].values()) == [count]
    assert autoscaler.boards_of_instance(kind) == found["boards"]


@pytest.mark.parametrize(("board", "kind"), [("aws-f1", "f1.2xlarge"), ("aws-f2", "f2.6xlarge")])
@pytest.mark.parametrize("scheme", autoscaler.SCHEMES)
def test_tags_name_boards_as_the_plugin_does(board: str, kind: str, scheme: str, run: Run) -> None:
    with fpgahal.emu.rack(board):
        offered = take(fpgahal.devices(), Settings(schemes=(scheme,))).resources
    assert set(run("autoscaler-tags", "--instance-type", kind, "--scheme", scheme, "--json")["boards"]) == set(offered)


def test_all_that_tags_can_say(run: Run) -> None:
    options = ["--instance-type", "m7i.large", "--boards", "fpgahal.dev/u250:2,a.b/c:1", "--cluster", "lab"]
    found = run("autoscaler-tags", *options, "--label", "xilinx/u250=shell", "--json")["tags"]
    assert found == {
        "k8s.io/cluster-autoscaler/enabled": "true",
        "k8s.io/cluster-autoscaler/lab": "owned",
        "k8s.io/cluster-autoscaler/node-template/resources/a.b/c": "1",
        "k8s.io/cluster-autoscaler/node-template/resources/fpgahal.dev/u250": "2",
        "k8s.io/cluster-autoscaler/node-template/label/node.kubernetes.io/instance-type": "m7i.large",
        "k8s.io/cluster-autoscaler/node-template/label/xilinx/u250": "shell",
    }


def test_terraform_and_cloudformation(run: Run) -> None:
    options = ["autoscaler-tags", "--instance-type", "f1.4xlarge"]
    found = run(*options, "--json")["tags"]
    blocks = re.findall(
        r'tag \{\n  key                 = "(.*)"\n  value               = "(.*)"\n  propagate_at_launch = false\n\}\n',
        run(*options, "--form", "terraform"),
    )
    assert dict(blocks) == found
    documents = json.loads(run(*options, "--form", "cloudformation"))
    assert {tag["Key"]: tag["Value"] for tag in documents} == found
    assert all(tag["PropagateAtLaunch"] is False for tag in documents)


def test_unknown_instance_type(run: Run) -> None:
    assert "No boards are known of the instance type 'm5.large'" in run(
        "autoscaler-tags", "--instance-type", "m5.large", code=3
    )
    with pytest.raises(ArgumentRangeError) as caught:
        autoscaler.boards_of_instance("")
    assert "f1.2xlarge, f1.4xlarge" in caught.value.hint


# --- plan ----------------------------------------------------------------------------------------------------


def test_K1_and_K2_on_the_command_line(run: Run, tmp_path: Path) -> None:
    asked = ["plan", f"{EXACT}=4", "--catalogue", catalogue_file(tmp_path)]
    there = run(*asked, "--free", f"rack-1={U250}:1,{U280}:1")
    assert "1 x xilinx/u250" in there
    assert there.endswith("on rack-1\n")
    busy = run(*asked, "--free", f"rack-1={U280}:1", "--json")
    assert busy == {
        "boards": {F1: 2},
        "images": ["xgboost-f1", "xgboost-f1"],
        "where": "f1-4xlarge",
        "scale_up": True,
        "node_selector": {},
    }


def test_plan_from_the_clusters_own_lists(run: Run, tmp_path: Path) -> None:
    nodes, pods = tmp_path / "nodes.json", tmp_path / "pods.json"
    nodes.write_text(json.dumps({"items": [node("rack-1", {U250: "1", U280: "1"})]}))
    pods.write_text(json.dumps({"items": [pod({U250: "1"}, node="rack-1")]}))
    asked = ["plan", f"{EXACT}=4", "--catalogue", catalogue_file(tmp_path), "--nodes", nodes, "--json"]
    assert run(*asked)["where"] == "rack-1"
    assert run(*asked, "--pods", pods)["where"] == "f1-4xlarge"


def test_plan_respects_namespaces(run: Run, tmp_path: Path) -> None:
    text = f'[images.i]\nboard = "{U250}"\naccelerators = {{ a = 1 }}\nnamespaces = ["team-a"]\n'
    asked = ["plan", "a=1", "--catalogue", catalogue_file(tmp_path, text)]
    assert run(*asked, "--namespace", "team-a", "--json")["boards"] == {U250: 1}
    assert run(*asked, "--json")["where"] == "any node with xilinx/u250"
    assert "There are: none at all" in run(*asked, "--namespace", "team-b", code=3)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["a"], "NAME=VALUE was expected"),
        (["a=0"], "whole number"),
        (["a=x"], "whole number"),
        (["a=²"], "whole number"),
        (["a=1", "a=2"], "named twice"),
        (["a=1", "--free", "n"], "NAME=VALUE"),
        (["a=1", "--free", "n=u250:1"], "xilinx/u250:1 was expected"),
        (["a=1", "--free", "n=x/u250"], "xilinx/u250:1 was expected"),
        (["a=1", "--free", "n=x/u250:1", "--nodes", "f"], "Leave one"),
        (["a=1", "--pods", "f"], "needs --nodes"),
        (["a=1", "--nodes", "/dev/null"], "is no list of objects"),
    ],
)
def test_wrong_usage(argv: list[str], says: str, run: Run, tmp_path: Path) -> None:
    assert says in run("plan", "--catalogue", catalogue_file(tmp_path), *argv, code=2)


def test_nothing_to_do(run: Run) -> None:
    assert "COMMAND" in run(code=2)


def test_broken_commands_of_others_do_not_break_ours(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = EntryPoint("theirs", "nowhere.to.be:found", GROUP)
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [broken])
    assert main(["list", "--json"]) == 0
    out = capsys.readouterr()
    assert "the commands `theirs` (nowhere.to.be:found) can't be loaded" in out.err
    json.loads(out.out)


def test_loading_the_commands_needs_no_extra() -> None:
    """`fpgahal list` must work where aiohttp and grpc are not installed, and not wait for them where they are."""
    code = (
        "import sys, fpgahal.k8s.commands, fpgahal.k8s.planner, fpgahal.k8s.catalogue, fpgahal.k8s.labels\n"
        "print([name for name in ('aiohttp', 'grpc', 'google.protobuf', 'prometheus_client') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- free boards -----------------------------------------------------------------------------------------------


def node(name: str, boards: dict[str, str], labels: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": labels or {}}, "spec": spec, "status": {"allocatable": boards}}


def pod(*limits: dict[str, str], node: str = "", phase: str = "Running", init: Any = ()) -> dict[str, Any]:
    return {
        "spec": {
            **({"nodeName": node} if node else {}),
            "containers": [{"resources": {"limits": limit}} for limit in limits],
            "initContainers": list(init),
        },
        "status": {"phase": phase},
    }


def free(nodes: list[Any], pods: list[Any]) -> dict[str, dict[str, int]]:
    return {offer.name: dict(offer.boards) for offer in free_boards(nodes, pods, {U250, U280})}


def test_free_boards() -> None:
    nodes = [node("b", {U250: "2", "cpu": "4"}), node("a", {U250: "1", U280: "1"}), node("c", {"cpu": "4"})]
    assert free(nodes, []) == {"a": {U250: 1, U280: 1}, "b": {U250: 2}}
    assert free(nodes, [pod({U250: "1"}, {U250: "1"}, node="b")]) == {"a": {U250: 1, U280: 1}}
    assert free(nodes, [pod({U250: "1"}, node="b", phase="Succeeded")])["b"] == {U250: 2}
    assert free(nodes, [pod({U250: "9"}, node="b")]) == {"a": {U250: 1, U280: 1}}
    assert free(nodes, [pod({U250: "1"}, node="gone")])["b"] == {U250: 2}


def test_pods_without_a_node_take_boards_too() -> None:
    nodes = [node("a", {U250: "1"}), node("b", {U250: "2"})]
    assert free(nodes, [pod({U250: "2"}, phase="Pending")]) == {"a": {U250: 1}}
    assert free(nodes, [pod({U250: "3"}, phase="Pending")]) == {"a": {U250: 1}, "b": {U250: 2}}


def test_cordoned_nodes_and_labels() -> None:
    nodes = [node("a", {U250: "1"}, unschedulable=True), node("b", {U250: "1"}, {"x": "y"})]
    (offer,) = free_boards(nodes, [], {U250})
    assert (offer.name, offer.labels, offer.new) == ("b", {"x": "y"}, False)


def test_init_containers_take_the_same_boards() -> None:
    def taken(*init: Any) -> int:
        return pod_boards(pod({U250: "1"}, init=init), {U250})[U250]

    one, two = {"resources": {"limits": {U250: "1"}}}, {"resources": {"limits": {U250: "2"}}}
    assert (taken(), taken(one), taken(two), taken(one, two)) == (1, 1, 2, 2)
    assert taken({**one, "restartPolicy": "Always"}, one) == 2  # a sidecar stays


def test_strange_objects_are_survived() -> None:
    nodes = [node("a", {U250: "1k"}), {}, {"metadata": None}, node("b", {U250: "1.5"})]
    assert free(nodes, [{}, {"spec": {"containers": None}}, pod({U250: "x"}, node="a")]) == {"a": {U250: 1000}}


# --- labels ----------------------------------------------------------------------------------------------------


def test_node_labels() -> None:
    with fpgahal.emu.rack("pac-a10:2,u250,aws-f1"):
        devices = fpgahal.devices()
    found = node_labels(devices)
    assert found["fpgahal.dev/boards"] == "4"
    assert {name: value for name, value in found.items() if ".count" in name} == {
        "fpgahal.dev/aws-f1.count": "1",
        "fpgahal.dev/pac-a10.count": "2",
        "fpgahal.dev/u250.count": "1",
    }
    assert {resource for name in found if ".count" in name for resource in [name.removesuffix(".count")]} == set(
        take(devices, Settings()).resources
    )
    shelled = node_labels(devices, inaccel=True)
    assert {name: shelled[name] for name in shelled.keys() - found.keys()} == {
        "intel/pac_a10": "9926ab6d6c925a68aabca7d84c545738",
        "xilinx/aws-vu9p-f1": "shell-v04261818_201920.3",
        "xilinx/u250": "gen3x16_xdma_shell_3.1",
    }
    assert found["fpgahal.dev/pac-a10.shell"] == "9926ab6d6c925a68aabca7d84c545738"
    assert found["fpgahal.dev/pac-a10.afu"] == "d8424dc4a4a3c413f89e433683f9040b"
    assert found["fpgahal.dev/pac-a10.driver"] == "intel-fpga"
    assert found["fpgahal.dev/u250.shell"] == "gen3x16_xdma_shell_3.1"
    assert found["fpgahal.dev/u250.afu"] == "none"
    assert found["fpgahal.dev/u250.emulated"] == "true"
    label = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
    assert all(label.fullmatch(name.partition("/")[2]) and label.fullmatch(value) for name, value in found.items())
    assert list(found) == sorted(found)
    assert node_labels([]) == {}


def test_boards_that_differ_are_mixed() -> None:
    from dataclasses import replace
    from uuid import UUID

    with fpgahal.emu.rack("pac-a10:2"):
        first, second = fpgahal.devices()
    second = replace(second, afu_id=UUID(int=1), emulated=False)
    found = node_labels([first, second])
    assert (found["fpgahal.dev/pac-a10.afu"], found["fpgahal.dev/pac-a10.emulated"]) == ("mixed", "mixed")


def test_label_values() -> None:
    assert label_value("a b/c") == "a-b-c"
    assert label_value("_x_") == "x"
    assert len(label_value("x" * 64)) == 63
    assert label_value("x" * 64) != label_value("x" * 65)


def test_labels_as_a_features_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "features.d").mkdir()
    file = tmp_path / "features.d" / "fpgahal"
    for spec in ("u280", "d5005:2"):
        assert run("node-labels", "--emulate", spec, "-o", file) == ""
        lines = file.read_text()
        assert lines == run("node-labels", "--emulate", spec)
        assert lines == "".join(
            f"{name}={value}\n" for name, value in run("node-labels", "--emulate", spec, "--json")["labels"].items()
        )
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o644
    assert os.listdir(file.parent) == ["fpgahal"]
    assert "Is a directory" in run("node-labels", "--emulate", "u280", "-o", tmp_path / "features.d", code=3)
    assert os.listdir(file.parent) == ["fpgahal"]
