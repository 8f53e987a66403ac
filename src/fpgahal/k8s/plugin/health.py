# SPDX-License-Identifier: Apache-2.0
"""Whether a board may be handed out, from what sysfs says of it.

There is no memory here: a board that a later scan finds well again is healthy again.
"""

from __future__ import annotations

from collections.abc import Iterable

from fpgahal import DeviceInfo, HealthStatus


def reason(info: DeviceInfo, *, to_be_programmed: bool = False) -> str:
    """Say why a board can't be handed out; empty if it can.

    Parameters
    ----------
    info : DeviceInfo
    to_be_programmed : bool
        An image is loaded before it is used: then a slot that only lacks a working one is no worse than an empty one.
    """
    if not info.answers:
        return info.health.reason or "the card does not answer"
    if info.health.status is not HealthStatus.FAILED or (to_be_programmed and info.health.needs_image):
        return ""
    return info.health.reason or "failed, for a reason that sysfs does not tell"


def reasons(infos: Iterable[DeviceInfo], *, to_be_programmed: bool = False) -> str:
    """Say why boards that are handed out together can't be; as :func:`reason`."""
    found = ((info, reason(info, to_be_programmed=to_be_programmed)) for info in infos)
    return "; ".join(f"{info.address}: {why}" for info, why in found if why)
