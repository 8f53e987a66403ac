# SPDX-License-Identifier: Apache-2.0
"""Fixtures: `target` (one test per board and binding), `dev` (it, opened, with an image that copies)."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # tests/targets.py, tests/unit/trees.py

from targets import Target, names, open_target

import fpgahal

# A rack of the caller's shell must not leak into the tests.
for variable in ("FPGAHAL_EMULATE", "FPGAHAL_EMU_RACK"):
    os.environ.pop(variable, None)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One case for each target; ``@pytest.mark.driver("opae")`` keeps to the targets of that driver."""
    if "target" in metafunc.fixturenames:
        metafunc.parametrize("target", targets_of(metafunc.definition), indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Drop what is for another driver, rather than skip it: there is nothing to make up for."""
    foreign = [item for item in items if "target" in getattr(item, "fixturenames", ()) and not targets_of(item)]
    if foreign:
        config.hook.pytest_deselected(items=foreign)
        items[:] = [item for item in items if item not in foreign]


def targets_of(item: pytest.Item) -> list[str]:
    """Names of the targets that a test is for."""
    only = item.get_closest_marker("driver")
    return [name for name in names() if only is None or name == "real" or name.startswith(only.args[0])]


@pytest.fixture
def target(request: pytest.FixtureRequest) -> Iterator[Target]:
    with open_target(request.param) as opened:
        only = request.node.get_closest_marker("driver")
        if only is not None and opened.info.driver != only.args[0]:
            pytest.skip(f"only for {only.args[0]} boards")
        yield opened


@pytest.fixture
def dev(target: Target) -> Iterator[fpgahal.Device]:
    with target.device() as opened:
        yield opened
