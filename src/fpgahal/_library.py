# SPDX-License-Identifier: Apache-2.0
"""Find a shared library at run time, and say where it was looked for.

Nothing here knows a vendor: a driver passes the names.  A library that was loaded is never unloaded, because
vendor libraries leave threads and exit handlers behind.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fpgahal._errors import LibraryError, LibraryNotFoundError

#: Names a folder that holds the emulated libraries (a sanitizer build, say) instead of the installed one.
EMULATOR_FOLDER = "FPGAHAL_EMU_LIBDIR"
#: ``real``: emulated XRT boards are used through the real libxrt_coreutil, not through our stand-in for it.
XRT_MODE = "FPGAHAL_EMU_XRT"
#: Names the driver that puts emulated boards under the real libxrt_coreutil.
XRT_DRIVER = "FPGAHAL_XRT_DRIVER"


@dataclass(frozen=True, slots=True)
class Library:
    """A loaded library.

    Attributes
    ----------
    path : str
        The file that the loader chose (symbolic links resolved), as /proc/self/maps shows it.
    found_via : str
        What led to it: the variable, ``"system loader"``, or the folder.
    handle : int
        What dlopen returned.
    """

    path: str
    found_via: str
    handle: int

    @property
    def version(self) -> str:
        """What follows ``.so.`` in the file's name: ``"2.13.0"``."""
        return Path(self.path).name.partition(".so.")[2]


def load(variable: str, names: Sequence[str], folders: Sequence[str] = (), *, install: str = "") -> Library:
    """Load the first library that is there: $`variable`, then the system loader, then `folders`.

    Parameters
    ----------
    variable : str
        Environment variable that names the file; when it is set, nothing else is tried.
    names : sequence of str
        Sonames, newest first.
    folders : sequence of str
        Where vendors install outside the loader's path.
    install : str
        How to get it, for the message.

    Raises
    ------
    LibraryNotFoundError
        None of them is there; the message lists the places.
    LibraryError
        One is there but does not load; the message holds the loader's reason.
    """
    looked: list[str] = []
    for path, via in _candidates(variable, names, folders):
        try:
            handle = ctypes.CDLL(path, mode=os.RTLD_NOW | os.RTLD_LOCAL)._handle
        except OSError as error:
            if (os.path.isabs(path) and os.path.exists(path)) or "cannot open shared object file" not in str(error):
                raise LibraryError(
                    f"{path} ({via}) is there, but does not load: {error}.",
                    hint="Mend or remove that installation, or name another file in " + variable + ".",
                ) from None
            looked.append(f"{via}: no {path}")
            continue
        return Library(mapped_path(Path(path).name) or path, via, handle)
    unset = "" if os.environ.get(variable) else f"{variable} unset; "
    raise LibraryNotFoundError(
        f"{names[0]} not found (looked at: {unset}{'; '.join(looked)}).",
        hint=f"{install or 'Install it'}, set {variable}, or use an emulated board: FPGAHAL_EMULATE=pac-a10,u250.",
    )


def _candidates(variable: str, names: Sequence[str], folders: Sequence[str]) -> Iterator[tuple[str, str]]:
    named = os.environ.get(variable)
    if named:
        yield named, variable
        return
    for name in names:
        yield name, "system loader"
    for folder in folders:
        for name in names:
            yield os.path.join(folder, name), folder


def mapped_path(stem: str) -> str | None:
    """Path of the loaded file whose name begins like `stem` (up to the soname's version), or None."""
    wanted = stem.partition(".so")[0] + ".so"
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
        for line in maps:
            path = line.rstrip("\n").partition("/")[2]
            if path and os.path.basename(path).startswith(wanted):
                return "/" + path
    return None


def emulator(driver: str) -> str:
    """Path of the emulated vendor library for `driver` (``"opae"`` or ``"xrt"``); errors as :func:`own`."""
    return own(f"libfpgahal-emu-{driver}.so")


def own(file: str) -> str:
    """Path of a library that comes with fpgahal.

    It lies in ``_lib`` beside the extension modules, which in an editable install is not beside this file.

    Raises
    ------
    LibraryNotFoundError
        The package was installed without its native part.
    """
    folders = [os.environ[EMULATOR_FOLDER]] if os.environ.get(EMULATOR_FOLDER) else list(_own_folders())
    for folder in folders:
        path = os.path.join(folder, file)
        if os.path.exists(path):
            return path
    raise LibraryNotFoundError(
        f"{file} not found (looked in: {', '.join(folders)}).",
        hint="Reinstall fpgahal (`pip install --force-reinstall fpgahal`): its native part is missing.",
    )


def include() -> str:
    """Folder of the C headers that come with fpgahal; errors as :func:`own`."""
    folders = [os.path.join(os.path.dirname(folder), "include") for folder in _own_folders()]
    for folder in folders:
        if os.path.isdir(folder):
            return folder
    raise LibraryNotFoundError(
        f"fpgahal_emu.h not found (looked in: {', '.join(folders)}).",
        hint="Reinstall fpgahal (`pip install --force-reinstall fpgahal`): its native part is missing.",
    )


def wants_real_xrt() -> bool:
    """Whether emulated XRT boards are to be used through the real libxrt_coreutil (``FPGAHAL_EMU_XRT=real``).

    Raises
    ------
    LibraryError
        The variable holds something else.
    """
    mode = os.environ.get(XRT_MODE, "")
    if mode not in ("", "real"):
        raise LibraryError(
            f"{XRT_MODE}={mode!r} is not a way to use emulated boards.",
            hint=f"Set it to 'real' for the real libxrt_coreutil, or unset {XRT_MODE}.",
        )
    return mode == "real"


def xrt_driver() -> str:
    """Path of the driver that puts emulated boards under the real libxrt_coreutil.

    Raises
    ------
    LibraryNotFoundError
        It was not built: it fits one release of XRT only, so no wheel holds it.
    """
    file = "libfpgahal-xrt-driver.so"
    named = os.environ.get(XRT_DRIVER)
    folders = [os.environ[EMULATOR_FOLDER]] if os.environ.get(EMULATOR_FOLDER) else list(_own_folders())
    for path in [named] if named else [os.path.join(folder, file) for folder in folders]:
        if os.path.exists(path):
            return os.path.abspath(path)
    raise LibraryNotFoundError(
        f"{file} not found (looked at: {named or ', '.join(folders)}).",
        hint="Build it from the sources: apt install libxrt-dev libboost-dev, then pip install "
        f"-C cmake.define.FPGAHAL_XRT_DRIVER=ON .; or name the file in {XRT_DRIVER}.",
    )


def _own_folders() -> Iterator[str]:
    compiled = importlib.util.find_spec("fpgahal._session")  # where it lies, the install put the native part
    if compiled is not None and compiled.origin:
        yield os.path.join(os.path.dirname(os.path.abspath(compiled.origin)), "_lib")
    yield os.path.join(os.path.dirname(os.path.abspath(__file__)), "_lib")
    yield os.path.join(sysconfig.get_path("platlib"), "fpgahal", "_lib")


__all__ = [
    "EMULATOR_FOLDER",
    "XRT_DRIVER",
    "XRT_MODE",
    "Library",
    "emulator",
    "load",
    "mapped_path",
    "own",
    "wants_real_xrt",
    "xrt_driver",
]
