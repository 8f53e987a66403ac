# SPDX-License-Identifier: Apache-2.0
"""The container device interface's file format (0.3.0 to 0.5.0) as a JSON schema, and which version needs what.

After SPEC.md of cncf-tags/container-device-interface.
"""

from __future__ import annotations

from typing import Any

_PATH = {"type": "string", "pattern": "^/"}
_TEXTS = {"type": "array", "items": {"type": "string"}}


def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


_EDITS = _object(
    [],
    env={"type": "array", "items": {"type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_]*="}},
    deviceNodes={
        "type": "array",
        "items": _object(
            ["path"],
            path=_PATH,
            hostPath=_PATH,
            type={"enum": ["b", "c", "u", "p"]},
            major={"type": "integer"},
            minor={"type": "integer"},
            fileMode={"type": "integer"},
            uid={"type": "integer"},
            gid={"type": "integer"},
            permissions={"type": "string", "pattern": "^[rwm]{1,3}$"},
        ),
    },
    mounts={
        "type": "array",
        "items": _object(
            ["hostPath", "containerPath"], hostPath=_PATH, containerPath=_PATH, type={"type": "string"}, options=_TEXTS
        ),
    },
    hooks={
        "type": "array",
        "items": _object(
            ["hookName", "path"],
            hookName={
                "enum": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"]
            },
            path=_PATH,
            args=_TEXTS,
            env=_TEXTS,
            timeout={"type": "integer", "minimum": 1},
        ),
    },
)

SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    **_object(
        ["cdiVersion", "kind", "devices"],
        cdiVersion={"enum": ["0.3.0", "0.4.0", "0.5.0"]},
        kind={
            "type": "string",
            "pattern": r"^[A-Za-z]([A-Za-z0-9_.-]*[A-Za-z0-9])?/[A-Za-z]([A-Za-z0-9_-]*[A-Za-z0-9])?$",
        },
        devices={
            "type": "array",
            "minItems": 1,
            "items": _object(
                ["name", "containerEdits"],
                name={"type": "string", "pattern": "^[A-Za-z0-9]([A-Za-z0-9_.:-]*[A-Za-z0-9])?$"},
                containerEdits={**_EDITS, "minProperties": 1},
            ),
        },
        containerEdits=_EDITS,
    ),
}


def minimum_version(document: dict[str, Any]) -> str:
    """The lowest version that has all that a document uses."""
    edits = [document.get("containerEdits", {}), *(device["containerEdits"] for device in document["devices"])]
    if any(not device["name"][0].isalpha() for device in document["devices"]):
        return "0.5.0"
    if any("hostPath" in node for edit in edits for node in edit.get("deviceNodes", ())):
        return "0.5.0"
    if any("type" in mount for edit in edits for mount in edit.get("mounts", ())):
        return "0.4.0"
    return "0.3.0"
