# SPDX-License-Identifier: Apache-2.0
"""What a node offers to claims: each board, and each image that fits it.  Pure functions.

A board holds one image at a time, so the devices of one board exclude each other (`slices` says that with a counter).
The board itself is for those who take it as it is; a device with an image is programmed before the pod starts, and its
compute units may be shared.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fpgahal import DeviceInfo
from fpgahal.k8s.labels import node_labels
from fpgahal.k8s.names import INTEL_DOMAIN, region_resource
from fpgahal.k8s.planner import Image
from fpgahal.k8s.plugin.health import reason
from fpgahal.k8s.schemes import board, inaccel, own


@dataclass(frozen=True, slots=True)
class Device:
    """Something that can be allocated.

    Attributes
    ----------
    name : str
        A DNS label: the board's address, and the image's name behind it.
    info : DeviceInfo
    image : Image or None
        What it is programmed with; None: the board as it is.
    """

    name: str
    info: DeviceInfo
    image: Image | None = None


def devices(
    infos: Sequence[DeviceInfo], images: Iterable[Image] = (), labels: Mapping[str, str] | None = None
) -> list[Device]:
    """List what can be allocated, boards in the order of their addresses.

    Boards that are not healthy are left out; one that only lacks a working image is still good for being programmed.

    Parameters
    ----------
    infos : sequence of DeviceInfo
    images : iterable of Image
        Those without an AFU id are left out: it is not known what to load.
    labels : mapping of str to str, optional
        The node's, for images with a node_selector.
    """
    known = sorted((image for image in images if image.afu_id), key=lambda image: image.name)
    found = []
    for info in infos:
        if not board.application_nodes(info):
            continue
        base = board_name(info)
        if not reason(info):
            found.append(Device(base, info))
        if not reason(info, to_be_programmed=True):
            found += [Device(f"{base}-{image.name}", info, image) for image in known if fits(image, info, labels or {})]
    return found


def board_name(info: DeviceInfo) -> str:
    """Name a board as a DNS label: ``0000-3b-00-0-0``; of its counter set, too."""
    return re.sub("[^0-9a-f]", "-", info.address.lower())


def fits(image: Image, info: DeviceInfo, labels: Mapping[str, str]) -> bool:
    """Tell whether an image is for a board: its kind, its shell, and the node that it is in."""
    if image.board not in _names(info):
        return False
    if image.interface_id and (info.interface_id is None or image.interface_id != info.interface_id.hex):
        return False
    return image.fits({**labels, **node_labels([info], inaccel=True)})


def _names(info: DeviceInfo) -> set[str]:
    """Give the names that a catalogue may call a board's kind."""
    found = {own.resource(info), inaccel.resource(info)}
    if info.interface_id is not None and info.driver != "xrt":
        found.add(f"{INTEL_DOMAIN}/{region_resource(info.interface_id.hex)}")
    return found - {""}
