# SPDX-License-Identifier: Apache-2.0
"""One step of ``fpgahal conformance``, in a process of its own.

A vendor's library may end its process, or never come back from a call; whoever started this process then goes on
with another one.  What happens is written to a pipe, one JSON document a line.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import fpgahal
from fpgahal import Bitstream, FpgaError
from fpgahal.conformance.target import Target

FOLDER = Path(__file__).parent
MODULES = ("find", "csr", "buffer", "program", "kernel")
NEEDS_IMAGE = "it programs, resets or uses the accelerator: only with --program IMAGE"
MARKERS = ("driver(name): only on boards of this driver", "harmless(driver): changes no board, or none of this driver")

Report = Callable[..., None]


def look(order: dict[str, Any], report: Report) -> None:
    """Open the board, alone, and say what it runs."""
    with fpgahal.open(order["device"]) as dev:
        report(driver=dev.driver, loaded=_text(dev.afu_id))


def settle(order: dict[str, Any], report: Report) -> None:
    """Bring the board to a known state: what ran before if its image is here, else the first image; reset."""
    images = [Bitstream.load(path) for path in order["images"]]
    with fpgahal.open(order["device"], timeout=5) as dev:
        if images:
            dev.program(next((image for image in images if str(image.afu_id) == order["before"]), images[0]))
            with suppress(fpgahal.UnsupportedError):  # XRT has no reset on real cards
                dev.reset()
        report(driver=dev.driver, loaded=_text(dev.afu_id))


def check(order: dict[str, Any], report: Report) -> None:
    """Run the checks from number ``order["begin"]`` on."""
    image, other = ([Path(path).read_bytes() for path in order["images"]] + [b"", b""])[:2]
    target = Target(order["device"], fpgahal.find(order["device"]), image, other or None)
    for name in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS"):  # the suite is ours, whatever the user's own tests want
        os.environ.pop(name, None)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    options = ["-c", os.devnull, "--rootdir", str(FOLDER), "--noconftest", "--strict-markers"]
    options += ["-p", "no:cacheprovider", "-p", "no:terminal"]
    options += ["--exitfirst"]  # a failure keeps its objects, and so the board: the next check needs a new process
    files = [str(FOLDER / f"{module}.py") for module in MODULES]
    pytest.main([*options, *files], plugins=[Suite(target, order["begin"], report)])


class Suite:
    """pytest plugin: the one target, which checks may run on it, and what became of them."""

    def __init__(self, target: Target, begin: int, report: Report) -> None:
        self._target, self._begin, self._report = target, begin, report
        self._phases: list[pytest.TestReport] = []

    def pytest_configure(self, config: pytest.Config) -> None:
        """Declare the markers."""
        for marker in MARKERS:
            config.addinivalue_line("markers", marker)

    @pytest.fixture
    def target(self) -> Target:
        """The board."""
        return self._target

    @pytest.fixture
    def dev(self, target: Target) -> Iterator[fpgahal.Device]:
        """The board, opened, with the image loaded if there is one."""
        with target.device() as opened:
            yield opened

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file of the suite does not load: this installation is broken."""
        if report.failed:
            reason = report.longreprtext.strip().splitlines()[-1]
            self._report(error="FpgaError", message=f"{report.nodeid} can't be loaded: {reason}", hint="")

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Keep what is for this driver; announce it; leave what an earlier process has done."""
        items[:] = [item for item in items if self._marked(item, "driver") is not False]
        self._report(checks=[_name(item.nodeid) for item in items])
        del items[: self._begin]

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Without an image, only what is harmless, before any fixture opens the board."""
        if not self._target.image and not self._marked(item, "harmless"):
            pytest.skip(NEEDS_IMAGE)

    def _marked(self, item: pytest.Item, name: str) -> bool | None:
        """Whether a mark is there and holds for this driver; None: it is not there."""
        mark = item.get_closest_marker(name)
        return None if mark is None else not mark.args or self._target.info.driver in mark.args

    def pytest_runtest_logstart(self) -> None:
        """One begins."""
        self._phases.clear()
        self._report(begun=True)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Setup, call or teardown has ended."""
        self._phases.append(report)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """It ended: the first phase that did not pass says how."""
        result, reason, detail = "passed", "", ""
        for phase in self._phases:
            if phase.failed:
                crash = getattr(phase.longrepr, "reprcrash", None)
                result, detail = "failed", phase.longreprtext
                reason = " ".join((crash.message if crash else detail).split())
                break
            if phase.skipped and isinstance(phase.longrepr, tuple):
                result, reason = "left out", phase.longrepr[2].removeprefix("Skipped: ")
        seconds = sum(phase.duration for phase in self._phases)
        self._report(ended={"name": _name(nodeid), "result": result, "seconds": seconds}, reason=reason, detail=detail)


def _name(nodeid: str) -> str:
    """``buffer.views_share_the_memory`` for ``buffer.py::test_views_share_the_memory``."""
    module, _, function = nodeid.partition(".py::test_")
    return f"{module}.{function}"


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _leave_with_parent() -> None:
    """Whoever started this process holds the other end of standard input: when that closes, end."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(10)
    os._exit(1)


def main(pipe: str, order: str) -> int:
    """Do the step that `order` names; report to the file descriptor `pipe`."""
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    steps = {"look": look, "settle": settle, "check": check}
    wanted = json.loads(order)
    os.set_inheritable(int(pipe), False)  # whoever reads it waits for its end
    with open(int(pipe), "w", buffering=1) as channel:

        def report(**event: Any) -> None:
            channel.write(json.dumps(event) + "\n")

        try:
            steps[wanted["step"]](wanted, report)
        except FpgaError as error:
            report(error=type(error).__name__, message=error.message, hint=error.hint)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
