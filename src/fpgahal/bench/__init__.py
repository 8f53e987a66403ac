# SPDX-License-Identifier: Apache-2.0
"""The command ``fpgahal-bench``: what a board, real or emulated, can do.

`calls` measures latencies, `dma` bandwidth by size, `nlb` prints nlb3's table and copies files through a board,
`image` sends a picture through an image kernel, `xgboost` compares predictions with engines on the CPU.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any

import fpgahal
from fpgahal import Device
from fpgahal.bench import calls, dma, image, nlb, plot, table, xgboost
from fpgahal.bench.boards import load
from fpgahal.bench.report import Report, duration
from fpgahal.cli.app import OK, Help, Parser, common_options, run
from fpgahal.cli.output import Output
from fpgahal.kernels import NLB0, NLB3
from fpgahal.kernels.nlb import MODES

EPILOG = """\
all      latency, dma and nlb (default)
latency  enumeration, verification, register access, kernel launch
dma      bandwidth by size; on a PAC also of its own memory, through the DMA AFU
image    a picture through the board, for --input, --output: --kernel sobel finds edges, affine turns it
nlb      nlb3's table for --mode, --begin, --end; or, with --input and --output, copies a file through the board
xgboost  predictions of a model on the board against engines on the CPU, one thread each

An emulated board is programmed as needed, a real one only with --program IMAGE.  Every line about an emulated
board says EMULATED: its figures are those of this computer's memory, not of a card."""

SWEEP_LINES = (1024, 65532)  # NLB lines of the tests in `all`: 64 KiB, and nearly the most there is


def build_parser() -> Parser:
    """Declare the options."""
    parser = Parser(
        prog="fpgahal-bench",
        parents=[common_options()],
        epilog=EPILOG,
        description="Measure an FPGA board, real or emulated.",
        formatter_class=Help,
    )
    parser.add_argument("--version", action="version", version=f"fpgahal {fpgahal.__version__}")
    parser.add_argument(
        "what",
        nargs="?",
        choices=("all", "latency", "dma", "nlb", "image", "xgboost"),
        default="all",
        help="what to measure (default: all)",
    )
    parser.add_argument("--device", metavar="SELECTOR", help="0000:3b:00.0; may be left out if there is one")
    parser.add_argument("--program", metavar="IMAGE", help="load this image first, also onto a real board")
    parser.add_argument("--seconds", type=float, default=0.2, metavar="S", help="time for each figure (default 0.2)")
    parser.add_argument("--plot", metavar="FILE.png", help="draw bandwidth and latency (needs fpgahal[plot])")
    nlb.add_options(parser)
    image.add_options(parser)
    xgboost.add_options(parser)
    return parser


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    args = build_parser().parse_args(argv)
    args.run = {"nlb": nlb.nlb, "image": image.image, "xgboost": xgboost.measure}.get(args.what, measure)
    return args


def measure(args: argparse.Namespace, out: Output) -> int:
    """``all``, ``latency`` and ``dma``."""
    if args.plot:
        plot.check()
    with fpgahal.open(args.device) as dev:
        info = dev.info
        report = Report(out, info.emulated, quiet=out.as_json)
        report.line(f"{info.address}  {info.name}  ({info.driver})")
        prepare(dev, args.program)
        found: dict[str, Any] = {"device": info.address, "emulated": info.emulated, "board": info.name}
        launches: list[float] = []
        if args.what != "dma":
            found["latency"], launches = latencies(dev, args.seconds, report)
        if args.what != "latency":
            report.line()
            found["dma"] = dma.bandwidths(dev, args.seconds / 4, report)
            found["board_memory"] = dma.board_memory(dev, args.seconds / 4, report)
        if args.what == "all":
            found["nlb"] = nlb_tests(dev, args, report)
    if args.plot:
        title = f"{info.address}  {info.name}" + ("  EMULATED" if info.emulated else "")
        plot.draw(args.plot, title, found.get("dma", []), launches)
        report.line(f"{args.plot}: written")
        found["plot"] = os.path.basename(args.plot)
    out.result(found, lambda: None)
    return OK


def prepare(dev: Device, image: str | None) -> None:
    """Get something onto the board that can be launched; leave a real board as it is."""
    if image is not None or dev.info.emulated:
        if dev.info.driver == "opae":
            load(dev, "nlb0", NLB0.AFU_ID if image is None else None, image)
        else:
            load(dev, "passthrough", None, image)


def latencies(dev: Device, seconds: float, report: Report) -> tuple[dict[str, Any], list[float]]:
    """Every latency, printed as it is found."""
    launch, samples = calls.launches(dev, seconds)
    found = {
        "enumerate": calls.enumeration(seconds),
        "verify": calls.verification(dev, seconds),
        "csr": calls.registers(dev, seconds),
        "launch": launch,
    }
    for name, entry in found.items():
        figures = entry if "p50_ns" in entry or "skipped" in entry else next(iter(entry.values()))
        if "skipped" in figures:
            report.line(f"{name:<10} skipped: {figures['skipped']}")
        else:
            report.line(
                f"{name:<10} p50 {duration(figures['p50_ns']):>10}   p99 {duration(figures['p99_ns']):>10}"
                f"   ({figures['samples']} samples)"
            )
    return found, samples


def nlb_tests(dev: Device, args: argparse.Namespace, report: Report) -> list[dict[str, Any]]:
    """NLB0 and NLB3 with two sizes each, where the board has them."""
    if dev.info.driver != "opae":
        return []
    found = []
    for mode in (nlb.LPBK1, *MODES):
        wanted = NLB0 if mode == nlb.LPBK1 else NLB3
        if not dev.info.emulated and dev.afu_id != wanted.AFU_ID:  # a real board keeps what it runs
            continue
        for lines in SWEEP_LINES:
            options = argparse.Namespace(
                mode=mode,
                begin=lines,
                end=lines,
                multi_cl=1,
                strided_access=1,
                continuous=False,
                program=None,
                seconds=args.seconds,
                timeout=args.timeout,
            )
            report.line()
            report.line(f"NLB {mode}, {lines} cache lines")
            list(nlb.sweep(dev, options))  # the first run also starts threads and fills tables
            for row in nlb.sweep(dev, options):
                report.raw(table.lines(row, emulated=dev.info.emulated))
                found.append({"mode": mode, **nlb.document(row.result)})
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and give the exit code."""
    return run("fpgahal-bench", parse, argv)


__all__ = ["main"]
