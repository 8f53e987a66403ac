# SPDX-License-Identifier: Apache-2.0
"""Variables, and which slot gets what: M4 and the examples beside it."""

from __future__ import annotations

import uuid
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from images import HASH, IF10, IF12, NLB0, NLB3

from fpgahal import ArgumentRangeError, DeviceInfo, DeviceNotFoundError
from fpgahal.k8s import wanted
from fpgahal.k8s.wanted import Pair, Wish

REGIONS = (IF10, IF12, "bfac4d851ee856fe8c95865ce1bbaa2d")
AFUS = (NLB0, NLB3, "18b79ffa2ee54aa096ef4230dafacb5f")


def slot(number: int, region: str | None, afu: str | None) -> DeviceInfo:
    return DeviceInfo(
        bdf=f"0000:{number:02x}:00.0",
        driver="opae",
        interface_id=uuid.UUID(region) if region else None,
        afu_id=uuid.UUID(afu) if afu else None,
    )


def variables(pairs: list[tuple[int, str, str]]) -> dict[str, str]:
    return {f"FPGA_REGION_{n}": r for n, r, _ in pairs} | {f"FPGA_AFU_{n}": a for n, _, a in pairs}


def matching_exists(pairs: tuple[Pair, ...], slots: list[DeviceInfo]) -> bool:
    """The oracle: augmenting paths, which know nothing of how regions divide the slots."""
    given_to: dict[int, int] = {}

    def place(pair: int, tried: set[int]) -> bool:
        for at, one in enumerate(slots):
            if one.interface_id is None or one.interface_id.hex != pairs[pair].region or at in tried:
                continue
            tried.add(at)
            if at not in given_to or place(given_to[at], tried):
                given_to[at] = pair
                return True
        return False

    return all(place(pair, set()) for pair in range(len(pairs)))


numbered = st.dictionaries(st.integers(1, 9999), st.tuples(st.sampled_from(REGIONS), st.sampled_from(AFUS)), max_size=6)
contents = st.lists(st.tuples(st.sampled_from((*REGIONS, None)), st.sampled_from((*AFUS, None))), max_size=8)


@given(numbered, contents, st.randoms())
def test_M4_a_matching_iff_there_is_one(
    asked: dict[int, tuple[str, str]], held: list[tuple[str | None, str | None]], random: st.Random
) -> None:
    env = variables([(number, *pair) for number, pair in asked.items()])
    slots = [slot(number, *content) for number, content in enumerate(held)]
    pairs = wanted.pairs(env)
    assert [(pair.number, pair.region, pair.afu) for pair in pairs] == [(n, *asked[n]) for n in sorted(asked)]
    if not matching_exists(pairs, slots):
        with pytest.raises(DeviceNotFoundError, match="too few"):
            wanted.assign(pairs, slots)
        return
    found = wanted.assign(pairs, slots)
    assert len({wish.slot for wish in found}) == len(found) == len(pairs), "injective"
    for wish, pair in zip(found, pairs, strict=True):
        assert wish.slot.interface_id is not None
        assert (wish.slot.interface_id.hex, wish.afu) == (pair.region, pair.afu)
    # the same for any order, and again after programming
    items = list(env.items())
    random.shuffle(items)
    random.shuffle(slots)
    assert wanted.assign(wanted.pairs(dict(items)), slots) == found
    afterwards = {wish.slot: replace(wish.slot, afu_id=uuid.UUID(wish.afu)) for wish in found}
    again = wanted.assign(pairs, [afterwards.get(one, one) for one in slots])
    assert all(wish.slot.afu_id == uuid.UUID(wish.afu) for wish in again), "a restart would program again"
    # no slot is programmed that need not be
    kept = sum(wish.slot.afu_id is not None and wish.slot.afu_id.hex == wish.afu for wish in found)
    asked_for = Counter((pair.region, pair.afu) for pair in pairs)
    there = Counter((one.interface_id.hex, one.afu_id.hex) for one in slots if one.interface_id and one.afu_id)
    assert kept == (asked_for & there).total()


def test_M4_two_equal_regions_get_two_slots() -> None:
    """Intel's hook gave both to the same port, and was content when one of them ran what was wanted."""
    slots = [slot(1, IF10, NLB3), slot(2, IF10, NLB0)]
    pairs = wanted.pairs(variables([(1, IF10, NLB3), (2, IF10, NLB3)]))
    assert wanted.assign(pairs, slots) == (Wish(slots[0], NLB3), Wish(slots[1], NLB3))


def test_M4_slots_of_no_pair_are_left_alone() -> None:
    slots = [slot(1, IF12, None), slot(2, IF10, None), slot(3, None, None)]
    assert wanted.assign(wanted.pairs(variables([(7, IF10, HASH)])), slots) == (Wish(slots[1], HASH),)


@pytest.mark.parametrize(
    "env",
    [
        {"FPGA_AFU_1": NLB0},
        {"FPGA_REGION_1": IF10},
        {**variables([(1, IF10, NLB0)]), "FPGA_REGION_2": IF10},
        {"FPGA_REGION_1": IF10, "FPGA_AFU_01": NLB0},
        {"FPGA_REGION": IF10, "FPGA_AFU": NLB0},
        {"FPGA_REGION_1": IF10, "FPGA_AFU_1": NLB0[:-1]},
        {"FPGA_REGION_1": "../../etc", "FPGA_AFU_1": NLB0},
        {"FPGA_REGION_1": HASH, "FPGA_AFU_1": NLB0},
        {"FPGA_REGION_1": "", "FPGA_AFU_1": ""},
        {"FPGA_REGION_1": IF10, "FPGA_AFU_1": "$(OTHER)"},
    ],
)
def test_H5_variables_that_make_no_sense(env: dict[str, str]) -> None:
    with pytest.raises(ArgumentRangeError):
        wanted.pairs(env)


def test_ids_are_made_canonical() -> None:
    env = {"FPGA_REGION_1": f" {uuid.UUID(IF10)} ".upper(), "FPGA_AFU_1": NLB0.upper(), "OTHER": "x"}
    assert wanted.pairs(env) == (Pair(1, IF10, NLB0),)
    assert wanted.of_all({"FPGAHAL_AFU": str(uuid.UUID(NLB3))}) == NLB3
    assert wanted.of_all({}) == ""
    with pytest.raises(ArgumentRangeError, match="FPGAHAL_AFU"):
        wanted.of_all({"FPGAHAL_AFU": ""})


def test_one_slot_runs_one_afu() -> None:
    one, other = slot(1, IF10, None), slot(2, IF10, None)
    assert wanted.settled([Wish(one, NLB0), Wish(other, NLB3), Wish(one, NLB0)]) == [Wish(one, NLB0), Wish(other, NLB3)]
    with pytest.raises(ArgumentRangeError, match="as well"):
        wanted.settled([Wish(one, NLB0), Wish(one, NLB3)])
