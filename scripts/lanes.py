# SPDX-License-Identifier: Apache-2.0
"""What ``scripts/test`` runs without arguments: the test suite, and beside it what takes long and needs one core.

A test that fails ends neither lane; the status is that of both together.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parent.parent
LANE = ("lint", "typing", "tests", "k8s", "kubelet")
BESIDE = ("sanitize",)
GO = shutil.which("go") or shutil.which("/usr/local/go/bin/go")


def compile_kubelet() -> None:
    """Let Go compile kubelet's device manager meanwhile: the session `kubelet` finds it in Go's cache."""
    if GO is not None:
        command = ["nice", "-n", "19", GO, "build", "-trimpath", "-ldflags=-s -w", "-o", "/dev/null", "."]
        quiet = subprocess.DEVNULL
        subprocess.Popen(command, cwd=ROOT / "tests/k8s/kubelet", stdout=quiet, stderr=quiet, start_new_session=True)


def main() -> int:
    """Run both lanes; the second one's output comes at the end."""
    nox = [sys.executable, "-m", "nox", "-s"]
    compile_kubelet()
    with tempfile.TemporaryDirectory(prefix="fpgahal-test-") as folder:
        environment = os.environ | {"FPGAHAL_WHEELHOUSE": folder}  # one wheel for both
        with Path(folder, "log").open("w+") as log:
            beside = subprocess.Popen(
                ["nice", *nox, *BESIDE], cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
            )
            try:
                status = subprocess.run([*nox, *LANE], cwd=ROOT, env=environment, check=False).returncode
                print(f"waiting for {' '.join(BESIDE)}", flush=True)
                status = beside.wait() or status
            except BaseException:
                with suppress(ProcessLookupError):
                    os.killpg(beside.pid, signal.SIGTERM)
                beside.wait()
                raise
            finally:
                log.seek(0)
                sys.stdout.write(log.read())
    return status


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
