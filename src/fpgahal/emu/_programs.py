# SPDX-License-Identifier: Apache-2.0
"""Other people's programs on emulated boards: what their vendor's library must find, prepared in the rack's folder.

OPAE: where a libopae-c of 2.12 or newer is installed, the program uses that one, with a configuration of its own that
loads fpgahal's plugin and nothing else.  Everywhere else, a folder in front of the loader's path has fpgahal's
stand-alone library under the vendor's name.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass

from fpgahal import _library, _opae_plugin
from fpgahal._errors import LibraryError

SONAMES = ("libopae-c.so.2", "libopae-c.so.1")


@dataclass(frozen=True, slots=True)
class OpaeRoute:
    """How a program that uses libopae-c gets to emulated boards.

    Attributes
    ----------
    library : str
        The vendor's libopae-c; empty: there is none that would do, the stand-alone library takes its place.
    version : str
        Its version.
    named : bool
        Whether FPGAHAL_OPAE_LIBRARY named it: then the loader may not find it by itself.
    pci_id : tuple of str
        Vendor and device id that the configuration names; empty on a machine without PCI.
    why_not : str
        Why the vendor's library is not used.
    """

    library: str = ""
    version: str = ""
    named: bool = False
    pci_id: tuple[str, str] | tuple[()] = ()
    why_not: str = ""


def opae_route(timeout: float = 10.0) -> OpaeRoute:
    """Look at what this machine has; FPGAHAL_EMU_OPAE says ``real`` or ``own`` where both would do.

    Raises
    ------
    LibraryError
        ``real`` was asked for, and can't be had.
    """
    must = _opae_plugin.wanted()
    if os.environ.get(_opae_plugin.CHOICE) == "own":
        return OpaeRoute(why_not=f"{_opae_plugin.CHOICE}=own")
    found = _probe(timeout)
    if "path" not in found:
        if must:
            raise LibraryError(f"{_opae_plugin.CHOICE}=real, but: {found['error']}", hint=found["hint"])
        return OpaeRoute(why_not=found["error"])
    return OpaeRoute(
        found["path"], found["version"], bool(os.environ.get("FPGAHAL_OPAE_LIBRARY")), _opae_plugin.pci_id() or ()
    )


def _probe(timeout: float) -> dict[str, str]:
    # in a child: a vendor's library may not come back, and must not stay loaded here
    try:
        done = subprocess.run(
            [sys.executable, "-m", "fpgahal._probe", "real-opae"],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        answer: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    except (subprocess.TimeoutExpired, ValueError, IndexError):
        return {"error": "the installed libopae-c does not load", "hint": "`fpgahal doctor` looks into it."}
    return answer


def program_environment(rack: str, environment: dict[str, str] | None = None) -> dict[str, str]:
    """Return the environment in which a program that knows nothing of fpgahal finds the boards of a rack.

    Parameters
    ----------
    rack : str
        The rack's folder (``Rack.dir``); libraries and configuration are put below it.
    environment : dict, optional
        What to start from; default: this process's.

    Returns
    -------
    dict
        To be passed to subprocess.

    Raises
    ------
    LibraryError, LibraryNotFoundError
        FPGAHAL_EMU_OPAE=real can't be had, or fpgahal's native part is missing.

    Examples
    --------
    >>> with fpgahal.emu.rack("pac-a10") as rack:  # doctest: +SKIP
    ...     subprocess.run(["hello_fpga"], env=fpgahal.emu.program_environment(rack.dir))
    """
    result = dict(os.environ if environment is None else environment)
    result["FPGAHAL_EMU_RACK"] = rack
    result.pop("FPGAHAL_EMULATE", None)
    _opae(rack, opae_route(), result)
    return result


def _opae(rack: str, route: OpaeRoute, environment: dict[str, str]) -> None:
    folder = os.path.join(rack, "programs")
    libraries = os.path.join(folder, "lib")
    os.makedirs(libraries, exist_ok=True)
    for name in ("WITH_ASE", "LIBOPAE_CFGFILE"):  # the caller's own set-up is for other boards
        environment.pop(name, None)
    if route.library:
        if route.named:
            _link(route.library, f"{libraries}/{SONAMES[0]}")
            _prepend(environment, libraries)
        if route.pci_id:
            file = os.path.join(folder, "opae.cfg")
            environment["LIBOPAE_CFGFILE"] = file
            ids = route.pci_id
        else:  # no bus to look at: the library believes that it runs on Intel's simulator
            os.makedirs(f"{folder}/share/opae/ase", exist_ok=True)
            file = os.path.join(folder, "share/opae/ase/opae_ase.cfg")
            environment["OPAE_PLATFORM_ROOT"] = folder
            environment["WITH_ASE"] = "1"
            ids = _opae_plugin.SIMULATOR_ID
        with open(file, "w", encoding="utf-8") as config:
            config.write(_opae_plugin.config(_opae_plugin.plugin(), *ids))
        return
    own = _library.emulator("opae")
    for soname in SONAMES:
        _link(own, f"{libraries}/{soname}")
    _prepend(environment, libraries)


def _link(target: str, link: str) -> None:
    if os.path.lexists(link):
        os.unlink(link)
    os.symlink(target, link)


def _prepend(environment: dict[str, str], folder: str) -> None:
    before = environment.get("LD_LIBRARY_PATH", "")
    environment["LD_LIBRARY_PATH"] = f"{folder}:{before}" if before else folder
