# SPDX-License-Identifier: Apache-2.0
"""The rights that the plugin's manifest gives are enough, and no less would be: a process that has exactly those.

It sees the mounts of its manifest, read-only where that says so, and nothing else can be written; it is user 0 without
a capability, and can't get one.  Needs root, as a container runtime does.
"""

from __future__ import annotations

import http.server
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from deployed import Container, allows, containers, manifest, one
from fake_kubelet import FakeKubelet, StartError

import fpgahal

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, ("unshare", "setpriv", "mount"))),
    reason="needs root, and unshare, setpriv and mount (util-linux)",
)

NLB3 = "f7df405cbd7acf7222f144b0b93acd18"
NODE = "node-1"
WITHOUT_RIGHTS = ("--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")


class ApiServer:
    """Answers about one pod, and that there are no nodes; notes what it was asked."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str]] = []
        self.pod: dict[str, Any] = {}
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.requests.append(("GET", self.path))
                watch = "watch=1" in self.path
                body = b"" if watch else json.dumps(server.answer(self.path)).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def answer(self, path: str) -> Any:
        return self.pod if "/pods/" in path else {"metadata": {"resourceVersion": "1"}, "items": []}

    def __enter__(self) -> ApiServer:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def mounts(container: Container, node: Path) -> Iterator[str]:
    """Shell commands that make a container's view of a machine whose folders are below `node`."""
    hidden = set()
    for mount in container.spec["volumeMounts"]:  # places for them, without touching this machine's
        top = "/" + mount["mountPath"].split("/")[1]
        if top not in hidden | {"/tmp", "/dev"}:
            hidden.add(top)
            yield f"mount -t tmpfs none {top}"
    last = []
    for mount in container.spec["volumeMounts"]:
        path, volume = mount["mountPath"], container.volumes[mount["mountPath"]]
        if "hostPath" not in volume:
            last.append(f"mount -t tmpfs none {path}")
            continue
        source = shlex.quote(f"{node}{volume['hostPath']['path']}")
        yield f"mkdir -p {path} && mount --bind {source} {path}"
        if mount.get("readOnly"):
            yield f"mount -o remount,bind,ro {path}"
    yield from last
    yield "mount -o remount,bind,ro /"


@contextmanager
def running(
    container: Container, node: Path, *more: str, environ: Mapping[str, str]
) -> Iterator[subprocess.Popen[str]]:
    """Run a container's program as its manifest has it, on the machine below `node`."""
    for volume in container.volumes.values():
        if "hostPath" in volume:
            (node / volume["hostPath"]["path"].strip("/")).mkdir(parents=True, exist_ok=True)
    context = container.spec["securityContext"]
    assert context["capabilities"] == {"drop": ["ALL"]}
    user = [f"--reuid={context['runAsUser']}", f"--regid={context['runAsGroup']}", "--clear-groups"]
    command = [sys.executable, "-B", "-m", "fpgahal.k8s.plugin", *container.spec["args"], *more]
    script = " && ".join(
        [*mounts(container, node), f"exec {shlex.join(['setpriv', *user, *WITHOUT_RIGHTS, *command])}"]
    )
    with subprocess.Popen(
        ["unshare", "--mount", "--propagation=private", "sh", "-c", script],
        stderr=subprocess.PIPE,
        text=True,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": os.environ.get("PYTHONPATH", ""), **environ},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_user_0_without_capabilities_is_enough_and_another_user_is_not(tmp_path: Path) -> None:
    """Kubelet's folder has mode 0750, its socket 0755: both are for their owner."""
    tmp_path.chmod(0o755)
    folder = tmp_path / "device-plugins"
    folder.mkdir(mode=0o750)
    with socket.socket(socket.AF_UNIX) as kubelet:
        kubelet.bind(str(folder / "kubelet.sock"))
        (folder / "kubelet.sock").chmod(0o755)
        kubelet.listen()
        program = (
            f"import socket; s = socket.socket(socket.AF_UNIX); s.connect('{folder}/kubelet.sock');"
            f"t = socket.socket(socket.AF_UNIX); t.bind('{folder}/plugin.sock')"
        )

        def attempt(user: int) -> str:
            command = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", *WITHOUT_RIGHTS]
            done = subprocess.run(
                [*command, sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd="/"
            )
            return done.stderr

        assert attempt(0) == ""
        assert "PermissionError" in attempt(65532)
        folder.chmod(0o777)  # and a folder for everybody does not help: the socket is not
        assert "PermissionError" in attempt(65532)


@pytest.fixture
def kubelet_root() -> Iterator[Path]:
    """A short path: kubelet dials sockets with long names in it."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="k") as folder:
        yield Path(folder)


def test_a_pod_gets_its_function_from_a_plugin_with_the_manifests_rights(tmp_path: Path, kubelet_root: Path) -> None:
    documents = manifest("emulated")
    (container,) = containers([one(documents, "DaemonSet", "emulated")])
    node = tmp_path / "node"
    (node / "var/lib").mkdir(parents=True)
    (node / "var/lib/kubelet").symlink_to(kubelet_root)
    board = fpgahal.emu.boards()["pac-a10"]
    region = f"fpga.intel.com/region-{board.interface_id.hex}"
    variables = [
        {"name": "FPGA_REGION_1", "value": board.interface_id.hex},
        {"name": "FPGA_AFU_1", "value": NLB3},
    ]
    store = fpgahal.ImageStore(str(node / "srv/intel.com/fpga"))
    store.add(fpgahal.emu.build_image("nlb3", board), namespaces=["team-a"])
    with (
        FakeKubelet(kubelet_root) as kubelet,
        ApiServer() as api,
        running(container, node, f"--api-server={api.url}", "--status-port=0", environ={"NODE_NAME": NODE}) as process,
    ):
        kubelet.folder.chmod(0o750)
        kubelet.socket.chmod(0o755)
        kubelet.wait(lambda: kubelet.allocatable() == {region: 2, "fpgahal.dev/u250": 1}, 30)
        for namespace in ("team-a", "team-b"):
            api.pod = {"spec": {"containers": [{"name": "main", "env": variables}]}}
            granted = kubelet.admit("demo", {region: 1}, namespace=namespace)
            if namespace == "team-b":  # the image is not theirs
                with pytest.raises(StartError, match="team-b may not use"):
                    kubelet.start_container("demo", namespace=namespace)
                continue
            kubelet.start_container("demo", namespace=namespace)
            (address,) = granted.env["FPGAHAL_VISIBLE_DEVICES"].split(",")
            rack = str(node / granted.env["FPGAHAL_EMU_RACK"].strip("/"))
            (slot,) = (info for info in fpgahal.devices(rack) if info.address == address)
            assert slot.afu_id is not None
            assert slot.afu_id.hex == NLB3
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=30)
        assert process.returncode == 0, told
    lines = [json.loads(line) for line in told.splitlines()]
    assert any(line["message"] == "Programmed" and line["namespace"] == "team-a" for line in lines)
    assert not list(kubelet.folder.glob("fpgahal-*"))
    # And what it asked the API server is what its account may ask.
    account = container.pod["serviceAccountName"]
    assert {re.sub(r"\?.*", "", path) for _, path in api.requests} == {
        "/api/v1/nodes",
        "/api/v1/namespaces/team-a/pods/demo",
        "/api/v1/namespaces/team-b/pods/demo",
    }
    assert [request for request in api.requests if not allows(documents, account, *request)] == []
