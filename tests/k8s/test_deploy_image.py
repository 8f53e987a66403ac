# SPDX-License-Identifier: Apache-2.0
"""The image, and the bundle in it from which a host runs the hook."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from deployed import DEPLOY, ROOT, script
from packaging.requirements import Requirement

import fpgahal
from fpgahal.k8s.plugin import cdi
from fpgahal.k8s.plugin.config import load
from fpgahal.k8s.plugin.inventory import take
from fpgahal.k8s.plugin.service import hook_options

PREFIX = "/opt/fpgahal"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
bundle = script("bundle")


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `pip install --target` would make of the wheel: fpgahal and what it needs."""
    folder = tmp_path_factory.mktemp("packages")
    shutil.copytree(Path(fpgahal.__file__).parent, folder / "fpgahal", ignore=shutil.ignore_patterns("__pycache__"))
    needed = [Requirement(one) for one in PYPROJECT["project"]["dependencies"]]
    while needed:
        found = importlib.metadata.distribution(needed.pop().name)
        for file in found.files or []:
            if ".." not in file.parts and "__pycache__" not in file.parts and not (folder / file).exists():
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file.locate(), folder / file)
        more = map(Requirement, found.requires or [])
        needed += [one for one in more if one.marker is None or one.marker.evaluate({"extra": ""})]
    return folder


