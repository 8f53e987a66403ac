# SPDX-License-Identifier: Apache-2.0
"""A manager under clients, kills and faults (`manager_soak.Soak`): seconds in CI, ten minutes in ``nox -s soak``."""

from __future__ import annotations

import os
import random

import pytest
from manager_machine import world
from manager_soak import WARM, Life, Soak

SECONDS = float(os.environ.get("FPGAHAL_SOAK_SECONDS", "4"))
SEED = int(os.environ.get("FPGAHAL_SOAK_SEED", "1"))
MEMORY = 1 << 20  # bytes that a manager's process may grow a minute after the warm-up, or in less than one
FILES = 12  # that it may have more at the end; boards open and close files of their own


def grown(life: Life, values: list[int]) -> float:
    """After the warm-up; of more than a minute, in a minute."""
    return life.slope(values) * min(60.0, life.window())


def test_growth_is_found_and_a_warm_up_is_none() -> None:
    source = random.Random(1)
    seconds = [at / 2 for at in range(160)]
    plateau = [(28 << 20) + min(at / WARM, 1) * (6 << 20) + source.choice([0, 0, 0, 2 << 20]) for at in seconds]
    leak = [bytes_ + at * (30 << 10) for at, bytes_ in zip(seconds, plateau, strict=True)]
    for values, less in ((plateau, True), (leak, False)):
        life = Life(seconds, [int(value) for value in values])
        assert (grown(life, life.memory) < MEMORY) is less


@pytest.mark.timeout(7200)
def test_soak() -> None:
    with world() as around:
        soak = Soak(around, SEED)
        soak.run(min(2.0, SECONDS / 6), restarts=False)
        before = soak.rest()
        soak.run(SECONDS * 0.8, restarts=False)
        first = soak.lives[0]
        after = soak.rest()
        soak.run(SECONDS * 0.2, restarts=True)
        soak.rest()
        soak.judge()
        print(f"\n{SECONDS:g} s, seed {SEED}, {sum(soak.outcomes.values())} requests that were waited for")
        for counts in (soak.outcomes, soak.events):
            for name, count in sorted(counts.items(), key=lambda one: -one[1]):
                print(f"  {count:>9} {name}")
        print(f"  the first manager, {first.seconds[-1]:.0f} s:")
        print(
            f"    files without clients: {before}, then {after}; with clients {first.slope(first.files) * 60:+.2f}/min"
        )
        print(f"    memory: {first.memory[0] >> 20} MiB, then {first.memory[-1] >> 20} MiB;", end=" ")
        print(f"{first.slope(first.memory) * 60 / 1024:+.0f} KiB/min in the last {first.window():.0f} s")
        assert soak.outcomes["right"] > SECONDS * 20, "nothing came of it"
        assert after <= before + FILES
        assert grown(first, first.memory) < MEMORY
        assert grown(first, first.files) < FILES
