# SPDX-License-Identifier: Apache-2.0
"""The planner finds the best boards, always the same ones, and says why there are none."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planner_cases import EXACT, F1, U250, U280, catalogue_file

from fpgahal.k8s.catalogue import load
from fpgahal.k8s.planner import MAX_BOARDS, Image, Offer, PlanError, anywhere, plan


def image(name: str, board: str, selector: dict[str, str] | None = None, **accelerators: int) -> Image:
    return Image(name, board, accelerators, node_selector=selector or {})


def names(*parts: tuple[Image, ...]) -> list[list[str]]:
    return [[image.name for image in part] for part in parts]


def test_K1_on_premises(tmp_path: Path) -> None:
    known = load(catalogue_file(tmp_path))
    found = plan([{EXACT: 4}], known.images, [Offer("rack-1", {U250: 1, U280: 1}), *known.groups])
    assert (found.offer.name, found.offer.new, found.boards) == ("rack-1", False, {U250: 1})


def test_K2_busy_board_scales_up(tmp_path: Path) -> None:
    known = load(catalogue_file(tmp_path))
    assert [(group.name, dict(group.boards)) for group in known.groups] == [
        ("f1-2xlarge", {F1: 1}),
        ("f1-4xlarge", {F1: 2}),
    ]
    found = plan([{EXACT: 4}], known.images, [Offer("rack-1", {U280: 1}), *known.groups])
    assert (found.offer.name, found.offer.new, found.boards) == ("f1-4xlarge", True, {F1: 2})


def test_smallest_group_that_fits_grows() -> None:
    groups = [Offer(f"g{count}", {F1: count}, new=True) for count in (8, 1, 2, 4)]
    assert plan([{"a": 3}], [image("i", F1, a=2)], groups).offer.name == "g2"
    assert plan([{"a": 2}], [image("i", F1, a=2)], groups).offer.name == "g1"


def test_one_image_with_all_before_several_boards() -> None:
    images = [image("a", U250, a=2), image("b", U250, b=2), image("both", U250, a=1, b=1)]
    node = [Offer("n", {U250: 4})]
    assert names(*plan([{"a": 1, "b": 1}], images, node).containers) == [["both"]]
    assert names(*plan([{"a": 2, "b": 2}], images, node).containers) == [["a", "b"]]  # before both, both: by name
    images.append(image("a-lot", U250, a=9, b=9))
    assert names(*plan([{"a": 1, "b": 1}], images, node).containers) == [["both"]]  # the least to spare
    assert names(*plan([{"a": 2, "b": 2}], images, node).containers) == [["a-lot"]]  # the fewest boards before that


def test_containers_do_not_share_a_board() -> None:
    images = [image("i", U250, a=4)]
    found = plan([{"a": 1}, {"a": 1}], images, [Offer("n", {U250: 2})])
    assert names(*found.containers) == [["i"], ["i"]]
    with pytest.raises(PlanError, match="2 x xilinx/u250 would do"):
        plan([{"a": 1}, {"a": 1}], images, [Offer("n", {U250: 1})])


def test_init_containers_come_before() -> None:
    images = [image("i", U250, a=1)]
    found = plan([{"a": 1}], images, [Offer("n", {U250: 1})], first=[{"a": 1}])
    assert names(*found.containers, *found.first) == [["i"], ["i"]]
    with pytest.raises(PlanError):
        plan([{"a": 1}], images, [Offer("n", {U250: 1})], first=[{"a": 2}])


def test_image_goes_where_its_shell_is() -> None:
    images = [image("new", U250, {"shell": "2"}, a=4), image("old", U250, {"shell": "1"}, a=1)]
    offers = [Offer("n1", {U250: 4}, {"shell": "1"}), Offer("n2", {U250: 4}, {"shell": "2"}), Offer("n3", {U250: 9})]
    assert plan([{"a": 4}], images, offers).offer.name == "n2"
    assert plan([{"a": 4}], images, offers[:1]).boards == {U250: 4}
    with pytest.raises(PlanError):
        plan([{"a": 1}], images, offers[2:])


def test_anywhere_is_one_kind_of_board_a_node() -> None:
    images = [image("i", U250, a=1), image("j", F1, b=1), image("k", F1, a=1, b=1)]
    assert plan([{"a": 1, "b": 1}], images, anywhere(images)).boards == {F1: 1}
    with pytest.raises(PlanError, match="no node could serve that"):
        plan([{"a": 1, "b": 1}], images[:2], anywhere(images[:2]))


def test_errors() -> None:
    images = [image("i", U250, a=1)]
    with pytest.raises(PlanError, match="No image has the accelerator b") as caught:
        plan([{"b": 1}], images, [])
    assert caught.value.hint == "There are: a."
    with pytest.raises(PlanError, match="none at all"):
        plan([{"b": 1}], [], [])
    with pytest.raises(PlanError, match="Free: none anywhere"):
        plan([{"a": 1}], images, [])
    with pytest.raises(PlanError, match=f"up to {MAX_BOARDS} boards"):
        plan([{"a": MAX_BOARDS + 1}], images, [Offer("n", {U250: 99})])
    with pytest.raises(PlanError, match="More than 512"):
        plan([{"a": 513}], images, [])
    with pytest.raises(PlanError, match="-1 accelerators"):
        plan([{"a": -1}], images, [])


BOARDS = ("b/0", "b/1")
small_images = st.lists(
    st.tuples(
        st.sampled_from(BOARDS),
        st.dictionaries(st.sampled_from("xyz"), st.integers(1, 3), min_size=1, max_size=3),
    ),
    min_size=1,
    max_size=4,
).map(lambda entries: [Image(f"i{n}", board, gives) for n, (board, gives) in enumerate(entries)])
small_offers = st.lists(
    st.builds(
        lambda counts, new: (dict(zip(BOARDS, counts, strict=True)), new),
        st.tuples(st.integers(0, 3), st.integers(0, 2)),
        st.booleans(),
    ),
    max_size=3,
).map(lambda entries: [Offer(f"n{n}", boards, new=new) for n, (boards, new) in enumerate(entries)])
small_requests = st.lists(
    st.dictionaries(st.sampled_from("xyz"), st.integers(1, 4), max_size=3), min_size=1, max_size=2
)


def brute_force(requests: list[dict[str, int]], images: list[Image], offers: list[Offer]) -> object:
    """Every way there is, and the first of them in the documented order."""
    ways = []
    for offer in offers:
        slots = sum(offer.boards.values())
        choices = [(c, image) for c in range(len(requests)) for image in images]
        for size in range(slots + 1):
            for chosen in itertools.combinations_with_replacement(choices, size):
                used = Counter(image.board for _, image in chosen)
                if any(used[board] > offer.boards.get(board, 0) for board in used):
                    continue
                given_ = Counter[tuple[int, str]]()
                for c, image in chosen:
                    given_.update({(c, name): count for name, count in image.accelerators.items()})
                needs = {(c, name): count for c, request in enumerate(requests) for name, count in request.items()}
                if all(given_[key] >= count for key, count in needs.items()):
                    excess = sum(given_[key] - count for key, count in needs.items())
                    parts = [sorted(image.name for of, image in chosen if of == c) for c in range(len(requests))]
                    ways.append(((offer.new, size, slots - size, excess, offer.name), parts))
    return min(ways) if ways else None


@settings(max_examples=150, deadline=None)
@given(small_requests, small_images, small_offers)
def test_as_good_as_trying_everything(requests: list[dict[str, int]], images: list[Image], offers: list[Offer]) -> None:
    best = brute_force(requests, images, offers)
    try:
        found = plan(requests, images, offers)
    except PlanError:
        assert best is None
        return
    parts = names(*found.containers)
    slots = sum(found.offer.boards.values())
    size = sum(map(len, parts))
    by_name = {image.name: image for image in images}
    given_ = [Counter[str]() for _ in requests]
    for c, part in enumerate(parts):
        for name in part:
            given_[c].update(by_name[name].accelerators)
    excess = sum(given_[c][name] - count for c, request in enumerate(requests) for name, count in request.items())
    assert best == ((found.offer.new, size, slots - size, excess, found.offer.name), parts)


@settings(max_examples=100, deadline=None)
@given(small_requests, small_images, small_offers, st.randoms(use_true_random=False))
def test_order_of_the_input_does_not_matter(
    requests: list[dict[str, int]], images: list[Image], offers: list[Offer], random: object
) -> None:
    def answer(images: list[Image], offers: list[Offer]) -> object:
        try:
            found = plan(requests, images, offers)
        except PlanError:
            return None
        return found.offer.name, names(*found.containers)

    mixed = [list(images), list(offers)]
    for part in mixed:
        random.shuffle(part)  # type: ignore[attr-defined]
    assert answer(images, offers) == answer(*mixed)  # type: ignore[arg-type]


def test_sixteen_accelerators_on_eight_boards_take_no_time() -> None:
    """The worst kind of request: all different, many images with a few of each, three kinds of boards."""
    images = [
        Image(f"i{n}", f"b/{n % 3}", {f"a{(n * 7 + k * k * 3) % 16}": 1 + (n + k) % 2 for k in range(1 + n % 4)})
        for n in range(48)
    ]
    begin = time.perf_counter()
    plan([{f"a{n}": 1 for n in range(16)}], images, [Offer("n", {f"b/{n}": 3 for n in range(3)})])
    assert time.perf_counter() - begin < 2.0  # 20 ms; a search that looks at every way needs hours


def test_a_search_without_end_is_refused() -> None:
    images = [Image(f"i{n}", f"b/{n}", {f"a{(n + k * k) % 40}": 1 for k in range(5)}) for n in range(40)]
    begin = time.perf_counter()
    with pytest.raises(PlanError, match=r"too many ways|no node"):
        plan([{f"a{n}": 2 for n in range(40)}], images, [Offer("n", {f"b/{n}": 1 for n in range(40)})])
    assert time.perf_counter() - begin < 10.0
