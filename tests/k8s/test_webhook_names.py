# SPDX-License-Identifier: Apache-2.0
"""Resource names of Intel's schemes, and the custom resources that use them."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from webhook_cases import HASH, IF10, IF12, IFD5, NLB0, NLB3, af, region, table

from fpgahal import ArgumentRangeError
from fpgahal.k8s.names import af_resource, af_resource_2018, is_intel_node_name, region_resource
from fpgahal.k8s.webhook import crds
from fpgahal.k8s.webhook.app import main
from fpgahal.k8s.webhook.resources import Broken, Kind, parse

DEPLOYED = Path(__file__).parents[2] / "deploy" / "crds"
hex_digits = st.text("0123456789abcdef", min_size=30, max_size=42)


@pytest.mark.parametrize(
    ("interface", "afu", "name"),
    [
        (IF10, NLB0, "af-ce4.d84.zkiWk5jwXzOUbVYHCL4QithCTcSko8QT-J5DNoP5BAs"),
        (IF10, NLB3, "af-ce4.f7d.zkiWk5jwXzOUbVYHCL4QivffQFy9es9yIvFEsLk6zRg"),
        (IF12, NLB0, "af-695.d84.aVKNtusxV3qMNmj5-qCB9thCTcSko8QT-J5DNoP5BAs"),
        ("f" * 32, "f" * 32, "af-fff.fff.__________________________________________8"),
    ],
)
def test_A1_af_name(interface: str, afu: str, name: str) -> None:
    assert af_resource(interface, afu) == name
    assert is_intel_node_name(name)


def test_A2_af_name_d5005() -> None:
    assert af_resource(IFD5, NLB3) == "af-bfa.f7d.v6xNhR7oVv6MlYZc4buqLfffQFy9es9yIvFEsLk6zRg"


@pytest.mark.parametrize("bad", ["unparsable", "", IF10[:-1], IF10 + "00", "g" * 32, "٣" * 32])
def test_A3_not_an_id(bad: str) -> None:
    with pytest.raises(ArgumentRangeError, match="32 hex digits"):
        af_resource(bad, NLB0)
    with pytest.raises(ArgumentRangeError, match="32 or 40 hex digits"):
        af_resource(IF10, bad)
    with pytest.raises(ValueError, match="interface id"):
        region_resource(bad)


def test_A8_names_of_2018() -> None:
    assert af_resource_2018(NLB0) == f"af-{NLB0}"
    assert region_resource(IF12) == f"region-{IF12}"
    assert is_intel_node_name(f"af-{NLB0}")
    assert is_intel_node_name(f"region-{IF12}")


def test_the_name_of_a_hash_fits() -> None:
    name = af_resource(IF10, HASH)
    assert len(name) == 59
    assert is_intel_node_name(name)


def test_ids_in_other_spellings_give_the_same_name() -> None:
    assert region_resource("CE489693-98F0-5F33-946D-560708BE108A\n") == f"region-{IF10}"


# --- custom resources -----------------------------------------------------------------------------------------


def test_deployed_crds_are_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["crds"]) == 0
    printed = capsys.readouterr().out
    files = {path.name: path.read_text() for path in sorted(DEPLOYED.iterdir())}
    assert files == {name: crds.yaml_text(document) for name, document in crds.definitions().items()}, (
        "run: fpgahal-webhook crds"
    )
    assert [*yaml.safe_load_all(printed)] == [yaml.safe_load(text) for text in files.values()]
    assert main(["crds", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["items"] == [*crds.definitions().values()]


@pytest.mark.parametrize("kind", Kind)
def test_crds_are_structural(kind: Kind) -> None:
    document = yaml.safe_load((DEPLOYED / f"{kind.plural}.yaml").read_text())
    assert document == crds.definition(kind)
    (version,) = document["spec"]["versions"]
    assert version["subresources"] == {"status": {}}
    assert document["metadata"]["name"] == f"{document['spec']['names']['plural']}.{document['spec']['group']}"
    jsonschema.Draft202012Validator.check_schema(version["schema"]["openAPIV3Schema"])

    def typed(node: dict[str, object]) -> None:
        assert "type" in node  # structural: every node says its type
        for child in (node.get("properties") or {}).values():
            typed(child)
        if node["type"] == "array":
            typed(node["items"])

    typed(version["schema"]["openAPIV3Schema"])


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (af("a"), None),
        (af("a", mode="region"), None),
        (af("a", afu=HASH, mode="region"), None),
        (af("arria10.dcp1.0-nlb0-orchestrated", mode="region"), None),
        (af("a", afu="wrong string"), "InvalidAfuId"),
        (af("a", afu=NLB0.upper()), "InvalidAfuId"),
        (af("a", afu=12345678), "InvalidAfuId"),
        (af("a", interface="ce48"), "InvalidInterfaceId"),
        (af("a", interface=None), "InvalidInterfaceId"),
        (af("a", mode="afx"), "InvalidMode"),
        (af("a", mode="xregion"), "InvalidMode"),
        (af("a", mode="regiondevel"), "InvalidMode"),
        (af("a", mode=None), "InvalidMode"),
        (region("r"), None),
        (region("r", interface="0" * 33), "InvalidInterfaceId"),
        ({**af("a"), "spec": None}, "NoSpec"),
    ],
)
def test_schema_and_parser_agree(document: dict[str, object], reason: str | None) -> None:
    kind = Kind(document["kind"])
    parsed = parse(kind, document)
    validator = jsonschema.Draft202012Validator(crds.schema(kind))
    assert validator.is_valid(document) == (reason is None)
    assert (parsed.reason if isinstance(parsed, Broken) else None) == reason


@given(hex_digits, hex_digits, st.sampled_from(["af", "region", "afx", "", None]))
def test_schema_and_parser_agree_on_any_ids(afu: str, interface: str, mode: str | None) -> None:
    document = af("a", afu, interface, mode)
    rule = mode == "region" or len(afu) == 32  # x-kubernetes-validations, which JSON schema does not know
    valid = jsonschema.Draft202012Validator(crds.schema(Kind.FUNCTION)).is_valid(document) and rule
    assert isinstance(parse(Kind.FUNCTION, document), Broken) != valid


def test_a_pattern_is_matched_to_the_end() -> None:
    """Python's ``$`` (and so jsonschema) takes a last newline; the API server's does not."""
    assert isinstance(parse(Kind.FUNCTION, af("a", afu=NLB0 + "\n")), Broken)


def test_a_hash_is_never_preprogrammed() -> None:
    """Its name would be 59 characters, Intel's socket for it 111, and a port answers UUIDs only."""
    parsed = parse(Kind.FUNCTION, af("a", afu=HASH))
    assert isinstance(parsed, Broken)
    assert parsed.reason == "HashNotPreprogrammed"


@pytest.mark.parametrize("name", [f"region-{IF10}", f"af-{NLB0}"])
def test_names_of_nodes_are_reserved(name: str) -> None:
    """A mapping called like a node's resource would make the result of a second review another one."""
    parsed = parse(Kind.REGION, region(name, IF12))
    assert isinstance(parsed, Broken)
    assert parsed.reason == "ReservedName"


def test_a_name_of_both_kinds_means_neither() -> None:
    names = table(af("x"), region("x"), af("y"))
    assert [*names.namespace("default").targets] == ["fpga.intel.com/y"]
    for kind in Kind:
        verdict = names.verdict(kind, "default", "x")
        assert verdict is not None
        assert verdict.reason == "AmbiguousName"
        assert verdict.kind is kind
    names.drop(Kind.REGION, "default", "x")
    assert names.verdict(Kind.FUNCTION, "default", "x") is None


@pytest.mark.parametrize("bad", [{}, {"metadata": 3}, {"metadata": {"name": "a"}, "spec": []}])
def test_odd_documents_are_broken_and_nothing_else(bad: dict[str, object]) -> None:
    assert isinstance(parse(Kind.FUNCTION, bad), Broken)
