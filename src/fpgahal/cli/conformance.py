# SPDX-License-Identifier: Apache-2.0
"""``fpgahal conformance``: does this board do all that fpgahal promises?"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections import Counter
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import fpgahal
from fpgahal import Bitstream, DeviceInfo, FpgaError, IncompatibleBitstreamError, UnsupportedError
from fpgahal.cli import junit
from fpgahal.cli.app import NOT_SO, OK, UsageError
from fpgahal.cli.checking import Checks, Result, step
from fpgahal.cli.devices import board_name, document
from fpgahal.cli.emulated import label
from fpgahal.cli.files import replacing
from fpgahal.cli.output import Output
from fpgahal.kernels import NLB0

STARTUP = 120.0  # seconds for a process that opens, or programs, the board


def add_to(commands: argparse._SubParsersAction[Any], common: argparse.ArgumentParser) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "conformance",
        parents=[common],
        help="check that a board does what fpgahal promises; changes it only if told to",
    )
    parser.add_argument("--device", metavar="BDF", help="device; may be left out if there is one")
    parser.add_argument(
        "--program",
        metavar="IMAGE",
        action="append",
        default=[],
        help="also run what reprograms and resets the board, and uses its accelerator, with this image: NLB0 (OPAE), "
        "or an xclbin with the kernel passthrough(src, dst, bytes).  A second --program, with any image for the "
        "board, is for the checks that replace one by the other; it may be what the board runs now",
    )
    parser.add_argument("--junit", metavar="FILE", help="write the report as JUnit XML, too")
    parser.add_argument(
        "--timeout", type=float, default=120.0, metavar="S", help="seconds that one check may take (default 120)"
    )
    parser.set_defaults(run=conformance)


@dataclass
class Report:
    """What came out."""

    info: DeviceInfo
    driver: str  #: the binding in use
    before: str | None  #: what the board ran
    images: list[str]
    results: list[Result] = field(default_factory=list)
    after: str | None = None
    state: str = ""  #: how the board was left, in words
    settled: bool = False  #: whether it is in a known state
    ended: BaseException | None = None  #: Ctrl-C or SIGTERM

    @property
    def counts(self) -> Counter[str]:
        """How many checks passed, failed, were left out."""
        return Counter(result.result for result in self.results)

    @property
    def ok(self) -> bool:
        """Whether all that ran passed, and the board is as it should be."""
        return not self.counts["failed"] and self.settled and self.ended is None

    def properties(self) -> list[tuple[str, str]]:
        """The board's identity, and what was done, for people and for JUnit."""
        info = self.info
        ids = (info.vendor_id, info.device_id, info.subvendor_id, info.subdevice_id)
        return [
            ("device", label(info)),
            ("board", board_name(info)),
            ("driver", f"{self.driver} ({info.kernel_driver})"),
            ("PCI ids", " ".join(f"{number:04x}" for number in ids)),
            ("interface", str(info.interface_id or "-")),
            ("serial", info.serial or "-"),
            ("ran before", self.before or "-"),
            ("images", ", ".join(self.images) or "none: read-only checks"),
        ]


def conformance(args: argparse.Namespace, out: Output) -> int:
    """``fpgahal conformance``: 1 if a check failed."""
    if importlib.util.find_spec("pytest") is None:
        raise UnsupportedError(
            "The conformance suite runs on pytest, which is not installed.", hint='pip install "fpgahal[conformance]"'
        )
    if len(args.program) > 2:
        raise UsageError("--program was given more than twice.")
    if not args.timeout > 0:
        raise UsageError(f"--timeout {args.timeout:g} is no time.")
    info = fpgahal.find(args.device)
    _check_images(args.program, info)
    file: AbstractContextManager[BinaryIO | None] = replacing(args.junit) if args.junit else nullcontext()
    with file as xml:
        order = {"device": info.address, "images": args.program}
        found = step(order | {"step": "look"}, STARTUP)
        report = Report(info, found["driver"], found["loaded"], args.program)
        _run(report, order, args.timeout)
        if xml is not None:
            xml.write(junit.document(report.properties(), report.state, report.results))
    out.result(_document(report), lambda: _print(report, out))
    if report.ended is not None:
        sys.stdout.flush()
        raise report.ended
    return OK if report.ok else NOT_SO


def _check_images(paths: list[str], info: DeviceInfo) -> None:
    """Refuse what is for another board; the first one must be known, because checks write to its registers."""
    images = [Bitstream.load(path) for path in paths]
    for image in images:
        image.check_compatible(info)
    if not images:
        return
    first = images[0]
    if info.driver == "opae":
        known, wanted = first.afu_id == NLB0.AFU_ID, f"NLB0 ({NLB0.AFU_ID})"
    else:
        known = any(kernel.name == "passthrough" and len(kernel.args) == 3 for kernel in first.kernels)
        wanted = "an xclbin with the kernel passthrough(src, dst, bytes)"
    if not known:
        raise IncompatibleBitstreamError(
            f"{first.name} ({first.afu_id}) is an accelerator that the checks do not know, and they write to its "
            f"registers.  Nothing was written; expected: {wanted}.",
            hint="Give that image first; a second --program may be any image for this board.",
        )


def _run(report: Report, order: dict[str, Any], timeout: float) -> None:
    checks = Checks(order, timeout, report.info.address)
    try:
        checks.run()
    except (KeyboardInterrupt, SystemExit) as ended:
        report.ended = ended
        checks.leave_out("not run: interrupted")
    report.results = checks.results
    try:
        report.after = step(order | {"step": "settle", "before": report.before}, STARTUP)["loaded"]
    except FpgaError as error:
        report.state = f"The board could not be brought to a known state: {' '.join(str(error).split())}"
        return
    except (KeyboardInterrupt, SystemExit) as ended:
        report.ended, report.state = ended, "The board may not be in a known state: interrupted before it was reset."
        return
    now, before = (f"runs {loaded}" if loaded else "runs nothing" for loaded in (report.after, report.before))
    how = ""
    if report.images:
        how = ", and was reset"
    elif report.info.driver == "opae":
        how = "; Linux has reset the accelerator when its port was closed, as it does after every program"
    if report.after == report.before:
        report.settled, report.state = True, f"The board {now}, as before{how}."
    else:
        report.settled = bool(report.images)
        before = before.replace("runs", "ran", 1)
        report.state = f"The board {now}{how}.  It {before} before."
        if report.images and report.before:
            report.state += "  That image was not at hand: program it yourself, or give it as the second --program."


def _document(report: Report) -> dict[str, Any]:
    results = [
        {"name": one.name, "result": one.result, "seconds": round(one.seconds, 3), "reason": one.reason}
        for one in report.results
    ]
    return {
        "ok": report.ok,
        "device": document(report.info),
        "binding": report.driver,
        "images": report.images,
        "checks": results,
        "passed": report.counts["passed"],
        "failed": report.counts["failed"],
        "left_out": report.counts["left out"],
        "before": report.before,
        "after": report.after,
        "state": report.state,
        "interrupted": report.ended is not None,
    }


def _print(report: Report, out: Output) -> None:
    out.fields(report.properties())
    out.line()
    out.table(["RESULT", "CHECK", "WHY"], [[one.result, one.name, one.reason] for one in report.results])
    out.line()
    out.line(report.state)
    counts = ", ".join(f"{report.counts[result]} {result}" for result in ("passed", "failed", "left out"))
    out.line(f"{label(report.info)}: {counts}{'; interrupted' if report.ended else ''}")
