# SPDX-License-Identifier: Apache-2.0
"""Pods that ask for accelerators get boards, and nobody gets an image that his namespace may not have."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest
from fake_api import FakeApi
from hypothesis import given, settings
from hypothesis import strategies as st
from planner_cases import EXACT, F1, U250, U280, catalogue_file
from webhook_cases import IF10, IF12, NLB0, NLB3, af, container, copy_of, pairs, patched, pod, region, review, table

from fpgahal.k8s.api import Api
from fpgahal.k8s.catalogue import Catalogue, CatalogueError, load
from fpgahal.k8s.planner import Image, Offer
from fpgahal.k8s.webhook.accelerators import PREFIX, Cluster, described
from fpgahal.k8s.webhook.boards import Boards
from fpgahal.k8s.webhook.review import NOWHERE, Decision, decide
from fpgahal.k8s.webhook.table import Table

ASKED = f"{PREFIX}{EXACT}"
RACK = Offer("rack-1", {U250: 1, U280: 1})
BUSY = Offer("rack-1", {U280: 1})
REGION = f"fpga.intel.com/region-{IF10}"


def image(name: str, board: str, *pair: str, **more: Any) -> Image:
    interface, afu = pair or ("", "")
    return Image(name, board, {name: 2}, interface, afu, more.pop("namespaces", ("*",)), **more)


OWN = image("own", "fpgahal.dev/pac-a10", IF10, NLB0)
INTEL = image("intel", REGION, IF10, NLB0)
PLAIN = image("plain", U250)
SECRET = image("secret", "fpgahal.dev/d5005", IF12, NLB3, namespaces=("team-a",))


def names(*images: Image, objects: Any = ()) -> Table:
    made = table(*objects)
    made.catalogue = Catalogue(images)
    return made


def admit(subject: Any, known: Table, cluster: Cluster = NOWHERE, namespace: str = "default") -> Any:
    """Review a pod; give what becomes of it.  A second review, with everything taken meanwhile, changes nothing."""
    before = copy_of(subject)
    decision = decide(review(subject, namespace), known, cluster)
    after = patched(subject, decision.document())
    assert subject == before, "the review changed its input"
    again = decide(review(copy_of(after), namespace), known, Cluster())
    assert (again.denied, again.patch) == ("", ()), "the webhook does not accept its own output"
    return after


def refusal(subject: Any, known: Table, namespace: str = "default") -> str:
    decision = decide(review(subject, namespace), known)
    assert decision.denied
    assert decision.patch == ()
    return decision.denied


@pytest.fixture
def source_document(tmp_path: Path) -> tuple[Table, tuple[Offer, ...]]:
    """The source documents' catalogue and groups."""
    known = load(catalogue_file(tmp_path))
    made = table()
    made.catalogue = known
    return made, known.groups


def test_K1_pod_gets_the_board_on_premises(source_document: tuple[Table, tuple[Offer, ...]]) -> None:
    known, groups = source_document
    asked = pod(container({ASKED: 4, "cpu": "2"}, env=[{"name": "A", "value": "b"}]))
    expected = pod(container({U250: "1", "cpu": "2"}, env=[{"name": "A", "value": "b"}]))
    assert admit(asked, known, Cluster((RACK,), (RACK,), groups)) == expected


def test_K2_busy_board_becomes_two_in_the_cloud(source_document: tuple[Table, tuple[Offer, ...]]) -> None:
    known, groups = source_document
    asked = pod(container({ASKED: "4"}))
    cluster = Cluster((BUSY,), (RACK,), groups)
    assert admit(asked, known, cluster) == pod(container({F1: "2"}))
    decision = decide(review(asked), known, cluster)
    assert decision.plan is not None
    assert described(decision.plan) == "2 x xilinx/aws-vu9p-f1 ('xgboost-f1') for f1-4xlarge, to be added"


def test_a_pod_waits_where_nothing_is_free(source_document: tuple[Table, tuple[Offer, ...]]) -> None:
    known, _ = source_document
    assert admit(pod(container({ASKED: 4})), known, Cluster((BUSY,), (RACK,))) == pod(container({U250: "1"}))
    assert admit(pod(container({ASKED: 4})), known, Cluster((), (BUSY,))) == pod(container({U250: "1"}))
    assert admit(pod(container({ASKED: 4})), known) == pod(container({U250: "1"}))


