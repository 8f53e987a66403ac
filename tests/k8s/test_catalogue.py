# SPDX-License-Identifier: Apache-2.0
"""Catalogues: our own form, InAccel's, and what is wrong with each."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from planner_cases import CATALOGUE, EXACT, F1, U250, catalogue_file

from fpgahal.k8s.catalogue import CatalogueError, load

IF10, NLB0 = "ce48969398f05f33946d560708be108a", "d8424dc4a4a3c413f89e433683f9040b"
ENTRY = f'[images.i]\nboard = "{U250}"\naccelerators = {{ "a" = 1 }}\n'


def bitstream(**changes: Any) -> dict[str, Any]:
    """A bitstream.json of the form that InAccel documents; two compute units of one accelerator."""
    units = [{"name": f"xgboost_exact_{n}", "kernelId": "exact", "arguments": []} for n in range(2)]
    return {
        "name": "xgboost_exact.hw.awsxclbin",
        "bitstreamId": "com.inaccel.xgboost",
        "version": "0.1",
        "description": "exact updater kernels",
        "platform": {"vendor": "xilinx", "name": "aws-vu9p-f1-04261818", "version": "dynamic_5.0"},
        "kernels": units,
        **changes,
    }


def refused(path: Path, text: str, suffix: str = ".toml") -> str:
    file = path / f"catalogue{suffix}"
    file.write_text(text)
    with pytest.raises(CatalogueError) as caught:
        load(file)
    assert caught.value.message.startswith(str(path))
    return caught.value.message


def test_our_own_form(tmp_path: Path) -> None:
    known = load(catalogue_file(tmp_path))
    assert [(image.name, image.board, dict(image.accelerators)) for image in known.images] == [
        ("vadd-u280", "xilinx/u280", {"vadd": 1}),
        ("xgboost-f1", F1, {EXACT: 2}),
        ("xgboost-u250", U250, {EXACT: 4}),
    ]
    assert known.groups[1].labels == {"node.kubernetes.io/instance-type": "f1.4xlarge"}
    assert all(group.new for group in known.groups)


def test_json_is_the_same(tmp_path: Path) -> None:
    import tomllib

    (tmp_path / "c.json").write_text(json.dumps(tomllib.loads(CATALOGUE)))
    assert load(tmp_path / "c.json") == load(catalogue_file(tmp_path))


def test_ids_namespaces_and_selectors(tmp_path: Path) -> None:
    text = (
        f'{ENTRY}namespaces = ["team-a"]\nnode_selector = {{ "{U250}" = "xdma_201830.2" }}\n'
        f'interface_id = "{IF10.upper()}"\nafu_id = "d8424dc4-a4a3-c413-f89e-433683f9040b"\n'
    )
    (image,) = load(catalogue_file(tmp_path, text)).images
    assert (image.interface_id, image.afu_id) == (IF10, NLB0)
    assert (image.permitted("team-a"), image.permitted("team-b"), image.permitted("*")) == (True, False, False)
    assert (image.fits({U250: "xdma_201830.2", "x": "y"}), image.fits({U250: "other"}), image.fits({})) == (
        True,
        False,
        False,
    )
    assert load(tmp_path / "catalogue.toml").permitted("team-b") == ()


def test_groups_in_our_own_scheme(tmp_path: Path) -> None:
    text = '[groups.g]\ninstance_type = "f2.12xlarge"\nscheme = "own"\nlabels = { zone = "a", "a.b/c" = "d" }\n'
    (group,) = load(catalogue_file(tmp_path, text)).groups
    assert (group.boards, group.new) == ({"fpgahal.dev/aws-f2": 2}, True)
    assert group.labels == {"node.kubernetes.io/instance-type": "f2.12xlarge", "zone": "a", "a.b/c": "d"}


def test_without_namespaces_nobody_may(tmp_path: Path) -> None:
    assert load(catalogue_file(tmp_path, ENTRY)).permitted("default") == ()


def test_inaccel_file(tmp_path: Path) -> None:
    """InAccel's own file for the accelerator of the source document: single names, the shell's build in the board."""
    (tmp_path / "bitstream.json").write_text(json.dumps(bitstream()))
    (image,) = load(tmp_path / "bitstream.json").images
    assert (image.board, dict(image.accelerators)) == (F1, {EXACT: 2})
    assert image.node_selector == {F1: "dynamic_5.0"}
    assert image.name == "com-inaccel-xgboost-0-1-aws-vu9-" + image.name[-8:]
    assert len(image.name) == 40


def test_inaccel_lists_of_names(tmp_path: Path) -> None:
    kernels = [
        {"name": ["vadd_0", "vadd_1"], "kernelId": "addition", "arguments": []},
        {"name": ["vsub_0"], "kernelId": "subtraction", "arguments": []},
    ]
    (tmp_path / "b.json").write_text(json.dumps(bitstream(bitstreamId="vector", kernels=kernels)))
    (image,) = load(tmp_path / "b.json").images
    assert image.accelerators == {"vector.addition": 2, "vector.subtraction": 1}


def test_inaccel_repository(tmp_path: Path) -> None:
    for name, version in (("u250", "xdma_201830.2"), ("u280", "xdma_201920.3")):
        folder = tmp_path / "xilinx" / name / version
        folder.mkdir(parents=True)
        platform = {"vendor": "xilinx", "name": name, "version": version}
        (folder / "bitstream.json").write_text(json.dumps(bitstream(platform=platform)))
    assert sorted(image.board for image in load(tmp_path).images) == ["xilinx/u250", "xilinx/u280"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(CatalogueError, match=r"no bitstream\.json"):
        load(tmp_path / "empty")


def test_our_form_adds_to_inaccel(tmp_path: Path) -> None:
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo" / "bitstream.json").write_text(json.dumps(bitstream()))
    text = f'[images.x]\nbitstream = "repo/bitstream.json"\nnamespaces = ["*"]\nafu_id = "{NLB0}"\n'
    (image,) = load(catalogue_file(tmp_path, text)).images
    assert (image.name, image.board, image.accelerators, image.afu_id) == ("x", F1, {EXACT: 2}, NLB0)
    assert image.permitted("anybody")


def test_board_for_a_file_without_platform(tmp_path: Path) -> None:
    document = bitstream()
    del document["platform"]
    (tmp_path / "b.json").write_text(json.dumps(document))
    text = f'[images.x]\nbitstream = "b.json"\nboard = "{U250}"\n'
    (image,) = load(catalogue_file(tmp_path, text)).images
    assert (image.board, image.node_selector) == (U250, {})
    assert "platform" in refused(tmp_path, '[images.x]\nbitstream = "b.json"\n')


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x = ", "is not TOML"),
        ("x = 1", "'x', which means nothing; expected groups, images"),
        ("images = 1", "tables [images.NAME] were expected"),
        (ENTRY + 'bord = "x"', "images.i: has 'bord'"),
        (ENTRY.replace("images.i", "images.I"), "DNS label"),
        (ENTRY.replace("images.i", f"images.{'i' * 41}"), "at most 40"),
        (ENTRY.replace("xilinx/", ""), "'u250' is no resource"),
        (ENTRY.replace("xilinx/", "accel.fpgahal.dev/"), "no board can be of"),
        (ENTRY.replace("xilinx/", "node.kubernetes.io/"), "no board can be of"),
        (ENTRY.replace('"a" = 1', '"a" = 0'), "a is 0: a number from 1 to 256"),
        (ENTRY.replace('"a" = 1', '"a" = true'), "a is True"),
        (ENTRY.replace('"a" = 1', '"a" = 1.5'), "a is 1.5"),
        (ENTRY.replace('"a" = 1', '"a b" = 1'), "'a b' can't be asked for"),
        (ENTRY.replace('"a" = 1', f'"{"a" * 64}" = 1'), "can't be asked for"),
        (ENTRY.replace('"a" = 1', ""), "at least one accelerator"),
        ('[images.i]\nboard = "a/b"\n', "accelerators is missing"),
        (ENTRY + 'namespaces = "*"', "a list of namespaces"),
        (ENTRY + "namespaces = [1]", "a list of namespaces"),
        (ENTRY + 'afu_id = "x"', "images.i.afu_id: 'x' is no AFU id"),
        (ENTRY + f'interface_id = "{IF10}"', "without an afu_id"),
        (ENTRY + 'node_selector = { "a b" = "c" }', "is no label"),
        (ENTRY + 'node_selector = { "a" = 1 }', "a text was expected"),
        (ENTRY + 'node_selector = { "a" = "c d" }', "can't be a label's value"),
        (ENTRY + 'bitstream = "b.json"', "remove one of them"),
        ('[images.i]\nbitstream = "b.json"', "can't be read"),
        (
            ENTRY + f'afu_id = "{NLB0}"\n' + ENTRY.replace(".i", ".j") + f'afu_id = "{NLB0}"',
            "images i and j have the same ids",
        ),
        (ENTRY.replace('"a" = 1', ", ".join(f"a{n} = 1" for n in range(21))), "image i has more than 20 accelerators"),
        ("[groups.g]", "either instance_type (and scheme) or boards"),
        ('[groups.g]\ninstance_type = "m5.large"', "No boards are known"),
        ('[groups.g]\ninstance_type = "f1.4xlarge"\nscheme = "x"', "'x' is no naming scheme"),
        ('[groups.g]\nboards = { "a/b" = 1 }\nscheme = "own"', "either instance_type (and scheme) or boards"),
        ('[groups.g]\nboards = { "u250" = 1 }', "is no resource"),
        ('[groups.g]\nboards = { "a/b" = -1 }', "a/b is -1"),
    ],
)
def test_what_is_wrong(text: str, says: str, tmp_path: Path) -> None:
    assert says in refused(tmp_path, text)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"bitstreamId": ""}, "bitstreamId is ''"),
        ({"version": 1}, "version is 1"),
        ({"platform": None}, "platform is missing"),
        ({"platform": {"vendor": "xilinx", "name": "u250"}}, "platform: version is missing"),
        ({"platform": {"vendor": "intel / xilinx", "name": "u250", "version": "1"}}, "is no resource"),
        ({"kernels": []}, "a list of kernels"),
        ({"kernels": ["x"]}, "kernels[0]: an object"),
        ({"kernels": [{"name": [], "kernelId": "x"}]}, "kernels[0]: name"),
        ({"kernels": [{"name": "x"}]}, "kernelId is missing"),
        ({"kernels": [{"name": [str(n) for n in range(257)], "kernelId": "x"}]}, "from 1 to 256"),
    ],
)
def test_what_is_wrong_with_a_bitstream(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    assert says in refused(tmp_path, json.dumps(bitstream(**change)), ".json")


def test_what_is_no_catalogue(tmp_path: Path) -> None:
    assert "is not JSON: the key 'a' appears twice" in refused(tmp_path, '{"a": 1, "a": 2}', ".json")
    assert "a JSON object was expected" in refused(tmp_path, "[]", ".json")
    assert "is not JSON" in refused(tmp_path, "[" * 100_000, ".json")
    assert "larger than 4 MiB" in refused(tmp_path, " " * (5 << 20), ".json")
    (tmp_path / "c.toml").write_bytes(b"\xff")
    with pytest.raises(CatalogueError, match="not UTF-8"):
        load(tmp_path / "c.toml")
    with pytest.raises(CatalogueError, match="No such file"):
        load(tmp_path / "nowhere.toml")


@given(st.binary(max_size=80), st.sampled_from([".toml", ".json"]))
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, data: bytes, suffix: str) -> None:
    path = tmp_path_factory.getbasetemp() / f"any{suffix}"
    path.write_bytes(data)
    with contextlib.suppress(CatalogueError):
        load(path)
