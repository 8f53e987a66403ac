#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Write deploy/manifests: what the chart renders with each file of deploy/helm/values.

Needs helm, or its engine as a Python package (`pip install helm-python-sdk`).
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).parent
CHART, VALUES, MANIFESTS = DEPLOY / "helm/fpgahal", DEPLOY / "helm/values", DEPLOY / "manifests"
NAME = NAMESPACE = "fpgahal"
HEADER = "# SPDX-License-Identifier: Apache-2.0\n# Rendered by deploy/render.py from deploy/helm; a test compares.\n"
# The plugin needs folders of the host, which Pod Security allows at this level only; its pods are confined anyhow.
FIRST = f"""\
apiVersion: v1
kind: Namespace
metadata:
  name: {NAMESPACE}
  labels:
    pod-security.kubernetes.io/enforce: privileged
    pod-security.kubernetes.io/warn: privileged
"""


def chart(values: dict[str, Any]) -> str:
    """Give what the chart makes of these values, as YAML; without the definitions in its crds/.

    Raises
    ------
    ValueError
        The values are refused.
    """
    if program := shutil.which("helm"):
        done = subprocess.run(
            [program, "template", NAME, CHART, "--namespace", NAMESPACE, "--values", "-"],
            input=yaml.safe_dump(values),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise ValueError(done.stderr)
        return done.stdout
    import helm_python

    try:
        with helm_python.Chart.load(CHART) as loaded:
            loaded.validate_schema(loaded.merge_values(values))
            rendered: dict[str, str] = loaded.render(values, name=NAME, namespace=NAMESPACE)
    except helm_python.HelmError as error:
        raise ValueError(str(error)) from error
    return "".join(f"---\n# Source: {path}\n{text}" for path, text in rendered.items() if path.endswith(".yaml"))


def documents(text: str) -> Iterator[str]:
    """Give the documents of a YAML stream as they are written, in an order that helm and its engine agree on."""
    source, found = "", []
    for part in re.split(r"(?m)^---\n", text):
        if match := re.match(r"# Source: (\S+)\n", part):
            source = match[1]
        body = re.sub(r"\A(\s*# Source: \S+\n)?\s*\n*", "", part).rstrip()
        if read := yaml.safe_load(body):
            found.append((source, read["kind"], read["metadata"]["name"], body))
    return (body + "\n" for *_, body in sorted(found))


def manifest(values: dict[str, Any]) -> str:
    """Give one file of deploy/manifests: namespace, definitions, and what the chart makes."""
    crds = [path.read_text().split("\n", 2)[2] for path in sorted((DEPLOY / "crds").glob("*.yaml"))]
    return HEADER + "---\n".join([FIRST, *crds, *documents(chart(values))])


def main() -> None:
    """Write them all."""
    MANIFESTS.mkdir(exist_ok=True)
    for path in sorted(VALUES.glob("*.yaml")):
        (MANIFESTS / path.name).write_text(manifest(yaml.safe_load(path.read_text()) or {}))


if __name__ == "__main__":
    main()
