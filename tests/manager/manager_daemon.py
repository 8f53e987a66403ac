# SPDX-License-Identifier: Apache-2.0
"""A manager in a process of its own, and a model, for the tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fpgahal
from fpgahal import manager

ROOT = Path(__file__).parents[2]


class Daemon:
    """``fpgahal-manager`` on the boards of a rack."""

    def __init__(self, rack: fpgahal.emu.Rack, folder: Path, *options: str) -> None:
        self.rack = rack
        self.socket = folder / "manager.sock"
        self.log = folder / "log"
        self._options = options
        self.process: subprocess.Popen[str]
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "fpgahal.manager.app", "--json", "--socket", str(self.socket), *self._options]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, text=True, env=os.environ | {"PYTHONWARNINGS": "default"}
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.log.read_text()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(20)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        code = self.process.wait(20)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def connect(self, patience: float = 10.0) -> manager.Client:
        return manager.connect(self.socket, patience=patience)

    def messages(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]


@contextmanager
def running(folder: Path, spec: str = "pac-a10", *options: str, **rack: Any) -> Iterator[Daemon]:
    """Have a manager for a while; nothing that its author did not think of may have happened in it."""
    with fpgahal.emu.rack(spec, **({"launch_us": 0, "program_ms": 1} | rack)) as made:
        daemon = Daemon(made, folder, *options)
        try:
            yield daemon
            if daemon.process.poll() is None:
                assert daemon.stop() == 0
        finally:
            if daemon.process.poll() is None:
                daemon.kill()
            log = daemon.log.read_text()
    assert "Traceback" not in log, log
    assert "Warning" not in log, log


def until(true: Callable[[], object], seconds: float = 10.0) -> float:
    """Wait until something is so; gives the seconds that it took."""
    since = time.monotonic()
    while not true():
        assert time.monotonic() - since < seconds, "it did not come true"
        time.sleep(0.002)
    return time.monotonic() - since


def model(trees: int = 3, features: int = 4, objective: str = "binary:logistic", classes: int = 0) -> bytes:
    """A model as ``Booster.save_model`` writes it, with stumps that differ."""

    def tree(number: int) -> dict[str, Any]:
        return {
            "tree_param": {"num_nodes": "3", "size_leaf_vector": "1"},
            "left_children": [1, -1, -1],
            "right_children": [2, -1, -1],
            "split_indices": [number % features, 0, 0],
            "split_conditions": [0.25 * number, -0.125 * (number + 1), 0.5 + number],
            "default_left": [number % 2, 0, 0],
        }

    document = {
        "learner": {
            "objective": {"name": objective},
            "gradient_booster": {
                "name": "gbtree",
                "model": {
                    "gbtree_model_param": {"num_trees": str(trees), "num_parallel_tree": "1"},
                    "trees": [tree(number) for number in range(trees)],
                    "tree_info": [number % max(1, classes) for number in range(trees)],
                    "iteration_indptr": list(range(0, trees + 1, max(1, classes))),
                },
            },
            "learner_model_param": {
                "num_feature": str(features),
                "num_class": str(classes),
                "num_target": "1",
                "base_score": "5E-1",
            },
            "feature_names": [],
            "feature_types": [],
        },
        "version": [3, 0, 0],
    }
    return json.dumps(document).encode()
