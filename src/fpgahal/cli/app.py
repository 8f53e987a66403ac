# SPDX-License-Identifier: Apache-2.0
"""What every command shares: common options, error texts, exit codes, Ctrl-C and closed pipes.

Exit codes: 0 done; 1 what was asked is not so; 2 wrong usage; 3 fpgahal could not do it; 130 interrupted;
141 the reader of the output went away.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from types import FrameType
from typing import NoReturn

from fpgahal import FpgaError
from fpgahal.cli.output import Output

OK, NOT_SO, USAGE, FAILED, INTERRUPTED, BROKEN_PIPE = 0, 1, 2, 3, 130, 141

Command = Callable[[argparse.Namespace, Output], int]


class UsageError(FpgaError, ValueError):
    """The command line can't be understood."""


class Parser(argparse.ArgumentParser):
    """Raises where argparse would exit, so that --json holds for wrong usage, too."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message[:1].upper()}{message[1:]}.", hint=f"`{self.prog} --help` explains the options.")


class Help(argparse.RawDescriptionHelpFormatter):
    """As argparse's, but it loads no shutil (which loads three compressors): argparse makes one for each option."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_columns() - 2)


def _columns() -> int:
    """Give the terminal's width, as shutil does it."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns):
        return int(columns)
    try:
        return os.get_terminal_size(sys.__stdout__.fileno()).columns or 80  # type: ignore[union-attr]
    except (AttributeError, ValueError, OSError):
        return 80


def common_options() -> argparse.ArgumentParser:
    """Options that every command has, before or after the command's name."""
    options = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    options.add_argument("--json", action="store_true", help="print one JSON document")
    options.add_argument(
        "--emulate", metavar="SPEC", help="use emulated boards, and no others: pac-a10:2,u250 (as FPGAHAL_EMULATE does)"
    )
    return options


def seconds(text: str) -> float:
    """Read an option that is a time: more than nothing, an hour at most."""
    found = float(text)
    if not 0 < found <= 3600:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 3600 seconds")
    return found


def run(prog: str, parse: Callable[[Sequence[str]], argparse.Namespace], argv: Sequence[str] | None) -> int:
    """Parse, run the command that `parse` left in ``args.run``, and turn what it raises into text and a code."""
    argv = sys.argv[1:] if argv is None else argv
    ours = argv[: argv.index("--")] if "--" in argv else argv
    out = Output("--json" in ours)
    previous = signal.signal(signal.SIGTERM, _terminated)
    try:
        try:
            code = _run(parse, argv, out)
            sys.stdout.flush()
            return code
        except FpgaError as error:
            code = USAGE if isinstance(error, UsageError) else FAILED
            return _report(prog, out, error, error.message, error.hint, code)
        except OSError as error:
            if isinstance(error, BrokenPipeError):
                raise
            return _report(
                prog,
                out,
                error,
                f"{error.strerror or error}: {error.filename}" if error.filename else str(error),
                "",
                FAILED,
            )
    except KeyboardInterrupt:
        sys.stderr.write(f"{prog}: interrupted\n")
        return INTERRUPTED
    except BrokenPipeError:
        # The interpreter flushes standard output at exit: give it something that takes the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    finally:
        signal.signal(signal.SIGTERM, previous)


def _run(parse: Callable[[Sequence[str]], argparse.Namespace], argv: Sequence[str], out: Output) -> int:
    args = parse(argv)
    emulate = getattr(args, "emulate", None)
    if emulate is not None:
        if not emulate:  # an empty variable would mean real boards
            raise UsageError("--emulate names no board.", hint="Try --emulate pac-a10 or --emulate pac-a10:2,u250.")
        os.environ["FPGAHAL_EMULATE"] = emulate
        os.environ.pop("FPGAHAL_EMU_RACK", None)  # what is asked for here goes before what is around
    command: Command = args.run
    return command(args, out)


def _report(prog: str, out: Output, error: BaseException, message: str, hint: str, code: int) -> int:
    if os.environ.get("FPGAHAL_TRACEBACK") == "1":
        traceback.print_exception(error)
    if out.as_json:
        out.result({"error": {"type": type(error).__name__, "message": message, "hint": hint}}, lambda: None)
        sys.stdout.flush()
    else:
        sys.stderr.write(f"{prog}: error: {message}\n")
        if hint:
            sys.stderr.write(f"  {hint}\n")
    return code


def _terminated(number: int, frame: FrameType | None) -> None:
    """SIGTERM: leave as after Ctrl-C, so that unfinished files are removed and boards are closed."""
    raise SystemExit(128 + number)
