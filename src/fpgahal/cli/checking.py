# SPDX-License-Identifier: Apache-2.0
"""Runs the conformance suite in processes of their own, and survives what happens to them."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import fpgahal
from fpgahal import DriverError, FpgaError

GRACE = 10.0  # seconds that a process has to close the board after it was told to end
READY = 60.0  # seconds until it has loaded what it needs


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one check.

    Attributes
    ----------
    name : str
        ``"buffer.views_share_the_memory"``.
    result : {"passed", "failed", "left out"}
    seconds : float
    reason : str
        Why it failed or was left out, in one line.
    detail : str
        pytest's report of the failure.
    """

    name: str
    result: str
    seconds: float = 0.0
    reason: str = ""
    detail: str = ""


class ProcessEndedError(DriverError):
    """The process of the checks died."""


class NoAnswerError(FpgaError, TimeoutError):
    """The process of the checks did not report in time."""


def step(order: dict[str, Any], timeout: float) -> dict[str, Any]:
    """Do one step in a process of its own; return its one report.

    Raises
    ------
    FpgaError
        As it was raised there; or the process ended, or gave no answer.
    """
    answers = list(events(order, timeout))  # all of them: it closes the board after its report
    if not answers:
        raise ProcessEndedError("The board's process ended without a word.")
    return answers[0]


def events(order: dict[str, Any], timeout: float) -> Iterator[dict[str, Any]]:
    """Start a process and yield what it reports; however this ends, the process has ended, too.

    Raises
    ------
    NoAnswerError
        It reported nothing for `timeout` seconds (READY, if that is more, for its first report).
    ProcessEndedError
        It died.
    FpgaError
        What it reported.
    """
    reader, writer = os.pipe()
    with tempfile.TemporaryFile() as noise, open(reader, "rb", buffering=0) as pipe:
        try:
            child = subprocess.Popen(
                [sys.executable, "-m", "fpgahal.conformance", str(writer), json.dumps(order)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=noise,
                pass_fds=[writer],
                start_new_session=True,  # Ctrl-C is for us: we tell the child
            )
        finally:
            os.close(writer)
        try:
            text, patience = b"", max(timeout, READY)
            while True:
                if not select.select([pipe], [], [], patience)[0]:
                    raise NoAnswerError(f"The board's process gave no answer in {patience:g} s.")
                data = pipe.read(1 << 16)
                if not data:
                    break
                text, patience = text + data, timeout
                *lines, text = text.split(b"\n")
                for line in lines:
                    event = json.loads(line)
                    if "error" in event:
                        kind = getattr(fpgahal, event["error"], FpgaError)
                        raise kind(event["message"], hint=event["hint"])
                    yield event
            try:
                code = child.wait(GRACE)
            except subprocess.TimeoutExpired:
                raise NoAnswerError("The board's process did all, but does not end.") from None
            if code != 0:
                noise.seek(0)
                last = (noise.read().decode(errors="replace").strip().splitlines() or ["no message"])[-1]
                how = f"signal {-code}, {signal.strsignal(-code)}" if code < 0 else f"exit code {code}"
                raise ProcessEndedError(f"The board's process ended ({how}): {last}")
        finally:
            _end(child)


def _end(child: subprocess.Popen[bytes]) -> None:
    """Let it close the board; if it does not, the kernel will."""
    assert child.stdin is not None
    try:
        if child.poll() is None:
            child.send_signal(signal.SIGINT)
            child.wait(GRACE)
    except subprocess.TimeoutExpired:
        pass
    finally:
        child.kill()
        child.wait()
        child.stdin.close()


class Checks:
    """All checks on one board.

    Parameters
    ----------
    order : dict
        ``device`` and ``images``.
    timeout : float
        Seconds that one check may take.
    address : str
        Of the board, to see whether it is still there after a failure.
    """

    def __init__(self, order: dict[str, Any], timeout: float, address: str) -> None:
        self.results: list[Result] = []
        self._order, self._timeout, self._address = order, timeout, address
        self._names: list[str] = []
        self._death = ""  # what ended a process that was in no check

    def run(self) -> None:
        """Run them; one that takes its process along, or does not end, has failed, and the next one runs.

        Raises
        ------
        FpgaError
            They could not be started.
        """
        try:
            while not self._names or len(self.results) < len(self._names):
                self._run_rest()
                if self._gone():
                    self.leave_out("not run: the board is gone")
            if self._death:
                self.results.append(Result("process.ends", "failed", reason=self._death))
        finally:
            _show("")

    def leave_out(self, reason: str) -> None:
        """Give those that are left a reason why they did not run."""
        self.results += [Result(name, "left out", reason=reason) for name in self._names[len(self.results) :]]

    def _run_rest(self) -> None:
        """One process: until a check fails, or all are done."""
        order = self._order | {"step": "check", "begin": len(self.results)}
        before, begun = len(self.results), 0.0
        try:
            for event in events(order, self._timeout):
                if "checks" in event:
                    self._names = event["checks"]
                elif "begun" in event:
                    begun = time.monotonic()
                    done, total = len(self.results), len(self._names)
                    _show(f"{done + 1}/{total} {self._names[done]}")
                elif "ended" in event:
                    self.results.append(Result(**event["ended"], reason=event["reason"], detail=event["detail"]))
                    begun = 0.0
            if len(self.results) == before:
                raise ProcessEndedError("The board's process ended without an error.")
        except FpgaError as error:
            reason = " ".join(str(error).split())
            if begun:
                name = self._names[len(self.results)]
                self.results.append(Result(name, "failed", time.monotonic() - begun, reason))
            elif not self.results:
                raise
            elif len(self.results) == before:
                self.leave_out(f"not run: {reason}")
            elif self.results[-1].result != "failed":
                self._death = reason

    def _gone(self) -> bool:
        return all(info.address != self._address for info in fpgahal.devices())


def _show(text: str) -> None:
    """Show progress, on a terminal."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()
