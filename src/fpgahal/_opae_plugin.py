# SPDX-License-Identifier: Apache-2.0
"""Emulated boards below the vendor's own libopae-c (2.12 or newer): where the plugin is, and how it gets loaded.

libopae-c loads plugins that a configuration file names, for PCI ids that the machine has.  A machine without an
FPGA has none of them, so either the file names an id of something else (:func:`config` with :func:`pci_id`, for
other people's programs), or the library is told that it runs on Intel's simulator (:func:`load_real`), which takes
no look at the bus.
"""

from __future__ import annotations

import ctypes
import glob
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from fpgahal import _library
from fpgahal._errors import LibraryError

#: ``real``: emulated OPAE boards are reached through the machine's own libopae-c, with the plugin below it.
CHOICE = "FPGAHAL_EMU_OPAE"

OLDEST = (2, 12)  # the layout of the plugin table changed with 2.0.2, 2.9 and 2.12
SIMULATOR_ID = ("0x8086", "0x0a5e")  # what libopae-c takes for granted when WITH_ASE is set


class Version(ctypes.Structure):
    """``fpga_version``."""

    _fields_ = (("major", ctypes.c_uint8), ("minor", ctypes.c_uint8), ("patch", ctypes.c_uint16))


def wanted() -> bool:
    """Whether emulated boards are to be reached through the real libopae-c.

    Raises
    ------
    LibraryError
        The variable is set to something else.
    """
    choice = os.environ.get(CHOICE, "")
    if choice not in ("", "own", "real"):
        raise LibraryError(
            f"{CHOICE}={choice} is not known.", hint=f"Set {CHOICE}=real for the machine's own libopae-c, or unset it."
        )
    return choice == "real"


def plugin() -> str:
    """Path of the plugin; raises LibraryNotFoundError when the native part is missing."""
    return _library.own("libfpgahal-opae-plugin.so")


def config(module: str, vendor: str, device: str) -> str:
    """Text of an ``opae.cfg`` that loads `module` on a machine that has a PCI function ``vendor:device``."""
    loaded = {"enabled": True, "module": module, "devices": ["any"], "configuration": {}}
    emulated = {
        "enabled": True,
        "platform": "EMULATED boards of fpgahal",
        "devices": [{"name": "any", "id": [vendor, device, "*", "*"]}],
        "opae": {"plugin": [loaded], "fpgainfo": [], "fpgad": []},
    }
    return json.dumps({"configurations": {"fpgahal": emulated}, "configs": ["fpgahal"]}, indent=1)


def pci_id(root: str = "/") -> tuple[str, str] | None:
    """PCI vendor and device id of any function of this machine; None if it shows none."""
    for folder in sorted(glob.glob(os.path.join(root, "sys/bus/pci/devices/*"))):
        try:
            with open(f"{folder}/vendor") as vendor, open(f"{folder}/device") as device:
                return vendor.read().strip(), device.read().strip()
        except OSError:
            continue
    return None


def real() -> tuple[_library.Library, str]:
    """Load the machine's own libopae-c without letting it look for boards; return it and its version.

    Raises
    ------
    LibraryNotFoundError
        There is none.
    LibraryError
        It does not load, is older than 2.12, or is the emulated one under the vendor's name.
    """
    with _environment(OPAE_EXPLICIT_INITIALIZE="1", WITH_ASE=None):
        library = _library.load(
            "FPGAHAL_OPAE_LIBRARY", ("libopae-c.so.2", "libopae-c.so.1"), install="Install OPAE (libopae-c)"
        )
    shell = ctypes.CDLL(library.path, handle=library.handle)
    where = f"{library.path} ({library.found_via})"
    if hasattr(shell, "fpgahal_emu_attach"):
        raise LibraryError(
            f"{where} is fpgahal's emulated library, not the vendor's.",
            hint="Name the vendor's libopae-c.so.2 in FPGAHAL_OPAE_LIBRARY.",
        )
    found = Version()
    if not hasattr(shell, "fpgaGetOPAECVersion") or shell.fpgaGetOPAECVersion(ctypes.byref(found)):
        found = Version()
    if (found.major, found.minor) < OLDEST:
        raise LibraryError(
            f"{where} is OPAE {found.major}.{found.minor}.{found.patch}; emulated boards below the real "
            f"libopae-c need {OLDEST[0]}.{OLDEST[1]} or newer.",
            hint=f"Update OPAE, or unset {CHOICE}: the emulated library needs none.",
        )
    return library, f"{found.major}.{found.minor}.{found.patch}"


def load_real() -> tuple[_library.Library, ctypes.CDLL]:
    """Load the machine's own libopae-c with emulated boards, and with no others.

    Returns
    -------
    tuple
        The library, and the plugin, whose ``fpgahal_emu_attach`` chooses the rack.

    Raises
    ------
    LibraryNotFoundError, LibraryError
        As :func:`real`; or it serves real boards already in this process, or refuses the plugin.
    """
    module = plugin()
    library, _ = real()
    shell = ctypes.CDLL(library.path, handle=library.handle)
    with tempfile.NamedTemporaryFile("w", prefix="fpgahal-", suffix=".cfg") as file:
        file.write(config(module, *SIMULATOR_ID))
        file.flush()
        with _environment(WITH_ASE="1"):
            result = shell.fpgaInitialize(os.fsencode(file.name))
    if result:
        raise LibraryError(
            f"{library.path} refused the plugin {module} (fpgaInitialize: {result}).",
            hint="LIBOPAE_LOG=1 makes libopae-c say why.",
        )
    try:
        loaded = ctypes.CDLL(module, mode=os.RTLD_NOLOAD | os.RTLD_NOW)
    except OSError:
        raise LibraryError(
            f"{library.path} serves real boards in this process already.",
            hint="Use emulated boards in a process of their own.",
        ) from None
    return library, loaded


@contextmanager
def _environment(**values: str | None) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    try:
        _set(values)
        yield
    finally:
        _set(before)


def _set(values: dict[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


__all__ = ["CHOICE", "OLDEST", "SIMULATOR_ID", "config", "load_real", "pci_id", "plugin", "real", "wanted"]
