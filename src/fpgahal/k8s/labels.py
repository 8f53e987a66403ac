# SPDX-License-Identifier: Apache-2.0
"""What a node's labels say of its boards, for nodeSelectors and for Node Feature Discovery.

For each family of boards, named as fpgahal's own scheme does: how many (``fpgahal.dev/u250.count``), their shell, what
is loaded, and their kernel driver.  A label that would have to say two things at once (two u250 with different shells)
says ``mixed``, so that no selector matches by accident.  Emulated boards have a label that says so.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence

from fpgahal import DeviceInfo
from fpgahal.k8s.names import DOMAIN
from fpgahal.k8s.schemes import inaccel as inaccel_scheme
from fpgahal.k8s.schemes.own import family

MIXED = "mixed"
_MAX_VALUE = 63  # characters


def node_labels(devices: Sequence[DeviceInfo], *, inaccel: bool = False) -> dict[str, str]:
    """Give the labels of a node with these boards, sorted by name; none for a node without boards.

    Parameters
    ----------
    devices : sequence of DeviceInfo
    inaccel : bool
        Add the labels of InAccel's scheme: ``xilinx/u250`` says the shell.
    """
    found = {f"{DOMAIN}/boards": str(len(devices))} if devices else {}
    for name, members in _by(devices, [family(info) for info in devices]):
        values = {
            "count": str(len(members)),
            "shell": _common(inaccel_scheme.shell_label(info) for info in members),
            "afu": _common(info.afu_id.hex if info.afu_id else "none" for info in members),
            "driver": _common(info.kernel_driver for info in members),
            "emulated": _common("true" if info.emulated else "" for info in members),
        }
        found |= {f"{DOMAIN}/{name}.{key}": value for key, value in values.items() if value}
    if inaccel:
        for name, members in _by(devices, [inaccel_scheme.resource(info) for info in devices]):
            if name and (value := _common(inaccel_scheme.shell_label(info) for info in members)):
                found[name] = value
    return dict(sorted(found.items()))


def label_value(text: str) -> str:
    """Make a text a label's value: other characters become ``-``; what is too long ends in a hash instead."""
    found = re.sub("[^A-Za-z0-9._-]", "-", text).strip("-_.")
    if len(found) <= _MAX_VALUE:
        return found
    return f"{found[: _MAX_VALUE - 9].rstrip('-_.')}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _by(devices: Sequence[DeviceInfo], names: Sequence[str]) -> Iterable[tuple[str, list[DeviceInfo]]]:
    groups: dict[str, list[DeviceInfo]] = {}
    for name, info in zip(names, devices, strict=True):
        groups.setdefault(name, []).append(info)
    return groups.items()


def _common(values: Iterable[str]) -> str:
    found = set(values)
    return label_value(found.pop()) if len(found) == 1 else MIXED
