# SPDX-License-Identifier: Apache-2.0
"""The chart and the plain manifests: Kubernetes takes them, our own commands take their arguments, rights are least."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import re
import tomllib
from collections.abc import Callable
from dataclasses import fields
from pathlib import PurePosixPath
from typing import Any

import cel
import jsonschema
import kubernetes_validate
import pytest
import yaml
from deployed import (
    DEPLOY,
    FOREIGN,
    ROOT,
    VARIANTS,
    VERSIONS,
    Container,
    allows,
    check,
    containers,
    manifest,
    of_kind,
    one,
    rendered,
    script,
    selects,
)

from fpgahal._sysfs import boards
from fpgahal.k8s.dra import DRIVER
from fpgahal.k8s.dra import app as dra
from fpgahal.k8s.plugin import app as plugin
from fpgahal.k8s.plugin.config import Config, load
from fpgahal.k8s.plugin.service import hook_options
from fpgahal.k8s.schemes.settings import INTEL_NAMES, MODES, NAMES
from fpgahal.k8s.webhook import app as webhook
from fpgahal.manager import app as manager

CHART = DEPLOY / "helm/fpgahal"
DEFAULTS = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA = json.loads((CHART / "values.schema.json").read_text())

# Values that a cluster may have; each must give objects that Kubernetes takes.
CHOICES: dict[str, Any] = {
    "defaults": {},
    "nothing but the webhook": {"plugin": {"enabled": False}},
    "nothing but the plugin": {"webhook": {"enabled": False}, "networkPolicy": {"enabled": False}},
    "own certificate": {"webhook": {"certificate": {"secretName": "mine", "caBundle": "PEM"}, "replicas": 1}},
    "cluster's issuer": {"webhook": {"certificate": {"issuer": {"name": "corporate"}}}},
    "real and emulated": {"emulated": {"enabled": True}, "nodeFeatureRule": {"enabled": True}},
    "hook programs": {"plugin": {"schemes": ["intel"], "mode": "region", "programming": "hook"}},
    "plugin programs": {"plugin": {"programming": "prestart", "seLinuxType": "container_device_plugin_t"}},
    "accelerators": {"catalogue": "[images]\n", "dra": {"enabled": True}},
    "claims": {"dra": {"enabled": True, "programming": "prepare"}, "plugin": {"enabled": False}},
    "emulated claims": {"dra": {"enabled": True, "emulated": True, "programming": "prepare"}},
    "manager instead of the plugin": {"manager": {"enabled": True, "policy": "[default]\nadmin = false\n"}},
    "manager with the plugin": {"manager": {"enabled": True, "boards": {"fpgahal.dev/u250": 2}}},
    "emulated manager": {"manager": {"enabled": True, "emulated": True}, "networkPolicy": {"enabled": False}},
    "no hook": {"plugin": {"hook": {"enabled": False}}},
    "all legacy schemes": {
        "intelNames": "2018",
        "plugin": {
            "schemes": ["bcom-counter", "intel", "xilinx", "inaccel", "bcom", "own"],
            "options": {
                "intel-annotation": True,
                "xilinx-legacy": True,
                "bcom-units": 4,
                "scan-seconds": 0.5,
                "cdi": False,
            },
        },
    },
    "elsewhere": {
        "image": {
            "repository": "registry.local/fpgahal",
            "digest": f"sha256:{'0' * 64}",
            "pullSecrets": [{"name": "s"}],
        },
        "plugin": {"kubeletFolder": "/var/lib/k0s/kubelet", "store": "/images"},
        "webhook": {
            "nodeSelector": {"a": "b"},
            "tolerations": [{"operator": "Exists"}],
            "objectSelector": {"matchLabels": {"a": "b"}},
        },
    },
}

COMMANDS: dict[str, Callable[[list[str]], argparse.Namespace]] = {
    "fpgahal-plugin": plugin.parse,
    "fpgahal-dra": dra.build_parser().parse_args,
    "fpgahal-webhook": webhook.build_parser().parse_args,
    "fpgahal-manager": manager.build_parser().parse_args,
}


def plugin_config(container: Container) -> Config:
    """The configuration that the plugin's program makes of its arguments."""
    return load(plugin.parse(container.spec["args"]).flags, {})


