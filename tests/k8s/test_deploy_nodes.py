# SPDX-License-Identifier: Apache-2.0
"""Nodes with FPGAs join a cluster: kubeadm's configuration, and AWS groups that the autoscaler grows from zero."""

from __future__ import annotations

import base64
import json
import os
import re
import string
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from deployed import DEPLOY, VARIANTS, containers, manifest, of_kind

import fpgahal
from fpgahal.k8s.autoscaler import INSTANCES, SCHEMES, boards_of_instance, tags
from fpgahal.k8s.schemes import inaccel, own

AWS = DEPLOY / "autoscaling/aws.yaml"
HASH = f"sha256:{'0' * 64}"
VALUES = {"API_SERVER": "10.0.0.1:6443", "TOKEN": "abcdef.0123456789abcdef", "CA_CERT_HASH": HASH}
PARAMETERS = {
    "Cluster": "hybrid",
    "ImageId": "ami-1",
    "Subnets": ["subnet-1"],
    "SecurityGroups": ["sg-1"],
    "ApiServer": VALUES["API_SERVER"],
    "CaCertHash": HASH,
    "JoinToken": "/hybrid/join",
    "MaxSize": "4",
    "AWS::Partition": "aws",
    "AWS::Region": "us-east-1",
    "AWS::AccountId": "1",
}


def strict(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required, "additionalProperties": False, "properties": properties}


TEXT = {"type": "string", "minLength": 1}
# Source: kubernetes.io, kubeadm configuration v1beta4; what is used here of it.
JOIN = strict(
    ["apiVersion", "kind", "discovery", "nodeRegistration"],
    apiVersion={"const": "kubeadm.k8s.io/v1beta4"},
    kind={"const": "JoinConfiguration"},
    discovery=strict(
        ["bootstrapToken"],
        bootstrapToken=strict(
            ["token", "apiServerEndpoint", "caCertHashes"],
            token={"type": "string", "pattern": r"^[a-z0-9]{6}\.[a-z0-9]{16}$"},
            apiServerEndpoint={"type": "string", "pattern": "^[^/]+:[0-9]+$"},
            caCertHashes={"type": "array", "minItems": 1, "items": {"pattern": "^sha256:[0-9a-f]{64}$"}},
        ),
    ),
    nodeRegistration=strict(
        [],
        criSocket={"type": "string", "pattern": "^unix:///"},
        kubeletExtraArgs={"type": "array", "items": strict(["name", "value"], name=TEXT, value=TEXT)},
        taints={
            "type": "array",
            "items": strict(["key", "effect"], key=TEXT, value=TEXT, effect={"enum": ["NoSchedule", "NoExecute"]}),
        },
    ),
)


def test_join_configuration() -> None:
    text = string.Template((DEPLOY / "kubeadm/join.yaml").read_text())
    assert set(text.get_identifiers()) == set(VALUES)
    jsonschema.validate(yaml.safe_load(text.substitute(VALUES)), JOIN)


@pytest.mark.parametrize("variant", VARIANTS)
def test_our_own_pods_stay_on_tainted_nodes(variant: str) -> None:
    """What joins with a taint must still get the plugin."""
    join = yaml.safe_load((DEPLOY / "kubeadm/join.yaml").read_text())
    (taint,) = join["nodeRegistration"]["taints"]
    for workload in of_kind(manifest(variant), "DaemonSet"):
        tolerated = workload["spec"]["template"]["spec"]["tolerations"]
        assert {"key": taint["key"], "operator": "Exists", "effect": taint["effect"]} in tolerated
    assert list(containers(manifest(variant)))


# --- AWS ------------------------------------------------------------------------------------------------------------


class Loader(yaml.SafeLoader):
    """YAML with CloudFormation's short forms: ``!Ref x`` is ``{"Ref": "x"}``."""


def _short_form(loader: Loader, suffix: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.ScalarNode):
        value: Any = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        raise TypeError(suffix)
    return {suffix if suffix == "Ref" else f"Fn::{suffix}": value}


Loader.add_multi_constructor("!", _short_form)
TEMPLATE = yaml.load(AWS.read_text(), Loader)