def test_the_patch_is_as_it_is(source_document: tuple[Table, tuple[Offer, ...]]) -> None:
    known, _ = source_document
    decision = decide(review(pod(container({ASKED: 4}))), known)
    parts = [f"/spec/containers/0/resources/{part}" for part in ("limits", "requests")]
    name = f"accel.fpgahal.dev~1{EXACT}"
    assert list(decision.patch) == [
        operation
        for part in parts
        for operation in (
            {"op": "remove", "path": f"{part}/{name}"},
            {"op": "add", "path": f"{part}/xilinx~1u250", "value": "1"},
        )
    ]


def test_reasons(source_document: tuple[Table, tuple[Offer, ...]]) -> None:
    known, _ = source_document
    asked = pod(container({ASKED: 4}))
    assert "no catalogue of accelerators" in refusal(asked, table())
    assert "No image has the accelerator x." in refusal(pod(container({f"{PREFIX}x": 1})), known)
    assert f"There are: {EXACT}, vadd." in refusal(pod(container({f"{PREFIX}x": 1})), known)
    assert "up to 16 boards of one kind" in refusal(pod(container({ASKED: 400})), known)
    assert "up to 16 boards of one kind" in refusal(pod(container({ASKED: 1, f"{PREFIX}vadd": 1})), known)
    assert "can't be divided" in refusal(pod(container({ASKED: "1.5"})), known)
    assert "container 'work'" in refusal(pod(container({ASKED: "1.5"})), known)
    half = pod(container({ASKED: 4}))
    del half["spec"]["containers"][0]["resources"]["requests"]
    assert "they must be equal" in refusal(half, known)
    assert "use a container for each" in refusal(pod(container({ASKED: 4, U250: 1})), known)
    assert "beside" in refusal(pod(container({ASKED: 4, U250: 1})), known)


def test_nothing_asked_for_is_nothing_given(source_document: tuple[Table, tuple[Offer, ...]]) -> None:
    known, _ = source_document
    assert admit(pod(container({ASKED: 0})), known) == pod(container({}))
    assert decide(review(pod(container({U250: 1}))), known).patch == ()


def test_several_containers_are_on_one_node() -> None:
    known = names(PLAIN)
    two = pod(container({f"{PREFIX}plain": 1}), container({f"{PREFIX}plain": 3}))
    small, big = Offer("a", {U250: 2}), Offer("b", {U250: 3})
    decision = decide(review(two), known, Cluster((small, big)))
    assert decision.plan is not None
    assert decision.plan.offer is big
    assert admit(two, known, Cluster((small, big))) == pod(container({U250: "1"}), container({U250: "2"}))


def test_init_containers_use_the_boards_before() -> None:
    known = names(PLAIN)
    asked = container({f"{PREFIX}plain": 2})
    given_ = container({U250: "1"})
    one = Cluster((Offer("a", {U250: 1}),))
    assert admit(pod(asked, init=[asked]), known, one) == pod(given_, init=[given_])
    sidecar = {**asked, "restartPolicy": "Always"}
    decision = decide(review(pod(asked, init=[sidecar])), known, one)
    assert decision.plan is not None
    assert decision.plan.offer.name.startswith("any node")  # two at a time are not free


def test_images_that_the_node_programs() -> None:
    known = names(OWN)
    assert admit(pod(container({f"{PREFIX}own": 3}, env=[{"name": "A", "value": "b"}])), known) == pod(
        container({"fpgahal.dev/pac-a10": "2"}, env=[{"name": "A", "value": "b"}, *pairs((IF10, NLB0), (IF10, NLB0))])
    )
    assert admit(pod(container({f"{PREFIX}own": 1})), known) == pod(
        container({"fpgahal.dev/pac-a10": "1"}, env=pairs((IF10, NLB0)))
    )


