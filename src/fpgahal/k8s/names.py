# SPDX-License-Identifier: Apache-2.0
"""Extended resource names: what a pod asks for, and what a node's device plugin offers.

Intel's scheme as of its plugin's release 0.18 (April 2020), which is what the namespaced mappings
translate to.  A function is named by its interface id and its AFU id, because one AFU on two shells is
two different images; both ids in hex would not fit into the 63 characters of a resource name.
"""

from __future__ import annotations

import base64
import re

from fpgahal import ArgumentRangeError

DOMAIN = "fpgahal.dev"
CDI_KIND = f"{DOMAIN}/fpga"
INTEL_DOMAIN = "fpga.intel.com"

INTERFACE_DIGITS = (32,)
AFU_DIGITS = (32, 40)  # a UUID; or the hash of an AOCX file (OpenCL)

_LONGEST = 63  # characters: of a resource's name without its domain, and of a device id
_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_RESOURCE = re.compile(rf"(?P<domain>{_LABEL}(\.{_LABEL})*)/(?P<name>[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)")
_INTEL_NODE_NAME = re.compile(
    r"af-[0-9a-f]{3}\.[0-9a-f]{3}\.[A-Za-z0-9_-]{43,48}|af-[0-9a-f]{32,40}|region-[0-9a-f]{32}"
)


def canonical_id(text: str, digits: tuple[int, ...], what: str) -> str:
    """Give an id as lower-case hex without dashes.

    Raises
    ------
    ArgumentRangeError
        It is not hex, or has another number of digits.
    """
    found = text.strip().replace("-", "").lower()
    if len(found) not in digits or not re.fullmatch("[0-9a-f]+", found):
        expected = " or ".join(map(str, digits))
        raise ArgumentRangeError(f"{text!r} is no {what}: {expected} hex digits were expected.")
    return found


def af_resource(interface_id: str, afu_id: str) -> str:
    """Name a programmed function: ``af-ce4.d84.zkiW…`` (54 characters, or 59 for an AOCX hash).

    Raises
    ------
    ArgumentRangeError
        An id is not an id.
    """
    interface = canonical_id(interface_id, INTERFACE_DIGITS, "interface id")
    afu = canonical_id(afu_id, AFU_DIGITS, "AFU id")
    both = base64.urlsafe_b64encode(bytes.fromhex(interface + afu)).rstrip(b"=").decode()
    return f"af-{interface[:3]}.{afu[:3]}.{both}"


def af_resource_2018(afu_id: str) -> str:
    """Name a programmed function as Intel's plugin did until release 0.17: ``af-<AFU id>``.

    Raises
    ------
    ArgumentRangeError
        The id is not an id.
    """
    return f"af-{canonical_id(afu_id, AFU_DIGITS, 'AFU id')}"


def region_resource(interface_id: str) -> str:
    """Name a region that can be programmed: ``region-<interface id>``, in both schemes.

    Raises
    ------
    ArgumentRangeError
        The id is not an id.
    """
    return f"region-{canonical_id(interface_id, INTERFACE_DIGITS, 'interface id')}"


def is_intel_node_name(name: str) -> bool:
    """Tell whether a name (without its domain) is one that nodes offer, in either of Intel's schemes."""
    return _INTEL_NODE_NAME.fullmatch(name) is not None


def check_resource(resource: str) -> None:
    """Make sure that kubelet takes a resource's full name.

    Raises
    ------
    ArgumentRangeError
        It would not.
    """
    found = _RESOURCE.fullmatch(resource)
    if found is None or len(found["domain"]) > 253 - len("requests."):
        raise ArgumentRangeError(
            f"{resource!r} is no resource name: expected a DNS name, a slash, then letters, digits, '-', '_' and '.'."
        )
    if len(found["name"]) > _LONGEST:
        raise ArgumentRangeError(
            f"The resource name {resource!r} is too long: {len(found['name'])} characters behind the slash, "
            f"Kubernetes takes {_LONGEST}."
        )


def check_device_id(id: str) -> None:
    """Make sure that kubelet takes a device id.

    Raises
    ------
    ArgumentRangeError
        It would not.
    """
    if not 0 < len(id) <= _LONGEST:
        raise ArgumentRangeError(f"The device id {id!r} has {len(id)} characters: expected 1 to {_LONGEST}.")


def name_part(text: str) -> str:
    """Make any text fit for the part of a resource name behind the slash: other characters become ``-``."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")
