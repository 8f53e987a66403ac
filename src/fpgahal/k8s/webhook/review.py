# SPDX-License-Identifier: Apache-2.0
"""One AdmissionReview in, one out (``admission.k8s.io/v1``).  A pure function of request, table and boards."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any

from fpgahal.k8s.planner import Plan
from fpgahal.k8s.webhook.accelerators import Cluster, translate
from fpgahal.k8s.webhook.container import Denied, Operation
from fpgahal.k8s.webhook.pod import pod_patch
from fpgahal.k8s.webhook.resources import key, shown
from fpgahal.k8s.webhook.table import Table

API_VERSION, KIND = "admission.k8s.io/v1", "AdmissionReview"
PODS = {"group": "", "version": "v1", "resource": "pods"}
NOWHERE = Cluster()  # nothing is known of the nodes


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of a request.

    Attributes
    ----------
    uid : str
        The request's; empty if it had none.
    denied : str
        Why it is refused; empty if it is allowed.
    patch : tuple of dict
        RFC 6902 operations.
    namespace : str
    plan : Plan or None
        Boards that accelerators were exchanged for.
    dry_run : bool
        The pod will not be created.
    """

    uid: str = ""
    denied: str = ""
    patch: tuple[Operation, ...] = ()
    namespace: str = ""
    plan: Plan | None = None
    dry_run: bool = False

    @property
    def result(self) -> str:
        """``allowed``, ``patched`` or ``denied``."""
        return "denied" if self.denied else "patched" if self.patch else "allowed"

    def document(self) -> dict[str, Any]:
        """Give the AdmissionReview that answers."""
        response: dict[str, Any] = {"uid": self.uid, "allowed": not self.denied}
        if self.denied:
            response["status"] = {"code": 403, "reason": "Forbidden", "message": self.denied}
        elif self.patch:
            response["patchType"] = "JSONPatch"
            response["patch"] = base64.b64encode(json.dumps(self.patch).encode()).decode()
        return {"apiVersion": API_VERSION, "kind": KIND, "response": response}


def decide_body(body: bytes, table: Table, cluster: Cluster = NOWHERE) -> Decision:
    """Decide about a request's body; what is not JSON is denied."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        return Decision(denied=f"The review is not JSON: {error}.")
    return decide(document, table, cluster)


def decide(document: object, table: Table, cluster: Cluster = NOWHERE) -> Decision:
    """Decide about an AdmissionReview; whatever it is, the answer is a decision."""
    request = document.get("request") if isinstance(document, dict) else None
    if not isinstance(document, dict) or not isinstance(request, dict):
        return Decision(denied=f"This is no {KIND}: an object with a request was expected.")
    uid = str(request.get("uid") or "")
    version, kind = document.get("apiVersion"), document.get("kind")
    if (version, kind) != (API_VERSION, KIND):
        return Decision(uid, f"This is a {shown(kind)} of {shown(version)}: {KIND} of {API_VERSION} was expected.")
    resource = request.get("resource")
    if not isinstance(resource, dict) or {"group": "", **resource} != PODS:
        return Decision(uid, f"This webhook reviews pods (v1), and not {shown(resource)}.")
    if request.get("operation", "CREATE") != "CREATE":
        return Decision(uid)  # of what is looked at here, nothing can be changed later
    pod = request.get("object")
    if not pod:
        return Decision(uid)
    if not isinstance(pod, dict):
        return Decision(uid, f"The pod is {shown(pod)}: an object was expected.")
    namespace = request.get("namespace") or key(pod)[0]  # a ReplicaSet's pods don't name theirs
    if not isinstance(namespace, str):
        return Decision(uid, f"The namespace is {shown(namespace)}: a name was expected.")
    try:
        names = table.namespace(namespace)
        moved = translate(pod, names, cluster)
        patch = *moved.patch, *pod_patch(moved.pod, names)
        return Decision(uid, "", patch, namespace, moved.plan, request.get("dryRun") is True)
    except Denied as denied:
        return Decision(uid, str(denied), (), namespace)
