# SPDX-License-Identifier: Apache-2.0
"""``fpgahal k8s plan | autoscaler-tags | node-labels``: added to the command line by an entry point, as anybody could.

The command line is below this package and does not know it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fpgahal
from fpgahal.cli.app import OK, UsageError
from fpgahal.cli.output import Output
from fpgahal.k8s import autoscaler
from fpgahal.k8s.files import write_whole


def add_to(commands: argparse._SubParsersAction[Any], common: argparse.ArgumentParser) -> None:
    """Declare the commands."""
    group = commands.add_parser("k8s", parents=[common], help="plan boards for pods; tags and labels of nodes")
    inner = group.add_subparsers(title="commands", metavar="COMMAND", required=True)

    parser = inner.add_parser("plan", parents=[common], help="which boards serve these accelerators, and where")
    parser.add_argument("request", nargs="+", metavar="ACCELERATOR=N", help="com.inaccel.xgboost.exact=4")
    parser.add_argument(
        "--catalogue", required=True, metavar="FILE", help="TOML or JSON, a bitstream.json, or a folder"
    )
    parser.add_argument("--namespace", metavar="NAME", help="use only images that this namespace may have")
    parser.add_argument(
        "--free", action="append", metavar="NODE=BOARD:N,...", help="a node and its free boards: rack-1=xilinx/u250:1"
    )
    parser.add_argument("--nodes", metavar="FILE", help="`kubectl get nodes -o json`, instead of --free")
    parser.add_argument("--pods", metavar="FILE", help="`kubectl get pods -A -o json`: what they use is not free")
    parser.set_defaults(run=plan)

    parser = inner.add_parser(
        "autoscaler-tags", parents=[common], help="tags that tell the Cluster Autoscaler what an empty group would have"
    )
    parser.add_argument("--instance-type", required=True, metavar="TYPE", help="f1.4xlarge")
    parser.add_argument(
        "--scheme",
        choices=autoscaler.SCHEMES,
        default="inaccel",
        help="how the nodes' device plugin names its boards (default inaccel)",
    )
    parser.add_argument("--boards", metavar="BOARD:N,...", help="instead of those that are known of the type")
    parser.add_argument("--label", action="append", metavar="NAME=VALUE", help="a label that its nodes will have")
    parser.add_argument("--cluster", default="", metavar="NAME", help="add the tags by which its autoscaler finds it")
    parser.add_argument("--form", choices=("tags", "terraform", "cloudformation"), default="tags")
    parser.set_defaults(run=autoscaler_tags)

    parser = inner.add_parser("node-labels", parents=[common], help="labels of this node, for Node Feature Discovery")
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="write there: /etc/kubernetes/node-feature-discovery/features.d/fpgahal"
    )
    parser.add_argument("--inaccel", action="store_true", help="add InAccel's labels, too: xilinx/u250=SHELL")
    parser.set_defaults(run=node_labels)


def plan(args: argparse.Namespace, out: Output) -> int:
    """``fpgahal k8s plan``."""
    from fpgahal.k8s import catalogue, planner
    from fpgahal.k8s.capacity import free_boards

    request = {name: _number(text, count) for text in args.request for name, count in [_pair(text)]}
    if len(request) < len(args.request):
        raise UsageError("An accelerator is named twice.")
    if args.free and args.nodes:
        raise UsageError("--free and --nodes both say what is free.", hint="Leave one of them out.")
    if args.pods and not args.nodes:
        raise UsageError("--pods needs --nodes: where they run is not known.")
    known = catalogue.load(args.catalogue)
    images = known.images if args.namespace is None else known.permitted(args.namespace)
    offers = list(known.groups)
    if args.nodes:
        pods = _items(args.pods) if args.pods else []
        offers += free_boards(_items(args.nodes), pods, {image.board for image in images})
    else:
        offers += [
            planner.Offer(node, _boards(text, "--free")) for entry in args.free or [] for node, text in [_pair(entry)]
        ]
    if not (offers or args.nodes or args.free):
        offers = planner.anywhere(images)
    found = planner.plan([request], images, offers)
    chosen = found.containers[0]
    document = {
        "boards": found.boards,
        "images": [image.name for image in chosen],
        "where": found.offer.name,
        "scale_up": found.offer.new,
        "node_selector": {key: value for image in chosen for key, value in sorted(image.node_selector.items())},
    }

    def text() -> None:
        out.table(
            ["BOARDS", "IMAGE", "ACCELERATORS"],
            [
                [
                    f"{chosen.count(image)} x {image.board}",
                    image.name,
                    ", ".join(f"{count} x {name}" for name, count in image.accelerators.items()),
                ]
                for image in {image.name: image for image in chosen}.values()
            ],
        )
        out.line(f"on {found.offer.name}" + (", which must be added first" if found.offer.new else ""))

    out.result(document, text)
    return OK


def autoscaler_tags(args: argparse.Namespace, out: Output) -> int:
    """``fpgahal k8s autoscaler-tags``."""
    boards = (
        _boards(args.boards, "--boards")
        if args.boards
        else autoscaler.boards_of_instance(args.instance_type, args.scheme)
    )
    labels = dict(_pair(text) for text in args.label or [])
    found = autoscaler.tags(args.instance_type, boards, labels, args.cluster)

    def text() -> None:
        if args.form == "terraform":
            out.line(autoscaler.terraform(found))
        elif args.form == "cloudformation":
            out.line(autoscaler.cloudformation(found))
        else:
            for key, value in found.items():
                out.line(f"{key}={value}")

    out.result({"instance_type": args.instance_type, "boards": boards, "tags": found}, text)
    return OK


def node_labels(args: argparse.Namespace, out: Output) -> int:
    """``fpgahal k8s node-labels``."""
    from fpgahal.k8s.labels import node_labels as labels_of

    found = labels_of(fpgahal.devices(), inaccel=args.inaccel)
    lines = "".join(f"{name}={value}\n" for name, value in found.items())
    if args.output:
        write_whole(Path(args.output), lines)

    def text() -> None:
        if not args.output:
            out.stream.write(lines)

    out.result({"labels": found}, text)
    return OK


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (equals and name and value):
        raise UsageError(f"{text!r} was not understood: NAME=VALUE was expected.")
    return name, value


def _number(text: str, digits: str) -> int:
    if not (digits.isascii() and digits.isdigit()) or not 1 <= int(digits) <= 1_000_000:
        raise UsageError(f"{text!r} was not understood: a whole number from 1 on was expected.")
    return int(digits)


def _boards(text: str, option: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for part in text.split(","):
        board, colon, count = part.partition(":")
        if "/" not in board or board in found or not colon:
            raise UsageError(f"{option}: {part!r} was not understood: xilinx/u250:1 was expected, each board once.")
        found[board] = _number(part, count)
    return found


def _items(path: str) -> list[Mapping[str, Any]]:
    try:
        items = json.loads(Path(path).read_bytes())["items"]
        if isinstance(items, list) and all(isinstance(item, dict) for item in items):
            return items
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    raise UsageError(f"{path}: is no list of objects, as `kubectl get ... -o json` prints.")
