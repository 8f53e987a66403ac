# SPDX-License-Identifier: Apache-2.0
"""Fixtures: `target` (one test per board and binding), `dev` (it, opened, with an image that copies)."""

from __future__ import annotations

import os
import secrets
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # tests/targets.py, tests/unit/trees.py

from targets import EMULATED, ONLY, STAND_INS, Target, is_for, names, open_target

import fpgahal

# A rack of the caller's shell must not leak into the tests.
for variable in ("FPGAHAL_EMULATE", "FPGAHAL_EMU_RACK"):
    os.environ.pop(variable, None)

# Or Ray writes its token into the home folder.
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))

# A shell's background job ignores Ctrl-C, and so would the programs that the tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# These run under the interposer only: see test_interposed.py.
collect_ignore = [] if os.environ.get(ONLY) else ["faults/test_dfl.py"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One case for each target; ``@pytest.mark.driver("opae")`` keeps to the targets of that driver."""
    if "target" in metafunc.fixturenames:
        only = metafunc.definition.get_closest_marker("driver")
        kept = [name for name in names() if only is None or is_for(name, only.args[0])]
        metafunc.parametrize("target", kept, indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what this run has no target for (it would count as skipped)."""

    def wanted(item: pytest.Item) -> bool:
        only = item.get_closest_marker("driver")
        return only is None or any(is_for(name, only.args[0]) for name in names())

    out = [item for item in items if not wanted(item)]
    if out:
        items[:] = [item for item in items if wanted(item)]
        config.hook.pytest_deselected(items=out)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line for each target of the conformance suite, also for those that had a process of their own."""
    if EMULATED is not STAND_INS or os.environ.get(ONLY):
        return  # this is such a process
    lines = []
    for name in STAND_INS:
        counts = {
            outcome: sum("/conformance/" in one.nodeid and f"[{name}" in one.nodeid for one in reports)
            for outcome, reports in terminalreporter.stats.items()
            if outcome in ("passed", "failed", "error", "skipped")
        }
        lines.append((name, ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count)))
    for report in terminalreporter.stats.get("passed", []):
        lines += [(key.partition(":")[2], value) for key, value in report.user_properties if key.startswith("target:")]
    if any(counts for _, counts in lines):
        terminalreporter.section("conformance, by target")
    for name, counts in lines:
        if counts:
            terminalreporter.write_line(f"{name}: {counts}")


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
