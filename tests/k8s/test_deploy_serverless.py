# SPDX-License-Identifier: Apache-2.0
"""examples/serverless: what is written there about pods, names and settings fits the programs."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
import yaml
from deployed import ROOT, check

import fpgahal
from fpgahal.k8s.plugin.config import load
from fpgahal.k8s.plugin.inventory import take
from fpgahal.manager.app import build_parser

FOLDER = ROOT / "examples" / "serverless"


@pytest.fixture
def documents() -> list[Any]:
    return list(yaml.safe_load_all((FOLDER / "service.yaml").read_text()))


def test_kubernetes_takes_the_pod(documents: list[Any]) -> None:
    spec = documents[0]["spec"]["template"]["spec"]
    for knative in ("containerConcurrency", "timeoutSeconds"):
        del spec[knative]
    spec["containers"][0]["readinessProbe"]["httpGet"]["port"] = 8080  # which Knative knows
    check({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "edges"}, "spec": spec})


def test_the_manifest_fits_the_programs(documents: list[Any]) -> None:
    service, trigger = documents
    spec = service["spec"]["template"]["spec"]
    function, manager = spec["containers"]
    variables = {one["name"]: one["value"] for one in function["env"]}
    command, *options = manager["command"]
    assert command == "fpgahal-manager"
    args = build_parser().parse_args(options)
    assert variables["FPGAHAL_MANAGER"] == str(args.socket)
    for container in (function, manager):
        (mount,) = container["volumeMounts"]
        assert str(args.socket.parent) == mount["mountPath"]
        assert mount["name"] == spec["volumes"][0]["name"]
    assert spec["containerConcurrency"] == int(variables["WORKERS"])
    assert spec["timeoutSeconds"] > int(variables["TIMEOUT"])
    assert trigger["spec"]["subscriber"]["ref"]["name"] == service["metadata"]["name"]
    source = (FOLDER / "function" / "func.py").read_text()
    assert all(name in source for name in variables if not name.startswith("AWS_DEFAULT"))
    with fpgahal.emu.rack("pac-a10"):
        (board,) = take(fpgahal.devices(), load({}, {}).settings()).resources
    assert manager["resources"]["limits"][board] == 1


def test_func_yaml_names_what_is_there() -> None:
    described = yaml.safe_load((FOLDER / "func.yaml").read_text())
    project = tomllib.loads((FOLDER / "pyproject.toml").read_text())["project"]
    assert project["name"] == "function"  # what func's own main imports
    assert described["runtime"] == "python"
    assert described["deploy"]["healthEndpoints"] == {
        "liveness": "/health/liveness",
        "readiness": "/health/readiness",
    }
