# SPDX-License-Identifier: Apache-2.0
"""``fpgahal inspect | program | build-image``: image files, and putting them on a board."""

from __future__ import annotations

import argparse
import os
from typing import Any

import fpgahal
from fpgahal import Bitstream, KernelInfo
from fpgahal.cli import emulated
from fpgahal.cli.app import OK
from fpgahal.cli.emulated import label
from fpgahal.cli.files import replacing
from fpgahal.cli.output import Output, plain, progress, size_text


def add_to(commands: argparse._SubParsersAction[Any], common: argparse.ArgumentParser) -> None:
    """Declare the commands."""
    parser = commands.add_parser("inspect", parents=[common], help="check an image file and show what is in it")
    parser.add_argument("file", help="a GBS or xclbin")
    parser.set_defaults(run=inspect)

    parser = commands.add_parser("program", parents=[common], help="load an image, unless it is loaded already")
    parser.add_argument("selector", nargs="?", help="device; may be left out if there is one")
    parser.add_argument("file", help="a GBS or xclbin")
    parser.add_argument("--force", action="store_true", help="also if it is loaded already")
    parser.add_argument("--timeout", type=float, default=60.0, metavar="S", help="seconds to wait (default 60)")
    parser.set_defaults(run=program)

    parser = commands.add_parser("build-image", parents=[common], help="make an image for an emulated board")
    parser.add_argument("--afu", required=True, metavar="NAME", help="accelerator: nlb0, nlb3, hello, vadd, ...")
    parser.add_argument("--board", required=True, metavar="NAME", help="emulated board: pac-a10, u250, ...")
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="file to write")
    parser.set_defaults(run=build_image)


def inspect(args: argparse.Namespace, out: Output) -> int:
    """``fpgahal inspect``."""
    image = Bitstream.load(args.file)
    out.result(document(image), lambda: _print_image(image, out))
    return OK


def program(args: argparse.Namespace, out: Output) -> int:
    """``fpgahal program``."""
    image = Bitstream.load(args.file)
    info = fpgahal.find(args.selector)
    with fpgahal.open(info) as dev, progress(f"programming {label(info)}", None, not out.as_json):
        done = dev.program(image, timeout=args.timeout, force=args.force)
        loaded = dev.afu_id
    out.result(
        {"device": info.address, "emulated": info.emulated, "programmed": done, "loaded": loaded, "file": args.file},
        lambda: out.line(
            f"{label(info)}: {'programmed' if done else 'already loaded, not programmed again'}, runs {loaded}"
        ),
    )
    return OK


def build_image(args: argparse.Namespace, out: Output) -> int:
    """``fpgahal build-image``."""
    data = emulated.image(args.afu, args.board)
    with replacing(args.output) as file:
        file.write(data)
    image = Bitstream.parse(data, args.output)
    out.result(
        {"file": args.output, **document(image)},
        lambda: out.line(f"{args.output}: {image.kind}, {image.size} bytes, {image.afu_id}, for EMULATED {args.board}"),
    )
    return OK


def document(image: Bitstream) -> dict[str, Any]:
    """The image as JSON has it: all but the bytes."""
    return {
        "name": os.path.basename(image.name),
        "kind": image.kind,
        "size": image.size,
        "sha256": image.sha256,
        "afu_id": plain(image.afu_id),
        "interface_id": plain(image.interface_id),
        "platform": image.platform,
        "timestamp": image.timestamp,
        "emulated": image.emulated,
        "payload_bytes": len(image.payload),
        "clocks": [{"name": name, "mhz": mhz} for name, mhz in image.clocks],
        "kernels": plain(image.kernels),
        "banks": plain(image.banks),
        "metadata": plain(image.metadata),
    }


def signature(kernel: KernelInfo) -> str:
    """``vadd(uint* a, uint* b, uint* out, uint n)``."""
    return f"{kernel.name}({', '.join(f'{arg.type} {arg.name}'.strip() for arg in kernel.args)})"


def _print_image(image: Bitstream, out: Output) -> None:
    out.fields(
        [
            ("file", image.name),
            ("kind", image.kind + (" for EMULATED boards only" if image.emulated else "")),
            ("size", f"{image.size} bytes, {len(image.payload)} of them for the fabric"),
            ("sha256", image.sha256),
            ("id", image.afu_id),
            ("interface", image.interface_id or "-"),
            ("platform", image.platform or "-"),
            ("timestamp", image.timestamp or "-"),
            ("clocks", ", ".join(f"{name} {mhz:g} MHz" for name, mhz in image.clocks) or "-"),
        ]
    )
    for kernel in image.kernels:
        out.line()
        out.line(f"kernel {signature(kernel)}, compute units: {', '.join(kernel.compute_units) or '-'}")
        out.table(
            ["ARG", "NAME", "KIND", "TYPE", "SIZE", "OFFSET", "BANKS"],
            [
                [
                    arg.index,
                    arg.name,
                    arg.kind.value,
                    arg.type,
                    arg.size,
                    f"{arg.offset:#x}",
                    ",".join(map(str, arg.banks)) or "-",
                ]
                for arg in kernel.args
            ],
        )
    if image.banks:
        out.line()
        out.table(
            ["BANK", "NAME", "KIND", "BASE", "SIZE", "USED"],
            [
                [
                    bank.index,
                    bank.name,
                    bank.kind,
                    f"{bank.base:#x}",
                    size_text(bank.size),
                    "yes" if bank.used else "no",
                ]
                for bank in image.banks
            ],
        )
    sections = image.metadata.get("sections")
    if sections:
        out.line()
        out.table(["SECTION", "NAME", "OFFSET", "SIZE"], [list(section) for section in sections])
    rest = [(key, plain(value)) for key, value in image.metadata.items() if key != "sections"]
    if rest:
        out.line()
        out.fields(rest)
