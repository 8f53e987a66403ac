# SPDX-License-Identifier: Apache-2.0
"""A manager under clients, kills and faults (`manager_soak.Soak`): seconds in CI, ten minutes in ``nox -s soak``."""

from __future__ import annotations

import os

import pytest
from manager_machine import world
from manager_soak import Life, Soak

SECONDS = float(os.environ.get("FPGAHAL_SOAK_SECONDS", "4"))
SEED = int(os.environ.get("FPGAHAL_SOAK_SEED", "1"))
LONG = 60.0  # seconds from which on a slope says something
MEMORY, FILES = (
    8 << 20,
    12,
)  # that a manager's process may have more at the end; boards open and close files of their own


def grown(life: Life, values: list[int]) -> float:
    return life.slope(values) * (life.seconds[-1] - life.seconds[0])


@pytest.mark.timeout(7200)
def test_soak() -> None:
    with world() as around:
        soak = Soak(around, SEED)
        soak.run(min(2.0, SECONDS / 6), restarts=False)
        before = soak.rest()
        soak.run(SECONDS * 0.6, restarts=False)
        first = soak.lives[0]
        after = soak.rest()
        soak.run(SECONDS * 0.4, restarts=True)
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
        print(f"{first.slope(first.memory) * 60 / 1024:+.0f} KiB/min")
        assert soak.outcomes["right"] > SECONDS * 20, "nothing came of it"
        assert after <= before + FILES
        assert SECONDS < LONG or grown(first, first.memory) < MEMORY
        assert SECONDS < LONG or grown(first, first.files) < FILES
