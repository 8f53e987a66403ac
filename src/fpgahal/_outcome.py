# SPDX-License-Identifier: Apache-2.0
"""Outcome: what a run that has not completed raises."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fpgahal._errors import DeviceLostError, FpgaError, RunError, RunTimeoutError
from fpgahal._types import RunState

if TYPE_CHECKING:
    from fpgahal._session import Session


def outcome(session: Session, kernel: str, state: RunState, limit: float) -> FpgaError:
    """Make the exception for a run in this state, after `limit` seconds."""
    where = f"{kernel} on {session.info.address}"
    if state is RunState.RUNNING:
        return RunTimeoutError(
            f"{where} did not finish in {limit:g} s.  It is still pending.",
            hint="Wait longer, or stop it with dev.reset().",
        )
    if state is RunState.ABORTED:
        try:
            session.loaded_id()
        except DeviceLostError as lost:
            return lost
        except FpgaError:
            pass
        return RunError(f"{where} was aborted.", hint="Its output is not complete: run it again.")
    return RunError(
        f"{where} ended in an error state.",
        hint="Check the sizes and addresses of its arguments; dev.reset() clears the accelerator.",
    )


__all__ = ["outcome"]
