# SPDX-License-Identifier: Apache-2.0
"""The custom resources that map names to functions: AcceleratorFunction and FpgaRegion, ``fpga.intel.com/v2``.

What is accepted here is what the schemas in `crds` accept.  It is checked again, because objects that were
stored under an older schema stay as they are.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeAlias

from fpgahal.k8s.names import INTEL_DOMAIN, is_intel_node_name

_SHORT = reprlib.Repr()  # bounded in depth, too: what it shows may be anything
_SHORT.maxstring = _SHORT.maxother = 80

GROUP, VERSION = INTEL_DOMAIN, "v2"

INTERFACE_ID = "^[0-9a-f]{32}$"
AFU_ID = "^([0-9a-f]{32}|[0-9a-f]{40})$"


class Kind(StrEnum):
    """The two kinds; the value is the object's ``kind``."""

    FUNCTION = "AcceleratorFunction"
    REGION = "FpgaRegion"

    @property
    def plural(self) -> str:
        """The name in URLs: ``acceleratorfunctions``."""
        return f"{self.value.lower()}s"


class Mode(StrEnum):
    """How the node's device plugin must work for a mapping."""

    PREPROGRAMMED = "af"  # the function is on the board already
    ORCHESTRATED = "region"  # the node programs the function before the container starts
    REGION = "regiondevel"  # the container gets the region and programs it itself


@dataclass(frozen=True, slots=True)
class AcceleratorFunction:
    """A name for one function of one shell.

    Attributes
    ----------
    namespace, name : str
    interface_id : str
        32 hex digits.
    afu_id : str
        32 hex digits, or the 40 of an AOCX file's hash.
    mode : Mode
        ``PREPROGRAMMED`` or ``ORCHESTRATED``.
    """

    namespace: str
    name: str
    interface_id: str
    afu_id: str
    mode: Mode


@dataclass(frozen=True, slots=True)
class FpgaRegion:
    """A name for the regions of one shell; `interface_id` has 32 hex digits."""

    namespace: str
    name: str
    interface_id: str


@dataclass(frozen=True, slots=True)
class Broken:
    """An object that can't be used.

    Attributes
    ----------
    kind : Kind
    namespace, name : str
    reason : str
        One word in CamelCase, for the condition's ``reason``.
    message : str
        What is wrong, what was expected, what to do.
    """

    kind: Kind
    namespace: str
    name: str
    reason: str
    message: str


Resource: TypeAlias = AcceleratorFunction | FpgaRegion | Broken


def key(document: Mapping[str, Any]) -> tuple[str, str]:
    """Give an object's namespace and name; both are empty if it has none."""
    metadata = document.get("metadata")
    if not isinstance(metadata, dict):
        return "", ""
    return str(metadata.get("namespace") or ""), str(metadata.get("name") or "")


def parse(kind: Kind, document: Mapping[str, Any]) -> Resource:
    """Read one object as the API server sends it; what can't be used becomes `Broken`."""
    namespace, name = key(document)

    def broken(reason: str, message: str) -> Broken:
        return Broken(kind, namespace, name, reason, message)

    if is_intel_node_name(name):
        return broken("ReservedName", f"{name!r} is the form of the names that nodes offer: choose another name.")
    spec = document.get("spec")
    if not isinstance(spec, dict):
        return broken("NoSpec", "There is no spec.")
    interface: Any = spec.get("interfaceId")
    afu: Any = spec.get("afuId")
    mode: Any = spec.get("mode")
    if not _matches(INTERFACE_ID, interface):
        return broken(
            "InvalidInterfaceId", f"spec.interfaceId is {shown(interface)}: 32 lower-case hex digits were expected."
        )
    if kind is Kind.REGION:
        return FpgaRegion(namespace, name, interface)
    if not _matches(AFU_ID, afu):
        return broken(
            "InvalidAfuId",
            f"spec.afuId is {shown(afu)}: 32 lower-case hex digits were expected, or the 40 of an AOCX file's hash.",
        )
    if mode not in (Mode.PREPROGRAMMED.value, Mode.ORCHESTRATED.value):
        return broken("InvalidMode", f"spec.mode is {shown(mode)}: 'af' or 'region' was expected.")
    if mode == Mode.PREPROGRAMMED and len(afu) == 40:
        return broken(
            "HashNotPreprogrammed",
            "spec.afuId is an AOCX file's hash, which no port answers: set mode: region.",
        )
    return AcceleratorFunction(namespace, name, interface, afu, Mode(mode))


def shown(value: object) -> str:
    """Quote a value of somebody else's for a message, shortened."""
    return "missing" if value is None else _SHORT.repr(value)


def _matches(pattern: str, value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(pattern, value) is not None
