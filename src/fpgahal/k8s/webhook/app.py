# SPDX-License-Identifier: Apache-2.0
"""The command ``fpgahal-webhook``: `serve` is the webhook, `crds` prints the CustomResourceDefinitions."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from pathlib import Path

import fpgahal
from fpgahal import LibraryNotFoundError
from fpgahal.cli.app import OK, Help, Parser, UsageError, run
from fpgahal.cli.output import Output
from fpgahal.k8s.webhook import crds

EPILOG = """\
/pods answers reviews, with TLS, on --port; /healthz, /readyz and /metrics are on --status-port, without.
Renewed certificate files are taken without a restart.  Logs are JSON lines on standard error."""


def build_parser() -> Parser:
    """Declare the options."""
    common = Parser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument("--json", action="store_true", help="print one JSON document")
    parser = Parser(
        prog="fpgahal-webhook",
        parents=[common],
        epilog=EPILOG,
        description="Admission webhook for pods that ask for FPGA functions by name.",
        formatter_class=Help,
    )
    parser.add_argument("--version", action="version", version=f"fpgahal {fpgahal.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    serving = commands.add_parser("serve", parents=[common], help="answer the API server until SIGTERM")
    serving.add_argument("--cert", type=Path, required=True, metavar="FILE", help="certificate chain, PEM")
    serving.add_argument("--key", type=Path, required=True, metavar="FILE", help="its private key, PEM")
    serving.add_argument("--host", default="0.0.0.0", help="address to listen on (default: all)")
    serving.add_argument("--port", type=_port, default=9443, help="for reviews, with TLS (default 9443)")
    serving.add_argument("--status-port", type=_port, default=8080, help="for health and metrics (default 8080)")
    serving.add_argument("--api-server", metavar="URL", help="instead of the pod's own: that of `kubectl proxy`")
    serving.add_argument(
        "--drain", type=_seconds, default=5.0, metavar="S", help="go on serving so long after SIGTERM (default 5)"
    )
    serving.add_argument(
        "--intel-names",
        choices=("2020", "2018"),
        default="2020",
        help="how nodes name a programmed function: by interface and AFU id, or (until 2020) by AFU id (default 2020)",
    )
    serving.add_argument(
        "--catalogue", type=Path, metavar="FILE", help="images for pods that ask for accel.fpgahal.dev/ACCELERATOR"
    )
    serving.add_argument(
        "--look-seconds",
        type=_seconds,
        default=2.0,
        metavar="S",
        help="how long to believe what was seen of nodes and pods; 0: choose by the catalogue alone (default 2)",
    )
    serving.set_defaults(run=serve)
    printing = commands.add_parser("crds", parents=[common], help="print the CustomResourceDefinitions, as YAML")
    printing.set_defaults(run=print_crds)
    return parser


def serve(args: argparse.Namespace, out: Output) -> int:
    """Run the webhook."""
    try:
        from fpgahal.k8s.api import Api
        from fpgahal.k8s.logs import log_json
        from fpgahal.k8s.webhook.server import Settings
        from fpgahal.k8s.webhook.server import serve as serve_reviews
    except ModuleNotFoundError as error:
        raise LibraryNotFoundError(
            f"{error.name} is not installed.", hint="`pip install 'fpgahal[k8s]'` installs what this command needs."
        ) from None

    def started(port: int, status_port: int) -> None:
        if out.as_json:
            out.result({"port": port, "status_port": status_port}, lambda: None)
            out.stream.flush()

    if args.api_server is not None and not args.api_server.startswith(("http://", "https://")):
        raise UsageError(f"--api-server {args.api_server!r} is no URL.", hint="Try --api-server http://127.0.0.1:8001.")
    log_json()
    api = Api.of_pod() if args.api_server is None else Api(args.api_server)
    settings = Settings(
        args.cert,
        args.key,
        args.host,
        args.port,
        args.status_port,
        names_of_2018=args.intel_names == "2018",
        drain_seconds=args.drain,
        catalogue=args.catalogue,
        look_seconds=args.look_seconds,
    )
    asyncio.run(serve_reviews(settings, api, started))
    return OK


def print_crds(args: argparse.Namespace, out: Output) -> int:
    """Print the definitions: one YAML stream, or one JSON List."""
    definitions = list(crds.definitions().values())
    document = {"apiVersion": "v1", "kind": "List", "items": definitions}

    def text() -> None:
        out.stream.write("---\n".join(map(crds.yaml_text, definitions)))

    out.result(document, text)
    return OK


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{port} is no port")
    return port


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 3600 seconds")
    return seconds


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and give the exit code."""
    return run("fpgahal-webhook", build_parser().parse_args, argv)
