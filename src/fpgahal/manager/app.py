# SPDX-License-Identifier: Apache-2.0
"""The command ``fpgahal-manager``: own the boards of this node, and run what clients ask for, until SIGTERM."""

from __future__ import annotations

import argparse
import gc
import logging
import resource
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import fpgahal
from fpgahal import DeviceInfo, DeviceNotFoundError, FpgaError
from fpgahal.cli.app import OK, Help, Parser, common_options, run, seconds
from fpgahal.cli.output import Output
from fpgahal.k8s.logs import log_json
from fpgahal.manager.accelerators import catalogue
from fpgahal.manager.arrivals import Arrivals
from fpgahal.manager.client import default_socket
from fpgahal.manager.limits import Limits
from fpgahal.manager.notify import notify
from fpgahal.manager.policy import Policy
from fpgahal.manager.repository import read
from fpgahal.manager.server import Server

if TYPE_CHECKING:
    from fpgahal.manager.metrics import Endpoint

_SWITCH = 0.0005  # seconds: threads of boards leave the interpreter to the one that reads from clients, sooner

EPILOG = """\
Clients connect with fpgahal.manager.connect().  Who may connect is the socket's owner and group (--mode); what they may
use then is the policy's business.  Logs are JSON lines on standard error."""


def build_parser() -> Parser:
    """Declare the options."""
    parser = Parser(
        prog="fpgahal-manager",
        parents=[common_options()],
        description="Run the requests of many programs on the boards of this node.",
        epilog=EPILOG,
        formatter_class=Help,
    )
    parser.add_argument("--version", action="version", version=f"fpgahal {fpgahal.__version__}")
    parser.add_argument("boards", nargs="*", metavar="BOARD", help="addresses of the boards to own (default: all)")
    parser.add_argument(
        "--socket", type=Path, metavar="PATH", help="default: $FPGAHAL_MANAGER, else /run/fpgahal/manager.sock"
    )
    parser.add_argument("--mode", type=_mode, default=0o660, metavar="MODE", help="of the socket (default 660)")
    parser.add_argument("--policy", type=Path, metavar="FILE", help="who may use what (TOML)")
    parser.add_argument(
        "--timeout",
        type=seconds,
        default=10.0,
        metavar="S",
        help="that a run may take at most (default 10)",
    )
    parser.add_argument(
        "--images",
        type=Path,
        metavar="FOLDER",
        help="a bitstream repository as InAccel's (bitstream.json beside each image)",
    )
    parser.add_argument(
        "--unsized",
        action="store_true",
        help="offer kernels of it, too, whose arrays have no known size: clients are trusted",
    )
    parser.add_argument(
        "--metrics", type=_address, metavar="ADDRESS:PORT", help="serve /metrics and /healthz there, over HTTP"
    )
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    parser.set_defaults(run=serve)
    return parser


def serve(args: argparse.Namespace, out: Output) -> int:
    """Run the manager."""
    policy = Policy.load(args.policy) if args.policy is not None else Policy()
    devices = _seek(args.boards)
    if not devices:
        for name in args.boards:
            fpgahal.find(name)  # says what is wrong
        raise DeviceNotFoundError(
            "There is no board to manage.", hint="`fpgahal doctor` says what is missing; --emulate makes some."
        )
    offered = catalogue()
    if args.images is not None:
        offered |= read(args.images, unsized=args.unsized)
    path = args.socket if args.socket is not None else Path(default_socket())
    log_json(logging.getLevelNamesMapping()[args.log_level.upper()])
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # each buffer of a client takes one
    sys.setswitchinterval(_SWITCH)
    server = Server(path, devices, offered, policy, mode=args.mode, limits=Limits(timeout=args.timeout))
    arrivals = Arrivals(partial(_seek, args.boards), lambda: server.node.boards, server.add)
    endpoint = _endpoint(args.metrics, server, devices) if args.metrics is not None else None

    def stop(number: int, frame: FrameType | None) -> None:
        notify("STOPPING=1")
        server.stop()

    def ready() -> None:
        addresses = [info.address for info in devices]
        metrics = {"metrics": endpoint.url} if endpoint is not None else {}
        out.result(
            {"socket": str(path), "boards": addresses} | metrics,
            lambda: out.line(" ".join([f"fpgahal-manager: {', '.join(addresses)} at {path}", *metrics.values()])),
        )
        out.stream.flush()
        gc.freeze()  # what is there now stays: no request need wait until all of it was looked through
        notify("READY=1", f"STATUS=boards: {', '.join(addresses)}")

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    server.run(ready)
    arrivals.stop()
    if endpoint is not None:
        endpoint.close()
    return OK


def _seek(names: Sequence[str]) -> list[DeviceInfo]:
    """The boards that are there, of those that were named."""
    if not names:
        return fpgahal.devices()
    found = []
    for name in names:
        with suppress(DeviceNotFoundError):
            found.append(fpgahal.find(name))
    return found


def _endpoint(address: tuple[str, int], server: Server, devices: list[DeviceInfo]) -> Endpoint:
    try:
        from fpgahal.manager.metrics import Endpoint, Metrics
    except ImportError as error:
        raise FpgaError(
            f"--metrics needs prometheus-client: {error}.", hint="pip install 'fpgahal[manager]'"
        ) from error
    return Endpoint(address, Metrics(server, devices))


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) < 1 << 16):
        raise argparse.ArgumentTypeError(f"{text} is no address and port, like 127.0.0.1:9090")
    return host.strip("[]"), int(port)


def _mode(text: str) -> int:
    mode = int(text, 8)
    if mode & ~0o666:
        raise argparse.ArgumentTypeError(f"{text} is no mode of a socket, like 660")
    return mode


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and give the exit code."""
    return run("fpgahal-manager", build_parser().parse_args, argv)


if __name__ == "__main__":
    sys.exit(main())
