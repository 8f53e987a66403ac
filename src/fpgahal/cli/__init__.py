# SPDX-License-Identifier: Apache-2.0
"""The command ``fpgahal``.  One file a group of commands; `app` has what they share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import fpgahal
from fpgahal.cli.app import Help, Parser, UsageError, common_options, run

EPILOG = """\
exit codes: 0 done; 1 what was asked is not so (verify, doctor); 2 wrong usage; 3 fpgahal could not do it;
130 interrupted.  With --json, errors are a JSON document, too: {"error": {"type", "message", "hint"}}.
FPGAHAL_TRACEBACK=1 adds a Python traceback to errors."""

#: Packages add commands here: `add_to(commands, common)`, as the modules of this one have it.
GROUP = "fpgahal.commands"


def build_parser() -> Parser:
    """Declare every command."""
    # Imported here, because fpgahal-bench shares files of this package, and should not wait for the rest.
    from importlib.metadata import entry_points

    from fpgahal.cli import conformance, devices, doctor, emulate, images, store

    common = common_options()
    parser = Parser(
        prog="fpgahal",
        parents=[common],
        epilog=EPILOG,
        description="Find, program and check FPGA boards, real or emulated.",
        formatter_class=Help,
    )
    parser.add_argument("--version", action="version", version=f"fpgahal {fpgahal.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for group in (devices, images, store, doctor, conformance, emulate):
        group.add_to(commands, common)
    for entry in entry_points(group=GROUP):
        try:
            entry.load()(commands, common)
        except Exception as error:  # somebody else's: the others must go on working
            sys.stderr.write(f"fpgahal: the commands `{entry.name}` ({entry.value}) can't be loaded: {error}\n")
    return parser


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse; what follows ``--`` belongs to the command that `emulate` runs."""
    ours, command = list(argv), None
    if "--" in ours:
        at = ours.index("--")
        ours, command = ours[:at], ours[at + 1 :]
    args = build_parser().parse_args(ours)
    if command is not None and args.run.__name__ != "emulate":
        raise UsageError("`--` is only for `fpgahal emulate`.")
    args.command = command
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and give the exit code."""
    return run("fpgahal", parse, argv)


__all__ = ["main"]
