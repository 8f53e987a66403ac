# SPDX-License-Identifier: Apache-2.0
"""Which boards come with which machine of a cloud, and how the Cluster Autoscaler is told.

A group of nodes that is empty has no node to look at: only its tags say that a new node would have boards.  Without
them a pod that asks for boards never makes the group grow.

Sources: AWS, F2 Developer Kit release notes 2.0.4 (f2 sizes); AWS, EC2 F1 instance sizes (f1; retired 2025-12-20, kept
because clusters and documents name them).  Tags: the autoscaler's documentation of its AWS provider.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from fpgahal import ArgumentRangeError

PREFIX = "k8s.io/cluster-autoscaler"
TEMPLATE = f"{PREFIX}/node-template"
INSTANCE_TYPE = "node.kubernetes.io/instance-type"

#: How a board is called in each naming scheme of the device plugin that does not name the shell.
_F1 = {"inaccel": "xilinx/aws-vu9p-f1", "own": "fpgahal.dev/aws-f1"}
_F2 = {"inaccel": "xilinx/aws-vu47p-f2", "own": "fpgahal.dev/aws-f2"}
SCHEMES = tuple(_F1)

#: Instance type -> (its boards' names, how many).
INSTANCES: dict[str, tuple[Mapping[str, str], int]] = {
    "f1.2xlarge": (_F1, 1),
    "f1.4xlarge": (_F1, 2),
    "f1.16xlarge": (_F1, 8),
    "f2.6xlarge": (_F2, 1),
    "f2.12xlarge": (_F2, 2),
    "f2.48xlarge": (_F2, 8),
}


def boards_of_instance(instance_type: str, scheme: str = "inaccel") -> dict[str, int]:
    """Give the boards of an instance type, by the resource that the device plugin offers them as.

    Parameters
    ----------
    instance_type : str
    scheme : str
        The plugin's naming scheme, one of :data:`SCHEMES`.

    Raises
    ------
    ArgumentRangeError
        It has none, or one of the two is not known.
    """
    if scheme not in SCHEMES:
        raise ArgumentRangeError(f"{scheme!r} is no naming scheme for this: expected {' or '.join(SCHEMES)}.")
    if instance_type not in INSTANCES:
        raise ArgumentRangeError(
            f"No boards are known of the instance type {instance_type!r}.",
            hint=f"Known are {', '.join(INSTANCES)}; of others, say the boards yourself.",
        )
    names, count = INSTANCES[instance_type]
    return {names[scheme]: count}


def tags(
    instance_type: str, boards: Mapping[str, int], labels: Mapping[str, str] | None = None, cluster: str = ""
) -> dict[str, str]:
    """Give the tags of an auto scaling group.

    Parameters
    ----------
    instance_type : str
        Becomes the well-known label, too.
    boards : mapping of str to int
        Boards by resource, as the nodes' device plugin offers them: another name, and the group never grows.
    labels : mapping of str to str, optional
        More labels that its nodes will have, for pods with a nodeSelector.
    cluster : str
        Name of the cluster, for the two tags by which the autoscaler finds its groups; empty: without them.
    """
    found = {f"{PREFIX}/enabled": "true", f"{PREFIX}/{cluster}": "owned"} if cluster else {}
    found |= {f"{TEMPLATE}/resources/{board}": str(count) for board, count in sorted(boards.items())}
    all_labels = {INSTANCE_TYPE: instance_type, **(labels or {})}
    return found | {f"{TEMPLATE}/label/{name}": value for name, value in sorted(all_labels.items())}


def cloudformation(found: Mapping[str, str]) -> str:
    """Write tags as the ``Tags`` of an ``AWS::AutoScaling::AutoScalingGroup``, in JSON (which is YAML, too)."""
    return json.dumps(
        [{"Key": key, "Value": value, "PropagateAtLaunch": False} for key, value in found.items()], indent=2
    )


def terraform(found: Mapping[str, str]) -> str:
    """Write tags as the ``tag`` blocks of an ``aws_autoscaling_group``."""
    return "\n".join(
        f"tag {{\n  key                 = {json.dumps(key)}\n  value               = {json.dumps(value)}\n"
        "  propagate_at_launch = false\n}"
        for key, value in found.items()
    )
