# SPDX-License-Identifier: Apache-2.0
"""The CustomResourceDefinitions, from which ``deploy/crds`` is printed (``fpgahal-webhook crds``).

Compatible with Intel's ``fpga.intel.com/v2``, but with patterns that are anchored as a whole, ids of the lengths
that exist, and a status with conditions.
"""

from __future__ import annotations

import json
from typing import Any

from fpgahal.k8s.webhook.resources import AFU_ID, GROUP, INTERFACE_ID, VERSION, Kind, Mode

HEADER = ("# SPDX-License-Identifier: Apache-2.0", "# Printed by `fpgahal-webhook crds`; a test compares.")
SHORT_NAMES = {Kind.FUNCTION: "af", Kind.REGION: "fpga"}

_INTERFACE = {
    "type": "string",
    "pattern": INTERFACE_ID,
    "description": "Interface id of the shell that the function or region is for: 32 lower-case hex digits.",
}
_FUNCTION = {
    "afuId": {
        "type": "string",
        "pattern": AFU_ID,
        "description": "AFU id, 32 lower-case hex digits; or the 40 of an AOCX file's hash.",
    },
    "interfaceId": _INTERFACE,
    "mode": {
        "type": "string",
        "enum": [Mode.PREPROGRAMMED.value, Mode.ORCHESTRATED.value],
        "description": "af: the function is on the board already; region: the node programs it first.",
    },
}
_RULES: dict[Kind, dict[str, Any]] = {
    Kind.FUNCTION: {
        "x-kubernetes-validations": [
            {
                "rule": "self.mode == 'region' || size(self.afuId) == 32",
                "message": "an AOCX file's hash needs mode: region, because no port answers it",
            }
        ]
    },
    Kind.REGION: {},
}
_CONDITION = {
    "type": "object",
    "required": ["type", "status", "lastTransitionTime", "reason", "message"],
    "properties": {
        "type": {"type": "string", "maxLength": 316},
        "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
        "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0},
        "lastTransitionTime": {"type": "string", "format": "date-time"},
        "reason": {"type": "string", "minLength": 1, "maxLength": 1024},
        "message": {"type": "string", "maxLength": 32768},
    },
}
_STATUS = {
    "type": "object",
    "properties": {
        "conditions": {
            "type": "array",
            "items": _CONDITION,
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["type"],
        }
    },
}


def schema(kind: Kind) -> dict[str, Any]:
    """Give the structural schema of a kind (OpenAPI v3, which is JSON schema here)."""
    properties = _FUNCTION if kind is Kind.FUNCTION else {"interfaceId": _INTERFACE}
    return {
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": {"type": "object", "required": sorted(properties), "properties": properties, **_RULES[kind]},
            "status": _STATUS,
        },
    }


def definition(kind: Kind) -> dict[str, Any]:
    """Give the CustomResourceDefinition of a kind."""
    columns = [{"name": "Interface", "type": "string", "jsonPath": ".spec.interfaceId"}]
    if kind is Kind.FUNCTION:
        columns.append({"name": "AFU", "type": "string", "jsonPath": ".spec.afuId"})
        columns.append({"name": "Mode", "type": "string", "jsonPath": ".spec.mode"})
    accepted = '.status.conditions[?(@.type=="Accepted")].status'
    columns.append({"name": "Accepted", "type": "string", "jsonPath": accepted})
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind.value,
                "listKind": f"{kind.value}List",
                "plural": kind.plural,
                "singular": kind.value.lower(),
                "shortNames": [SHORT_NAMES[kind]],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": schema(kind)},
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": columns,
                }
            ],
        },
    }


def definitions() -> dict[str, dict[str, Any]]:
    """Give all of them, by the name of their file."""
    return {f"{kind.plural}.yaml": definition(kind) for kind in Kind}


def yaml_text(document: dict[str, Any]) -> str:
    """Write a definition as YAML: block mappings and lists, every string quoted as in JSON."""
    return "\n".join([*HEADER, *_lines(document)]) + "\n"


def _lines(value: Any) -> list[str]:
    if isinstance(value, dict) and value:
        lines = []
        for name, item in value.items():
            first, *more = _lines(item)
            if isinstance(item, (dict, list)) and item:
                lines += [f"{name}:", *(f"  {line}" for line in (first, *more))]
            else:
                lines.append(f"{name}: {first}")
        return lines
    if isinstance(value, list) and value:
        return [f"{'  ' if i else '- '}{line}" for item in value for i, line in enumerate(_lines(item))]
    return [json.dumps(value)]
