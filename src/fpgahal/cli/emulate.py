# SPDX-License-Identifier: Apache-2.0
"""``fpgahal emulate SPEC -- COMMAND``: run a command on a machine that has just these emulated boards.

The command may be any program that uses its vendor's library: see :mod:`fpgahal.emu._programs`.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import tempfile
from types import FrameType
from typing import Any

import fpgahal.emu
from fpgahal.cli.app import UsageError
from fpgahal.cli.output import Output

FORWARDED = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP)
FROM_KEYBOARD = (signal.SIGINT, signal.SIGQUIT)


def add_to(commands: argparse._SubParsersAction[Any], common: argparse.ArgumentParser) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "emulate",
        parents=[common],
        usage="fpgahal emulate SPEC [--keep DIR] -- COMMAND...",
        help="run a command with emulated boards",
    )
    parser.add_argument("spec", help="boards: pac-a10:2,u250,aws-f1")
    parser.add_argument("--keep", metavar="DIR", help="make the rack there, and leave it")
    parser.set_defaults(run=emulate)


def emulate(args: argparse.Namespace, out: Output) -> int:
    """``fpgahal emulate``: gives the command's exit status, 128 + n if signal n ended it."""
    if not args.command:
        raise UsageError("There is no command to run.", hint="Try: fpgahal emulate pac-a10:2,u250 -- fpgahal list")
    with (
        fpgahal.emu.rack(args.spec, dir=args.keep, keep=args.keep is not None) as rack,
        tempfile.TemporaryDirectory(prefix="fpgahal-xrt-") as folder,
    ):
        environment = fpgahal.emu.program_environment(rack.dir) | fpgahal.emu.xrt_environment(folder)
        return _supervise(args.command, environment)


def _supervise(command: list[str], environment: dict[str, str]) -> int:
    child: subprocess.Popen[bytes] | None = None

    def forward(number: int, frame: FrameType | None) -> None:
        if child is None:
            raise KeyboardInterrupt
        if not (number in FROM_KEYBOARD and _in_foreground()):  # the terminal has sent it to the child as well
            child.send_signal(number)

    previous = {number: signal.signal(number, forward) for number in FORWARDED}
    try:
        try:
            child = subprocess.Popen(command, env=environment)
        except FileNotFoundError:
            raise UsageError(f"{command[0]}: no such command.") from None
        status = child.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return status if status >= 0 else 128 - status


def _in_foreground() -> bool:
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)
