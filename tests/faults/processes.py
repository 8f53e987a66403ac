# SPDX-License-Identifier: Apache-2.0
"""Other processes for the tests: a script in a new interpreter, which talks back line by line."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from types import TracebackType

TESTS = str(Path(__file__).parent.parent)

PROLOGUE = f"""
import os, signal, sys, threading, time
sys.path.insert(0, {TESTS!r})
import numpy as np
import fpgahal
from fpgahal import Bitstream, emu
def say(*what):
    print(*what, flush=True)
def image(name):
    kind = "pac-a10" if fpgahal.devices()[0].driver == "opae" else "u250"
    return emu.build_image(name, emu.boards()[kind])
def first(**kw):
    return fpgahal.open(fpgahal.devices()[0], **kw)
def loaded(name=None, **kw):
    dev = first(**kw)
    dev.program(image(name or ("nlb0" if dev.info.driver == "opae" else "demo")))
    return dev
def kernel(dev):
    return dev.kernel("lpbk1" if dev.info.driver == "opae" else "passthrough")
def arguments(dev, nbytes=4096):
    src, dst = dev.allocate(nbytes), dev.allocate(nbytes)
    np.asarray(src)[:] = 7
    src.sync_to_device()
    return src, dst, nbytes // 64 if dev.info.driver == "opae" else nbytes
"""


class Script:
    """A running script; the prologue's names (`loaded`, `kernel`, `say`, ...) are there for it."""

    def __init__(self, text: str, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-c", PROLOGUE + textwrap.dedent(text)],
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def line(self) -> str:
        """The next line that it says."""
        assert self.process.stdout
        text = self.process.stdout.readline()
        if not text:
            raise AssertionError(f"the script said no more; stderr:\n{self.finish()[1]}")
        return text.strip()

    def tell(self, text: str) -> None:
        """Send it a line."""
        assert self.process.stdin
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def finish(self, timeout: float = 120) -> tuple[str, str, int]:
        """Wait for its end: the rest of stdout, stderr, exit code."""
        out, err = self.process.communicate(timeout=timeout)
        return out, err, self.process.returncode

    def __enter__(self) -> Script:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


def run(text: str, timeout: float = 120, **environment: str) -> str:
    """Run a script to its end; it must exit with 0 and an empty stderr.  What it said."""
    with Script(text, **environment) as script:
        out, err, code = script.finish(timeout)
    assert (code, err) == (0, ""), f"exit code {code}\n{err}\n{out}"
    return out