@pytest.fixture(params=CHOICES)
def documents(request: pytest.FixtureRequest) -> list[Any]:
    """What the chart makes of each choice."""
    return rendered(CHOICES[request.param])


# --- the manifests and the chart --------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_manifests_are_what_the_chart_renders(variant: str) -> None:
    rendered()
    values = yaml.safe_load((DEPLOY / f"helm/values/{variant}.yaml").read_text())
    assert (DEPLOY / f"manifests/{variant}.yaml").read_text() == script("render").manifest(values), (
        "run deploy/render.py"
    )


def test_helm_finds_nothing_wrong_with_the_chart() -> None:
    helm_python = pytest.importorskip("helm_python")
    found = helm_python.lint(str(CHART))
    assert [message for message in found["messages"] if message["severity"] > 1] == []
    assert found["errors"] == []


def test_every_manifest_has_its_values() -> None:
    assert sorted(path.stem for path in (DEPLOY / "manifests").glob("*.yaml")) == VARIANTS


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_takes_them(documents: list[Any], version: str) -> None:
    for document in documents:
        check(document, version)
    names = [(document["kind"], document["metadata"]["name"]) for document in documents]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_kubernetes_takes_the_manifests(variant: str, version: str) -> None:
    for document in manifest(variant):
        check(document, version)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda spec: spec.update(replica=2),
        lambda spec: spec.pop("selector"),
        lambda spec: spec["template"]["spec"]["containers"][0].update(arg=["x"]),
        lambda spec: spec["template"]["spec"]["containers"][0]["securityContext"].update(readonlyRootFilesystem=True),
        lambda spec: spec["template"]["spec"]["containers"][0]["ports"][0].update(containerPort="http"),
    ],
)
def test_the_check_can_fail(spoil: Callable[[Any], Any]) -> None:
    deployment = one(manifest("fpgahal"), "Deployment")
    spoil(deployment["spec"])
    with pytest.raises(kubernetes_validate.ValidationError):
        check(deployment)


def test_the_check_of_foreign_objects_can_fail() -> None:
    for kind in ("Certificate", "NodeFeatureRule"):
        document = one(rendered({"nodeFeatureRule": {"enabled": True}}), kind)
        assert (document["apiVersion"], kind) in FOREIGN
        document["spec"]["unknown"] = 1
        with pytest.raises(jsonschema.ValidationError):
            check(document)


# --- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        {"plugin": {"mod": "af"}},
        {"plugin": {"mode": "afx"}},
        {"plugin": {"schemes": []}},
        {"plugin": {"schemes": ["own", "own"]}},
        {"plugin": {"options": {"hook": "/bin/true"}}},
        {"plugin": {"programming": "allocate"}},
        {"plugin": {"store": "relative"}},
        {"plugin": {"programming": "hook", "hook": {"enabled": False}}},
        {"webhook": {"failurePolicy": "Ignore"}},
        {"webhook": {"replicas": 0}},
        {"emulated": {"boards": "u250 pac-a10"}},
        {"image": {"digest": "latest"}},
        {"manager": {"enabled": True, "boards": {"u250": 1}}},
        {"manager": {"enabled": True, "boards": {"fpgahal.dev/u250": 1}, "emulated": True}},
        {"unknown": {}},
    ],
)
def test_wrong_values_are_refused(values: Any) -> None:
    with pytest.raises(ValueError, match=r"(?i)additional|allowed|one of|pattern|unique|minimum|items|needs"):
        rendered(values)


