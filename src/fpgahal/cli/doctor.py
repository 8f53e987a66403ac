# SPDX-License-Identifier: Apache-2.0
"""``fpgahal doctor``: prints the checks of :mod:`fpgahal.cli.checks`."""

from __future__ import annotations

import argparse
from collections import Counter
from typing import Any

from fpgahal.cli.app import NOT_SO, OK
from fpgahal.cli.checks import all_checks
from fpgahal.cli.output import Output


def add_to(commands: argparse._SubParsersAction[Any], common: argparse.ArgumentParser) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "doctor", parents=[common], help="check drivers, libraries, memory, permissions; say what to do"
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=10.0,
        metavar="S",
        help="seconds that a vendor library may take to load (default 10)",
    )
    parser.set_defaults(run=doctor)


def doctor(args: argparse.Namespace, out: Output) -> int:
    """``fpgahal doctor``: 1 if a check failed."""
    checks = all_checks(timeout=args.timeout)
    counts = Counter(check.status for check in checks)

    def text() -> None:
        out.table(["STATUS", "CHECK", "FOUND"], [[check.status, check.name, check.found] for check in checks])
        advice = [check for check in checks if check.advice and check.status != "ok"]
        if advice:
            out.line()
        for check in advice:
            out.line(f"{check.name} ({check.status}): {check.advice}")
        out.line()
        out.line(", ".join(f"{counts[status]} {status}" for status in ("ok", "warn", "fail", "absent")))

    out.result({"ok": not counts["fail"], "checks": checks}, text)
    return NOT_SO if counts["fail"] else OK