def resolved(value: Any, parameters: Mapping[str, Any]) -> Any:
    """What CloudFormation makes of a value; references to other resources become their names."""
    if isinstance(value, list):
        return [resolved(each, parameters) for each in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((function, argument),) = value.items()
        if function == "Ref":
            return parameters.get(argument, argument)
        if function == "Fn::GetAtt":
            return argument
        if function == "Fn::FindInMap":
            name, first, second = resolved(argument, parameters)
            return TEMPLATE["Mappings"][name][first][second]
        if function == "Fn::Base64":
            return base64.b64encode(resolved(argument, parameters).encode()).decode()
        if function == "Fn::Sub":
            text, own_names = argument if isinstance(argument, list) else (argument, {})
            known = {**parameters, **resolved(own_names, parameters)}
            return re.sub(r"\$\{([A-Za-z:]+)\}", lambda match: str(known[match[1]]), text)
    return {key: resolved(each, parameters) for key, each in value.items()}


def stack(instance_type: str, scheme: str = "own") -> Any:
    """The resources of a stack for an instance type."""
    return resolved(TEMPLATE["Resources"], {**PARAMETERS, "InstanceType": instance_type, "Scheme": scheme})


def test_cloudformation_is_valid() -> None:
    """Against AWS's own descriptions of the resources, which cfn-lint has."""
    lint = Path(sys.executable).with_name("cfn-lint")
    done = subprocess.run([lint, "--include-checks", "I", "--", AWS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_instance_type_that_is_known() -> None:
    assert (
        TEMPLATE["Parameters"]["InstanceType"]["AllowedValues"]
        == list(INSTANCES)
        == list(TEMPLATE["Mappings"]["Boards"])
    )


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("instance_type", INSTANCES)
def test_K5_tags_are_what_the_planner_prints(instance_type: str, scheme: str) -> None:
    with fpgahal.emu.rack("aws-f1" if instance_type.startswith("f1.") else "aws-f2"):
        (info,) = fpgahal.devices()
    boards = boards_of_instance(instance_type, scheme)
    assert list(boards) == [{"inaccel": inaccel, "own": own}[scheme].resource(info)], "what such a node offers"
    expected = tags(instance_type, boards, {"fpgahal.dev/fpga": "true"}, "hybrid")
    expected |= {
        "k8s.io/cluster-autoscaler/node-template/taint/fpgahal.dev/fpga": "true:NoSchedule",
        "Name": f"hybrid-{instance_type}",
    }
    found = {tag["Key"]: tag["Value"] for tag in stack(instance_type, scheme)["Nodes"]["Properties"]["Tags"]}
    assert found == expected


def test_a_group_grows_from_zero() -> None:
    group = stack("f1.4xlarge")["Nodes"]["Properties"]
    assert (group["MinSize"], group["MaxSize"]) == ("0", "4")


@pytest.mark.parametrize("instance_type", ["f1.4xlarge", "f2.48xlarge"])
def test_a_machine_joins(instance_type: str, tmp_path: Path) -> None:
    """Its start-up script runs, with stand-ins for what it calls; the node is what the tags promise."""
    data = stack(instance_type)["Machine"]["Properties"]["LaunchTemplateData"]
    assert data["InstanceType"] == instance_type
    program = base64.b64decode(data["UserData"]).decode()
    assert program.startswith("#!/bin/sh\n")
    answers = {
        "curl": 'case "$*" in *PUT*) echo SESSION ;; *SESSION*zone) echo us-east-1a ;; '
        "*SESSION*/instance-id) echo i-1 ;; *) exit 22 ;; esac",
        "aws": f'[ "$*" = "ssm get-parameter --region us-east-1 --name /hybrid/join --with-decryption '
        f'--query Parameter.Value --output text" ] && echo {VALUES["TOKEN"]}',
        "kubeadm": f'[ "$1 $2" = "join --config" ] && cp "$3" {tmp_path}/joined',
    }
    for name, answer in answers.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{answer}\n")
        (tmp_path / name).chmod(0o755)
    script = program.replace("/etc/kubernetes", str(tmp_path))
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["sh", "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "join.yaml").exists(), "the token stays on the disk"
    joined = yaml.safe_load((tmp_path / "joined").read_text())
    jsonschema.validate(joined, JOIN)
    extra = {arg["name"]: arg["value"] for arg in joined["nodeRegistration"]["kubeletExtraArgs"]}
    assert extra["provider-id"] == "aws:///us-east-1a/i-1"  # or the autoscaler does not know its own machine
    prefix = "k8s.io/cluster-autoscaler/node-template/"
    promised = {tag["Key"]: tag["Value"] for tag in stack(instance_type)["Nodes"]["Properties"]["Tags"]}
    labels = dict(pair.split("=") for pair in extra["node-labels"].split(","))
    assert {f"{prefix}label/{name}": value for name, value in labels.items()}.items() <= promised.items()
    plain = yaml.safe_load(string.Template((DEPLOY / "kubeadm/join.yaml").read_text()).substitute(VALUES))
    assert labels.items() >= dict([plain["nodeRegistration"]["kubeletExtraArgs"][0]["value"].split("=")]).items()
    assert joined["nodeRegistration"]["taints"] == plain["nodeRegistration"]["taints"]
    assert joined["discovery"] == plain["discovery"]


def test_a_machine_may_read_its_token_and_nothing_else() -> None:
    role = stack("f2.6xlarge")["Role"]["Properties"]
    (policy,) = role["Policies"]
    assert policy["PolicyDocument"]["Statement"] == [
        {
            "Effect": "Allow",
            "Action": "ssm:GetParameter",
            "Resource": "arn:aws:ssm:us-east-1:1:parameter/hybrid/join",
        }
    ]
    assert json.dumps(role).count("Allow") == 2
