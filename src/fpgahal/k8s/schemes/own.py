# SPDX-License-Identifier: Apache-2.0
"""fpgahal's own scheme: ``fpgahal.dev/u250``, ``fpgahal.dev/pac-a10``.

The name says what stays the same as long as the card is in the machine.  What changes (shell, loaded image) is
on the node's labels: a name with the shell's release in it breaks every pod when a card is updated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fpgahal import DeviceInfo
from fpgahal.k8s.names import DOMAIN, name_part
from fpgahal.k8s.plugin.unit import Skipped, Unit
from fpgahal.k8s.schemes import board
from fpgahal.k8s.schemes.settings import Settings


def family(info: DeviceInfo) -> str:
    """Give the board's family as this scheme calls it: ``"u250"``; of unknown boards the PCI ids."""
    return name_part(info.board) or f"fpga-{info.vendor_id:04x}-{info.device_id:04x}"


def resource(info: DeviceInfo) -> str:
    """Give the name under which a board is offered."""
    return f"{DOMAIN}/{family(info)}"


def units(devices: Sequence[DeviceInfo], settings: Settings) -> Iterator[Unit | Skipped]:
    """Offer every slot that an application can open."""
    for info in devices:
        problem = board.problem(info)
        if problem:
            yield Skipped(info.address, problem)
            continue
        nodes = board.application_nodes(info)
        yield board.unit(board.slot_id(info), resource(info), (info,), nodes, programmed_by_pod=True)