def test_boards_of_intels_scheme() -> None:
    """Images beside AcceleratorFunctions: one numbering, one count of regions."""
    known = names(INTEL, objects=[af("nlb", NLB0, IF12, mode="region")])
    assert admit(pod(container({f"{PREFIX}intel": 2, "nlb": 1})), known) == pod(
        container({REGION: "1", f"fpga.intel.com/region-{IF12}": "1"}, env=pairs((IF10, NLB0), (IF12, NLB0)))
    )
    both = names(INTEL, objects=[af("nlb", NLB0, IF10, mode="region")])
    assert admit(pod(container({f"{PREFIX}intel": 2, "nlb": 1})), both) == pod(
        container({REGION: "2"}, env=pairs((IF10, NLB0), (IF10, NLB0)))
    )


def test_modes_are_not_mixed() -> None:
    known = names(INTEL, objects=[region("raw", IF12)])
    assert "different modes" in refusal(pod(container({f"{PREFIX}intel": 1, "raw": 1})), known)


def test_variables_are_still_only_ours() -> None:
    known = names(OWN, SECRET, PLAIN)
    board, secret = "fpgahal.dev/pac-a10", "fpgahal.dev/d5005"
    assert decide(review(pod(container({board: 1}, env=pairs((IF10, NLB0))))), known).denied == ""
    assert "is set, but" in refusal(pod(container({}, env=pairs((IF10, NLB0)))), known)  # no board
    assert "is set, but" in refusal(pod(container({board: 1}, env=pairs((IF10, NLB0), (IF10, NLB0)))), known)
    assert "is set, but" in refusal(pod(container({board: 1}, env=pairs((IF10, NLB3)))), known)  # no such image
    assert "is set, but" in refusal(pod(container({secret: 1}, env=pairs((IF12, NLB3)))), known)  # not theirs
    assert "is set, but" in refusal(pod(container({U250: 1}, env=pairs((IF10, NLB0)))), known)  # another board
    forged = container({f"{PREFIX}own": 2}, env=[{"name": "FPGA_REGION_2", "value": IF12}])
    assert "is set, but" in refusal(pod(forged), known)
    hidden = container({f"{PREFIX}own": 2}, envFrom=[{"prefix": "FPGA_", "configMapRef": {"name": "x"}}])
    assert "envFrom with the prefix 'FPGA_'" in refusal(pod(hidden), known)


def test_images_of_other_namespaces() -> None:
    known = names(OWN, SECRET)
    asked = pod(container({f"{PREFIX}secret": 2}))
    denied = refusal(asked, known)
    assert denied.startswith("Namespace default can't have that: No image has the accelerator secret.")
    assert denied.endswith("There are: own.")
    assert admit(asked, known, namespace="team-a") == pod(
        container({"fpgahal.dev/d5005": "1"}, env=pairs((IF12, NLB3)))
    )
    assert known.programmable("default") == {(IF10, NLB0)}
    assert known.programmable("team-a") == {(IF10, NLB0), (IF12, NLB3)}


def test_pods_go_where_the_shell_is() -> None:
    known = names(image("shelled", U250, node_selector={U250: "xdma_201830.2"}))
    asked = pod(container({f"{PREFIX}shelled": 1}))
    selected = copy_of(admit(asked, known))
    assert selected["spec"]["nodeSelector"] == {U250: "xdma_201830.2"}
    asked["spec"]["nodeSelector"] = {"zone": "a"}
    assert admit(asked, known)["spec"]["nodeSelector"] == {"zone": "a", U250: "xdma_201830.2"}
    asked["spec"]["nodeSelector"] = {U250: "other"}
    assert "can't have that" in refusal(asked, known)
    asked["spec"]["nodeSelector"] = {U250: "xdma_201830.2"}
    assert admit(asked, known)["spec"]["nodeSelector"] == {U250: "xdma_201830.2"}
    asked["spec"]["nodeSelector"] = 7
    assert "spec.nodeSelector is 7" in refusal(asked, known)


def test_pods_own_selector_excludes_nodes(source_document: tuple[Table, tuple[Offer, ...]]) -> None:
    known, groups = source_document
    asked = pod(container({ASKED: 4}))
    asked["spec"]["nodeSelector"] = {"where": "cloud"}
    decision = decide(review(asked), known, Cluster((RACK,), (RACK,), groups))
    assert decision.plan is not None
    assert decision.plan.offer.name == "f1-4xlarge"


