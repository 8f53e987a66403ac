# SPDX-License-Identifier: Apache-2.0
"""Units as CDI devices: files from which container runtimes learn what a container gets.

Format: cncf-tags/container-device-interface, SPEC.md.  The version that a file names is the lowest that has what it
uses: Debian 12's podman knows 0.5.0 and refuses newer ones.
"""

from __future__ import annotations

import os
import re
import stat
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from posixpath import basename
from typing import Any

from fpgahal import AccessError, DeviceInfo, FpgaError
from fpgahal.k8s.files import write_whole
from fpgahal.k8s.names import CDI_KIND, INTEL_DOMAIN
from fpgahal.k8s.schemes.board import RACK
from fpgahal.k8s.schemes.settings import Settings
from fpgahal.k8s.unit import Unit

FOLDER = "/var/run/cdi"

_PREFIX = CDI_KIND.replace("/", "-") + "-"
_MODE = 0o644


def needs_cdi(unit: Unit, settings: Settings) -> bool:
    """Tell whether a container that gets this unit must get it as a CDI device, too."""
    return bool(unit.slots) and (settings.cdi or _orchestrated(unit))


def _orchestrated(unit: Unit) -> bool:
    """Tell whether containers must say what is to be loaded (Intel's mode region); elsewhere they may."""
    return unit.programmed_by_pod and unit.resource.startswith(f"{INTEL_DOMAIN}/")


def variable(info: DeviceInfo) -> str:
    """Name the variable that holds one board's address; each board has its own, because CDI devices add up."""
    name = f"FPGAHAL_DEVICE_{re.sub('[:.]', '_', info.bdf)}"
    return f"{name}_{info.slot}" if info.slot else name


def device_name(unit: Unit) -> str:
    """Name the CDI device of a unit."""
    return re.sub(r"[^A-Za-z0-9_.:-]", "_", unit.id)


def qualified_name(unit: Unit) -> str:
    """Name the CDI device of a unit in full: ``fpgahal.dev/fpga=0000:3b:00.0``."""
    return f"{CDI_KIND}={device_name(unit)}"


def spec(unit: Unit, hook: str = "", options: Sequence[str] = ()) -> dict[str, Any]:
    """Make the CDI document of a unit.

    Parameters
    ----------
    unit : Unit
    hook : str
        Path, on the node, of `fpgahal-hook`, which looks at each container before it starts, and may refuse it.
        Empty: none.
    options : sequence of str
        Of the hook, in front of those that say what it must look at.
    """
    name = device_name(unit)
    edits: dict[str, Any] = {"env": [f"{variable(info)}={info.address}" for info in unit.slots]}
    if RACK in unit.env:
        edits["env"].append(f"{RACK}={unit.env[RACK]}")
    if unit.nodes:
        edits["deviceNodes"] = [
            {"path": node.path, "permissions": node.permissions}
            | ({"hostPath": node.host_path} if node.host_path != node.path else {})
            for node in unit.nodes
        ]
    if unit.mounts:
        edits["mounts"] = [
            {
                "hostPath": mount.host_path,
                "containerPath": mount.path,
                "options": ["ro" if mount.read_only else "rw", "nosuid", "nodev", "bind"],
            }
            for mount in unit.mounts
        ]
    if hook:
        args = [basename(hook), *options, *_subject(unit)]
        edits["hooks"] = [{"hookName": "createRuntime", "path": hook, "args": args}]
    return {
        "cdiVersion": _version(name, unit),
        "kind": CDI_KIND,
        "devices": [{"name": name, "containerEdits": edits}],
    }


def _subject(unit: Unit) -> list[str]:
    """Give the hook's options that say which boards must run what.

    Without ``--device`` it takes that from the container's variables, and refuses a container that has none.  Never
    ``--intel-annotation``: containerd keeps a container's annotations from its hooks, which then would do nothing.
    """
    args = []
    if not _orchestrated(unit):
        for info in unit.slots:
            args += ["--device", f"{info.address}={unit.wanted}" if unit.wanted else info.address]
    if RACK in unit.env:
        args += ["--rack", unit.env[RACK]]
    return args


def _version(name: str, unit: Unit) -> str:
    newer = not name[:1].isalpha() or any(node.host_path != node.path for node in unit.nodes)
    return "0.5.0" if newer else "0.3.0"


class CdiFolder:
    """The folder that container runtimes read.  Several threads may use it; one process at a time.

    Parameters
    ----------
    path : str
        Made if it is not there.
    hook_options : sequence of str
        Of the hook, for all devices: ``("--program",)``.
    """

    def __init__(self, path: str = FOLDER, hook_options: Sequence[str] = ()) -> None:
        self.path = path
        self._hook_options = tuple(hook_options)
        self._lock = threading.Lock()

    def write(self, unit: Unit, hook_path: str = "") -> str:
        """Make sure that a unit's file is there and up to date.

        Returns
        -------
        str
            The qualified name for the container.

        Raises
        ------
        AccessError, FpgaError
            It can't be written: then no container may be told that name, for it would run without the hook.
        """
        import json  # not at import time: most units need no file

        text = json.dumps(spec(unit, hook_path, self._hook_options), indent=2) + "\n"
        name = _file_name(unit)
        try:
            with self._lock:
                if not self._holds(name, text):
                    os.makedirs(self.path, mode=0o755, exist_ok=True)
                    write_whole(Path(self.path, name), text)
        except OSError as error:
            kind = AccessError if isinstance(error, PermissionError) else FpgaError
            raise kind(
                f"The CDI file {self.path}/{name} can't be written: {error.strerror}.",
                hint="The plugin needs a writable folder there, and room in it.",
            ) from error
        return qualified_name(unit)

    def remove_others(self, units: Iterable[Unit]) -> list[str]:
        """Delete the files of all units but these; gives their names.

        Raises
        ------
        AccessError, FpgaError
            One can't be deleted.
        """
        kept = {_file_name(unit) for unit in units}
        removed = []
        try:
            with self._lock:
                for name in sorted(os.listdir(self.path)) if os.path.isdir(self.path) else ():
                    if name.startswith((_PREFIX, f".{_PREFIX}")) and name not in kept:
                        os.unlink(f"{self.path}/{name}")
                        removed.append(name)
        except OSError as error:
            kind = AccessError if isinstance(error, PermissionError) else FpgaError
            raise kind(
                f"Old CDI files in {self.path} can't be removed: {error.strerror}.",
                hint="The plugin needs a writable folder there.",
            ) from error
        return removed

    def _holds(self, name: str, text: str) -> bool:
        try:
            fd = os.open(f"{self.path}/{name}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return False
        with open(fd, encoding="utf-8", errors="replace") as file:
            return stat.S_IMODE(os.fstat(fd).st_mode) == _MODE and file.read() == text


def _file_name(unit: Unit) -> str:
    return f"{_PREFIX}{device_name(unit).replace(':', '_')}.json"
