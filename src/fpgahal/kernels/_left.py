# SPDX-License-Identifier: Apache-2.0
"""Runs that a call left behind, because it was interrupted: they may still write their buffers."""

from __future__ import annotations

from fpgahal import Run, RunError, RunTimeoutError


def settle(run: Run, seconds: float) -> None:
    """Wait for the end of a run whose result nobody wants any more.

    Raises
    ------
    RunTimeoutError
        It does not end.
    """
    try:
        run.wait(seconds)
    except RunTimeoutError:
        raise
    except RunError:  # it ended, and that is enough
        pass


__all__ = ["settle"]
