# SPDX-License-Identifier: Apache-2.0
"""A pod that asks for accelerators gets boards.  Pure functions.

``accel.fpgahal.dev/com.inaccel.xgboost.exact: 4`` stands for as many boards as the catalogue's images need for that.
The choice is made before the scheduler's, so it goes by what was free a moment ago; where that is nothing, the pod
waits for boards of a kind that is there.

Who may have what: only images whose `namespaces` name the pod's are considered.  What the pod becomes is then
reviewed like any other pod (`pod`), so nothing gets in this way that could not be asked for directly; the node asks
once more before it programs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fpgahal.k8s.planner import Image, Offer, Plan, PlanError, anywhere, boards_of, plan
from fpgahal.k8s.webhook.container import PARTS, Denied, Operation, asked, containers, escaped, of
from fpgahal.k8s.webhook.resources import shown
from fpgahal.k8s.webhook.table import NamespaceTable

PREFIX = "accel.fpgahal.dev/"
VARIABLE = "FPGA_REGION_"


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where there are boards.

    Attributes
    ----------
    free : tuple of Offer
        What the nodes have left.
    nodes : tuple of Offer
        What they have when nothing runs; empty if that is not known.
    groups : tuple of Offer
        Nodes that could be added.
    """

    free: tuple[Offer, ...] = ()
    nodes: tuple[Offer, ...] = ()
    groups: tuple[Offer, ...] = ()


@dataclass(frozen=True, slots=True)
class Translation:
    """What becomes of a pod.

    Attributes
    ----------
    pod : mapping
        The pod with the patch applied.
    patch : tuple of dict
        RFC 6902 operations; empty if it asks for no accelerators.
    plan : Plan or None
        Where its boards were found.
    """

    pod: Mapping[str, Any]
    patch: tuple[Operation, ...] = ()
    plan: Plan | None = None


def translate(pod: Mapping[str, Any], table: NamespaceTable, cluster: Cluster) -> Translation:
    """Translate the accelerators that a pod asks for into boards.

    Raises
    ------
    Denied
        No image that the namespace may have serves the request, or the pod contradicts itself.
    """
    requests: dict[str, dict[str, int]] = {}
    for path, title, container in containers(pod):
        try:
            requests[path] = {name.removeprefix(PREFIX): count for name, count in asked(container, PREFIX).items()}
        except Denied as denied:
            raise Denied(f"{title}: {denied}") from None
    if not any(requests.values()):
        return Translation(pod)
    if table.images is None:
        raise Denied(f"{PREFIX}... was asked for, but this cluster has no catalogue of accelerators.")
    selector = of(dict, of(dict, pod.get("spec"), "spec").get("nodeSelector"), "spec.nodeSelector")
    chosen = _plan(pod, requests, table, cluster, selector)
    images = dict(zip(_main(pod), chosen.containers, strict=True)) | dict(zip(_init(pod), chosen.first, strict=True))
    patch: list[Operation] = []
    changed: dict[str, dict[str, Any]] = {}
    for path, title, container in containers(pod):
        if requests[path]:
            try:
                operations, changed[path] = _container(container, path, requests[path], images[path])
            except Denied as denied:
                raise Denied(f"{title}: {denied}") from None
            patch += operations
    wanted = {key: value for image in _all(chosen) for key, value in image.node_selector.items()}
    added = {key: wanted[key] for key in sorted(wanted.keys() - selector.keys())}
    if added and pod["spec"].get("nodeSelector") is None:
        patch.append({"op": "add", "path": "/spec/nodeSelector", "value": added})
    else:
        patch += [
            {"op": "add", "path": f"/spec/nodeSelector/{escaped(key)}", "value": value} for key, value in added.items()
        ]
    spec = dict(pod["spec"])
    for group in ("initContainers", "containers"):
        if spec.get(group):
            spec[group] = [changed.get(f"/spec/{group}/{n}", entry) for n, entry in enumerate(spec[group])]
    if added:
        spec["nodeSelector"] = {**selector, **added}
    return Translation({**pod, "spec": spec}, tuple(patch), chosen)


