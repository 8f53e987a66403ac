# SPDX-License-Identifier: Apache-2.0
"""``fpgahal list | show | verify | reset``: what is there, what runs on it, and who uses it."""

from __future__ import annotations

import argparse
import glob
import os
import uuid
from pathlib import Path
from typing import Any

import fpgahal
from fpgahal import AFUMismatchError, DeviceInfo
from fpgahal.cli.app import NOT_SO, OK, UsageError
from fpgahal.cli.emulated import label
from fpgahal.cli.holders import Holder, holders
from fpgahal.cli.output import Output, plain


def add_to(commands: argparse._SubParsersAction[Any], common: argparse.ArgumentParser) -> None:
    """Declare the commands."""
    parser = commands.add_parser("list", parents=[common], help="list the devices; opens none")
    parser.set_defaults(run=list_devices)

    parser = commands.add_parser("show", parents=[common], help="show all that is known of a device; opens nothing")
    parser.add_argument("selector", nargs="?", help="0000:3b:00.0 or 0000:3b:00.0/0; may be left out if there is one")
    parser.set_defaults(run=show)

    parser = commands.add_parser("verify", parents=[common], help="ask the accelerator whether it is the expected one")
    parser.add_argument("selector", nargs="?", help="device; may be left out if there is one")
    parser.add_argument("expected", help="an id (AFU id, xclbin UUID), or an image file")
    parser.set_defaults(run=verify)

    parser = commands.add_parser("reset", parents=[common], help="reset the loaded accelerator")
    parser.add_argument("selector", nargs="?", help="device; may be left out if there is one")
    parser.set_defaults(run=reset)


def list_devices(args: argparse.Namespace, out: Output) -> int:
    """``fpgahal list``."""
    found = fpgahal.devices()

    def text() -> None:
        if not found:
            out.line(
                "No FPGA on this machine.  `fpgahal doctor` says what is missing; "
                "--emulate pac-a10 gives an emulated board."
            )
            return
        out.table(
            ["DEVICE", "DRIVER", "BOARD", "LOADED", "NUMA", "HEALTH"],
            [
                [info.address, info.driver, board_name(info), info.afu_id or "-", info.numa_node, info.health]
                for info in found
            ],
        )

    out.result({"devices": [document(info) for info in found]}, text)
    return OK


def show(args: argparse.Namespace, out: Output) -> int:
    """``fpgahal show``."""
    info = fpgahal.find(args.selector)
    users, complete = holders(held_files(info))

    def text() -> None:
        held_by = [_holder_text(user) for user in users] or ["nobody that is visible here"]
        if not complete:
            held_by.append("(not every process may be looked at: run it as root to see all)")
        out.fields([("device", label(info)), *field_texts(info), ("held by", "\n".join(held_by))])

    out.result({**document(info), "holders": users, "holders_complete": complete}, text)
    return OK


def verify(args: argparse.Namespace, out: Output) -> int:
    """``fpgahal verify``."""
    info = fpgahal.find(args.selector)
    expected = _expected(args.expected)
    with fpgahal.open(info, shared=True) as dev:
        loaded, reason = dev.afu_id, ""
        try:
            dev.verify(expected)
        except AFUMismatchError as error:
            reason = str(error)
    verified = not reason
    out.result(
        {
            "device": info.address,
            "emulated": info.emulated,
            "verified": verified,
            "loaded": loaded,
            "expected": args.expected,
            "reason": reason,
        },
        lambda: out.line(
            f"{label(info)}: verified, runs {loaded}" if verified else f"{'EMULATED ' if info.emulated else ''}{reason}"
        ),
    )
    return OK if verified else NOT_SO


def reset(args: argparse.Namespace, out: Output) -> int:
    """``fpgahal reset``."""
    info = fpgahal.find(args.selector)
    with fpgahal.open(info) as dev:
        dev.reset()
        loaded = dev.afu_id
    out.result(
        {"device": info.address, "emulated": info.emulated, "reset": True, "loaded": loaded},
        lambda: out.line(f"{label(info)}: reset, runs {loaded or 'nothing'}"),
    )
    return OK


def _expected(text: str) -> uuid.UUID | Path:
    try:
        return uuid.UUID(text)
    except ValueError:
        pass
    if not os.path.exists(text):
        raise UsageError(
            f"{text!r} is neither an id nor a file.", hint="An id looks like d8424dc4-a4a3-c413-f89e-433683f9040b."
        )
    return Path(text)


def document(info: DeviceInfo) -> dict[str, Any]:
    """The device as JSON has it."""
    return {"address": info.address, **plain(info)}


def board_name(info: DeviceInfo) -> str:
    """The board's name, which says EMULATED on an emulated one."""
    return f"{info.name} EMULATED" if info.emulated and "EMULATED" not in info.name else info.name


def field_texts(info: DeviceInfo) -> list[tuple[str, object]]:
    """Every field of the device, for people."""
    texts: list[tuple[str, object]] = []
    for name, value in plain(info).items():
        if name.endswith("_id") and isinstance(value, int):
            value = f"{value:04x}"
        elif name == "health":
            value = info.health
        elif name == "pci_class":
            value = f"{value:06x}"
        elif name in ("device_nodes", "missing_nodes"):
            value = "\n".join(value)
        elif name == "name":
            value = board_name(info)
        texts.append((name.replace("_", " "), "-" if value in (None, "") else value))
    return texts


def held_files(info: DeviceInfo) -> list[str]:
    """The files that a process keeps open while it uses the device."""
    locks = glob.glob(f"{glob.escape(info.root)}/run/lock/fpgahal-{info.bdf}-{info.slot}.*")  # XRT shares its nodes
    holds = fpgahal.emu.rack(dir=info.root).hold_files(info) if info.emulated else []
    return [*info.device_nodes, *locks, *holds]


def _holder_text(holder: Holder) -> str:
    return f"pid {holder.pid}  {holder.command}  ({holder.node})"
