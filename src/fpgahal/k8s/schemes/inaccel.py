# SPDX-License-Identifier: Apache-2.0
"""InAccel's scheme: ``xilinx/aws-vu9p-f1``, ``intel/pac_a10``; a node label of the same name says which shell."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from fpgahal import DeviceInfo
from fpgahal.k8s.names import name_part
from fpgahal.k8s.plugin.unit import Skipped, Unit
from fpgahal.k8s.schemes import board
from fpgahal.k8s.schemes.settings import Settings

# xilinx_u250_gen3x16_xdma_shell_2_1, xilinx_aws-vu9p-f1_dynamic_5_0, xilinx_aws-vu9p-f1-04261818_dynamic_5_0
_SHELL = re.compile(r"xilinx_(?P<board>aws-vu\w+?-f[0-9]+|[A-Za-z0-9-]+?)(-[0-9]{8})?_(?P<shell>.+)")
_AWS_DYNAMIC = re.compile(r"dynamic(_[0-9]+)*")
_OPENCL_NAMES = {"pac-a10": "pac_a10", "d5005": "pac_s10"}  # their names come from OpenCL


def resource(info: DeviceInfo) -> str:
    """Give the name of a board: vendor and board, ``"xilinx/u250"``; empty for other vendors' boards."""
    if info.driver == "xrt":
        shell = _SHELL.fullmatch(info.platform)
        return f"xilinx/{shell['board'] if shell else name_part(info.board)}"
    if info.vendor_id == 0x8086:
        return f"intel/{_OPENCL_NAMES.get(info.board) or name_part(info.board).replace('-', '_')}"
    return ""


def shell_label(info: DeviceInfo) -> str:
    """Give the value of the node label with the resource's name: which shell the board has.

    ``xdma_201830.2``, ``gen3x16_xdma_shell_2.1``, ``dynamic-shell``; of Intel's boards the interface id.
    Empty if it is not known.
    """
    if info.driver != "xrt":
        return info.interface_id.hex if info.interface_id else ""
    found = _SHELL.fullmatch(info.platform)
    if found is None:
        return ""
    if _AWS_DYNAMIC.fullmatch(found["shell"]):
        return "dynamic-shell"
    return re.sub(r"_([0-9]+)$", r".\1", found["shell"])


def units(devices: Sequence[DeviceInfo], settings: Settings) -> Iterator[Unit | Skipped]:
    """Offer Intel's and AMD's boards, also those on AWS."""
    for info in devices:
        name, problem = resource(info), board.problem(info)
        if not name:
            continue
        if problem or name.endswith("/"):
            yield Skipped(info.address, problem or "nothing says which board it is, and so its name in this scheme")
            continue
        yield board.unit(board.slot_id(info), name, (info,), board.application_nodes(info))
