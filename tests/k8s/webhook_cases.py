# SPDX-License-Identifier: Apache-2.0
"""What the webhook's tests share: ids, custom resources, pods, and patches that are applied."""

from __future__ import annotations

import base64
import json
from typing import Any

import jsonpatch

from fpgahal.k8s.webhook.resources import Kind, parse
from fpgahal.k8s.webhook.review import decide
from fpgahal.k8s.webhook.table import Table

IF10 = "ce48969398f05f33946d560708be108a"
IF12 = "69528db6eb31577a8c3668f9faa081f6"
IFD5 = "bfac4d851ee856fe8c95865ce1bbaa2d"
NLB0 = "d8424dc4a4a3c413f89e433683f9040b"
NLB3 = "f7df405cbd7acf7222f144b0b93acd18"
HASH = "40007c0623210742000ebc58df6f5343e668b03a"  # of an AOCX file

DOMAIN = "fpga.intel.com/"
AF_IF10_NLB0 = f"{DOMAIN}af-ce4.d84.zkiWk5jwXzOUbVYHCL4QithCTcSko8QT-J5DNoP5BAs"
REGION_IF10 = f"{DOMAIN}region-{IF10}"
REGION_IF12 = f"{DOMAIN}region-{IF12}"


def af(name: str, afu: str = NLB0, interface: str = IF10, mode: str = "af", namespace: str = "default") -> Any:
    """An AcceleratorFunction."""
    return {
        "apiVersion": "fpga.intel.com/v2",
        "kind": "AcceleratorFunction",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"afuId": afu, "interfaceId": interface, "mode": mode},
    }


def region(name: str, interface: str = IF10, namespace: str = "default") -> Any:
    """An FpgaRegion."""
    return {
        "apiVersion": "fpga.intel.com/v2",
        "kind": "FpgaRegion",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"interfaceId": interface},
    }


def table(*resources: Any) -> Table:
    """A table of these objects."""
    made = Table()
    for resource in resources:
        made.put(parse(Kind(resource["kind"]), resource))
    return made


def container(asked: dict[str, Any] | None = None, env: list[Any] | None = None, **more: Any) -> dict[str, Any]:
    """A container with limits == requests; names without a domain get Intel's."""
    made: dict[str, Any] = {"name": "work", "image": "nlb", **more}
    if asked is not None:
        named = {name if "/" in name or name in ("cpu",) else DOMAIN + name: n for name, n in asked.items()}
        made["resources"] = {"limits": dict(named), "requests": dict(named)}
    if env is not None:
        made["env"] = env
    return made


def pod(*containers: dict[str, Any], init: list[dict[str, Any]] | None = None, namespace: str = "default") -> Any:
    """A pod of these containers."""
    spec: dict[str, Any] = {"containers": list(containers)}
    if init is not None:
        spec["initContainers"] = init
    made = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": namespace}, "spec": spec}
    return copy_of(made)


def copy_of(document: Any) -> Any:
    """A copy in which no two parts are one object, as after JSON."""
    return json.loads(json.dumps(document))


def review(subject: Any, namespace: str = "default", **changes: Any) -> dict[str, Any]:
    """The AdmissionReview that the API server sends for a pod."""
    request = {
        "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "namespace": namespace,
        "operation": "CREATE",
        "object": subject,
        **changes,
    }
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}


def patched(subject: Any, document: dict[str, Any]) -> Any:
    """Apply an answer to a pod as the API server would; it must be allowed."""
    response = document["response"]
    assert response["allowed"], response
    if "patch" not in response:
        return subject
    assert response["patchType"] == "JSONPatch"
    return jsonpatch.apply_patch(subject, json.loads(base64.b64decode(response["patch"])))


def admit(subject: Any, names: Table, namespace: str = "default") -> Any:
    """Review a pod and give what becomes of it; a second review must change nothing."""
    before = copy_of(subject)
    after = patched(subject, decide(review(subject, namespace), names).document())
    assert subject == before, "the review changed its input"
    again = decide(review(after, namespace), names)
    assert (again.denied, again.patch) == ("", ()), "the webhook does not accept its own output"
    return after


def refusal(subject: Any, names: Table, namespace: str = "default") -> str:
    """Review a pod that must be denied, and give the message."""
    response = decide(review(subject, namespace), names).document()["response"]
    assert response["allowed"] is False
    assert "patch" not in response
    assert response["status"]["code"] == 403
    message: str = response["status"]["message"]
    return message


def pairs(*wanted: tuple[str, str]) -> list[dict[str, str]]:
    """The variables for these (interface id, AFU id)."""
    return [
        {"name": f"FPGA_{kind}_{number}", "value": value}
        for number, pair in enumerate(wanted, 1)
        for kind, value in zip(("REGION", "AFU"), pair, strict=True)
    ]