def test_the_schema_knows_every_value() -> None:
    """And nothing else: what the schema allows and the chart never reads would be silently ignored."""
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    jsonschema.validate(DEFAULTS, SCHEMA)

    def leaves(schema: Any, prefix: str = "") -> set[str]:
        inner = schema.get("properties")
        if not inner or prefix.endswith(("Selector", "resources", "options")):
            return {prefix}
        return {leaf for name, each in inner.items() for leaf in leaves(each, f"{prefix}.{name}")}

    def values(found: Any, prefix: str = "") -> set[str]:
        if not isinstance(found, dict) or not found or prefix.endswith(("Selector", "resources", "options")):
            return {prefix}
        return {leaf for name, each in found.items() for leaf in values(each, f"{prefix}.{name}")}

    assert leaves(SCHEMA) - {".global"} == values(DEFAULTS)


def test_the_schema_knows_the_programs_options() -> None:
    """All that `fpgahal-plugin` has: set by the chart, or left to plugin.options."""
    own = SCHEMA["properties"]["plugin"]["properties"]
    assert tuple(own["schemes"]["items"]["enum"]) == NAMES
    assert tuple(own["mode"]["enum"]) == MODES
    assert tuple(SCHEMA["properties"]["intelNames"]["enum"]) == INTEL_NAMES
    options = own["options"]["properties"]
    known = {option.name.replace("_", "-"): option for option in fields(Config)}
    kinds = {bool: "boolean", int: "integer", float: "number", str: "string"}
    for name, schema in options.items():
        assert schema["type"] == kinds[type(known[name].default)]
        if "choices" in known[name].metadata:
            assert tuple(schema["enum"]) == known[name].metadata["choices"]
    (container,) = (each for each in containers(rendered()) if each.spec["name"] == "plugin")
    chart = set(plugin.parse(container.spec["args"]).flags) | {"emulate", "rack", "prestart", "program"}
    others = {
        "xilinx-names",  # a file
        "cdi-dir",  # where every container runtime looks
        "status-host",  # probes come from outside
        "node-name",  # in the environment
        "api-server",  # the pod's own
    }
    assert {name.replace("_", "-") for name in chart} | set(options) | others == set(known)


# --- our own programs -------------------------------------------------------------------------------------------------


def test_our_programs_take_their_arguments(documents: list[Any]) -> None:
    found = list(containers(documents))
    assert found
    for container in found:
        (program, *more) = container.spec["command"]
        if program == "python3":
            assert more == ["/opt/bundle.py"]
            with contextlib.redirect_stderr(io.StringIO()):
                args = script("bundle").build_parser().parse_args(container.spec["args"])
            assert str(args.target) in container.volumes
            continue
        if program == "sh":
            assert container.spec["name"] == "images"  # test_deploy_rights runs it
            continue
        assert not more
        args = COMMANDS[program](container.spec["args"])
        assert callable(args.run)
        if program == "fpgahal-plugin":
            plugin_config(container).settings()


