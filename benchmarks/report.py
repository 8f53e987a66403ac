# SPDX-License-Identifier: Apache-2.0
"""Run the benchmarks and print the README's table: ``python benchmarks/report.py [--update README.md]``."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--update", metavar="FILE", type=Path, help="write the table between the marks of this file")
    options, pytest_args = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        book = Path(folder, "book.json")
        status = subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-s",
                "--benchmark-disable-gc",
                "--benchmark-columns=median,iqr",
                "-p",
                "no:cacheprovider",
                "-c",
                str(HERE / "pytest.ini"),
                str(HERE),
                *pytest_args,
            ],
            env={**os.environ, "FPGAHAL_BENCH_BOOK": str(book)},
            check=False,
        ).returncode
        rows = json.loads(book.read_text()) if book.exists() else []
    text = table(rows)
    print(text)
    if options.update and rows:
        before, _, rest = options.update.read_text().partition(BEGIN)
        _, _, after = rest.partition(END)
        options.update.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")
    return status


def table(rows: list[dict[str, object]]) -> str:
    """Markdown."""
    lines = ["| what | fpgahal | against | its time | ratio | goal |", "|---|---:|---|---:|---:|---|"]
    for row in rows:
        base = row["baseline"]
        ratio = "" if base is None else f"{row['ratio']:.2f}"
        lines.append(
            f"| {row['what']} | {human(row['ours'])} | {row['against']} | "
            f"{'' if base is None else human(base)} | {ratio} | {row['goal']} |"
        )
    lines += [
        "",
        f"Machine: {machine()}, Python {platform.python_version()}.  One interleaved run, medians; boards are "
        "EMULATED, so these are the costs of the software.  A ratio against ctypes or cffi says how many times "
        "slower they are.",
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
