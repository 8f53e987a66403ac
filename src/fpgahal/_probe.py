# SPDX-License-Identifier: Apache-2.0
"""``python -m fpgahal._probe opae|xrt|emu-opae|emu-xrt``: load one vendor library and say which.

`fpgahal doctor` runs this in a child, because a vendor library may abort the process that loads it.  Prints one
line of JSON: ``{"path", "via", "version"}``, or ``{"error", "hint", "type"}``.
"""

from __future__ import annotations

import importlib
import json
import sys

from fpgahal._errors import FpgaError


def probe(what: str) -> dict[str, str]:
    """Load the library that the driver `what` would use; ``emu-`` asks for the emulated one."""
    family = what.removeprefix("emu-")
    try:
        library, version = importlib.import_module(f"fpgahal._{family}").library(emulated=what != family)
    except FpgaError as error:
        return {"error": error.message, "hint": error.hint, "type": type(error).__name__}
    except (ImportError, OSError) as error:
        return {
            "error": str(error),
            "hint": "Reinstall fpgahal: its native part is missing or damaged.",
            "type": type(error).__name__,
        }
    return {"path": library.path, "via": library.found_via, "version": version}


if __name__ == "__main__":
    print(json.dumps(probe(sys.argv[1])))
