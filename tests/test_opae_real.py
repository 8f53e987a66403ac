# SPDX-License-Identifier: Apache-2.0
"""Emulated boards below the vendor's own libopae-c, where there is one: FPGAHAL_OPAE_LIBRARY or the loader names it.

The binding loads one libopae-c a process, so the conformance suite runs in a process of its own.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


@pytest.fixture
def real_opae() -> dict[str, str]:
    """The environment for a process on the real libopae-c; skips where there is none."""
    environment = {**os.environ, "FPGAHAL_EMU_OPAE": "real"}
    answer = run("import json, fpgahal._probe as p; print(json.dumps(p.probe('emu-opae')))", environment)
    if "error" in json.loads(answer.splitlines()[-1]):
        pytest.skip(f"needs a libopae-c of 2.12 or newer: {json.loads(answer)['error']}")
    return environment


def run(program: str, environment: dict[str, str]) -> str:
    """Run a Python program in a process of its own: a libopae-c that is loaded once stays as it is."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


SUITES = {
    "conformance": (["tests/conformance"], 100),
    "faults": ([f"tests/faults/test_{name}.py" for name in ("faults", "threads", "leaks", "processes")], 60),
}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("suite", SUITES)
def test_suite(suite: str, real_opae: dict[str, str], record_property: Callable[[str, object], None]) -> None:
    """Everything that fpgahal promises holds on the vendor's own library."""
    files, least = SUITES[suite]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files]
    done = subprocess.run(command, env=real_opae, cwd=TESTS.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = re.search(r"(\d+) passed.*", done.stdout)
    assert counts, done.stdout
    assert int(counts[1]) >= least
    assert "skipped" not in counts[0]
    record_property(f"target:opae-real, {suite}", counts[0])


def test_which_library(real_opae: dict[str, str]) -> None:
    """It is the vendor's code that runs, and the environment is as it was."""
    run(
        """
        import os, sys
        import fpgahal
        from fpgahal import _opae, emu
        before = dict(os.environ)
        with emu.rack("pac-a10") as rack, fpgahal.open(rack.devices()[0]) as dev:
            library, version = _opae.library(emulated=True)
            assert "libopae-c.so" in library.path, library
            assert tuple(map(int, version.split("."))) >= (2, 12, 0), version
            assert dev.afu_id is not None
        assert dict(os.environ) == before
    """,
        real_opae,
    )


def test_racks_in_turn(real_opae: dict[str, str]) -> None:
    """The plugin follows the rack that is in use; one that is gone has no boards."""
    run(
        """
        import fpgahal, uuid
        from fpgahal import emu
        for model in ("pac-a10", "n3000", "d5005:3"):
            with emu.rack(model) as rack:
                infos = rack.devices()
                with fpgahal.open(infos[-1]) as dev:
                    assert dev.afu_id == infos[-1].afu_id
        try:
            fpgahal.open(infos[-1])
        except fpgahal.DeviceLostError:
            pass
        else:
            raise SystemExit("a board of a rack that is gone was opened")
    """,
        real_opae,
    )
