# SPDX-License-Identifier: Apache-2.0
"""What a ResourceClaim was given on this node.  Pure functions over the API server's object."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fpgahal import FpgaError
from fpgahal.k8s.dra import DRIVER


class ClaimError(FpgaError, ValueError):
    """A claim can't be prepared; the message says why."""


@dataclass(frozen=True, slots=True)
class Result:
    """One allocated device.

    Attributes
    ----------
    request : str
        Name of the request in the claim.
    pool, device : str
    share_id : str
        Which share of a shared device this is; empty if it is not shared.
    """

    request: str
    pool: str
    device: str
    share_id: str = ""


def results(claim: Mapping[str, Any], uid: str, node: str) -> list[Result]:
    """Give the devices of this driver on this node that a claim was given.

    Parameters
    ----------
    claim : mapping
        The object as the API server has it now.
    uid : str
        The claim's that kubelet speaks of: another object may have taken its name.
    node : str

    Raises
    ------
    ClaimError
        It is another claim, is not allocated, or asks for what this driver does not give.
    """
    metadata = claim.get("metadata") or {}
    name = f"{metadata.get('namespace')}/{metadata.get('name')}"
    if metadata.get("uid") != uid:
        raise ClaimError(
            f"The claim {name} is not the one that was to be prepared: its uid is {metadata.get('uid')}, and {uid} was "
            "expected."
        )
    found = list(_results(claim, name, node))
    if not found:
        raise ClaimError(f"The claim {name} has no device of {DRIVER} on {node}: it is not allocated, or not here.")
    return found


def _results(claim: Mapping[str, Any], name: str, node: str) -> Iterator[Result]:
    allocation = (claim.get("status") or {}).get("allocation") or {}
    for entry in (allocation.get("devices") or {}).get("results") or []:
        if entry.get("driver") != DRIVER or entry.get("pool") != node:
            continue
        if entry.get("adminAccess"):
            raise ClaimError(f"The claim {name} asks for administrative access, which {DRIVER} does not give.")
        consumed = entry.get("consumedCapacity") or {}
        if consumed and all(str(amount) == "0" for amount in consumed.values()):
            raise ClaimError(f"The claim {name} shares {entry.get('device')}, but asks for none of its accelerators.")
        yield Result(str(entry.get("request", "")), node, str(entry.get("device", "")), str(entry.get("shareID") or ""))