@pytest.fixture(scope="module")
def host(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A machine on which there is nothing but an installed bundle: no libc, no shell, no Python."""
    root = tmp_path_factory.mktemp("host")
    made = tmp_path_factory.mktemp("image") / "bundle"
    run(sys.executable, DEPLOY / "bundle.py", "make", made, "--prefix", PREFIX, "--packages", packages)
    run(sys.executable, DEPLOY / "bundle.py", "install", made, root / PREFIX.strip("/"))
    return root


def run(*command: str | Path) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def chroot(root: Path, *args: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run the hook as runc would on that machine: in its root, with an empty environment."""
    wrap = ["unshare", "--user", "--map-root-user"] if os.geteuid() else []
    program = shutil.which("chroot", path=f"{os.environ['PATH']}:/usr/sbin:/sbin") or "chroot"
    command = [*wrap, program, str(root), f"{PREFIX}/bin/fpgahal-hook", *args]
    return subprocess.run(command, input=stdin, env={}, capture_output=True, text=True, check=False, timeout=60)


def test_the_hook_needs_nothing_of_its_host(host: Path) -> None:
    assert {path.name for path in host.iterdir()} == {"opt"}
    done = chroot(host, "--version")
    assert (done.returncode, done.stdout) == (0, f"fpgahal {fpgahal.__version__}\n"), done.stderr


@pytest.mark.parametrize("state", ["1234", "{}", '{"bundle": "/absent"}'])
def test_H3_the_installed_hook_refuses(host: Path, state: str) -> None:
    done = chroot(host, stdin=state)
    assert done.returncode not in (0, 126, 127)
    assert "fpgahal-hook: error: " in done.stderr
    assert "Traceback" not in done.stderr


def test_the_installed_hook_does_what_a_cdi_file_says(host: Path) -> None:
    """It loads what the container wants onto an emulated board, a folder of that machine; and refuses the rest."""
    nlb3 = "f7df405cbd7acf7222f144b0b93acd18"
    config = load({"cdi": True, "prestart": False, "store": "/images"}, {})
    with fpgahal.emu.rack("pac-a10") as rack:
        ((unit,),) = (each.values() for each in take(fpgahal.devices(), config.settings()).resources.values())
        ((hook,),) = (
            each["containerEdits"]["hooks"] for each in cdi.spec(unit, config.hook, hook_options(config))["devices"]
        )
        inside = host / rack.dir.strip("/")
        shutil.copytree(rack.dir, inside, symlinks=True)
        image = fpgahal.emu.build_image("nlb3", fpgahal.emu.boards()["pac-a10"])
    assert hook["path"] == f"{PREFIX}/bin/fpgahal-hook"
    fpgahal.ImageStore(str(host / "images")).add(image, namespaces=["team-a"])
    (host / "bundle").mkdir()

    def judged(namespace: str, afu: str) -> subprocess.CompletedProcess[str]:
        wanted = {"process": {"env": [f"FPGAHAL_AFU={afu}"]}, "linux": {"devices": []}}
        notes = {"annotations": {"io.kubernetes.cri.sandbox-namespace": namespace}}
        (host / "bundle/config.json").write_text(json.dumps(wanted | notes))
        state = {"ociVersion": "1.0.2", "id": "c", "bundle": "/bundle"}
        return chroot(host, *hook["args"][1:], stdin=json.dumps(state))

    def loaded() -> str:
        ((info,),) = [fpgahal.devices(str(inside))]
        return info.afu_id.hex if info.afu_id else ""

    before = loaded()
    refused = judged("team-b", nlb3)
    assert refused.returncode != 0
    assert "team-b may not use" in refused.stderr
    assert loaded() == before != nlb3
    done = judged("team-a", nlb3)
    assert done.returncode == 0, done.stderr
    assert loaded() == nlb3
    unknown = judged("team-a", "0" * 31 + "1")
    assert unknown.returncode != 0
    assert "Traceback" not in unknown.stderr
    assert loaded() == nlb3


@pytest.fixture
def small(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin/run").write_text("new")
    (folder / "bin/run").chmod(0o755)
    (folder / "more").write_text("new")
    (folder / bundle.STAMP).write_text(bundle.digest(folder))
    return folder


def test_installing_replaces_and_cleans_up(small: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    (target / "bin").mkdir(parents=True)
    (target / "bin/run").write_text("old")
    (target / "old").write_text("old")
    with (target / "bin/run").open() as running:
        assert bundle.install(small, target)
        assert running.read() == "old", "a hook that runs keeps its files"
    assert (target / "bin/run").read_text() == "new"
    assert (target / "bin/run").stat().st_mode & 0o777 == 0o755
    assert not (target / "old").exists()
    assert bundle.digest(target) == (small / bundle.STAMP).read_text()
    assert not bundle.install(small, target), "there is nothing left to do"


def test_an_interrupted_installation_is_done_again(small: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    bundle.install(small, target)
    (small / "more").write_text("newer")
    (small / bundle.STAMP).write_text(bundle.digest(small))
    (target / "more").unlink()
    (target / "more").mkdir()  # so that it fails in the middle
    with pytest.raises(OSError, match="more"):
        bundle.install(small, target)
    (target / "more").rmdir()
    assert bundle.install(small, target)
    assert (target / "more").read_text() == "newer"


def test_a_library_that_is_missing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "ldd"
    fake.write_text("#!/bin/sh\necho 'libabsent.so.1 => not found'\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(SystemExit, match=r"libabsent\.so\.1"):
        bundle.shared_libraries([Path("/bin/true")])


def test_dockerfile_is_sound() -> None:
    run(Path(sys.executable).with_name("hadolint"), DEPLOY / "Dockerfile")


def test_the_image_does_not_run_as_root() -> None:
    """Docker's own default; what needs another user says so in its manifest."""
    last = DOCKERFILE.rsplit("\nFROM ", 1)[1]
    assert re.findall(r"(?m)^USER (\S+)", last) == ["65532:65532"]


def test_the_image_gets_what_it_is_built_from() -> None:
    """All that CMake and the wheel's metadata name must be in the build's context."""
    taken = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    project = PYPROJECT["project"]
    needed = {"pyproject.toml", "CMakeLists.txt", project["readme"], *project["license-files"], "deploy/bundle.py"}
    needed |= {str(Path(package).parent) for package in PYPROJECT["tool"]["scikit-build"]["wheel"]["packages"]}
    needed |= set(re.findall(r"(?m)\b(native)/", (ROOT / "CMakeLists.txt").read_text()))
    assert needed == taken
    assert all((ROOT / path).exists() for path in taken)


def test_the_versions_agree() -> None:
    chart = (DEPLOY / "helm/fpgahal/Chart.yaml").read_text()
    version = PYPROJECT["project"]["version"]
    assert f'appVersion: "{version}"' in chart
    assert f"fpgahal:{version} ." in DOCKERFILE


def test_the_hook_is_what_the_bundle_starts() -> None:
    assert "from fpgahal.k8s.hook import main" in bundle.SCRIPT
    assert importlib.util.find_spec("fpgahal.k8s.hook") is not None