def test_the_plugin_has_what_its_arguments_name(documents: list[Any]) -> None:
    """Each folder is the host's folder of the same name: CDI files and kubelet's grants name paths of the host."""
    for container in containers(documents):
        if container.spec["name"] != "plugin":
            continue
        config = plugin_config(container)
        needed = {
            config.kubelet_dir / "device-plugins",
            config.kubelet_dir / "pod-resources",
            config.cdi_dir,
            config.store,
        }
        needed |= {PurePosixPath(config.rack)} if config.emulate else {PurePosixPath("/dev")}
        for folder in map(str, needed):
            assert container.volumes[folder]["hostPath"]["path"] == folder
        assert container.spec["ports"] == [{"name": "status", "containerPort": config.status_port}]
        assert {"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}} in container.spec["env"]


def test_the_hook_is_where_the_plugin_says(documents: list[Any]) -> None:
    for workload in of_kind(documents, "DaemonSet"):
        inits = [each for each in containers([workload]) if each.spec["name"] == "hook"]
        configs = [plugin_config(each) for each in containers([workload]) if each.spec["name"] == "plugin"]
        if not any(config.hook for config in configs):
            assert not inits
            continue
        ((init,), (config,)) = inits, configs
        assert config.cdi, "a container without CDI device would start unseen"
        folder, program = config.hook.rsplit("/bin/", 1)
        assert init.volumes[init.spec["args"][2]]["hostPath"]["path"] == folder == "/opt/fpgahal"
        assert program == "fpgahal-hook"


def test_who_programs() -> None:
    def of(programming: str) -> tuple[Config, Container]:
        documents = rendered({"plugin": {"programming": programming}})
        (found,) = (each for each in containers(documents) if each.spec["name"] == "plugin")
        return plugin_config(found), found

    config, container = of("none")
    assert (config.prestart, config.program) == (True, False)
    assert "/run/lock" not in container.volumes
    config, container = of("hook")
    assert not config.prestart, "it would refuse what the hook has yet to load"
    assert "--program" in hook_options(config)
    config, container = of("prestart")
    assert (config.prestart, config.program) == (True, True)
    assert "--program" not in hook_options(config)
    assert container.volumes["/run/lock"]["hostPath"]["path"] == "/run/lock"
    assert container.spec["securityContext"]["privileged"] is True


def test_commands_are_those_that_the_image_installs() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    used = {each.spec["command"][0] for variant in VARIANTS for each in containers(manifest(variant))}
    assert used - {"python3", "sh"} <= set(scripts)
    assert set(COMMANDS) <= set(scripts)


def test_plugin_and_webhook_agree_on_names() -> None:
    documents = rendered({"intelNames": "2018"})
    (own,) = (each for each in containers(documents) if each.spec["name"] == "plugin")
    (other,) = containers(of_kind(documents, "Deployment"))
    assert plugin_config(own).intel_names == "2018"
    assert webhook.build_parser().parse_args(other.spec["args"]).intel_names == "2018"


# --- rights -----------------------------------------------------------------------------------------------------------


def test_containers_are_confined(documents: list[Any]) -> None:
    for container in containers(documents):
        context = container.spec["securityContext"]
        assert context["readOnlyRootFilesystem"] is True
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(container.pod)
        assert container.spec["resources"]["limits"]["memory"]
        assert container.spec["resources"]["requests"]
        if context.get("privileged"):
            if container.spec["name"] == "dra":
                args = dra.build_parser().parse_args(container.spec["args"])
                assert (args.no_program, args.rack) == (False, None)
            elif container.spec["name"] == "manager":
                assert "FPGAHAL_EMULATE" not in str(container.spec)
                assert not set(container.spec["resources"]["limits"]) - {"memory"}, (
                    "what it has from the plugin will do"
                )
            else:
                assert plugin_config(container).program
                assert not plugin_config(container).emulate
            continue
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        hosts = [volume for volume in container.volumes.values() if "hostPath" in volume]
        if not hosts:
            assert container.pod["securityContext"]["runAsNonRoot"] is True
            assert container.pod["securityContext"]["runAsUser"] == 65532


def test_the_least_is_the_default() -> None:
    assert not any(each.spec["securityContext"].get("privileged") for each in containers(rendered()))


def test_devices_of_the_host_are_seen_and_not_touched(documents: list[Any]) -> None:
    for container in containers(documents):
        for mount in container.spec.get("volumeMounts", []):
            if mount["mountPath"] == "/dev":
                assert mount["readOnly"] is True
                assert not container.spec["terminationMessagePath"].startswith("/dev")


def test_references_lead_somewhere(documents: list[Any]) -> None:
    """Accounts, selectors, volumes and ports: what one object names, another has."""
    workloads = [*of_kind(documents, "Deployment"), *of_kind(documents, "DaemonSet")]
    for workload in workloads:
        assert one(documents, "ServiceAccount", workload["spec"]["template"]["spec"]["serviceAccountName"])
        assert selects(workload["spec"]["selector"]["matchLabels"], workload)
        assert sum(selects(workload["spec"]["selector"]["matchLabels"], other) for other in workloads) == 1
        mounted = {mount["name"] for each in containers([workload]) for mount in each.spec.get("volumeMounts", [])}
        assert mounted == {volume["name"] for volume in workload["spec"]["template"]["spec"]["volumes"]}
        ports = {port["name"] for each in containers([workload]) for port in each.spec.get("ports", [])}
        for each in containers([workload]):
            for probe in ("livenessProbe", "readinessProbe"):
                assert each.init or not ports or each.spec[probe]["httpGet"]["port"] in ports
    for budget in of_kind(documents, "PodDisruptionBudget"):
        (guarded,) = (each for each in workloads if selects(budget["spec"]["selector"]["matchLabels"], each))
        assert guarded["spec"]["replicas"] > budget["spec"]["minAvailable"], "a node could never be drained"


def test_network_policies_hold_for_all_pods_and_leave_what_is_needed(documents: list[Any]) -> None:
    workloads = [*of_kind(documents, "Deployment"), *of_kind(documents, "DaemonSet")]
    policies = of_kind(documents, "NetworkPolicy")
    for workload in workloads if policies else []:
        labels = workload["spec"]["template"]["metadata"]["labels"]
        (policy,) = (each for each in policies if _covers(each["spec"]["podSelector"], labels))
        assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
        opened = {port["port"] for rule in policy["spec"].get("ingress", []) for port in rule["ports"]}
        assert opened == {port["name"] for each in containers([workload]) for port in each.spec.get("ports", [])}
        egress = policy["spec"].get("egress", [])
        asked = {port["port"] for rule in egress for port in rule["ports"]}
        assert asked == (set() if labels["app.kubernetes.io/component"] == "manager" else {443, 6443})


def _covers(selector: Any, labels: dict[str, str]) -> bool:
    expressions = selector.get("matchExpressions", [])
    assert all(each["operator"] == "In" for each in expressions)
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items()) and all(
        labels.get(each["key"]) in each["values"] for each in expressions
    )


