# SPDX-License-Identifier: Apache-2.0
"""docs/kubernetes.md: its pods get what it says, from the boards and with the options that it says."""

from __future__ import annotations

import functools
import json
import os
import re
import shlex
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest
import yaml
from deployed import DEPLOY, ROOT, VERSIONS, check, containers, manifest, one, rendered
from given import boards_of
from webhook_cases import patched, review

import fpgahal
from fpgahal.k8s.api import Api
from fpgahal.k8s.names import af_resource, af_resource_2018
from fpgahal.k8s.plugin import app
from fpgahal.k8s.plugin.allocation import Allocation, allocate
from fpgahal.k8s.plugin.config import Config, load
from fpgahal.k8s.plugin.inventory import take
from fpgahal.k8s.plugin.metrics import Metrics as PluginMetrics
from fpgahal.k8s.programming import ensure
from fpgahal.k8s.schemes import inaccel
from fpgahal.k8s.unit import Inventory
from fpgahal.k8s.webhook.crds import schema
from fpgahal.k8s.webhook.metrics import Metrics as WebhookMetrics
from fpgahal.k8s.webhook.resources import Kind, parse
from fpgahal.k8s.webhook.review import decide
from fpgahal.k8s.webhook.table import Table
from fpgahal.k8s.webhook.watch import Watch

README = (ROOT / "README.md").read_text()
BOARD = fpgahal.emu.boards()["pac-a10"]
PAGE = (ROOT / "docs/kubernetes.md").read_text()
FENCED = re.findall(r"^```yaml\n(.*?)^```\n(.*?)(?=^```|^#|\Z)", PAGE, re.MULTILINE | re.DOTALL)
BLOCKS = [(block, text) for block, text in FENCED if not block.startswith("# claim\n")]
CLAIMS = [block for block, _ in FENCED if block.startswith("# claim\n")]
NLB3 = (DEPLOY / "examples/nlb3.yaml").read_text()
CLAIM = re.compile(r"# boards: (?P<boards>\S+); plugin: (?P<args>.*)\n")


@dataclass
class Example:
    """One block: its objects, and what they become on the boards and with the options that its first line names."""

    config: Config
    objects: list[Any]  # custom resources
    pod: Any  # as it is written
    admitted: Any  # as the webhook leaves it
    offered: Inventory
    given: Allocation
    devices: list[fpgahal.DeviceInfo]
    text: str  # what the page says below it

    @property
    def asked(self) -> dict[str, Any]:
        return dict(self.admitted["spec"]["containers"][0]["resources"]["limits"])


@functools.cache
def example(block: str, text: str, rack: fpgahal.emu.Rack | None = None) -> Example:
    claim = CLAIM.match(block)
    assert claim, "the first line says on which boards, and with which options"
    *objects, pod = yaml.safe_load_all(block)
    config = load(app.parse(shlex.split(claim["args"])).flags, {})
    settings = config.settings()
    names = Table(lambda _, afu: af_resource_2018(afu)) if config.intel_names == "2018" else Table(af_resource)
    for document in objects:
        names.put(parse(Kind(document["kind"]), document))
    defaulted = json.loads(json.dumps(pod))
    for container in defaulted["spec"]["containers"]:  # as the API server does before it asks
        container["resources"]["requests"] = dict(container["resources"]["limits"])
    admitted = patched(defaulted, decide(review(defaulted), names).document())
    with nullcontext(rack) if rack else fpgahal.emu.rack(claim["boards"]):
        devices = fpgahal.devices()
        offered = take(devices, settings)
        ((resource, count),) = admitted["spec"]["containers"][0]["resources"]["limits"].items()
        given = allocate(list(offered.resources[resource].values())[: int(count)], settings)
    return Example(config, objects, pod, admitted, offered, given, devices, text)


PODS = [list(yaml.safe_load_all(block))[-1]["metadata"]["name"] for block, _ in BLOCKS]


@pytest.fixture(params=BLOCKS, ids=PODS)
def found(request: pytest.FixtureRequest) -> Example:
    return example(*request.param)


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_takes_every_example(found: Example, version: str) -> None:
    check(found.pod, version)
    for document in found.objects:
        jsonschema.validate(document, schema(Kind(document["kind"])))


def test_every_pod_may_open_what_it_gets(found: Example) -> None:
    """Device files and racks belong to root, and our image's user is another one."""
    for pod in (found.pod, list(yaml.safe_load_all(NLB3))[-1]):
        assert pod["spec"]["securityContext"] == {"runAsUser": 0}


