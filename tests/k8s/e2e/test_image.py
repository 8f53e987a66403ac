# SPDX-License-Identifier: Apache-2.0
"""The image of deploy/Dockerfile, as deploy/manifests/emulated.yaml runs it, to README's pod.

`nox -s image` builds the image and runs this as user 0 in a mount namespace whose /var/lib, /srv, /opt and /run/cdi are
empty: this machine is the node, and keeps no trace of it.  FPGAHAL_PODMAN is a program that is podman with its options.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from deployed import DEPLOY, Container, containers, manifest, one
from fake_kubelet import FakeKubelet, Granted
from test_deploy_rights import NODE, ApiServer
from webhook_cases import copy_of, patched, review

from fpgahal.k8s.webhook.resources import Kind, parse
from fpgahal.k8s.webhook.review import decide
from fpgahal.k8s.webhook.table import Table

PODMAN = os.environ.get("FPGAHAL_PODMAN", "podman")
LIMITS = ("--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024")  # what may not be raised must not be asked for
CONFINED = ("--cap-drop=all", "--security-opt=no-new-privileges")
OTHER_AFU = "d8424dc4a4a3c413f89e433683f9040b"


def command(container: Container, *more: str, network: str = "none") -> list[str]:
    """Podman's words for a container of a manifest, on this machine."""
    context = container.spec["securityContext"]
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["readOnlyRootFilesystem"]
    words = [PODMAN, "run", "--rm", f"--network={network}", *LIMITS, *CONFINED]
    words += ["--read-only", "--read-only-tmpfs=false", f"--user={context['runAsUser']}:{context['runAsGroup']}"]
    for mount in container.spec["volumeMounts"]:
        path, volume = mount["mountPath"], container.volumes[mount["mountPath"]]
        if "hostPath" in volume:
            Path(volume["hostPath"]["path"]).mkdir(parents=True, exist_ok=True)
            words.append(f"--volume={volume['hostPath']['path']}:{path}{':ro' if mount.get('readOnly') else ''}")
        else:
            words.append(f"--tmpfs={path}")
    words += [f"--env={variable['name']}={NODE}" for variable in container.spec.get("env", [])]
    spec = container.spec
    return [*words, f"localhost/{spec['image']}", *spec["command"], *spec["args"], *more]


@contextmanager
def running(words: list[str]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.terminate()
            process.communicate(timeout=60)


def start(container: Any, granted: Granted, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Start a pod's container with what kubelet hands to the runtime."""
    words = [PODMAN, "run", "--rm", "--network=none", *LIMITS, *CONFINED, "--user=0:0"]
    words += ["--annotation=io.kubernetes.cri.sandbox-namespace=default"]
    words += [f"--env={name}={value}" for name, value in {**granted.env, **env}.items()]
    words += [f"--volume={host}:{inside}" for inside, (host, _) in granted.mounts.items()]
    words += [f"--device={name}" for name in granted.cdi]
    words += [f"localhost/{container['image']}", *container["command"]]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.timeout(600)
def test_readmes_pod_runs_nlb3() -> None:
    *inits, plugin = containers([one(manifest("emulated"), "DaemonSet", "emulated")])
    function, pod = yaml.safe_load_all((DEPLOY / "examples/nlb3.yaml").read_text())
    for container in pod["spec"]["containers"]:  # as the API server does
        container["resources"]["requests"] = dict(container["resources"]["limits"])
    names = Table()
    names.put(parse(Kind(function["kind"]), function))
    pod = patched(copy_of(pod), decide(review(pod), names).document())
    (container,) = pod["spec"]["containers"]
    env = {variable["name"]: variable["value"] for variable in container["env"]}
    ((resource, count),) = container["resources"]["limits"].items()
    with FakeKubelet("/var/lib/kubelet") as kubelet, ApiServer() as api:
        kubelet.folder.chmod(0o750)
        kubelet.socket.chmod(0o755)
        api.pod = pod
        for init in inits:
            done = subprocess.run(command(init), capture_output=True, text=True, check=False, timeout=300)
            assert done.returncode == 0, done.stderr
        with running(command(plugin, f"--api-server={api.url}", network="host")):
            kubelet.wait(lambda: kubelet.allocatable().get(resource) == 2, 60)
            granted = kubelet.admit("nlb3", {resource: int(count)}, container=container["name"])
            assert granted.cdi, "without a CDI device the hook never sees the container"
            kubelet.start_container("nlb3", container=container["name"])
            done = start(container, granted, env)
            assert done.returncode == 0, done.stderr
            assert "EMULATED" in done.stdout
            assert "Rd_Bandwidth" in done.stdout
            refused = start(container, granted, {**env, "FPGA_AFU_1": OTHER_AFU})
            assert refused.returncode != 0
            assert refused.stdout == "", "it started"
            assert "fpgahal-hook: error" in refused.stderr
