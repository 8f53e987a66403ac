# SPDX-License-Identifier: Apache-2.0
"""Which boards a worker process gets.

An engine counts boards and does not know one from the other: it says "two", not "these two".  So each process takes
boards that it can open alone.  That a board is never in two processes is the driver's (or the lock file's) doing; and
as the kernel drops these locks when a process dies, a killed worker's boards are free for the next one.
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack, suppress
from typing import Any

import fpgahal
from fpgahal import (
    ClosedError,
    DeviceBusyError,
    DeviceGroup,
    DeviceInfo,
    DeviceLostError,
    DeviceNotFoundError,
    DeviceStateError,
    FpgaError,
    HealthStatus,
)

RESOURCE = "fpga"  #: What both engines count.  One name for all boards: see docs/cluster-engines.md.
#: What says that an opened board is of no more use: it dropped off the bus (also if it is back), or was closed.
GONE = (ClosedError, DeviceLostError, DeviceStateError)


def matching(**select: Any) -> list[DeviceInfo]:
    """The boards of this machine that have not failed, and that :func:`fpgahal.find` would take for `select`."""
    found = []
    for info in fpgahal.devices():
        with suppress(DeviceNotFoundError):
            found.append(fpgahal.find(info.address, **select))
    return [info for info in found if info.health.status is not HealthStatus.FAILED]


def resources(**select: Any) -> dict[str, int]:
    """What to tell an engine that this machine has.

    Parameters
    ----------
    **select : optional
        Only boards that match: ``driver``, ``name``, ``platform``, ``afu_id``, as for :func:`fpgahal.open`.

    Returns
    -------
    dict
        ``{"fpga": 2}``: boards that have not failed and whose device node this user may open (a container sees all
        boards of its machine, but gets the nodes of its own); empty if there are none.
    """
    usable = [info for info in matching(**select) if all(os.access(node, os.R_OK) for node in info.device_nodes[:1])]
    return {RESOURCE: len(usable)} if usable else {}


def claim(count: int, *, least: int | None = None, timeout: float = 30.0, **select: Any) -> DeviceGroup:
    """Open boards that nobody has open, exclusively.

    Parameters
    ----------
    count : int
    least : int, optional
        Be content with so many; by default, with `count`.
    timeout : float
        Seconds to wait for boards that others have open (a killed process takes a moment to be gone).
    **select : optional
        Only boards that match, as for :func:`resources`.

    Raises
    ------
    DeviceNotFoundError
        There are not that many that could be opened; the message says what is wrong with each.
    DeviceBusyError
        There are, but others have them open.
    """
    least = count if least is None else least
    end = time.monotonic() + timeout
    while True:
        reasons, busy = [], 0
        with ExitStack() as opened:
            boards: list[fpgahal.Device] = []
            for info in matching(**select):
                if len(boards) == count:
                    break
                try:
                    boards.append(opened.enter_context(fpgahal.open(info)))
                except DeviceBusyError as error:
                    busy += 1
                    reasons.append(error.message)
                except FpgaError as error:
                    reasons.append(error.message)
            late = time.monotonic() >= end
            if len(boards) == count or (late and len(boards) >= least):
                opened.pop_all()
                return DeviceGroup(boards)
            free = len(boards)
        # those that were opened are closed again: two processes that wait must not have what the other one needs
        what = f"{least} board{'s' * (least != 1)}{f' with {select}' if select else ''}"
        listed = "".join(f"\n    {reason}" for reason in reasons)
        if free + busy < least:
            raise DeviceNotFoundError(
                f"This worker needs {what}; of this machine's, {free + busy} can be opened.{listed}",
                hint="`fpgahal list` shows the boards.  Offer an engine no more than fpgahal.contrib's resources() "
                "says; FPGAHAL_EMULATE=u250:2 gives you emulated ones.",
            )
        if late:
            raise DeviceBusyError(
                f"This worker needs {what}; {free} of this machine's are free (waited {timeout:g} s).{listed}",
                hint="Offer the engine no board that others use, and each board once: workers on one machine share "
                "what resources() says.",
            )
        time.sleep(0.05)


__all__ = ["GONE", "RESOURCE", "claim", "matching", "resources"]
