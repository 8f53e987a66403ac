# SPDX-License-Identifier: Apache-2.0
"""What a container's variables say that its boards must run, and which board that is.  No I/O here.

``FPGA_REGION_n`` and ``FPGA_AFU_n`` (Intel's, written by the webhook) name a shell and a function; which of the
container's slots with that shell gets it is decided here.  ``FPGAHAL_AFU`` names one function for all boards.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fpgahal import ArgumentRangeError, DeviceInfo, DeviceNotFoundError
from fpgahal.k8s.names import AFU_DIGITS, INTERFACE_DIGITS, canonical_id

REGION, AFU = "FPGA_REGION", "FPGA_AFU"
FOR_ALL = "FPGAHAL_AFU"
_VARIABLE = re.compile(f"({REGION}|{AFU})_([1-9][0-9]{{0,3}})")


@dataclass(frozen=True, slots=True, order=True)
class Pair:
    """``FPGA_REGION_<number>`` and ``FPGA_AFU_<number>``, canonical."""

    number: int
    region: str
    afu: str


@dataclass(frozen=True, slots=True)
class Wish:
    """One slot and what it must run."""

    slot: DeviceInfo
    afu: str


def of_all(env: Mapping[str, str]) -> str:
    """Give what ``FPGAHAL_AFU`` names, canonical; empty if it is not set.

    Raises
    ------
    ArgumentRangeError
        It is no AFU id.
    """
    return canonical_afu(env[FOR_ALL], f" ({FOR_ALL})") if FOR_ALL in env else ""


def canonical_afu(text: str, where: str = "") -> str:
    """Give an AFU id as lower-case hex without dashes.

    Raises
    ------
    ArgumentRangeError
        It is none; `where` says where it stood.
    """
    return canonical_id(text, AFU_DIGITS, f"AFU id{where}")


def pairs(env: Mapping[str, str]) -> tuple[Pair, ...]:
    """Read the numbered variables, in the order of their numbers.

    Raises
    ------
    ArgumentRangeError
        One lacks its other half, has no number, or holds no id.
    """
    found: dict[str, dict[int, str]] = {REGION: {}, AFU: {}}
    for name, value in env.items():
        if not name.startswith((REGION, AFU)):
            continue
        match = _VARIABLE.fullmatch(name)
        if match is None:
            raise ArgumentRangeError(f"{name} has no number: {REGION}_1 and {AFU}_1 were expected.")
        found[match[1]][int(match[2])] = value
    regions, afus = found[REGION], found[AFU]
    for number in sorted(regions.keys() ^ afus.keys()):
        there, lacking = (REGION, AFU) if number in regions else (AFU, REGION)
        raise ArgumentRangeError(
            f"There is {there}_{number}, but no {lacking}_{number}.",
            hint="They come in pairs: the webhook writes both.",
        )
    return tuple(
        Pair(
            number,
            canonical_id(regions[number], INTERFACE_DIGITS, f"interface id ({REGION}_{number})"),
            canonical_afu(afus[number], f" ({AFU}_{number})"),
        )
        for number in sorted(regions)
    )


def assign(wanted: Iterable[Pair], slots: Sequence[DeviceInfo]) -> tuple[Wish, ...]:
    """Give each pair a slot of its own with its shell: one that runs its AFU already, if there is one.

    A pair fits every slot of its shell and no other, so slots can be handed out one after the other and no better
    choice is lost.  The same slots with the same contents give the same answer, in whatever order they come.

    Raises
    ------
    DeviceNotFoundError
        There are not enough slots.
    """
    free: dict[str, list[DeviceInfo]] = {}
    for slot in sorted(set(slots), key=lambda one: (one.bdf, one.slot)):
        if slot.interface_id is not None:
            free.setdefault(slot.interface_id.hex, []).append(slot)
    ordered = sorted(wanted)
    taken: dict[Pair, DeviceInfo] = {}
    for pair in ordered:
        for slot in free.get(pair.region, ()):
            if slot.afu_id is not None and slot.afu_id.hex == pair.afu:
                taken[pair] = slot
                free[pair.region].remove(slot)
                break
    for pair in ordered:
        if pair in taken:
            continue
        if not free.get(pair.region):
            asked = sum(other.region == pair.region for other in ordered)
            there = ", ".join(f"{one.address} with {one.interface_id}" for one in slots) or "none"
            raise DeviceNotFoundError(
                f"{REGION}_{pair.number} wants a slot with interface id {pair.region}: {asked} were asked for, and the "
                f"container has too few (its slots: {there}).",
                hint="The container must ask for as many devices of that region as it has pairs of variables.",
            )
        taken[pair] = free[pair.region].pop(0)
    return tuple(Wish(taken[pair], pair.afu) for pair in ordered)


def settled(wishes: Iterable[Wish]) -> list[Wish]:
    """Take what was said twice once.

    Raises
    ------
    ArgumentRangeError
        One slot is to run two AFUs.
    """
    found: dict[DeviceInfo, str] = {}
    for wish in wishes:
        if found.setdefault(wish.slot, wish.afu) != wish.afu:
            raise ArgumentRangeError(f"{wish.slot.address} is to run {found[wish.slot]}, and {wish.afu} as well.")
    return [Wish(slot, afu) for slot, afu in found.items()]
