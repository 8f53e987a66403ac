# SPDX-License-Identifier: Apache-2.0
"""What a node's labels say of its boards, for nodeSelectors and for Node Feature Discovery.

For each family of boards: how many (``fpgahal.dev/u250.count``), their shell, what is loaded, and their kernel driver.
A label that would have to say two things at once (two u250 with different shells) says ``mixed``, so that no selector
matches by accident.  Of emulated boards all labels are told apart by one more: ``fpgahal.dev/u250.emulated=true``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence

from fpgahal import DeviceInfo

DOMAIN = "fpgahal.dev"
MIXED = "mixed"
_MAX_VALUE = 63  # characters


def node_labels(devices: Sequence[DeviceInfo]) -> dict[str, str]:
    """Give the labels of a node with these boards, sorted by name; none for a node without boards."""
    families: dict[str, list[DeviceInfo]] = {}
    for info in devices:
        families.setdefault(family(info), []).append(info)
    found: dict[str, str] = {}
    if devices:
        found[f"{DOMAIN}/boards"] = str(len(devices))
    for name, members in families.items():
        found |= {
            f"{DOMAIN}/{name}.{key}": value
            for key, value in {
                "count": str(len(members)),
                "shell": _common(shell(info) for info in members),
                "afu": _common(info.afu_id.hex if info.afu_id else "none" for info in members),
                "driver": _common(info.kernel_driver for info in members),
                "emulated": _common("true" if info.emulated else "" for info in members),
            }.items()
            if value
        }
    return dict(sorted(found.items()))


def family(info: DeviceInfo) -> str:
    """Name a board's family as in a label: ``"u250"``, ``"aws-vu9p-f1"``, ``"pac-a10"``.

    XRT's platforms are called VENDOR_BOARD_SHELL; those of OPAE boards are called as the board.
    """
    parts = info.platform.split("_")
    name = parts[1] if info.driver == "xrt" and len(parts) > 2 else info.platform
    return label_value(name) or f"{info.vendor_id:04x}-{info.device_id:04x}"


def shell(info: DeviceInfo) -> str:
    """Name what an image must have been built for: the interface id (OPAE), or the platform without the board (XRT)."""
    if info.driver == "xrt":
        return "_".join(info.platform.split("_")[2:])
    return info.interface_id.hex if info.interface_id else ""


def label_value(text: str) -> str:
    """Make a text a label's value: other characters become ``-``; what is too long ends in a hash instead."""
    found = re.sub("[^A-Za-z0-9._-]", "-", text).strip("-_.")
    if len(found) <= _MAX_VALUE:
        return found
    return f"{found[: _MAX_VALUE - 9].rstrip('-_.')}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _common(values: Iterable[str]) -> str:
    found = set(values)
    return label_value(found.pop()) if len(found) == 1 else MIXED
