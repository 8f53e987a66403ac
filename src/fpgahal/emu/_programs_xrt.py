# SPDX-License-Identifier: Apache-2.0
"""Programs that use a vendor's library themselves: what they need to see emulated boards."""

from __future__ import annotations

import ctypes.util
import os

from fpgahal._errors import LibraryNotFoundError


def xrt_environment(folder: str) -> dict[str, str]:
    """Return variables with which programs that use libxrt see emulated boards; none where that can't be.

    Parameters
    ----------
    folder : str
        An empty folder that is there as long as the program runs.  XRT takes its driver from
        ``$XILINX_XRT/lib/libxrt_core.so.2``, and this becomes such a place.
    """
    path, _ = xrt_driver()
    if path is None:
        return {}
    os.mkdir(os.path.join(folder, "lib"))
    os.symlink(path, os.path.join(folder, "lib", "libxrt_core.so.2"))
    return {"XILINX_XRT": folder}


def xrt_driver() -> tuple[str | None, str]:
    """Return the driver that puts emulated boards under the real libxrt, or None and the reason why not."""
    from fpgahal import _library  # not at import time, as in _boards

    if not ctypes.util.find_library("xrt_coreutil"):
        return None, "libxrt_coreutil is not installed"
    try:
        return _library.xrt_driver(), ""
    except LibraryNotFoundError as error:
        return None, str(error).splitlines()[0]
