# SPDX-License-Identifier: Apache-2.0
"""``fpgahal-bench xgboost``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from fpgahal.bench.xgboost_peers import COMPILE

BENCH = [sys.executable, "-W", "ignore", "-m", "fpgahal.bench", "xgboost", "--trees", "5", "--depth", "3"]


def test_the_command(tmp_path: Path) -> None:
    picture = tmp_path / "rates.png"
    done = subprocess.run(
        [*BENCH, "--emulate", "u250", "--seconds", "0.01", "--json", "--plot", str(picture)],
        env={**os.environ, COMPILE: "0"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    found = json.loads(done.stdout)
    assert found["exact"] is True
    assert found["emulated"] is True
    assert [entry["rows"] for entry in found["predict"]] == [1, 32, 1_000, 100_000]
    for entry in found["predict"]:
        assert {"fpgahal", "xgboost inplace_predict", "xgboost predict"} <= entry["seconds"].keys()
        assert min(entry["seconds"].values()) > 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_without_xgboost(tmp_path: Path) -> None:
    (tmp_path / "xgboost.py").write_text("raise ImportError('no', name='xgboost')\n")
    done = subprocess.run(
        [*BENCH, "--emulate", "u250"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode != 0
    assert "needs xgboost" in done.stderr
    assert "pip install" in done.stderr
