# SPDX-License-Identifier: Apache-2.0
"""What the tests of deploy/ share: rendering, Kubernetes' own schemas, and who refers to what."""

from __future__ import annotations

import functools
import importlib.util
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
VARIANTS = sorted(path.stem for path in (DEPLOY / "helm/values").glob("*.yaml"))
VERSIONS = ("1.30", "1.34", "1.37")  # of Kubernetes: the oldest that the chart takes, and two of this year's

SINCE = {"resource.k8s.io/v1": "1.34"}  # who asks for these has that release

Object = dict[str, Any]
FastLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# It reads five megabytes of definitions anew for each object.
kubernetes_validate.utils.schema_contents = functools.cache(kubernetes_validate.utils.schema_contents)


@functools.cache
def script(name: str) -> Any:
    """Import a program of deploy/ as a module."""
    spec = importlib.util.spec_from_file_location(name, DEPLOY / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rendered(values: Mapping[str, Any] | None = None) -> list[Object]:
    """What the chart makes of these values; ValueError if it refuses them.  Skips the test where there is no helm."""
    if not shutil.which("helm") and importlib.util.find_spec("helm_python") is None:
        pytest.skip("needs helm, or its engine: pip install helm-python-sdk")
    return [document for document in yaml.load_all(_chart(json.dumps(values or {})), FastLoader) if document]


@functools.cache
def _chart(values: str) -> str:
    return str(script("render").chart(json.loads(values)))


def manifest(variant: str) -> list[Object]:
    """A file of deploy/manifests."""
    return list(yaml.load_all((DEPLOY / "manifests" / f"{variant}.yaml").read_text(), FastLoader))


def of_kind(documents: list[Object], kind: str) -> list[Object]:
    return [document for document in documents if document["kind"] == kind]


def one(documents: list[Object], kind: str, name: str = "") -> Object:
    """The one object of a kind, and of a name that ends so."""
    (found,) = (each for each in of_kind(documents, kind) if each["metadata"]["name"].endswith(name))
    return found


def check(document: Object, version: str = VERSIONS[0]) -> None:
    """Raise if Kubernetes of this version would refuse an object, or leave out a field of it."""
    if schema := FOREIGN.get((document["apiVersion"], document["kind"])):
        jsonschema.validate(document["spec"], schema)
        assert set(document) == {"apiVersion", "kind", "metadata", "spec"}
        return
    kubernetes_validate.validate(document, max(version, SINCE.get(document["apiVersion"], "")), strict=True)


@dataclass(frozen=True)
class Container:
    """A container of a workload, and what surrounds it."""

    workload: Object
    spec: Object
    init: bool

    @property
    def pod(self) -> Object:
        return pod_template(self.workload)["spec"]

    @property
    def name(self) -> str:
        return f"{self.workload['metadata']['name']}/{self.spec['name']}"

    @property
    def volumes(self) -> dict[str, Object]:
        """Its volumes by the path in the container."""
        sources = {volume["name"]: volume for volume in self.pod.get("volumes", [])}
        return {mount["mountPath"]: sources[mount["name"]] for mount in self.spec.get("volumeMounts", [])}


def pod_template(workload: Object) -> Object:
    return workload if workload["kind"] == "Pod" else workload["spec"]["template"]


def containers(documents: list[Object]) -> Iterator[Container]:
    """All containers of Deployments, DaemonSets and pods."""
    for workload in documents:
        if workload["kind"] in ("Deployment", "DaemonSet", "Pod"):
            for group in ("initContainers", "containers"):
                for spec in pod_template(workload)["spec"].get(group, []):
                    yield Container(workload, spec, group == "initContainers")


def selects(selector: Mapping[str, str], workload: Object) -> bool:
    labels = pod_template(workload)["metadata"]["labels"]
    return bool(selector) and all(labels.get(key) == value for key, value in selector.items())


def allows(documents: list[Object], account: str, method: str, path: str) -> bool:
    """Whether RBAC lets a service account make a request (method or WATCH, and path with query)."""
    group, resource, verb = _request(method, path)
    for binding in [*of_kind(documents, "ClusterRoleBinding"), *of_kind(documents, "RoleBinding")]:
        if any(subject["name"] == account for subject in binding["subjects"]):
            role = one(documents, binding["roleRef"]["kind"], binding["roleRef"]["name"])
            for rule in role["rules"]:
                if group in rule["apiGroups"] and resource in rule["resources"] and verb in rule["verbs"]:
                    return True
    return False


def _request(method: str, path: str) -> tuple[str, str, str]:
    """API group, resource (with its subresource) and RBAC's verb, as the API server tells them."""
    path, _, query = path.partition("?")
    parts = path.strip("/").split("/")
    group, rest = ("", parts[2:]) if parts[0] == "api" else (parts[1], parts[3:])
    if rest[0] == "namespaces" and len(rest) > 2:
        rest = rest[2:]
    resource, name, *below = [*rest, ""]
    verbs = {"GET": "get" if name else "list", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
    watched = method == "WATCH" or "watch=1" in query.split("&")
    return group, "/".join([resource, *filter(None, below)]), "watch" if watched else verbs[method]


def _strict(required: list[str], **properties: Any) -> Object:
    return {"type": "object", "required": required, "additionalProperties": False, "properties": properties}


_TEXT = {"type": "string", "minLength": 1}

# What of others' custom resources is used here.  Sources: cert-manager 1.16, node-feature-discovery 0.17, their CRDs.
FOREIGN: dict[tuple[str, str], Object] = {
    ("cert-manager.io/v1", "Issuer"): _strict(["selfSigned"], selfSigned=_strict([])),
    ("cert-manager.io/v1", "Certificate"): _strict(
        ["secretName", "issuerRef", "dnsNames"],
        secretName=_TEXT,
        dnsNames={"type": "array", "items": _TEXT},
        duration={"type": "string", "pattern": "^[0-9]+h$"},
        renewBefore={"type": "string", "pattern": "^[0-9]+h$"},
        usages={"type": "array", "items": {"enum": ["server auth", "digital signature", "key encipherment"]}},
        privateKey=_strict(
            [],
            algorithm={"enum": ["RSA", "ECDSA", "Ed25519"]},
            size={"type": "integer"},
            rotationPolicy={"enum": ["Never", "Always"]},
        ),
        issuerRef=_strict(["name"], name=_TEXT, kind={"enum": ["Issuer", "ClusterIssuer"]}, group=_TEXT),
    ),
    ("nfd.k8s-sigs.io/v1alpha1", "NodeFeatureRule"): _strict(
        ["rules"],
        rules={
            "type": "array",
            "items": _strict(
                ["name"],
                name=_TEXT,
                labels={"type": "object", "additionalProperties": {"type": "string"}},
                labelsTemplate=_TEXT,
                matchAny={"type": "array", "items": {"$ref": "#/$defs/match"}},
                matchFeatures={"$ref": "#/$defs/match/properties/matchFeatures"},
            ),
        },
    )
    | {
        "$defs": {
            "match": _strict(
                ["matchFeatures"],
                matchFeatures={
                    "type": "array",
                    "items": _strict(
                        ["feature", "matchExpressions"],
                        feature={"enum": ["pci.device", "kernel.loadedmodule"]},
                        matchExpressions={
                            "type": "object",
                            "additionalProperties": _strict(
                                ["op"],
                                op={"enum": ["In", "InRegexp", "Exists"]},
                                value={"type": "array", "items": _TEXT},
                            ),
                        },
                    ),
                },
            )
        }
    },
}
