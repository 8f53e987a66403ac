# SPDX-License-Identifier: Apache-2.0
"""An accelerator that counts its runs, in a package of its own, as anybody may add one to a manager.

A request says a number; each run of it adds that number to a file.  So a test knows what was run, and how often, even
if the board, the client or the manager died meanwhile.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import numpy.typing as npt

from fpgahal import Array, KernelContract, Scalar, emu

HERE = Path(__file__).parent
LEDGER = KernelContract(
    "ledger",
    (
        Array("src", "uint32", ("n",)),
        Array("dst", "uint32", ("n",), access="w"),
        Scalar("n", "uint32"),
        Scalar("micros", "uint32"),
        Scalar("number", "uint64"),
    ),
    afu_id=uuid.UUID("4e2794d6-1b5a-5c0b-9d06-2c7e530ac1f8"),
    summary="writes down that it ran",
)
ONCE = 1 << 62  #: a bit of the numbers of requests that must not run twice


class Ledger:
    """What was run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def numbers(self) -> npt.NDArray[np.uint64]:
        """One for each run, in their order."""
        data = self.path.read_bytes()
        return np.frombuffer(data[: len(data) // 8 * 8], np.uint64)

    def clear(self) -> None:
        """Forget it all."""
        os.truncate(self.path, 0)

    def counts(self) -> dict[int, int]:
        """How often each number was run."""
        found, times = np.unique(self.numbers(), return_counts=True)
        return dict(zip(found.tolist(), times.tolist(), strict=True))


@contextmanager
def installed(folder: Path) -> Iterator[Ledger]:
    """Let programs that are started meanwhile have the accelerator ``ledger``."""
    made, path = folder / "ledger.so", folder / "ledger.bin"
    command = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O2", "-shared", "-fPIC", f"-I{emu.include()}"]
    subprocess.run([shutil.which("cc") or "gcc", *command, HERE / "ledger.c", "-o", made], check=True)
    package = folder / "packages" / "ledger-1.0.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: ledger\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text(
        f"[fpgahal.accelerators]\n{LEDGER.afu_id} = {Path(__file__).stem}:LEDGER\n"
    )
    path.touch()
    paths = [str(package.parent), str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    variables = {
        "FPGAHAL_EMU_MODELS": str(made),
        "FPGAHAL_TEST_LEDGER": str(path),
        "PYTHONPATH": os.pathsep.join(paths),
    }
    with mock.patch.dict(os.environ, variables):
        yield Ledger(path)
