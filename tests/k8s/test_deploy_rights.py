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
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from deployed import Container, allows, check, containers, manifest, one, rendered
from fake_kubelet import FakeKubelet, StartError
from given import boards_of

import fpgahal
from fpgahal.k8s import rpc
from fpgahal.k8s.dra import DRIVER
from fpgahal.k8s.dra.service import REGISTRATION, registration_pb
from fpgahal.k8s.plugin import app
from fpgahal.k8s.plugin.config import load
from fpgahal.manager import connect

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, ("unshare", "setpriv", "mount"))),
    reason="needs root, and unshare, setpriv and mount (util-linux)",
)

NLB3 = "f7df405cbd7acf7222f144b0b93acd18"
NODE = "node-1"
MODULES = {
    "fpgahal-plugin": "fpgahal.k8s.plugin",
    "fpgahal-dra": "fpgahal.k8s.dra",
    "fpgahal-manager": "fpgahal.manager.app",
}
WITHOUT_RIGHTS = ("--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")


class ApiServer:
    """Answers about one pod, one node and no list's objects but ResourceSlices; notes what it was asked."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str]] = []
        self.pod: dict[str, Any] = {}
        self.slices: dict[str, Any] = {}
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def handle_any(self) -> None:
                server.requests.append((self.command, self.path))
                sent = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "null")
                watch = "watch=1" in self.path
                body = b"" if watch else json.dumps(server.answer(self.command, self.path, sent)).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PUT = do_DELETE = handle_any  # noqa: N815

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def answer(self, method: str, path: str, sent: Any) -> Any:
        if "/pods/" in path:
            return self.pod
        if path.endswith(f"/nodes/{NODE}"):
            return {"metadata": {"name": NODE, "uid": "1"}}
        if method in ("POST", "PUT"):
            self.slices[sent["metadata"]["name"]] = sent
            sent["metadata"]["resourceVersion"] = "1"
            return sent
        return {"metadata": {"resourceVersion": "1"}, "items": [*self.slices.values()]}

    def __enter__(self) -> ApiServer:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def mounts(container: Container, node: Path) -> Iterator[str]:
    """Shell commands that make a container's view of a machine whose folders are below `node`."""
    paths = [mount["mountPath"] for mount in container.spec["volumeMounts"]]
    tops = {"/" + path.split("/")[1] for path in paths} - {"/dev", "/catalogue"}
    needed = {sys.prefix, sys.base_prefix, str(Path(fpgahal.__file__).parents[1])}
    kept = [path for path in sorted(needed) if any(path.startswith(f"{top}/") for top in tops)]
    yield "mount -t tmpfs none /mnt"
    for number, path in enumerate(kept):  # what runs the program may be in a folder that is hidden next
        yield f"mkdir /mnt/{number} && mount --bind {shlex.quote(path)} /mnt/{number}"
    for top in sorted(tops - {"/tmp"}):  # places for volumes, without touching this machine's
        yield f"mount -t tmpfs none {top}"
    last = []
    for mount in container.spec["volumeMounts"]:
        path, volume = mount["mountPath"], container.volumes[mount["mountPath"]]
        if "configMap" in volume:
            continue
        if "hostPath" not in volume:
            last.append(f"mount -t tmpfs none {path}")
            continue
        source = shlex.quote(f"{node}{volume['hostPath']['path']}")
        yield f"mkdir -p {path} && mount --bind {source} {path}"
        if mount.get("readOnly"):
            yield f"mount -o remount,bind,ro {path}"
    yield from last
    for number, path in enumerate(kept):
        yield f"mkdir -p {shlex.quote(path)} && mount --bind /mnt/{number} {shlex.quote(path)}"
    yield "mount -o remount,bind,ro /"


def confined(container: Container, node: Path, *more: str) -> list[str]:
    """The command that runs a container's program as its manifest has it, on the machine below `node`."""
    for volume in container.volumes.values():
        if "hostPath" in volume:
            (node / volume["hostPath"]["path"].strip("/")).mkdir(parents=True, exist_ok=True)
    context = container.spec["securityContext"]
    assert context["capabilities"] == {"drop": ["ALL"]}
    user = [f"--reuid={context['runAsUser']}", f"--regid={context['runAsGroup']}", "--clear-groups"]
    program, *options = [*container.spec["command"], *container.spec["args"], *more]
    if program == "sh":
        command = [program, options[0], f'fpgahal() {{ {sys.executable} -B -m fpgahal "$@"; }}\n{options[1]}']
    else:
        command = [sys.executable, "-B", "-m", MODULES[program], *options]
    run = shlex.join(["setpriv", *user, *WITHOUT_RIGHTS, *command])
    script = " && ".join([*mounts(container, node), f"exec {run}"])
    return ["unshare", "--mount", "--propagation=private", "sh", "-c", script]


def environment(**more: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "PYTHONPATH": os.environ.get("PYTHONPATH", ""), "NODE_NAME": NODE, **more}


