# SPDX-License-Identifier: Apache-2.0
"""A claim's devices as CDI devices: one file a claim, whose name no other claim ever has."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from fpgahal.k8s.dra.devices import Device
from fpgahal.k8s.files import write_whole
from fpgahal.k8s.names import DOMAIN
from fpgahal.k8s.plugin import cdi
from fpgahal.k8s.schemes import board

KIND = f"{DOMAIN}/claim"  # not the device plugin's: each cleans up its own files
VERSION = "0.5.0"  # the first with names that begin with a digit
_PREFIX = KIND.replace("/", "-") + "-"


def qualified_name(uid: str, device: str) -> str:
    """Name the CDI device of one allocated device."""
    return f"{KIND}={uid}_{device}"


def spec(uid: str, devices: Sequence[Device]) -> dict[str, Any]:
    """Make the CDI document of a claim: device files, and for each board a variable with its address."""
    entries = []
    for device in devices:
        unit = board.unit(device.name, "", (device.info,), board.application_nodes(device.info))
        (made,) = cdi.spec(unit)["devices"]
        entries.append({"name": f"{uid}_{device.name}", "containerEdits": made["containerEdits"]})
    return {"cdiVersion": VERSION, "kind": KIND, "devices": entries}


class ClaimFiles:
    """The folder that container runtimes read; `path` must be there."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, uid: str, devices: Sequence[Device]) -> None:
        """Write a claim's file; raises OSError, and then no container may be told of it."""
        write_whole(self._file(uid), json.dumps(spec(uid, devices), indent=1) + "\n")

    def there(self, uid: str) -> bool:
        """Tell whether a claim has its file."""
        return self._file(uid).is_file()

    def remove(self, uid: str) -> None:
        """Delete a claim's file, if it has one."""
        self._file(uid).unlink(missing_ok=True)

    def remove_others(self, uids: Collection[str]) -> None:
        """Delete the files of all claims but these."""
        kept = {self._file(uid).name for uid in uids}
        for path in self.path.glob(f"{_PREFIX}*.json"):
            if path.name not in kept:
                path.unlink(missing_ok=True)

    def _file(self, uid: str) -> Path:
        if not re.fullmatch("[0-9A-Za-z-]{1,63}", uid):
            raise ValueError(f"{uid!r} is no uid")  # it becomes part of a path
        return self.path / f"{_PREFIX}{uid}.json"
