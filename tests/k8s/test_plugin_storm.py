# SPDX-License-Identifier: Apache-2.0
"""Storms of random events (`storm.Storm`): CI has some hundred, ``nox -s storm`` ten thousand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test
from storm import Storm
from storm_plugins import PluginAlone

from fpgahal.k8s.plugin import hotplug, kubelet

EVENTS = int(os.environ.get("FPGAHAL_STORM", "300"))
SEED = int(os.environ.get("FPGAHAL_STORM_SEED", "1"))
STORIES = 10  # of one run of Hypothesis


class StormOverAProcess(Storm):
    """The plugin is a process, and SIGKILL is one."""

    make = PluginAlone


def rage(storm: type[Storm], events: int, steps: int) -> None:
    """Run stories of so many steps until there were so many events."""
    storm.events.clear()
    number = SEED
    while storm.events["all"] < events:
        story = settings(
            max_examples=max(1, min(STORIES, (events - storm.events["all"]) // steps)),
            stateful_step_count=steps,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],  # no shrinking: threads and processes never do the same thing twice
        )
        run_state_machine_as_test(seed(number)(storm), settings=story)
        number += 1
    print(f"{storm.__name__}, first seed {SEED}: {dict(storm.events)}")
    assert events < 200 or storm.events["started"] >= events // 50, "nothing came of it"


@pytest.mark.timeout(7200)
def test_storm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hotplug, "QUIET_SECONDS", 0.005)  # no card has other uevents
    monkeypatch.setattr(kubelet, "POLL_SECONDS", 0.01)
    rage(Storm, EVENTS, steps=50)


@pytest.mark.timeout(7200)
def test_storm_over_a_process(tmp_path: Path) -> None:
    rage(StormOverAProcess, EVENTS // 5, steps=20)