def prepare(inits: list[Container], node: Path) -> None:
    """Run the init containers; but the hook's, which test_deploy_image knows."""
    for container in (each for each in inits if each.spec["name"] != "hook"):
        done = subprocess.run(
            confined(container, node), env=environment(), capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stderr


@contextmanager
def running(container: Container, node: Path, *more: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """Run a container until the end of the block."""
    with subprocess.Popen(
        confined(container, node, *more), env=environment(**variables), stderr=subprocess.PIPE, text=True
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
    *inits, container = containers([one(documents, "DaemonSet", "emulated")])
    node = tmp_path / "node"
    (node / "var/lib").mkdir(parents=True)
    (node / "var/lib/kubelet").symlink_to(kubelet_root)
    board = fpgahal.emu.boards()["pac-a10"]
    region = f"fpga.intel.com/region-{board.interface_id.hex}"
    variables = [
        {"name": "FPGA_REGION_1", "value": board.interface_id.hex},
        {"name": "FPGA_AFU_1", "value": NLB3},
    ]
    prepare(inits, node)
    store = fpgahal.ImageStore(f"{node}{load(app.parse(container.spec['args']).flags, {}).store}")
    assert len(store.list()) == 3
    store.add(fpgahal.emu.build_image("nlb3", board), namespaces=["team-a"], force=True)
    with (
        FakeKubelet(kubelet_root) as kubelet,
        ApiServer() as api,
        running(container, node, f"--api-server={api.url}", "--status-port=0") as process,
    ):
        kubelet.folder.chmod(0o750)
        kubelet.socket.chmod(0o755)
        kubelet.wait(lambda: kubelet.allocatable() == {region: 2, "fpgahal.dev/u250": 1}, 60)
        for namespace in ("team-a", "team-b"):
            api.pod = {"spec": {"containers": [{"name": "main", "env": variables}]}}
            granted = kubelet.admit("demo", {region: 1}, namespace=namespace)
            if namespace == "team-b":  # the image is not theirs
                with pytest.raises(StartError, match="team-b may not use"):
                    kubelet.start_container("demo", namespace=namespace)
                continue
            kubelet.start_container("demo", namespace=namespace)
            (address,) = boards_of(granted.env).split(",")
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
        "/api/v1/pods",
        "/api/v1/namespaces/team-a/pods/demo",
        "/api/v1/namespaces/team-b/pods/demo",
    }
    assert [request for request in api.requests if not allows(documents, account, *request)] == []


CATALOGUE = """
[images.nlb3]
board = "intel/pac_a10"
accelerators = { nlb3 = 1 }
namespaces = ["*"]
interface_id = "9926ab6d6c925a68aabca7d84c545738"
afu_id = "f7df405cbd7acf7222f144b0b93acd18"
"""


def test_the_driver_publishes_its_boards_with_its_manifests_rights(tmp_path: Path, kubelet_root: Path) -> None:
    documents = rendered({"dra": {"enabled": True, "emulated": True}, "catalogue": CATALOGUE})
    *inits, container = containers([one(documents, "DaemonSet", "dra")])
    node = tmp_path / "node"
    (node / "var/lib").mkdir(parents=True)
    (node / "var/lib/kubelet").symlink_to(kubelet_root)
    prepare(inits, node)
    (text,) = one(documents, "ConfigMap", container.volumes["/catalogue"]["configMap"]["name"])["data"].values()
    (node / "var/lib/fpgahal/rack/catalogue.toml").write_text(text)  # this machine has no /catalogue to mount it on
    registry = kubelet_root / "plugins_registry" / f"{DRIVER}-uid-reg.sock"
    catalogue = "--catalogue=/var/lib/fpgahal/rack/catalogue.toml"
    with ApiServer() as api, running(container, node, f"--api-server={api.url}", catalogue, POD_UID="uid") as process:
        wait(lambda: api.slices and registry.exists(), process)
        with grpc.insecure_channel(f"unix:{registry}", [("grpc.default_authority", "localhost")]) as channel:
            told = rpc.call(channel, REGISTRATION.methods_by_name["GetInfo"])(registration_pb.InfoRequest(), timeout=10)
        assert (told.type, told.name) == ("DRAPlugin", DRIVER)
        assert (kubelet_root / "plugins" / DRIVER / Path(told.endpoint).name).is_socket()
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=30)
        assert process.returncode == 0, log
    for published in api.slices.values():
        check(published, "1.37")
    devices = [device["name"] for each in api.slices.values() for device in each["spec"].get("devices", [])]
    assert len(devices) == 5  # three boards, and an image for two of them
    account = container.pod["serviceAccountName"]
    assert [request for request in api.requests if not allows(documents, account, *request)] == []


def test_pods_with_the_group_share_the_boards_of_a_manager_with_its_manifests_rights(tmp_path: Path) -> None:
    documents = rendered({"manager": {"enabled": True, "emulated": True}})
    (container,) = containers([one(documents, "DaemonSet", "manager")])
    node = tmp_path / "node"
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    path = node / "run/fpgahal/manager.sock"
    group = container.spec["securityContext"]["runAsGroup"]
    with running(container, node, "--metrics=127.0.0.1:0") as process:
        wait(path.exists, process)
        assert (path.stat().st_gid, path.stat().st_mode & 0o777) == (group, 0o660)
        for groups, code in ((f"--groups={group}", 0), ("--clear-groups", 1)):
            pod = ["setpriv", "--reuid=4711", "--regid=4711", groups, *WITHOUT_RIGHTS]
            program = f"import socket; socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).connect('{path}')"
            done = subprocess.run([*pod, sys.executable, "-c", program], capture_output=True, check=False, cwd="/")
            assert done.returncode == code, done.stderr
        with connect(path, patience=20) as m:
            ones = np.ones(1000, np.uint32)
            assert (m.submit("vadd", a=ones, b=ones).result(60) == 2).all()
            assert len(m.status()["boards"]) == 3
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=60)
        assert process.returncode == 0, told
    assert "Traceback" not in told
    assert not path.exists()


def wait(condition: Callable[[], Any], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)