def test_every_pod_gets_what_it_asks_for(found: Example) -> None:
    ((resource, count),) = found.asked.items()
    units = found.offered.resources[resource]
    assert len(units) >= int(count)
    assert all(unit.healthy for unit in units.values())
    if found.objects:
        assert f"`{resource}: " in found.text.replace('"', "`") or resource in found.text or "same resource" in PAGE


def test_every_name_is_on_the_page(found: Example) -> None:
    """Variables and annotations that a container gets are listed, and so are resources."""
    for name in {*found.given.env, *found.given.annotations}:
        known = re.sub(r"(?<=FPGAHAL_DEVICE_)[0-9a-f_]+", "<address>", name)
        assert f"`{known}" in PAGE, name
    for resource in found.asked:
        assert resource in PAGE
    for name in re.findall(r"FPGA_(?:REGION|AFU)_\d", json.dumps(found.admitted)):
        assert f"`{name}`" in PAGE


def test_the_managers_pod_has_its_socket_and_its_group() -> None:
    page = (ROOT / "docs/manager.md").read_text()
    (block,) = re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    pod = yaml.safe_load(block)
    for version in VERSIONS:
        check(pod, version)
    (container,) = containers([one(manifest("manager"), "DaemonSet", "manager")])
    assert pod["spec"]["nodeSelector"] == container.pod["nodeSelector"]
    assert pod["spec"]["securityContext"]["supplementalGroups"] == [container.spec["securityContext"]["runAsGroup"]]
    (volume,) = pod["spec"]["volumes"]
    (mount,) = pod["spec"]["containers"][0]["volumeMounts"]
    assert container.volumes[volume["hostPath"]["path"]]["hostPath"]["path"] == mount["mountPath"] == "/run/fpgahal"
    assert pod["spec"]["containers"][0]["image"] == container.spec["image"]
    values = yaml.safe_load((DEPLOY / "helm/fpgahal/values.yaml").read_text())["manager"]
    assert set(re.findall(r"`manager\.(?!sock|yaml)(\w+)=?", page)) <= set(values)


@pytest.mark.parametrize("block", CLAIMS)
def test_claims(block: str) -> None:
    template, pod = yaml.safe_load_all(block)
    for document in (template, pod):
        check(document, "1.34")
    (request,) = template["spec"]["spec"]["devices"]["requests"]
    documents = rendered({"dra": {"enabled": True}})
    assert request["exactly"]["deviceClassName"] == one(documents, "DeviceClass")["metadata"]["name"]
    (claim,) = pod["spec"]["resourceClaims"]
    assert claim["resourceClaimTemplateName"] == template["metadata"]["name"]
    assert pod["spec"]["containers"][0]["resources"]["claims"] == [{"name": claim["name"]}]


def test_the_readmes_pod_gets_nlb3_on_the_readmes_node() -> None:
    """From deploy/examples and deploy/manifests/emulated.yaml, which README's commands apply."""
    (plugin,) = (each for each in containers(manifest("emulated")) if each.spec["name"] == "plugin")
    config = load(app.parse(plugin.spec["args"]).flags, {})
    claim = f"# boards: {config.emulate}; plugin: --schemes={','.join(config.schemes)} --mode={config.mode}\n"
    known = example(claim + NLB3.split("\n", 2)[2], "")
    (resource,) = known.asked
    assert f"{resource}:  {len(known.offered.resources[resource])}" in README, "what `kubectl describe node` shows"
    env = {each["name"]: each["value"] for each in known.admitted["spec"]["containers"][0]["env"]}
    images = one(manifest("emulated"), "DaemonSet")["spec"]["template"]["spec"]["initContainers"][0]["args"][0]
    assert "pac-a10/nlb3.gbs" in images
    assert env["FPGA_AFU_1"] == fpgahal.Bitstream.parse(fpgahal.emu.build_image("nlb3", BOARD)).afu_id.hex
    assert known.pod["spec"]["containers"][0]["image"] == plugin.spec["image"]
    section = README.split("## On Kubernetes")[1].split("\n## ")[0]
    for path in re.findall(r"(?:deploy|docs)/[\w./-]+\w", section):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize(("block", "text"), BLOCKS, ids=PODS)