ACCELERATORS = ["own", "plain", "intel", "secret", "nowhere"]
requests = st.dictionaries(st.sampled_from([PREFIX + name for name in ACCELERATORS]), st.integers(0, 5), max_size=2)
some_containers = st.lists(
    st.builds(container, requests, st.sampled_from([None, [], [{"name": "A", "value": "b"}], pairs((IF10, NLB0))])),
    min_size=1,
    max_size=3,
)
clusters = st.builds(
    lambda free, group: Cluster(
        tuple(Offer(f"n{n}", dict(boards)) for n, boards in enumerate(free)), (), (Offer("g", group, new=True),)
    ),
    st.lists(st.dictionaries(st.sampled_from([U250, OWN.board, REGION]), st.integers(0, 3)), max_size=2),
    st.dictionaries(st.sampled_from([U250, OWN.board]), st.integers(1, 4)),
)


@settings(max_examples=300, deadline=None)
@given(some_containers, st.lists(some_containers, max_size=1), clusters)
def test_any_pod_with_accelerators(main: list[Any], init: list[list[Any]], cluster: Cluster) -> None:
    known = names(OWN, PLAIN, SECRET)
    subject = pod(*main, init=init[0] if init else None)
    decision: Decision = decide(review(subject), known, cluster)
    assert decision == decide(review(subject), known, cluster)
    if decision.denied:
        return
    after = admit(subject, known, cluster)
    for entry in [*after["spec"]["containers"], *after["spec"].get("initContainers", [])]:
        limits = entry["resources"]["limits"]
        assert limits == entry["resources"]["requests"]
        assert not any(name.startswith(PREFIX) for name in limits)
        assert SECRET.board not in limits
        claimed = [v["value"] for v in entry.get("env") or [] if v["name"].startswith("FPGA_REGION_")]
        assert len(claimed) <= int(limits.get(OWN.board, 0))
        assert set(claimed) <= {IF10}


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
odd = st.fixed_dictionaries(
    {},
    optional={
        "resources": st.fixed_dictionaries(
            {}, optional={part: st.just({f"{PREFIX}own": 1}) | anything for part in ("limits", "requests")}
        )
        | anything,
        "env": st.lists(anything, max_size=2) | anything,
        "name": anything,
        "restartPolicy": anything,
    },
)


@settings(max_examples=300, deadline=None)
@given(st.lists(odd | anything, max_size=2), st.lists(odd, max_size=1), anything)
def test_any_pod_gets_an_answer(main: list[Any], init: list[Any], selector: Any) -> None:
    good = container({f"{PREFIX}own": 1})
    subject = {"spec": {"containers": [good, *main], "initContainers": init, "nodeSelector": selector}}
    response = decide(review(subject), names(OWN)).document()["response"]
    assert response["allowed"] or response["status"]["message"]


# --- what the webhook knows of boards -------------------------------------------------------------------------


def node(name: str, boards: dict[str, str]) -> dict[str, Any]:
    return {"metadata": {"name": name}, "status": {"allocatable": boards}}


def running(boards: dict[str, str], where: str) -> dict[str, Any]:
    return {"spec": {"nodeName": where, "containers": [{"resources": {"limits": boards}}]}, "status": {}}


def test_boards_follow_the_cluster_and_the_file(tmp_path: Path) -> None:
    path = catalogue_file(tmp_path)

    async def scenario(fake: FakeApi) -> None:
        async with Api(fake.url) as api:
            boards = Boards(api, Table(), path, look_seconds=1000)
            first = await boards.cluster()
            assert ([dict(o.boards) for o in first.free], [o.name for o in first.groups]) == (
                [{U280: 1}],
                ["f1-2xlarge", "f1-4xlarge"],
            )
            assert [dict(offer.boards) for offer in first.nodes] == [{U250: 1, U280: 1}]
            asked = fake.asked("GET", "/api/v1/")
            await boards.cluster()
            assert fake.asked("GET", "/api/v1/") == asked == 2  # believed for a while

    with FakeApi() as fake:
        fake.lists = {"nodes": [node("rack-1", {U250: "1", U280: "1"})], "pods": [running({U250: "1"}, "rack-1")]}
        asyncio.run(scenario(fake))


