# SPDX-License-Identifier: Apache-2.0
"""Run the benchmarks and print the README's tables: ``python benchmarks/report.py [--update README.md]``."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent

#: The vendors' bindings need the vendors' libraries below them, which a process chooses once.
PEERS = {"FPGAHAL_EMU_XRT": "real", "FPGAHAL_EMU_OPAE": "real"}
ACCELERATORS = ("test_xgboost.py", "test_xgboost_train.py", "test_pipeline.py")
CLUSTER = ("test_plugin.py", "test_webhook.py")
MANAGER = ("test_manager.py", "test_manager_grpc.py", "test_manager_killed.py", "test_manager_others.py")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--update", metavar="FILE", type=Path, help="write the tables between the marks of this file")
    options, pytest_args = parser.parse_known_args()
    parts = (*ACCELERATORS, *CLUSTER, *MANAGER, "test_peers.py")
    others = [word for name in parts for word in ("--ignore", str(HERE / name))]
    worst = 0
    for mark, make, arguments, variables in (
        ("benchmarks", table, [str(HERE), *others], {}),
        ("peers", peer_table, [str(HERE / "test_peers.py"), "-rs"], PEERS),
        ("accelerators", accelerator_table, [*(str(HERE / name) for name in ACCELERATORS), "-rs"], {}),
        ("cluster", cluster_table, [str(HERE / name) for name in CLUSTER], {}),
        ("manager", manager_table, [str(HERE / name) for name in MANAGER], {}),
    ):
        status, rows = measure([*arguments, *pytest_args], variables)
        worst = worst or status
        if rows:
            text = make(rows)
            print(f"\n{text}")
            if options.update:
                update(options.update, mark, text)
    return worst


def measure(pytest_args: list[str], variables: dict[str, str]) -> tuple[int, list[dict[str, Any]]]:
    """Run benchmarks in a process of their own; give its status, and the rows that it noted."""
    with tempfile.TemporaryDirectory() as folder:
        book = Path(folder, "book.json")
        command = [sys.executable, "-m", "pytest", "-q", "-s", "--benchmark-disable-gc"]
        command += ["--benchmark-columns=median,iqr", "-p", "no:cacheprovider", "-c", str(HERE / "pytest.ini")]
        status = subprocess.run(
            [*command, *pytest_args],
            env={**os.environ, **variables, "FPGAHAL_BENCH_BOOK": str(book)},
            check=False,
        ).returncode
        return status, json.loads(book.read_text()) if book.exists() else []


def update(file: Path, mark: str, text: str) -> None:
    """Put `text` between the marks of that name."""
    begin, end = f"<!-- {mark}: begin -->", f"<!-- {mark}: end -->"
    before, _, rest = file.read_text().partition(begin)
    _, _, after = rest.partition(end)
    file.write_text(f"{before}{begin}\n{text}\n{end}{after}")


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: fpgahal against C, ctypes, cffi."""
    return rows_against(rows, "ratio", lambda row: f"{row['ratio']:.2f}") + (
        "  One interleaved run, medians; boards are EMULATED, so these are the costs of the software.  A ratio against "
        "ctypes or cffi says how many times slower they are."
    )


def accelerator_table(rows: list[dict[str, Any]]) -> str:
    """Markdown: whole jobs on an emulated board against engines on the CPU."""
    return rows_against(rows, "times faster", lambda row: f"{row['baseline'] / row['ours']:.2f}x") + (
        "  EMULATED boards: the kernels run on this computer, as the engines do, one thread each.  Interleaved runs, "
        "medians."
    )


def rows_against(rows: list[dict[str, Any]], heading: str, ratio: Callable[[dict[str, Any]], str]) -> str:
    """Rows of the book, and the machine that they come from; a limit has no baseline, and so no ratio."""
    lines = [f"| what | fpgahal | against | its time | {heading} | goal |", "|---|---:|---|---:|---:|---|"]
    for row in rows:
        theirs = ("", "") if row["baseline"] is None else (human(row["baseline"]), ratio(row))
        cells = (row["what"], human(row["ours"]), row["against"], *theirs, row["goal"])
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"Machine: {machine()}, Python {platform.python_version()}."])


def cluster_table(rows: list[dict[str, Any]]) -> str:
    """Markdown: what a node and a cluster notice of fpgahal, and what of it is not ours."""
    lines = ["| what | measured | goal |", "|---|---:|---|"]
    for row in rows:
        if row["baseline"] is not None:
            lines.append(f"| {row['against']} | {human(row['baseline'])} |  |")
        else:
            lines.append(f"| {row['what']} | {human(row['ours']) if row['ours'] else ''} | {row['goal']} |")
    return "\n".join([*lines, "", f"Machine: {machine()}, Python {platform.python_version()}.  EMULATED boards."])


def manager_table(rows: list[dict[str, Any]]) -> str:
    """Markdown: what sharing boards costs, and what it brings."""
    return rows_against(rows, "times faster", lambda row: f"{row['baseline'] / row['ours']:.2f}x") + (
        "  EMULATED boards.  Interleaved runs, medians where nothing else is said."
    )


def peer_table(rows: list[dict[str, Any]]) -> str:
    """Markdown: fpgahal against the vendors' own bindings."""
    lines = ["| what | fpgahal | peer | its time | times slower | goal | C loop |", "|---|---:|---|---:|---:|---|---:|"]
    for row in rows:
        floor = "" if row["floor"] is None else human(row["floor"])
        lines.append(
            f"| {row['what']} | {human(row['ours'])} | {row['peer']} | {human(row['theirs'])} | {row['ratio']:.1f}x | "
            f">= {row['goal']:g}x | {floor} |"
        )
    lines += [
        "",
        f"Machine: {machine()}, Python {platform.python_version()}.  EMULATED boards; one interleaved run, lower "
        "quartiles.",
    ]
    return "\n".join(lines)


def human(seconds: object) -> str:
    assert isinstance(seconds, float)
    for factor, unit in ((1e9, "ns"), (1e6, "µs"), (1e3, "ms")):
        if seconds * factor < 1000:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds:.3g} s"


def machine() -> str:
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return f"{model}, {os.cpu_count()} cores (a shared virtual machine)"


if __name__ == "__main__":
    sys.exit(main())
