# SPDX-License-Identifier: Apache-2.0
"""Pods in, pods or refusals out: the conformance cases F, and the defects of Intel's webhook."""

from __future__ import annotations

import json
from typing import Any

import pytest
from webhook_cases import (
    AF_IF10_NLB0,
    DOMAIN,
    HASH,
    IF10,
    IF12,
    NLB0,
    NLB3,
    REGION_IF10,
    REGION_IF12,
    admit,
    af,
    container,
    pairs,
    pod,
    refusal,
    region,
    review,
    table,
)

from fpgahal.k8s.names import af_resource_2018
from fpgahal.k8s.webhook.container import MAX_UNITS
from fpgahal.k8s.webhook.resources import Kind, parse
from fpgahal.k8s.webhook.review import decide, decide_body
from fpgahal.k8s.webhook.table import Table

NAMES = table(
    af("arria10-nlb0"),
    af("arria10-nlb3", NLB3),
    af("nlb0-orchestrated", mode="region"),
    af("nlb0-alias", mode="region"),
    af("nlb3-orchestrated", NLB3, IF12, mode="region"),
    af("matrix-mult", HASH, IF12, mode="region"),
    region("arria10"),
)


def test_F1_preprogrammed() -> None:
    asked = container({"arria10-nlb0": "1", "cpu": "2"})
    assert admit(pod(asked), NAMES) == pod(container({AF_IF10_NLB0: "1", "cpu": "2"}))


def test_F2_orchestrated_with_two_aliases() -> None:
    asked = container({"nlb0-orchestrated": 1, "nlb0-alias": 2}, [{"name": "SOME_VAR", "value": "x"}])
    expected = container({REGION_IF10: "3"}, [{"name": "SOME_VAR", "value": "x"}, *pairs(*[(IF10, NLB0)] * 3)])
    assert admit(pod(asked), NAMES) == pod(expected)


def test_F2_two_regions_and_a_hash() -> None:
    asked = container({"nlb3-orchestrated": 1, "matrix-mult": 1, "nlb0-alias": 1})
    made = [(IF12, HASH), (IF10, NLB0), (IF12, NLB3)]  # by name
    assert admit(pod(asked), NAMES) == pod(container({REGION_IF10: "1", REGION_IF12: "2"}, pairs(*made)))


def test_F3_region() -> None:
    assert admit(pod(container({"arria10": "1"})), NAMES) == pod(container({REGION_IF10: "1"}))


def test_F4_limits_and_requests_must_be_equal() -> None:
    asked = container({"arria10-nlb0": 1})
    for part in ("limits", "requests"):
        one = {**asked, "resources": {part: asked["resources"][part]}}
        assert "must be equal" in refusal(pod(one), NAMES)
    differing = {**asked, "resources": {**asked["resources"], "requests": {f"{DOMAIN}arria10-nlb0": 2}}}
    assert "the limit is 1 and the request is 2" in refusal(pod(differing), NAMES)
    differing["resources"]["requests"] = {f"{DOMAIN}arria10-nlb3": 1}
    assert "must be equal" in refusal(pod(differing), NAMES)


def test_F5_unknown_name() -> None:
    message = refusal(pod(container({"unknown-nlb0": 1})), NAMES)
    assert "fpga.intel.com/unknown-nlb0" in message
    assert "container 'work'" in message
    assert "namespace default" in message
    assert "fpga.intel.com/arria10-nlb0, " in message  # what there is
    assert "It has none" in refusal(pod(container({"unknown-nlb0": 1})), table())


@pytest.mark.parametrize("quantity", ["1.1", 1.1, "-1", "1m", "1Ki", "", True, "٣", "1e3", [1], {}])
def test_F6_quantity(quantity: Any) -> None:
    assert "is no whole number" in refusal(pod(container({"arria10-nlb0": quantity})), NAMES)


def test_F6_quantity_has_a_bound() -> None:
    """Otherwise one pod could make the webhook write a patch of any length."""
    assert "more than a node" in refusal(pod(container({"nlb0-alias": MAX_UNITS + 1})), NAMES)
    made = admit(pod(container({"nlb0-alias": MAX_UNITS})), NAMES)
    assert len(made["spec"]["containers"][0]["env"]) == 2 * MAX_UNITS


def test_F7_modes() -> None:
    modes = ("arria10-nlb0", "nlb0-alias", "arria10")
    for first, second in ((a, b) for a in modes for b in modes if a < b):
        assert "different modes" in refusal(pod(container({first: 1, second: 1})), NAMES)
        admit(pod(container({first: 1}), container({second: 1})), NAMES)


def test_F8_unknown_mode_in_the_resource() -> None:
    names = table(af("odd", mode="unknown"), af("arria10-nlb0"))
    message = refusal(pod(container({"odd": 1})), names)
    assert "AcceleratorFunction is broken" in message
    assert "'unknown'" in message


