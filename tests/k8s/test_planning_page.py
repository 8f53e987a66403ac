# SPDX-License-Identifier: Apache-2.0
"""docs/planning.md: its commands print what it says, and its pods become what it says."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from webhook_cases import patched, review

import fpgahal
from fpgahal.k8s.catalogue import load
from fpgahal.k8s.dra import DRIVER
from fpgahal.k8s.dra.devices import devices
from fpgahal.k8s.dra.slices import specs
from fpgahal.k8s.planner import Offer
from fpgahal.k8s.webhook.accelerators import Cluster
from fpgahal.k8s.webhook.review import decide
from fpgahal.k8s.webhook.table import Table

PAGE = (Path(__file__).parents[2] / "docs" / "planning.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
NAME = re.compile(r"(?:#|//) ([\w-]+\.\w+)\n")
MODULES = {"fpgahal": "fpgahal", "fpgahal-dra": "fpgahal.k8s.dra"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the page's files are."""
    for _, text in BLOCKS:
        if name := NAME.match(text):
            content = text[name.end() :] if name[1].endswith(".json") else text
            (tmp_path / name[1]).write_text(content)
    return tmp_path


def commands() -> Iterator[Any]:
    """Each command, and the output that follows it."""
    for (kind, command), (then, output) in itertools.pairwise(BLOCKS):
        if kind == "sh":
            assert then == "text", command
            yield pytest.param(command, output, id=" ".join(command.split()[:3]))


@pytest.mark.parametrize(("command", "output"), list(commands()))
def test_commands(command: str, output: str, folder: Path) -> None:
    program, *rest = command.split(maxsplit=1)
    lines = f"{sys.executable} -m {MODULES[program]} {''.join(rest)}"  # the script of this very Python
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FPGAHAL_EMU")}
    environment["XDG_RUNTIME_DIR"] = str(folder)  # boards of one's own
    done = subprocess.run(
        ["sh", "-ec", lines], cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == (output, "")


def test_K1_K2_the_pages_pods(folder: Path) -> None:
    known = load(folder / "catalogue.toml")
    table = Table(catalogue=known)
    pod, here, cloud = (
        yaml.safe_load((folder / f"{name}.yaml").read_text()) for name in ("pod", "pod-on-premises", "pod-in-the-cloud")
    )
    rack = Offer("rack-1", {"xilinx/u250": 1, "xilinx/u280": 1})
    for free, expected in ((rack, here), (replace(rack, boards={"xilinx/u280": 1}), cloud)):
        decision = decide(review(pod), table, Cluster((free,), (rack,), known.groups))
        assert patched(pod, decision.document()) == expected


def test_the_pages_claims(folder: Path) -> None:
    """Attributes and capacities that the claims name are those that boards have."""
    documents = list(yaml.safe_load_all((folder / "claims.yaml").read_text()))
    classes = {document["metadata"]["name"]: document for document in documents if document["kind"] == "DeviceClass"}
    images = [replace(image, afu_id=f"{n:032x}") for n, image in enumerate(load(folder / "catalogue.toml").images, 1)]
    with fpgahal.emu.rack("u250,aws-f1:2"):
        offered = specs("n1", devices(fpgahal.devices(), images))[1]["devices"]
    (request,) = documents[-1]["spec"]["spec"]["devices"]["requests"]
    for choice in request["firstAvailable"]:
        expression = classes[choice["deviceClassName"]]["spec"]["selectors"][0]["cel"]["expression"]
        assert f'device.driver == "{DRIVER}"' in expression
        wanted = dict(re.findall(rf'device\.attributes\["{re.escape(DRIVER)}"\]\.(\w+) == "([^"]+)"', expression))
        matching = [
            device
            for device in offered
            if all(device["attributes"].get(name) == {"string": value} for name, value in wanted.items())
        ]
        assert len(matching) >= choice.get("count", 1)
        for name, amount in choice["capacity"]["requests"].items():
            assert all(int(device["capacity"][name]["value"]) >= int(amount) for device in matching)


def test_every_block_is_tested() -> None:
    assert {kind for kind, _ in BLOCKS} == {"sh", "text", "toml", "json", "yaml"}
    assert all(NAME.match(text) for kind, text in BLOCKS if kind in ("toml", "json", "yaml"))
    assert len(list(commands())) == sum(kind == "sh" for kind, _ in BLOCKS) == sum(kind == "text" for kind, _ in BLOCKS)
