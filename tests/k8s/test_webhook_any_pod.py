# SPDX-License-Identifier: Apache-2.0
"""Whatever a pod asks for: a patch applies, a second review changes nothing, and no forged variable gets through."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
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
    copy_of,
    pod,
    region,
    review,
    table,
)

from fpgahal.k8s.webhook.review import decide, decide_body

OBJECTS = [
    af("f0"),
    af("f3", NLB3, IF12),
    af("o0", mode="region"),
    af("o0-alias", mode="region"),
    af("o3", NLB3, IF12, mode="region"),
    af("hash", HASH, IF12, mode="region"),
    region("r10"),
    region("r12", IF12),
    af("broken", "x"),
    region("o3"),  # makes o3 ambiguous
]
MAPPED = ["f0", "f3", "o0", "o0-alias", "o3", "hash", "r10", "r12", "broken"]
RESERVED = re.compile("FPGA_REGION|FPGA_AFU")

tables = st.lists(st.sampled_from(OBJECTS), unique_by=lambda o: (o["kind"], o["metadata"]["name"])).map(
    lambda objects: table(*objects)
)
quantities = st.one_of(st.integers(0, 4), st.integers(0, 4).map(str), st.sampled_from(["1.1", "-1", 600, None, True]))
asked = st.dictionaries(
    st.sampled_from([*(DOMAIN + name for name in MAPPED), AF_IF10_NLB0, REGION_IF10, REGION_IF12, f"{DOMAIN}x", "cpu"]),
    quantities,
    max_size=3,
)
likely_env = st.builds(
    lambda kind, number, value: {"name": f"FPGA_{kind}_{number}", "value": value},
    st.sampled_from(["REGION", "AFU"]),
    st.sampled_from(["1", "2", "3", "01", "x"]),
    st.sampled_from([IF10, IF12, NLB0, NLB3, HASH, "$(X)"]),
)
other_env = st.one_of(
    st.builds(lambda name, value: {"name": name, "value": value}, st.sampled_from(["A", "B/~"]), st.text(max_size=4)),
    st.just({"name": "V", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}),
    st.just({"name": "FPGA_AFU_1", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}),
)
genuine_env = st.lists(st.sampled_from([(IF10, NLB0), (IF12, HASH), (IF12, NLB3)]), max_size=3).map(
    lambda wanted: [
        {"name": f"FPGA_{kind}_{n}", "value": value}
        for n, pair in enumerate(wanted, 1)
        for kind, value in zip(("REGION", "AFU"), pair, strict=True)
    ]
)
environments = st.one_of(
    st.none(), genuine_env, st.lists(st.one_of(other_env, likely_env), max_size=4), st.lists(other_env, max_size=3)
)
containers = st.builds(container, asked, environments)
pods = st.builds(
    lambda main, init: pod(*main, init=init),
    st.lists(containers, max_size=2),
    st.none() | st.lists(containers, max_size=2),
)


def all_containers(subject: Any) -> list[Any]:
    return [*subject["spec"]["containers"], *subject["spec"].get("initContainers", [])]


@settings(max_examples=400, deadline=None)
@given(pods, tables)
def test_any_pod(subject: Any, names: Any) -> None:
    before = copy_of(subject)
    decision = decide(review(subject), names)
    assert subject == before
    if decision.denied:
        assert not decision.patch
        return
    after = admit(subject, names)  # applies the patch, and reviews the result again
    allowed = names.programmable("default")
    for old, new in zip(all_containers(subject), all_containers(after), strict=True):
        env = new.get("env") or []
        ours = {entry["name"]: entry.get("value") for entry in env if RESERVED.match(entry["name"])}
        count = len(ours) // 2
        claimed = [(ours[f"FPGA_REGION_{n}"], ours[f"FPGA_AFU_{n}"]) for n in range(1, count + 1)]
        assert len(ours) == 2 * count == sum(bool(RESERVED.match(entry["name"])) for entry in env)
        assert set(claimed) <= allowed
        resources = new.get("resources", {}).get("limits", {})
        assert resources == new.get("resources", {}).get("requests", {})
        units = {name: int(n) for name, n in resources.items() if name.startswith(f"{DOMAIN}region-")}
        for interface, wanted in Counter(interface for interface, _ in claimed).items():
            assert units[f"{DOMAIN}region-{interface}"] == wanted
        kept = [entry for entry in old.get("env") or [] if not RESERVED.match(entry["name"])]
        assert [entry for entry in env if not RESERVED.match(entry["name"])] == kept
        assert not {name.removeprefix(DOMAIN) for name in resources} & set(MAPPED)
        assert resources.get("cpu") == old.get("resources", {}).get("limits", {}).get("cpu")


@settings(max_examples=200, deadline=None)
@given(pods, tables)
def test_any_pod_is_decided_the_same_each_time(subject: Any, names: Any) -> None:
    turned = copy_of(subject)
    for entry in all_containers(turned):
        for part in entry.get("resources", {}):
            entry["resources"][part] = dict(reversed(entry["resources"][part].items()))
    assert decide(review(subject), names) == decide(review(turned), names)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = (
    "spec",
    "metadata",
    "containers",
    "initContainers",
    "resources",
    "limits",
    "requests",
    "env",
    "envFrom",
    "name",
)
shaped = st.recursive(
    anything,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(shaped)
def test_any_document_gets_an_answer(document: Any) -> None:
    names = table(*OBJECTS)
    for subject in (document, {"spec": document}, {"spec": {"containers": [document]}}):
        response = decide(review(subject), names).document()["response"]
        assert response["uid"]
        assert response["allowed"] in (True, False)
    assert decide(document, names).denied


@given(st.binary(max_size=60))
def test_any_body_gets_an_answer(body: bytes) -> None:
    assert decide_body(body, table()).denied