def test_A8_nodes_with_names_of_2018() -> None:
    names = Table(lambda _, afu: af_resource_2018(afu))
    names.put(parse(Kind.FUNCTION, af("arria10-nlb0")))
    made = pod(container({f"{DOMAIN}af-{NLB0}": "2"}))
    assert admit(pod(container({"arria10-nlb0": 2})), names) == made
    refusal(pod(container({AF_IF10_NLB0: 1})), names)


def test_F9_identity() -> None:
    asked = pod(container({AF_IF10_NLB0: 1}))
    assert decide(review(asked), NAMES).patch == ()
    assert admit(asked, NAMES) == asked
    message = refusal(asked, table(af("other", NLB3)))
    assert "nothing in namespace default maps to it" in message
    assert "It has fpga.intel.com/other." in message


def test_F9_identity_of_a_region() -> None:
    """The bare region is the FpgaRegion's; who may only have functions must say which one."""
    asked = pod(container({REGION_IF10: 1}))
    assert admit(asked, table(region("arria10"))) == asked
    message = refusal(asked, table(af("nlb0-alias", mode="region")))
    assert "ask for fpga.intel.com/nlb0-alias" in message
    refusal(asked, table(af("arria10-nlb0")))


@pytest.mark.parametrize(
    "asked",
    [
        {"arria10-nlb0": 1, "arria10-nlb3": 2},
        {"nlb0-orchestrated": 1, "nlb0-alias": 2, "nlb3-orchestrated": 1},
        {"arria10": 4},
        {"cpu": "500m"},
        {"arria10": 0},
    ],
)
@pytest.mark.parametrize("env", [None, [], [{"name": "A", "value": "1"}]])
def test_F12_idempotent(asked: dict[str, Any], env: list[Any] | None) -> None:
    admit(pod(container(asked, env), init=[container(asked, env)]), NAMES)  # admit() reviews twice


def test_F17_namespaces() -> None:
    names = table(af("b-only", namespace="b"), af("shared", NLB0, namespace="a"), af("shared", NLB3, namespace="b"))
    refusal(pod(container({"b-only": 1}), namespace="a"), names, "a")
    asked = pod(container({"shared": 1}))
    asked["metadata"] = {"generateName": "set-"}  # of a ReplicaSet
    assert AF_IF10_NLB0 in admit(asked, names, "a")["spec"]["containers"][0]["resources"]["limits"]
    assert AF_IF10_NLB0 not in admit(asked, names, "b")["spec"]["containers"][0]["resources"]["limits"]
    message = refusal(pod(container({AF_IF10_NLB0: 1})), table(af("x", namespace="b")), "a")
    assert "in namespace a maps" in message


def test_F17_the_request_says_the_namespace() -> None:
    """A pod that names another namespace than the request does not get that one's table."""
    names = table(af("b-only", namespace="b"))
    assert decide(review(pod(container({"b-only": 1}), namespace="b"), "a"), names).denied
    assert decide(review(pod(container({"b-only": 1}), namespace="b"), ""), names).result == "patched"