def test_the_plugin_may_read_what_it_reads_and_nothing_else() -> None:
    documents = rendered()
    account = one(documents, "DaemonSet")["spec"]["template"]["spec"]["serviceAccountName"]
    rights = {
        (resource, verb)
        for rule in one(documents, "ClusterRole", "plugin")["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    # mode.ModeWatch lists and watches its node; pods.Pods reads one pod, or lists those of its node.
    assert rights == {("nodes", "list"), ("nodes", "watch"), ("pods", "get"), ("pods", "list")}
    assert allows(documents, account, "GET", "/api/v1/nodes?fieldSelector=metadata.name%3Dn")
    assert allows(documents, account, "WATCH", "/api/v1/nodes?fieldSelector=metadata.name%3Dn&watch=1")
    assert allows(documents, account, "GET", "/api/v1/namespaces/default/pods/p")
    assert allows(documents, account, "GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dn")
    assert not allows(documents, account, "GET", "/api/v1/secrets")
    assert not allows(documents, account, "PATCH", "/api/v1/nodes/n")


def test_the_driver_may_do_what_it_does_on_its_own_node_and_nothing_else() -> None:
    documents = rendered({"dra": {"enabled": True}})
    rights = {
        (resource, verb)
        for rule in one(documents, "ClusterRole", "dra")["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    slices = {("resourceslices", verb) for verb in ("list", "watch", "create", "update", "delete")}
    assert rights == {*slices, ("resourceclaims", "get"), ("nodes", "get")}
    policy = one(documents, "ValidatingAdmissionPolicy")
    binding = one(documents, "ValidatingAdmissionPolicyBinding")
    assert binding["spec"] == {"policyName": policy["metadata"]["name"], "validationActions": ["Deny"]}
    account = one(documents, "ServiceAccount", "dra")["metadata"]
    (condition,) = policy["spec"]["matchConditions"]
    user = f"system:serviceaccount:{account['namespace']}:{account['name']}"
    assert cel.evaluate(condition["expression"], {"request": {"userInfo": {"username": user}}})
    assert not cel.evaluate(condition["expression"], {"request": {"userInfo": {"username": f"{user}2"}}})


def test_claims_ask_our_driver() -> None:
    documents = rendered({"dra": {"enabled": True}})
    (selector,) = one(documents, "DeviceClass")["spec"]["selectors"]
    assert cel.evaluate(selector["cel"]["expression"], {"device": {"driver": DRIVER}})
    assert not cel.evaluate(selector["cel"]["expression"], {"device": {"driver": "gpu.example.com"}})
    (container,) = containers([one(documents, "DaemonSet", "dra")])
    assert f"/var/lib/kubelet/plugins/{DRIVER}" in container.volumes
    assert {entry["name"] for entry in container.spec["env"]} == {"NODE_NAME", "POD_UID"}


# --- nodes ------------------------------------------------------------------------------------------------------------


def test_a_nodes_boards_are_offered_by_one() -> None:
    """Two would hand out one board, or two boards under one name."""
    documents = rendered({"emulated": {"enabled": True}, "dra": {"enabled": True}})
    real, *others = (one(documents, "DaemonSet", name) for name in ("plugin", "emulated", "dra"))
    (term,) = real["spec"]["template"]["spec"]["affinity"]["nodeAffinity"][
        "requiredDuringSchedulingIgnoredDuringExecution"
    ]["nodeSelectorTerms"]
    labels = [label for each in others for label in each["spec"]["template"]["spec"]["nodeSelector"]]
    assert term["matchExpressions"] == [{"key": label, "operator": "DoesNotExist"} for label in labels]


def test_the_manager_has_the_boards_instead_of_the_plugin_or_from_it() -> None:
    def of(**values: Any) -> tuple[set[str], Container]:
        documents = rendered({"manager": {"enabled": True, **values}})
        real = one(documents, "DaemonSet", "plugin")["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]
        (term,) = real["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
        (container,) = containers([one(documents, "DaemonSet", "manager")])
        return {each["key"] for each in term["matchExpressions"]}, container

    avoided, container = of()
    assert set(container.pod["nodeSelector"]) <= avoided
    assert container.spec["securityContext"]["privileged"]
    assert container.volumes["/run/lock"]["hostPath"]["path"] == "/run/lock"
    (images,) = (each["value"] for each in container.spec["env"] if each["name"] == "FPGAHAL_IMAGES")
    assert container.volumes[images]["hostPath"]["path"] == images
    avoided, container = of(boards={"fpgahal.dev/u250": 2})
    assert not set(container.pod["nodeSelector"]) & avoided, "the plugin must be there to give them"
    assert container.spec["resources"]["limits"] == {"memory": "1Gi", "fpgahal.dev/u250": 2}


def test_pods_reach_the_managers_socket(documents: list[Any]) -> None:
    for container in containers(documents):
        if container.spec["name"] == "manager":
            args = manager.build_parser().parse_args(container.spec["args"])
            folder = str(args.socket.parent)
            assert container.volumes[folder]["hostPath"] == {"path": folder, "type": "DirectoryOrCreate"}
            assert args.mode == 0o660
            assert container.spec["ports"] == [{"name": "metrics", "containerPort": args.metrics[1]}]
            if args.policy:
                (text,) = one(documents, "ConfigMap", "manager")["data"].values()
                assert tomllib.loads(text)
                assert str(args.policy.parent) in container.volumes


def test_the_feature_rule_knows_every_board() -> None:
    (rule,) = one(rendered({"nodeFeatureRule": {"enabled": True}}), "NodeFeatureRule")["spec"]["rules"]
    found = set()
    for match in rule["matchAny"]:
        ((feature),) = match["matchFeatures"]
        expressions = feature["matchExpressions"]
        found |= {
            (int(vendor, 16), int(device, 16))
            for vendor in expressions["vendor"]["value"]
            for device in expressions["device"]["value"]
        }
        assert all(re.fullmatch("[0-9a-f]{4}", device) for device in expressions["device"]["value"])
    assert found == set(boards._BOARDS)
    assert rule["labels"] == {"fpgahal.dev/fpga": "true"}
