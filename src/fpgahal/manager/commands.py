# SPDX-License-Identifier: Apache-2.0
"""``fpgahal manager status | cordon | drain | uncordon`` and ``fpgahal top``: added by an entry point."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from fpgahal.cli.app import NOT_SO, OK, UsageError
from fpgahal.cli.output import Output
from fpgahal.manager.codes import Verb

_PATIENCE = 300.0  # seconds that draining may take

Boards = list[dict[str, Any]]


def add_to(commands: argparse._SubParsersAction[Any], common: argparse.ArgumentParser) -> None:
    """Declare the commands."""
    group = commands.add_parser(
        "manager", parents=[common], help="look at the node manager; take boards out of service"
    )
    inner = group.add_subparsers(title="commands", metavar="COMMAND", required=True)

    parser = inner.add_parser("status", parents=[common], help="boards, and what they do")
    _connection(parser, "that the manager may take to answer (default 5)", 5.0)
    parser.set_defaults(run=status)

    for name, help in {
        "cordon": "give boards no more requests; what they run ends",
        "uncordon": "use boards again",
        "drain": "cordon boards, wait for what they run, and close them, so that others can have them",
    }.items():
        parser = inner.add_parser(name, parents=[common], help=help)
        parser.add_argument(
            "boards", nargs="*", metavar="BOARD", help="addresses, as `fpgahal manager status` has them"
        )
        parser.add_argument("--all", action="store_true", help="all boards of the manager")
        if name == "drain":
            _connection(parser, f"that it may take (default {_PATIENCE:g}); what runs goes on then", _PATIENCE)
        else:
            _connection(parser, "that the manager may take to answer (default 5)", 5.0)
        parser.set_defaults(run={"cordon": cordon, "uncordon": uncordon, "drain": drain}[name])

    parser = commands.add_parser("top", parents=[common], help="watch the node manager: boards, users, clients")
    _connection(parser, "that the manager may take to answer (default 5)", 5.0)
    parser.add_argument("--interval", type=_seconds, default=1.0, metavar="S", help="between views (default 1)")
    parser.add_argument("--once", action="store_true", help="one view; so it is if the output is no terminal")
    parser.set_defaults(run=top)


def _connection(parser: argparse.ArgumentParser, help: str, default: float) -> None:
    parser.add_argument("--socket", metavar="PATH", help="default: $FPGAHAL_MANAGER, else /run/fpgahal/manager.sock")
    parser.add_argument("--timeout", type=_seconds, default=default, metavar="S", help=f"seconds {help}")


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0.05 <= seconds <= 86400:
        raise argparse.ArgumentTypeError(f"{text} is not between 0.05 and 86,400 seconds")
    return seconds


def status(args: argparse.Namespace, out: Output) -> int:
    """``fpgahal manager status``."""
    from fpgahal.manager.control import Control

    with Control(args.socket, args.timeout) as control:
        found = control.status()

    def text() -> None:
        _table(found["boards"], out)
        waiting = sum(found["waiting"].values())
        out.line(f"{found['connections']} clients; {waiting} requests wait, {found['requests'] - waiting} run")

    out.result(found, text)
    return OK


def cordon(args: argparse.Namespace, out: Output) -> int:
    """``fpgahal manager cordon``."""
    return _want(Verb.CORDON, args, out)


def uncordon(args: argparse.Namespace, out: Output) -> int:
    """``fpgahal manager uncordon``."""
    return _want(Verb.UNCORDON, args, out)


def _want(verb: Verb, args: argparse.Namespace, out: Output) -> int:
    from fpgahal.manager.control import Control

    names = _named(args)
    with Control(args.socket, args.timeout) as control:
        control.boards(names)  # all are there, or nothing is done
        for name in names or [""]:
            control.want(verb, name)
        boards = control.boards(names)
    out.result({"boards": boards}, lambda: _table(boards, out))
    return OK


def drain(args: argparse.Namespace, out: Output) -> int:
    """``fpgahal manager drain``."""
    from fpgahal.manager.control import Control

    boards: Boards = []
    try:
        with Control(args.socket) as control:
            for boards in control.drain(_named(args), args.timeout):
                left = [board for board in boards if board["state"] != "drained"]
                if left and not out.as_json:
                    texts = [f"{board['address']} runs {board['running']}" for board in left]
                    sys.stderr.write(f"draining: {', '.join(texts)}\n")
    except KeyboardInterrupt:
        sys.stderr.write("The boards stay cordoned; `fpgahal manager uncordon` gives them back.\n")
        raise
    drained = all(board["state"] == "drained" for board in boards)

    def text() -> None:
        _table(boards, out)
        if not drained:
            sys.stderr.write(
                f"Not drained after {args.timeout:g} s: what runs goes on, nothing new begins; `fpgahal manager drain` "
                "waits again.\n"
            )

    out.result({"drained": drained, "boards": boards}, text)
    return OK if drained else NOT_SO


def top(args: argparse.Namespace, out: Output) -> int:
    """``fpgahal top``."""
    from fpgahal.manager.control import Control
    from fpgahal.manager.top import live, once

    if args.once or out.as_json or not out.stream.isatty():
        with Control(args.socket, args.timeout) as control:
            once(control, args.interval, out)
    else:
        live(args.socket, args.timeout, args.interval)
    return OK


def _named(args: argparse.Namespace) -> list[str]:
    if bool(args.boards) == args.all:
        raise UsageError("Which boards?", hint="Name some, or say --all; `fpgahal manager status` lists them.")
    return list(dict.fromkeys(args.boards))


def _table(boards: Boards, out: Output) -> None:
    out.table(
        ["BOARD", "NAME", "STATE", "IMAGE", "RUNNING", "RELOADS", "BOARD-SECONDS"],
        [
            [
                board["address"],
                board["name"],
                board["state"],
                ", ".join(board["runs"]) or board["loaded"] or "-",
                board["running"],
                board["reloads"],
                round(board["busy_seconds"], 1),
            ]
            for board in boards
        ],
    )