def test_every_command_works(block: str, text: str, tmp_path: Path) -> None:
    """With the boards and variables that the pod gets, and the function loaded that it is to have."""
    claim = CLAIM.match(block)
    assert claim
    with fpgahal.emu.rack(claim["boards"]) as rack:
        known = example(block, text, rack)
        (container,) = known.admitted["spec"]["containers"]
        own = {each["name"]: each["value"] for each in container.get("env", [])}
        if wanted := own.get("FPGA_AFU_1"):
            store = fpgahal.ImageStore(str(tmp_path))
            store.add(fpgahal.emu.build_image("nlb3", fpgahal.emu.boards()["pac-a10"]))
            (address,) = boards_of(known.given.env).split(",")
            (slot,) = (info for info in known.devices if info.address == address)
            assert ensure(slot, wanted, store=store, namespace=None, timeout=20).programmed
        program, *rest = container["command"]
        module = {"fpgahal": "fpgahal", "fpgahal-bench": "fpgahal.bench"}.get(program)
        done = subprocess.run(
            [sys.executable, "-m", module, *rest] if module else [program, *rest],
            env=os.environ | known.given.env | own,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        if not module:
            (variable,) = re.findall(r"\$(\w+)", rest[-1])
            assert done.stdout.strip() == known.given.env[variable]
            return
        assert "EMULATED" in done.stdout
        boards = {info.bdf for info in known.devices if info.address in boards_of(known.given.env)}
        others = {info.bdf for info in known.devices} - boards
        assert not [bdf for bdf in others if bdf in done.stdout], "it sees boards that are not its own"


def test_node_selectors_match(found: Example) -> None:
    selector = found.pod["spec"].get("nodeSelector", {})
    labels = {inaccel.resource(info): inaccel.shell_label(info) for info in found.devices}
    assert selector.items() <= labels.items()


def test_every_scheme_has_an_example() -> None:
    from fpgahal.k8s.schemes.settings import INTEL_NAMES, MODES, NAMES

    examples = [example(*block) for block in BLOCKS]
    assert {scheme for one in examples for scheme in one.config.schemes} == set(NAMES)
    assert {one.config.mode for one in examples if "intel" in one.config.schemes} == set(MODES)
    assert {one.config.intel_names for one in examples} == set(INTEL_NAMES)
    assert {one.config.xilinx_legacy for one in examples} == {True, False}


def test_what_an_identity_resource_is_called_is_computed() -> None:
    """The translated names on the page are those that the webhook makes."""
    shown = set(re.findall(r"`(fpga\.intel\.com/(?:af|region)-[\w.-]+): \"1\"`", PAGE))
    made = {name for block in BLOCKS for name in example(*block).asked if name.startswith("fpga.intel.com/")}
    assert shown == made


def test_every_metric_is_listed() -> None:
    plugin = PluginMetrics()
    plugin.registered("r", "ok")
    plugin.scanned("ok", 0.0)
    plugin.allocated("r", 1)
    for method in ("allocate", "prefer", "prestart"):
        plugin.called(method, "r", "ok", 0.0)
    certificate: Any = SimpleNamespace(renewals=0, failures=0)
    webhook = WebhookMetrics(Watch(Api("http://localhost"), Table()), certificate)
    text = (plugin.text() + webhook.text()).decode()
    exposed = {name for name in re.findall(r"^# TYPE (\S+)", text, re.MULTILINE) if not name.endswith("_created")}
    section = PAGE.split("## Metrics")[1].split("\n## ")[0]
    assert set(re.findall(r"`(fpgahal_\w+)`", section)) == exposed


def test_commands_on_the_page_exist() -> None:
    """Options of our own programs; values of the chart; files of deploy/."""
    known = {option for action in app.build_parser()._actions for option in action.option_strings}
    for line in re.findall(r"`(fpgahal-plugin [^`]*)`", PAGE):
        assert set(re.findall(r"--[\w-]+", line)) <= known
    for path in re.findall(r"deploy/[\w./-]+\w", PAGE):
        assert (ROOT / path).exists(), path
    values = yaml.safe_load((DEPLOY / "helm/fpgahal/values.yaml").read_text())
    for path in set(
        re.findall(r"`?((?:plugin|webhook|image|nodeFeatureRule|emulated)\.(?!yaml)[a-zA-Z.]+[a-zA-Z])", PAGE)
    ):
        holder: Any = values
        for part in path.split("."):
            assert part in holder, path
            holder = holder[part]
