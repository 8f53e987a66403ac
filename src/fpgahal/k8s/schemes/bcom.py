# SPDX-License-Identifier: Apache-2.0
"""b<>com's scheme: ``b-com.com/accelerator``, and variables that tell the container which boards it has.

Their plugin gave no device nodes (pods were privileged); here the container gets its boards' nodes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fpgahal import DeviceInfo
from fpgahal.k8s.plugin.unit import Skipped, Unit
from fpgahal.k8s.schemes import board
from fpgahal.k8s.schemes.settings import Settings

RESOURCE = "b-com.com/accelerator"
UNITS = "ACCELERATOR_UNITS"  # what their README says, and the variant for AWS sets
DEVICES = "ACCELERATOR_DEVICES"  # what the variant for Intel sets


def units(devices: Sequence[DeviceInfo], settings: Settings) -> Iterator[Unit | Skipped]:
    """Offer each board as one unit, called by its PCI address."""
    boards: dict[str, list[DeviceInfo]] = {}
    for info in devices:
        problem = board.problem(info)
        if problem:
            yield Skipped(info.address, problem)
        else:
            boards.setdefault(info.bdf, []).append(info)
    for bdf, slots in boards.items():
        id = bdf.removeprefix("0000:")  # theirs leave the PCI domain out
        nodes = [node for info in slots for node in board.application_nodes(info)]
        yield board.unit(id, RESOURCE, slots, nodes, env={DEVICES: id, UNITS: id})


def counted_units(devices: Sequence[DeviceInfo], settings: Settings) -> Iterator[Unit | Skipped]:
    """Offer a number of units that stand for no board, on every node: their variant for AWS.

    The boards themselves stay free for the schemes that follow.
    """
    for number in range(settings.bcom_units):
        yield Unit(str(number), RESOURCE, env={UNITS: str(number)})
