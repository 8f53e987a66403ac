# SPDX-License-Identifier: Apache-2.0
"""``fpgahal-bench nlb``: nlb3's table for a sweep over sizes, or for a file that is copied through the board."""

from __future__ import annotations

import argparse
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

import fpgahal
from fpgahal import Buffer, Device
from fpgahal.bench import table
from fpgahal.bench.boards import load
from fpgahal.bench.copy import check_equal, copy
from fpgahal.bench.counters import Counters
from fpgahal.bench.report import Report
from fpgahal.cli.app import OK, UsageError
from fpgahal.cli.files import replacing
from fpgahal.cli.output import Output, plain, progress
from fpgahal.kernels import NLB0, NLB3, NLBResult
from fpgahal.kernels.nlb import LINE, MAX_LINES, MODES

LPBK1 = "lpbk1"
MODE_NAMES = (LPBK1, *MODES)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``nlb``."""
    group = parser.add_argument_group("nlb")
    group.add_argument("--timeout", type=float, default=10.0, metavar="S", help="seconds for one run (default 10)")
    group = parser.add_argument_group("nlb, image: a file through the board")
    group.add_argument("--input", metavar="FILE", help="file to send; nlb: - for standard input")
    group.add_argument("--output", metavar="COPY", help="what comes back; nlb: - for standard output")
    group.add_argument(
        "--no-compare",
        dest="compare",
        action="store_false",
        help="nlb: do not compare what comes back with what was sent",
    )
    group = parser.add_argument_group("nlb: the sweep of nlb3 (and nlb0)")
    group.add_argument("--mode", choices=MODE_NAMES, default="trput", help="default: trput")
    group.add_argument("--begin", type=int, metavar="N", help="cache lines of the first test (default: a request)")
    group.add_argument("--end", type=int, metavar="N", help="cache lines of the last test (default: as --begin)")
    group.add_argument("--multi-cl", type=int, choices=(1, 2, 4), default=1, help="cache lines in a request")
    group.add_argument("--strided-access", type=int, default=1, metavar="N", help="distance of two requests, 1 to 64")
    group.add_argument("--continuous", action="store_true", help="repeat each test for --seconds")
    group.add_argument("--csv", action="store_true", help="comma-separated values under one header")


def nlb(args: argparse.Namespace, out: Output) -> int:
    """The command: copies if there is an --input, else sweeps."""
    if args.input is not None or args.output is not None:
        return copy_file(args, out)
    with fpgahal.open(args.device) as dev:
        emulated = dev.info.emulated
        rows: list[table.Row] = []
        for row in sweep(dev, args):
            if not out.as_json:
                print_row(out, row, emulated, args.csv, first=not rows)
            rows.append(row)
    if out.as_json:
        out.result(
            {
                "device": dev.info.address,
                "emulated": emulated,
                "mode": args.mode,
                "results": [document(row.result) | {"counters": dict(row.counters)} for row in rows],
            },
            lambda: None,
        )
    return OK


def sweep(dev: Device, args: argparse.Namespace) -> Iterator[table.Row]:
    """Run one test for each size from --begin to --end, as nlb3 does."""
    begin = args.begin if args.begin is not None else args.multi_cl
    end = args.end if args.end is not None else begin
    if not 0 < begin <= end <= MAX_LINES or begin % args.multi_cl:
        raise UsageError(f"--begin {begin} --end {end}: from 1 to {MAX_LINES} cache lines, in steps of --multi-cl.")
    if not 1 <= args.strided_access <= 64:
        raise UsageError(f"--strided-access {args.strided_access} is not from 1 to 64.")
    copies = args.mode == LPBK1
    if copies and (args.multi_cl > 1 or args.strided_access > 1 or args.continuous):
        raise UsageError("--multi-cl, --strided-access and --continuous are for the modes read, write and trput.")
    load(dev, *(("nlb0", NLB0.AFU_ID) if copies else ("nlb3", NLB3.AFU_ID)), args.program)
    size = LINE * end * args.strided_access
    seconds = args.seconds if args.continuous else None
    with dev.allocate(size) as src, dev.allocate(size) as dst:
        fill(src, dst)
        sizes = range(begin, end + 1, args.multi_cl)
        if copies:
            with NLB0(dev) as nlb0:
                for lines in sizes:
                    counters = Counters(dev.info)
                    result = nlb0.run(src, dst, lines, timeout=args.timeout)
                    check_equal(np.asarray(src)[: lines * LINE], np.asarray(dst)[: lines * LINE], 0)
                    yield table.Row(result, counters.since())
            return
        with NLB3(dev) as nlb3:
            for lines in sizes:
                counters = Counters(dev.info)
                result = nlb3.run(
                    src,
                    dst,
                    mode=args.mode,
                    lines=lines,
                    stride=args.strided_access,
                    multi_cl=args.multi_cl,
                    seconds=seconds,
                    timeout=args.timeout,
                )
                yield table.Row(result, counters.since())


def fill(src: Buffer, dst: Buffer) -> None:
    """Give both buffers known contents, as nlb0 does; so their memory is there before it is measured."""
    np.asarray(src)[:] = np.resize(np.arange(256, dtype=np.uint8), src.nbytes)
    np.asarray(dst)[:] = 0


def print_row(out: Output, row: table.Row, emulated: bool, as_csv: bool = False, first: bool = True) -> None:
    """Print one test as nlb3 does; CSV has one header only."""
    lines = table.csv_lines(row, emulated=emulated, header=first) if as_csv else table.lines(row, emulated=emulated)
    Report(out, emulated).raw(lines)


def document(result: NLBResult) -> dict[str, Any]:
    """A result as JSON has it."""
    return {**plain(result), "ticks": result.ticks, "read_gbps": result.read_gbps, "write_gbps": result.write_gbps}


def copy_file(args: argparse.Namespace, out: Output) -> int:
    """``--input FILE --output COPY``: through NLB0, in pieces, and one table for the whole."""
    if args.input is None or args.output is None:
        raise UsageError(
            "--input and --output belong together.",
            hint="fpgahal-bench nlb --emulate pac-a10 --input FILE --output COPY",
        )
    if args.output == "-":
        if out.as_json:
            raise UsageError("--json and --output - both want standard output.")
        out = Output(False, sys.stderr)
    with _input(args.input) as source:
        _refuse_same(source, args)
        size = os.fstat(source).st_size
        with fpgahal.open(args.device) as dev, _output(args.output) as sink:
            load(dev, "nlb0", NLB0.AFU_ID, args.program)
            counters = Counters(dev.info)
            mark = "EMULATED " if dev.info.emulated else ""
            with progress(f"{mark}{args.input}", size or None, not out.as_json) as advance:
                # Standard input and output may be files, too, but not from their beginning.
                result = copy(
                    dev,
                    source,
                    sink,
                    parallel="-" not in (args.input, args.output),
                    compare=args.compare,
                    timeout=args.timeout,
                    advance=advance,
                )
            info, counted = dev.info, counters.since()
    row = table.Row(result, counted)
    out.result(
        {
            "device": info.address,
            "emulated": info.emulated,
            "input": args.input,
            "output": args.output,
            "compared": args.compare,
            "result": document(result),
        },
        lambda: print_row(out, row, info.emulated, args.csv),
    )
    return OK


@contextmanager
def _input(path: str) -> Iterator[int]:
    if path == "-":
        yield sys.stdin.fileno()
        return
    with open(path, "rb", buffering=0) as file:
        yield file.fileno()


@contextmanager
def _output(path: str) -> Iterator[int]:
    if path == "-":
        yield sys.stdout.fileno()
        return
    with replacing(path) as file:
        yield file.fileno()


def _refuse_same(source: int, args: argparse.Namespace) -> None:
    if args.output == "-":
        there = os.fstat(sys.stdout.fileno())
    elif os.path.exists(args.output):
        there = os.stat(args.output)
    else:
        return
    if stat.S_ISREG(there.st_mode) and os.path.samestat(os.fstat(source), there):
        raise UsageError(f"{args.input} and {args.output} are the same file.", hint="Name another file for the copy.")