def test_large_lists_come_in_pages(tmp_path: Path) -> None:
    async def scenario(fake: FakeApi) -> None:
        async with Api(fake.url) as api:
            found = await Boards(api, Table(), catalogue_file(tmp_path), look_seconds=1000).cluster()
            assert [(offer.name, dict(offer.boards)) for offer in found.free] == [("last", {U250: 1})]
            assert len(found.nodes) == 301
            assert fake.asked("GET", "/api/v1/nodes") == 2

    with FakeApi() as fake:
        rack = [node(f"n{n}", {U250: "1"}) for n in range(300)]
        fake.lists = {
            "nodes": [*rack, node("last", {U250: "1"})],
            "pods": [running({U250: "1"}, f"n{n}") for n in range(300)],
        }
        asyncio.run(scenario(fake))


def test_several_reviews_make_one_look(tmp_path: Path) -> None:
    async def scenario(fake: FakeApi) -> None:
        async with Api(fake.url) as api:
            boards = Boards(api, Table(), catalogue_file(tmp_path), look_seconds=1000)
            await asyncio.gather(*(boards.cluster() for _ in range(20)))
            assert fake.asked("GET", "/api/v1/") == 2

    with FakeApi() as fake:
        asyncio.run(scenario(fake))


def test_two_pods_at_once_do_not_count_on_one_board(tmp_path: Path) -> None:
    async def scenario(fake: FakeApi) -> None:
        async with Api(fake.url) as api:
            known = Table()
            boards = Boards(api, known, catalogue_file(tmp_path), look_seconds=1000)
            found = []
            for _ in range(2):
                decision = decide(review(pod(container({ASKED: 4}))), known, await boards.cluster())
                assert decision.plan is not None
                boards.reserve(decision.plan)
                found.append(decision.plan.offer.name)
            assert found == ["rack-1", "f1-4xlarge"]

    with FakeApi() as fake:
        fake.lists["nodes"] = [node("rack-1", {U250: "1"})]
        asyncio.run(scenario(fake))


def test_what_may_not_be_seen_is_not_needed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(fake: FakeApi) -> None:
        async with Api(fake.url) as api:
            boards = Boards(api, Table(), catalogue_file(tmp_path), look_seconds=1000)
            found = await boards.cluster()
            assert (found.free, found.nodes, len(found.groups)) == ((), (), 2)
            assert "chosen by the catalogue alone" in caplog.text
            never = Boards(api, Table(), catalogue_file(tmp_path), look_seconds=0)
            fake.requests.clear()
            assert (await never.cluster()).free == ()
            assert fake.requests == []

    with FakeApi() as fake, caplog.at_level(logging.WARNING):
        fake.refuse["nodes"] = 403
        asyncio.run(scenario(fake))


def test_catalogue_is_exchanged_without_a_restart(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = catalogue_file(tmp_path)
    other = "[images.i]\nboard = 'a/b'\naccelerators = { z = 1 }\nnamespaces = ['*']\n"

    async def until(condition: Any) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.005)

    def put(text: str) -> None:  # as kubelet exchanges a ConfigMap's file
        (tmp_path / "new").write_text(text)
        (tmp_path / "new").rename(path)

    async def scenario() -> None:
        known = Table()
        boards = Boards(Api("http://127.0.0.1:9"), known, path, look_seconds=0)
        following = asyncio.create_task(boards.follow(0.01))
        put("[images.i]\nboard = 1")
        await until(lambda: "the former one stays" in caplog.text)
        assert admit(pod(container({ASKED: 4})), known) == pod(container({U250: "1"}))
        put(other)
        await until(lambda: "The catalogue was taken" in caplog.text)
        assert admit(pod(container({f"{PREFIX}z": 1})), known) == pod(container({"a/b": "1"}))
        assert (await boards.cluster()).groups == ()
        path.unlink()
        await until(lambda: "can't be read" in caplog.text)
        assert not following.done()
        following.cancel()

    with caplog.at_level(logging.INFO):
        asyncio.run(scenario())
    with pytest.raises(CatalogueError):
        Boards(Api("http://127.0.0.1:9"), Table(), path, look_seconds=0)
