# SPDX-License-Identifier: Apache-2.0
"""Storms over a real manager (`manager_machine.Storm`): CI has some hundred events, ``nox -s storm`` thousands."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test
from manager_machine import ROOT, Storm, world

EVENTS = int(os.environ.get("FPGAHAL_STORM", "1000")) // 5  # each takes longer than one of the plugin's
SEED = int(os.environ.get("FPGAHAL_STORM_SEED", "1"))
STEPS = 40  # of a story
STORIES = 10  # of one run of Hypothesis, whose first is the plainest


def compete() -> None:
    """Until it was long enough to tell who gets what; on a machine that is busy with something else, it may not be."""
    for _ in range(3):
        story = Storm()
        try:
            story.compete()
        finally:
            story.teardown()
        if Storm.world.events["competitions"]:
            return


@pytest.mark.timeout(7200)
def test_storm_over_a_manager() -> None:
    with world() as Storm.world:
        events = Storm.world.events
        number = SEED
        if ROOT:
            compete()
        while events["all"] < EVENTS:
            story = settings(
                max_examples=max(2, min(STORIES, (EVENTS - events["all"]) // STEPS)),
                stateful_step_count=STEPS,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
                phases=[Phase.generate],  # no shrinking: processes never do the same thing twice
            )
            try:
                run_state_machine_as_test(seed(number)(Storm), settings=story)
            except Exception as error:
                print(f"seed {number}: {dict(events)}")
                raise Storm.world.failure or error from None
            number += 1
        print(f"first seed {SEED}: {dict(events)}")
        assert EVENTS < 200 or events["right"] >= EVENTS // 10, "nothing came of it"
