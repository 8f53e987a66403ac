# SPDX-License-Identifier: Apache-2.0
"""The webhook as it is deployed: who it is asked about, what it may do, and that it is found and trusted."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import cel
import pytest
from deployed import VARIANTS, allows, containers, manifest, of_kind, one, pod_template, rendered, selects
from fake_api import FakeApi
from hypothesis import given, settings
from test_webhook_any_pod import pods, tables
from test_webhook_watch import until, watching
from webhook_cases import AF_IF10_NLB0, IF10, NLB0, REGION_IF10, af, container, pod, region, review, table

from fpgahal.k8s.api import Api
from fpgahal.k8s.webhook.app import build_parser
from fpgahal.k8s.webhook.boards import Boards
from fpgahal.k8s.webhook.resources import Kind
from fpgahal.k8s.webhook.review import decide
from fpgahal.k8s.webhook.table import Table

TABLE = table(af("nlb0"), af("nlb0-region", mode="region"), region("arria10"))
FORGED = [{"name": "FPGA_REGION_1", "value": IF10}, {"name": "FPGA_AFU_1", "value": NLB0}]


def asked(document: Any, configuration: list[Any] | None = None) -> bool:
    """Whether the API server asks the webhook about a pod."""
    (webhook,) = one(configuration or manifest("fpgahal"), "MutatingWebhookConfiguration")["webhooks"]
    return all(cel.evaluate(each["expression"], {"object": document}) for each in webhook["matchConditions"])


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (pod(container()), False),
        (pod(container({"cpu": "2"})), False),
        (pod(container({"nvidia.com/gpu": 1})), False),
        (pod(container(env=[{"name": "FPGA", "value": "x"}])), False),
        (pod(container({"nlb0": 1})), True),
        (pod(container({"unknown": 1})), True),
        (pod(container({AF_IF10_NLB0: 1})), True),
        (pod(container({REGION_IF10: 1}, env=FORGED)), True),
        (pod(container(env=FORGED)), True),
        (pod(container(env=[{"name": "FPGA_AFU_X", "valueFrom": {"fieldRef": {"fieldPath": "a"}}}])), True),
        (pod(container(), container({"nlb0": 1})), True),
        (pod(container(), init=[container({"nlb0": 1})]), True),
        (pod(container(), init=[container(env=FORGED)]), True),
        (pod({"name": "c", "resources": {"limits": {"fpga.intel.com/nlb0": 1}}}), True),
        (pod({"name": "c", "resources": {"requests": {"fpga.intel.com/nlb0": 1}}}), True),
        (pod({"name": "c", "resources": {}}), False),
        (pod(container({"accel.fpgahal.dev/com.inaccel.xgboost.exact": 4})), True),
        (pod(container({"fpgahal.dev/u250": 1})), False),
    ],
)
def test_who_is_asked_about(document: Any, expected: bool) -> None:
    """About every pod of which the webhook says anything, and about no pod that has to do with no FPGA."""
    assert asked(document) == expected
    said = decide(review(document), TABLE)
    assert asked(document) or said.result == "allowed"


@settings(max_examples=100, deadline=None)
@given(pods, tables)
def test_whoever_is_not_asked_about_would_have_been_allowed(subject: Any, names: Table) -> None:
    assert asked(subject) or decide(review(subject), names).result == "allowed"


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_fails_closed_and_nobody_gets_around_it(variant: str) -> None:
    configuration = one(manifest(variant), "MutatingWebhookConfiguration")
    (webhook,) = configuration["webhooks"]
    assert webhook["failurePolicy"] == "Fail"
    assert webhook["reinvocationPolicy"] == "IfNeeded"
    # Whoever writes a pod writes its labels, and who makes a namespace writes the namespace's.
    assert webhook["objectSelector"] == webhook["namespaceSelector"] == {}
    assert webhook["rules"] == [
        {
            "apiGroups": [""],
            "apiVersions": ["v1"],
            "operations": ["CREATE"],
            "resources": ["pods"],
            "scope": "Namespaced",
        }
    ]


def test_its_own_pods_never_wait_for_it() -> None:
    """Nor those of the rest of the cluster: failurePolicy Fail must not keep a cluster from coming up."""
    for workload in [*of_kind(manifest("fpgahal"), "Deployment"), *of_kind(manifest("fpgahal"), "DaemonSet")]:
        assert not asked(pod_template(workload))


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_is_found_and_trusted(variant: str) -> None:
    """From the API server's configuration to the program's port, and from the certificate to its file."""
    documents = manifest(variant)
    configuration = one(documents, "MutatingWebhookConfiguration")
    target = configuration["webhooks"][0]["clientConfig"]["service"]
    service, deployment = one(documents, "Service", target["name"]), one(documents, "Deployment", "webhook")
    assert service["metadata"]["namespace"] == target["namespace"]
    assert selects(service["spec"]["selector"], deployment)
    (port,) = service["spec"]["ports"]
    assert port["port"] == target["port"]
    (own,) = containers([deployment])
    ports = {each["name"]: each["containerPort"] for each in own.spec["ports"]}
    args = build_parser().parse_args(own.spec["args"])
    assert ports == {port["targetPort"]: args.port, "status": args.status_port}
    certificate = one(documents, "Certificate")
    assert f"{target['name']}.{target['namespace']}.svc" in certificate["spec"]["dnsNames"]
    assert configuration["metadata"]["annotations"]["cert-manager.io/inject-ca-from"] == (
        f"{certificate['metadata']['namespace']}/{certificate['metadata']['name']}"
    )
    assert certificate["spec"]["issuerRef"]["name"] == one(documents, "Issuer")["metadata"]["name"]
    for file in (args.cert, args.key):
        assert own.volumes[str(file.parent)]["secret"]["secretName"] == certificate["spec"]["secretName"]
    assert (args.cert.name, args.key.name) == ("tls.crt", "tls.key")  # as a Secret of type kubernetes.io/tls has them


def test_a_given_secret_instead_of_cert_manager() -> None:
    documents = rendered({"webhook": {"certificate": {"secretName": "mine", "caBundle": "PEM"}}})
    assert not of_kind(documents, "Certificate")
    assert not of_kind(documents, "Issuer")
    configuration = one(documents, "MutatingWebhookConfiguration")
    assert configuration["webhooks"][0]["clientConfig"]["caBundle"] == "UEVN"
    assert "annotations" not in configuration["metadata"]
    (own,) = containers([one(documents, "Deployment", "webhook")])
    assert own.volumes["/tls"]["secret"]["secretName"] == "mine"
    with pytest.raises(ValueError, match="caBundle"):  # nobody could check it
        rendered({"webhook": {"certificate": {"secretName": "mine"}}})


def test_it_may_do_what_it_does_and_nothing_else() -> None:
    documents = manifest("fpgahal")
    account = one(documents, "Deployment", "webhook")["spec"]["template"]["spec"]["serviceAccountName"]
    assert one(documents, "ServiceAccount", account)
    with FakeApi() as api:
        broken = af("broken", "x")
        api.put(broken)
        api.put(region("arria10"))
        with watching(api.url) as watch:
            until(lambda: watch.synced and api.condition(broken))
            until(lambda: all(api.asked("WATCH", kind.plural) for kind in Kind))
        made = set(api.requests)
    assert {method for method, _ in made} == {"GET", "WATCH", "PATCH"}
    assert [request for request in made if not allows(documents, account, *request)] == []
    granted = one(documents, "ClusterRole", "webhook")["rules"]
    needed = {(kind.plural, verb) for kind in Kind for verb in ("list", "watch")}
    needed |= {(f"{kind.plural}/status", "patch") for kind in Kind}
    assert {(resource, verb) for rule in granted for resource in rule["resources"] for verb in rule["verbs"]} == needed
    for refused in (("GET", "/api/v1/secrets"), ("GET", "/api/v1/namespaces/default/pods/p")):
        assert not allows(documents, account, *refused)


CATALOGUE = """
[images.xgboost]
board = "xilinx/u250"
accelerators = { "com.inaccel.xgboost.exact" = 4 }
namespaces = ["*"]
"""


def test_accelerators_need_a_catalogue_and_the_right_to_see_what_is_free(tmp_path: Path) -> None:
    documents = rendered({"catalogue": CATALOGUE})
    deployment = one(documents, "Deployment", "webhook")
    (own,) = containers([deployment])
    args = build_parser().parse_args(own.spec["args"])
    config = one(documents, "ConfigMap", own.volumes[str(args.catalogue.parent)]["configMap"]["name"])
    (tmp_path / args.catalogue.name).write_text(config["data"][args.catalogue.name])
    with FakeApi() as api:

        async def look() -> Any:
            async with Api(api.url) as connection:
                names = Table()
                boards = Boards(connection, names, tmp_path / args.catalogue.name, args.look_seconds)
                await boards.cluster()
                return names.catalogue

        assert [image.board for image in asyncio.run(look()).images] == ["xilinx/u250"]
        made = set(api.requests)
    account = deployment["spec"]["template"]["spec"]["serviceAccountName"]
    assert {path.split("?")[0] for _, path in made} == {"/api/v1/nodes", "/api/v1/pods"}
    assert [request for request in made if not allows(documents, account, *request)] == []
    assert [request for request in made if allows(rendered(), account, *request)] == [], "not without a catalogue"


def test_conditions_are_json_for_the_api_server() -> None:
    """The expression is one line of CEL: no comment, no YAML left in it."""
    (webhook,) = one(manifest("fpgahal"), "MutatingWebhookConfiguration")["webhooks"]
    (condition,) = webhook["matchConditions"]
    assert "\n" not in condition["expression"].strip()
    assert json.loads(json.dumps(condition)) == condition
