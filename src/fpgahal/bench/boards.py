# SPDX-License-Identifier: Apache-2.0
"""Which board is measured, and getting an accelerator onto it."""

from __future__ import annotations

import uuid

from fpgahal import Bitstream, Device, DeviceStateError
from fpgahal.cli import emulated


def load(dev: Device, afu: str, afu_id: uuid.UUID | None, image: str | None) -> None:
    """Make the board run an accelerator; leave it alone if it does already.

    Parameters
    ----------
    dev : Device
    afu : str
        Its name, from which an image for an emulated board is made.
    afu_id : uuid.UUID or None
        Its id, if that is fixed (OPAE).
    image : str or None
        An image file; without one, a real board is not reprogrammed.

    Raises
    ------
    DeviceStateError
        A real board runs something else, and no image was given.
    """
    if afu_id is not None and dev.afu_id == afu_id:
        return
    if image is not None:
        dev.program(Bitstream.load(image))
    elif dev.info.emulated:
        dev.program(Bitstream.parse(emulated.image(afu, emulated.kind(dev.info)), f"{afu} image"))
    elif afu_id is not None:
        raise DeviceStateError(
            f"{dev.info.address} runs {dev.afu_id or 'nothing'}, not {afu} ({afu_id}).",
            hint="A real board is reprogrammed only with --program IMAGE.",
        )
    if afu_id is not None:
        dev.verify(afu_id)