def _plan(
    pod: Mapping[str, Any],
    requests: Mapping[str, Mapping[str, int]],
    table: NamespaceTable,
    cluster: Cluster,
    selector: Mapping[str, str],
) -> Plan:
    """Choose from what is free or can be added; else from what is there, else from what the catalogue knows."""
    images = table.images or ()
    main, init = [requests[path] for path in _main(pod)], [requests[path] for path in _init(pod)]

    def there(offers: Sequence[Offer]) -> list[Offer]:
        return [o for o in offers if all(o.labels.get(key) == value for key, value in selector.items())]

    def possible(offers: Sequence[Offer]) -> list[Offer]:  # of these not all labels are known
        return [o for o in offers if all(o.labels.get(key, value) == value for key, value in selector.items())]

    last: PlanError | None = None
    for offers in ([*there(cluster.free), *possible(cluster.groups)], there(cluster.nodes), possible(anywhere(images))):
        if offers:
            try:
                return plan(main, images, offers, init)
            except PlanError as error:
                last = error
    try:
        plan(main, images, [], init)  # says what no image has
    except PlanError as error:
        last = last or error
    assert last is not None
    hint = f"  {last.hint}" if last.hint else ""
    raise Denied(f"Namespace {table.namespace} can't have that: {last.message}{hint}")


def _container(
    container: Mapping[str, Any], path: str, request: Mapping[str, int], images: Sequence[Image]
) -> tuple[list[Operation], dict[str, Any]]:
    """Exchange the accelerators of one container for boards; give the operations and the container after them."""
    patch: list[Operation] = []
    boards = boards_of(images)
    for board in boards:
        if board in {name for part in PARTS for name in of(dict, container["resources"].get(part), part)}:
            raise Denied(f"{board} is asked for beside accelerators that are on such boards: use a container for each.")
    resources = dict(container["resources"])
    for part in PARTS:
        names = [f"{PREFIX}{name}" for name in sorted(request)]
        patch += [{"op": "remove", "path": f"{path}/resources/{part}/{escaped(name)}"} for name in names]
        patch += [
            {"op": "add", "path": f"{path}/resources/{part}/{escaped(board)}", "value": str(count)}
            for board, count in boards.items()
        ]
        kept = {name: value for name, value in resources[part].items() if name not in names}
        resources[part] = kept | {board: str(count) for board, count in boards.items()}
    changed = {**container, "resources": resources}
    env = of(list, container.get("env"), "env")
    used = sum(str(of(dict, entry, "env").get("name")).startswith(VARIABLE) for entry in env)
    variables = [
        {"name": name, "value": value}
        for number, image in enumerate([image for image in images if image.interface_id], used + 1)
        for name, value in ((f"FPGA_REGION_{number}", image.interface_id), (f"FPGA_AFU_{number}", image.afu_id))
    ]
    if variables:
        if container.get("env") is None:
            patch.append({"op": "add", "path": f"{path}/env", "value": variables})
        else:
            patch += [{"op": "add", "path": f"{path}/env/-", "value": variable} for variable in variables]
        changed["env"] = [*env, *variables]
    return patch, changed


def _main(pod: Mapping[str, Any]) -> list[str]:
    """Give the paths of the containers that run at the same time: sidecars are among the init containers, but stay."""
    return [path for path, _, container in containers(pod) if not _passes(path, container)]


def _init(pod: Mapping[str, Any]) -> list[str]:
    return [path for path, _, container in containers(pod) if _passes(path, container)]


def _passes(path: str, container: Mapping[str, Any]) -> bool:
    return path.startswith("/spec/initContainers") and container.get("restartPolicy") != "Always"


def _all(chosen: Plan) -> list[Image]:
    return [image for part in (*chosen.containers, *chosen.first) for image in part]


def described(chosen: Plan) -> str:
    """Say in a line what was chosen."""
    boards = ", ".join(f"{count} x {board}" for board, count in boards_of(_all(chosen)).items())
    names = ", ".join(sorted({shown(image.name) for image in _all(chosen)}))
    return f"{boards} ({names}) for {chosen.offer.name}" + (", to be added" if chosen.offer.new else "")