def test_F18_reviews_of_anything() -> None:
    asked = review(pod(container({"arria10-nlb0": 1})))
    uid = asked["request"]["uid"]
    deployments = {"group": "apps", "version": "v1", "resource": "deployments"}
    wrong = decide(review(pod(), resource=deployments), NAMES).document()["response"]
    assert (wrong["uid"], wrong["allowed"]) == (uid, False)
    for empty in (None, {}):
        response = decide(review(empty), NAMES).document()["response"]
        assert response == {"uid": uid, "allowed": True}
    assert decide_body(b'{"corrupt', NAMES).denied
    assert decide_body(b"[" * 100_000, NAMES).denied
    deep = json.dumps(review({"spec": {"containers": "deep"}})).encode()
    for depth in (100, 500, 900, 960, 990):
        nested = b'{"a":' * depth + b"1" + b"}" * depth
        assert decide_body(deep.replace(b'"deep"', nested), NAMES).denied
    for corrupt in ("pod", [], 3, {}):
        decision = decide(review({"spec": {"containers": corrupt}}), NAMES)
        assert bool(decision.denied) == (corrupt != [])
        assert decision.uid == uid
    assert decide({**asked, "apiVersion": "admission.k8s.io/v1beta1"}, NAMES).denied
    document = decide(asked, NAMES).document()
    assert (document["apiVersion"], document["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
    assert document["response"]["uid"] == uid


@pytest.mark.parametrize("operation", ["UPDATE", "DELETE", "CONNECT"])
def test_F18_only_creation_is_reviewed(operation: str) -> None:
    """A running pod whose mapping is gone must still take a label."""
    assert decide(review(pod(container({"gone": 1})), operation=operation), NAMES).result == "allowed"


def test_F21_the_table_follows() -> None:
    names = table(af("one"), af("two"))
    asked, real = pod(container({"one": 1})), pod(container({AF_IF10_NLB0: 1}))
    admit(asked, names)
    names.put(parse(Kind.FUNCTION, af("one", NLB3)))
    assert admit(asked, names) != real
    admit(real, names)  # through the other alias
    names.put(parse(Kind.FUNCTION, af("two", NLB3)))
    refusal(real, names)  # the old identity is gone with its last alias
    names.drop(Kind.FUNCTION, "default", "one")
    refusal(asked, names)
    admit(pod(container({"two": 1})), names)
    names.drop(Kind.FUNCTION, "default", "two")
    names.drop(Kind.FUNCTION, "default", "two")
    assert names.namespaces() == []


def test_F21_a_list_replaces_its_kind_only() -> None:
    names = table(af("gone"), region("arria10"), af("gone", namespace="b"))
    names.replace(Kind.FUNCTION, [parse(Kind.FUNCTION, af("new"))])
    assert [*names.namespace("default").targets] == ["fpga.intel.com/arria10", "fpga.intel.com/new"]
    assert names.namespaces() == ["default"]


def test_F23_one_broken_resource() -> None:
    names = table(af("broken", "wrong string"), af("arria10-nlb0"))
    verdict = names.verdict(Kind.FUNCTION, "default", "broken")
    assert verdict is not None
    assert "'wrong string'" in verdict.message
    assert "wrong string" in refusal(pod(container({"broken": 1})), names)
    admit(pod(container({"arria10-nlb0": 1})), names)


# --- forged variables -------------------------------------------------------------------------------------------

FORGED = pairs((IF10, NLB3))
ASKED: list[dict[str, Any] | None] = [
    None,
    {"cpu": 1},
    {AF_IF10_NLB0: 1},
    {REGION_IF10: 1},
    {"arria10-nlb0": 1},
    {"nlb0-orchestrated": 1},
    {"arria10": 1},
]


@pytest.mark.parametrize("asked", ASKED, ids=str)
@pytest.mark.parametrize(
    "env",
    [
        FORGED,
        pairs((IF10, NLB0)) * 2,
        pairs((IF10, NLB0), (IF10, NLB0)),
        [{"name": "FPGA_REGION_1", "value": IF10}],
        [{"name": "FPGA_AFU_1", "value": NLB0}],
        [{"name": "FPGA_AFU_01", "value": NLB0}],
        [{"name": "FPGA_REGION", "value": IF10}],
        [{"name": "FPGA_AFU_1"}],
        [{"name": "FPGA_REGION_2", "value": IF10}, {"name": "FPGA_AFU_2", "value": NLB0}],
        [{"name": "FPGA_AFU_1", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}}],
        [*pairs((IF10, NLB0))[:1], {"name": "FPGA_AFU_1", "value": NLB0, "valueFrom": {"fieldRef": {}}}],
        [{"name": "X", "value": "1"}, {"name": "FPGA_REGION_99999", "value": IF10}],
    ],
)
def test_forged_variables_never_pass(asked: dict[str, Any] | None, env: list[Any]) -> None:
    """Intel's webhook let them pass beside an identity resource, or without any."""
    for subject in (pod(container(asked, env)), pod(container(), init=[container(asked, env)])):
        message = refusal(subject, NAMES)
        assert "FPGA_" in message
        assert "the webhook's" in message or "different modes" in message or "nothing in namespace" in message


def test_our_own_output_passes_only_as_a_whole() -> None:
    good = pairs((IF10, NLB0), (IF12, NLB3))
    asked = {REGION_IF10: 1, REGION_IF12: 1}
    assert admit(pod(container(asked, good)), NAMES) == pod(container(asked, good))
    refusal(pod(container({REGION_IF10: 1}, good)), NAMES)
    refusal(pod(container({REGION_IF10: 2, REGION_IF12: 1}, good)), NAMES)
    refusal(pod(container(asked, good)), table(af("nlb0-alias", mode="region")))  # one mapping has gone since
    refusal(pod(container(asked, good), namespace="b"), NAMES, "b")
    swapped = pairs((IF12, NLB0), (IF10, NLB3))
    assert "has that pair" in refusal(pod(container(asked, swapped)), NAMES)


def test_output_and_a_mapped_name_that_another_webhook_added() -> None:
    asked = container({REGION_IF10: 1, "nlb3-orchestrated": 1, "nlb0-alias": 1}, pairs((IF10, NLB0)))
    made = container({REGION_IF10: "2", REGION_IF12: "1"}, pairs((IF10, NLB0), (IF10, NLB0), (IF12, NLB3)))
    assert admit(pod(asked), NAMES) == pod(made)
    assert "different modes" in refusal(pod(container({AF_IF10_NLB0: 1, "nlb0-alias": 1})), NAMES)
    both = container({AF_IF10_NLB0: 1, "arria10-nlb0": 2})
    assert admit(pod(both), NAMES) == pod(container({AF_IF10_NLB0: "3"}))


def test_env_from_elsewhere_can_not_bring_them() -> None:
    def with_prefix(prefix: str | None, asked: dict[str, Any] | None) -> Any:
        source: dict[str, Any] = {"configMapRef": {"name": "c"}}
        return pod(container(asked, envFrom=[source if prefix is None else {**source, "prefix": prefix}]))

    for prefix in (None, "", "FPGA", "FPGA_REGION_", "FPGA_AFU_1"):
        for asked in ({"arria10": 1}, {REGION_IF10: 1}, {"nlb0-alias": 1}, {"arria10-nlb0": 1}):
            assert "envFrom" in refusal(with_prefix(prefix, asked), NAMES)
        admit(with_prefix(prefix, {"cpu": 1}), NAMES)  # without a board they are only variables
    admit(with_prefix("APP_", {"nlb0-alias": 1}), NAMES)


def test_variables_stay_as_they_are() -> None:
    """Intel's webhook sorts them, drops valueFrom and duplicates, and does not escape quotes."""
    env = [
        {"name": "Z", "value": 'quote " backslash \\ newline \n'},
        {"name": "A", "value": "$(Z)"},
        {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "A", "value": "again"},
        {"name": "MY_FPGA_REGION_1", "value": "mine"},
        {"name": "EMPTY"},
    ]
    made = admit(pod(container({"nlb0-alias": 1}, env)), NAMES)
    assert made["spec"]["containers"][0]["env"] == [*env, *pairs((IF10, NLB0))]


def test_init_containers() -> None:
    asked = container({"nlb0-alias": 1})
    made = container({REGION_IF10: "1"}, pairs((IF10, NLB0)))
    assert admit(pod(container(), asked, init=[asked]), NAMES) == pod(container(), made, init=[made])
    assert "init container 'work'" in refusal(pod(container(), init=[container({"unknown": 1})]), NAMES)


def test_names_with_special_characters_are_escaped() -> None:
    names = table(af("a.b-c"))
    admit(pod(container({"a.b-c": 1})), names)
    paths = [step["path"] for step in decide(review(pod(container({"a.b-c": 1}))), names).patch]
    assert paths[0] == "/spec/containers/0/resources/limits/fpga.intel.com~1a.b-c"


def test_other_resources_are_not_ours() -> None:
    asked = pod(container({"fpga.intel.company/x": 1, "xilinx.com/u250": 1, "cpu": 1}))
    asked["spec"]["containers"][0]["resources"]["limits"].pop("cpu")
    assert admit(asked, NAMES) == asked


def test_nothing_asked_for() -> None:
    assert admit(pod(container({"arria10-nlb0": 0})), NAMES) == pod(container({}))
    assert admit(pod(container({AF_IF10_NLB0: 0})), table()) == pod(container({AF_IF10_NLB0: 0}))
    refusal(pod(container({"unknown": 0})), NAMES)


def test_patches_are_deterministic() -> None:
    names = [table(*order) for order in ([af("a"), af("b", NLB3)], [af("b", NLB3), af("a")])]
    asked = [pod(container({"a": 1, "b": 1})), pod(container({"b": 1, "a": 1}))]
    answers = {json.dumps(decide(review(subject), known).document()) for subject in asked for known in names}
    assert len(answers) == 1


def test_a_patch_touches_only_what_it_must() -> None:
    for asked, steps in (({"arria10-nlb0": 1}, 4), ({"arria10": 1}, 4), ({"nlb0-orchestrated": 1, "nlb0-alias": 2}, 7)):
        assert len(decide(review(pod(container(asked))), NAMES).patch) == steps  # as many as Intel's


def test_programmable_pairs_for_the_node() -> None:
    assert NAMES.programmable("default") == {(IF10, NLB0), (IF12, NLB3), (IF12, HASH)}
    assert NAMES.programmable("elsewhere") == frozenset()
    assert table(af("a"), region("r")).programmable("default") == frozenset()


@pytest.mark.parametrize(
    "spec",
    [
        {"containers": [1]},
        {"containers": {"0": {}}},
        {"containers": [{"env": {"FPGA_AFU_1": "x"}}]},
        {"containers": [{"env": ["FPGA_AFU_1"]}]},
        {"containers": [{"resources": []}]},
        {"containers": [{"resources": {"limits": [f"{DOMAIN}x"]}}]},
        {"initContainers": "x"},
        "x",
    ],
)
def test_what_is_no_pod_is_denied(spec: Any) -> None:
    assert "was expected" in refusal({"spec": spec}, NAMES)
