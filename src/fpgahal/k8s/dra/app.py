# SPDX-License-Identifier: Apache-2.0
"""The command ``fpgahal-dra``: the driver for dynamic resource allocation."""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

import fpgahal
from fpgahal import LibraryNotFoundError
from fpgahal.cli.app import OK, Help, Parser, UsageError, run
from fpgahal.cli.output import Output
from fpgahal.k8s import catalogue

EPILOG = """\
Needs get on its node and on resourceclaims, and list, watch, create, update and delete on resourceslices.
Logs are JSON lines on standard error."""


def build_parser() -> Parser:
    """Declare the options."""
    parser = Parser(
        prog="fpgahal-dra",
        epilog=EPILOG,
        description="Offers this node's FPGA boards, real or emulated, and images for them, to ResourceClaims.",
        formatter_class=Help,
    )
    parser.add_argument("--version", action="version", version=f"fpgahal {fpgahal.__version__}")
    parser.add_argument("--node-name", default=os.environ.get("NODE_NAME", ""), help="this node (default: $NODE_NAME)")
    parser.add_argument("--catalogue", type=Path, metavar="FILE", help="images that claims may ask for")
    parser.add_argument(
        "--store",
        type=Path,
        default=Path("/srv/intel.com/fpga"),
        metavar="DIR",
        help="folder with their files (default /srv/intel.com/fpga)",
    )
    parser.add_argument("--no-program", action="store_true", help="load no image: one that a claim asks for must run")
    parser.add_argument(
        "--kubelet-dir", type=Path, default=Path("/var/lib/kubelet"), metavar="DIR", help="kubelet's root folder"
    )
    parser.add_argument(
        "--cdi-dir", type=Path, default=Path("/var/run/cdi"), metavar="DIR", help="where runtimes look for CDI files"
    )
    parser.add_argument("--scan-seconds", type=_seconds, default=5.0, metavar="S", help="between looks at the boards")
    parser.add_argument("--api-server", metavar="URL", help="instead of the pod's own: that of `kubectl proxy`")
    parser.add_argument("--emulate", metavar="SPEC", help="offer emulated boards, and no others: pac-a10:2,u250")
    parser.add_argument("--rack", metavar="DIR", help="folder of emulated boards that is there, instead of --emulate")
    parser.add_argument("--once", action="store_true", help="print the ResourceSlices' specs, and end")
    parser.add_argument("--json", action="store_true", help="with --once: one JSON document; errors, too")
    parser.set_defaults(run=serve)
    return parser


def serve(args: argparse.Namespace, out: Output) -> int:
    """Run the driver, or print what it would publish."""
    if not args.node_name:
        raise UsageError("Which node this is, is not known.", hint="Set NODE_NAME, or give --node-name.")
    if args.rack:
        os.environ["FPGAHAL_EMU_RACK"] = args.rack
    if args.once:
        return _once(args.node_name, args.catalogue, out)
    try:
        from fpgahal.k8s.api import Api
        from fpgahal.k8s.dra.service import Config, Service
        from fpgahal.k8s.logs import log_json
    except ModuleNotFoundError as error:
        raise LibraryNotFoundError(
            f"{error.name} is not installed.", hint="`pip install 'fpgahal[k8s]'` installs what this command needs."
        ) from None
    if args.api_server is not None and not args.api_server.startswith(("http://", "https://")):
        raise UsageError(f"--api-server {args.api_server!r} is no URL.", hint="Try --api-server http://127.0.0.1:8001.")
    config = Config(
        args.node_name,
        args.catalogue,
        args.store,
        not args.no_program,
        args.kubelet_dir,
        args.cdi_dir,
        args.scan_seconds,
        os.environ.get("POD_UID", ""),
    )
    service = Service(config)
    log_json()
    asyncio.run(service.run(Api.of_pod() if args.api_server is None else Api(args.api_server)))
    return OK


def _once(node: str, path: Path | None, out: Output) -> int:
    from fpgahal.k8s.dra.devices import devices
    from fpgahal.k8s.dra.slices import specs

    found = devices(fpgahal.devices(), catalogue.load(path).images if path is not None else ())

    def text() -> None:
        out.table(
            ["DEVICE", "BOARD", "IMAGE", "ACCELERATORS"],
            [
                [
                    device.name,
                    device.info.name,
                    device.image.name if device.image else "-",
                    ", ".join(f"{n} x {name}" for name, n in device.image.accelerators.items())
                    if device.image
                    else "-",
                ]
                for device in found
            ],
        )

    out.result({"slices": specs(node, found)}, text)
    return OK


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0.05 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text} is not between 0.05 and 3600 seconds")
    return seconds


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and give the exit code."""
    return run("fpgahal-dra", build_parser().parse_args, argv)
