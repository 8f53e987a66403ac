# SPDX-License-Identifier: Apache-2.0
"""A process that is killed before its n-th call of the operating system."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

STEPS = ("open", "replace", "fsync", "unlink", "mkdir", "rmdir", "chmod", "fchmod", "makedirs", "close")


def dies_at(step: int, action: Callable[[], Any]) -> bool:
    """Do something in a child that ends without a goodbye after so many of these calls; whether it came to that."""
    child = os.fork()
    if not child:
        left = [step]
        try:
            for name in STEPS:
                setattr(os, name, _counted(getattr(os, name), left))
            action()
            os._exit(0)
        except BaseException:
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9)
    return code == 9


def _counted(real: Callable[..., Any], left: list[int]) -> Callable[..., Any]:
    def counted(*args: Any, **options: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            os._exit(9)
        return real(*args, **options)

    return counted
