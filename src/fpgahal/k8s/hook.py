# SPDX-License-Identifier: Apache-2.0
"""The command ``fpgahal-hook``: called by a container runtime before a container starts (OCI's createRuntime).

It reads the container's state on standard input and ``config.json`` in its bundle, and refuses the container, by an
exit code other than 0, unless each board that the container was given runs what it should.  What it should comes from
the hook's own options (the CDI file: ``--device``), or from variables of the container; what the container was given,
from the device nodes in its configuration, which no pod can forge.

A container waits for this, so little is imported before it is needed.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import stat
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

import fpgahal
from fpgahal import DeviceInfo, DeviceNotFoundError, DeviceStateError, FpgaError, HealthStatus
from fpgahal.cli.app import OK, Help, Parser, run, seconds
from fpgahal.cli.output import Output
from fpgahal.k8s import wanted
from fpgahal.k8s.wanted import Wish

EPILOG = """\
Without --device, the container's variables FPGA_REGION_n and FPGA_AFU_n say what is to run, and its device nodes where.
With it, that board must run AFU.  The variable FPGAHAL_AFU names one function for all of the container's boards.
Exit code 0: the container may start."""

INTEL_MODE = ("com.intel.fpga.mode", "fpga.intel.com/region")
NAMESPACES = ("io.kubernetes.cri.sandbox-namespace", "io.kubernetes.pod.namespace")  # containerd's, CRI-O's
DEVICE = "FPGAHAL_DEVICE_"
_MAX_STATE, _MAX_CONFIG = 1 << 20, 64 << 20
_PORT = re.compile(r"(?:dfl|intel-fpga)-port\.[0-9]+")


class HookError(FpgaError, ValueError):
    """What the runtime gave makes no sense."""


class HookTimeoutError(FpgaError, TimeoutError):
    """The hook took too long."""


@dataclass(frozen=True, slots=True)
class Container:
    """What the hook uses of a container's state and configuration.

    Attributes
    ----------
    id : str
    env : mapping of str to str
    nodes : tuple
        (path, major, minor) of its device nodes.
    annotations : mapping of str to str
    """

    id: str
    env: Mapping[str, str]
    nodes: tuple[tuple[str, int, int], ...]
    annotations: Mapping[str, str]

    @property
    def namespace(self) -> str | None:
        """The pod's namespace, as the runtime notes it; None if it does not.

        Raises
        ------
        HookError
            There are two, and they differ.
        """
        found = {self.annotations[name] for name in NAMESPACES if self.annotations.get(name)}
        if len(found) > 1:
            raise HookError(f"The container's annotations name two namespaces: {', '.join(sorted(found))}.")
        return next(iter(found), None)


# --- what the runtime gives ---------------------------------------------------------------------------------------


def state(data: bytes) -> Mapping[str, Any]:
    """Parse the container's state.

    Raises
    ------
    HookError
        It is no JSON object with a bundle's path.
    """
    found = _json(data, "the state on standard input")
    if not isinstance(found.get("bundle"), str) or not os.path.isdir(found["bundle"]):
        raise HookError(f"The container's state names no folder as its bundle, but {found.get('bundle')!r}.")
    return found


def container(found: Mapping[str, Any], *, emulated: bool) -> Container:
    """Read a container's configuration.

    Parameters
    ----------
    found : mapping
        Its state.
    emulated : bool
        Emulated boards are files: the container needs no device nodes.

    Raises
    ------
    HookError
        The configuration is missing or broken, or has no variables or no device nodes.
    """
    path = os.path.join(found["bundle"], "config.json")
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_CONFIG + 1)
    except OSError as error:
        raise HookError(f"{path} can't be read: {error.strerror}.") from None
    if len(data) > _MAX_CONFIG:
        raise HookError(f"{path} has more than {_MAX_CONFIG} bytes.")
    config = _json(data, path)
    env = _object(config, "process", path).get("env")
    if not isinstance(env, list) or not env:
        raise HookError(f"{path}: process.env is {_shown(env)}, expected the container's variables.")
    devices = _object(config, "linux", path, optional=emulated).get("devices") or []
    if not isinstance(devices, list) or not (devices or emulated):
        raise HookError(f"{path}: linux.devices is {_shown(devices)}, expected the container's device nodes.")
    notes = {**_strings(config.get("annotations"), path), **_strings(found.get("annotations"), "the state")}
    return Container(str(found.get("id", "?")), _variables(env, path), tuple(_node(d, path) for d in devices), notes)


def _json(data: bytes, what: str) -> Mapping[str, Any]:
    import json

    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise HookError(f"{what} is no JSON: {error}.") from None
    if not isinstance(found, dict):
        raise HookError(f"{what} is no JSON object, but {_shown(found)}.")
    return found


def _object(config: Mapping[str, Any], key: str, path: str, *, optional: bool = False) -> Mapping[str, Any]:
    found = config.get(key, {} if optional else None)
    if not isinstance(found, dict):
        raise HookError(f"{path}: {key} is {_shown(found)}, expected an object.")
    return found


def _strings(found: Any, path: str) -> dict[str, str]:
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise HookError(f"{path}: annotations are {_shown(found)}, expected an object of texts.")
    return found


def _variables(env: Sequence[Any], path: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for entry in env:
        name, equals, value = entry.partition("=") if isinstance(entry, str) else ("", "", "")
        if not equals:
            raise HookError(f"{path}: process.env has {_shown(entry)}, expected NAME=value.")
        if found.get(name, value) != value and name.startswith("FPGA"):
            raise HookError(f"{path}: {name} is set twice, to {found[name]!r} and {value!r}: which one counts?")
        found[name] = value
    return found


def _node(device: Any, path: str) -> tuple[str, int, int]:
    known = device if isinstance(device, dict) else {}
    name, major, minor = known.get("path"), known.get("major", -1), known.get("minor", -1)
    if not isinstance(name, str) or not isinstance(major, int) or not isinstance(minor, int):
        raise HookError(f"{path}: linux.devices has {_shown(device)}, expected path, major and minor.")
    return name, major, minor


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


# --- which boards it has, and what they must run ------------------------------------------------------------------


def slots(given: Container, known: Sequence[DeviceInfo]) -> list[DeviceInfo]:
    """Find the slots whose device nodes a container was given.

    A real board is known by its node's number: a path is only a name.  An emulated one, whose node is a plain file
    in the rack, by the node's name, or by a variable FPGAHAL_DEVICE_… that the CDI file sets.

    Raises
    ------
    DeviceNotFoundError
        A node is an FPGA's by its name, but no board here has it; or there is none at all.
    """
    by_number = {number: info for info in known if not info.emulated and (number := _number(info))}
    by_name = {os.path.basename(info.device_nodes[0]): info for info in known if info.emulated and info.device_nodes}
    found: dict[DeviceInfo, None] = {}
    for path, major, minor in given.nodes:
        info = by_number.get((major, minor)) or by_name.get(os.path.basename(path))
        if info is not None:
            found[info] = None
        elif _PORT.fullmatch(os.path.basename(path)):
            raise DeviceNotFoundError(f"The container has {path} ({major}:{minor}), but no board here has that node.")
    if by_name:
        for name, address in given.env.items():
            if name.startswith(DEVICE):
                found[_board(address, known)] = None
    if not found:
        nodes = ", ".join(path for path, *_ in given.nodes) or "none"
        raise DeviceNotFoundError(
            f"The container has no FPGA: its device nodes are {nodes}.",
            hint="Without --device, this hook is for containers that were given FPGA ports.",
        )
    return list(found)


def _number(info: DeviceInfo) -> tuple[int, int] | None:
    try:
        status = os.stat(info.device_nodes[0]) if info.device_nodes else None
    except OSError:
        return None
    if status is None or not stat.S_ISCHR(status.st_mode):
        return None
    return os.major(status.st_rdev), os.minor(status.st_rdev)


def _board(address: str, known: Sequence[DeviceInfo]) -> DeviceInfo:
    for info in known:
        if info.address == address:
            return info
    there = ", ".join(info.address for info in known) or "none"
    raise DeviceNotFoundError(f"There is no board {address}; there are: {there}.", hint="See `fpgahal list`.")


def wishes(given: Container, known: Sequence[DeviceInfo], devices: Sequence[tuple[str, str]]) -> list[Wish]:
    """Say which board must run what.

    Parameters
    ----------
    given : Container
    known : sequence of DeviceInfo
        The boards of this machine.
    devices : sequence of (str, str)
        Address and AFU id (or "") of the ``--device`` options.

    Raises
    ------
    FpgaError
        The variables make no sense, a board is not there, or two AFUs are wanted on one slot.
    """
    found = []
    for_all, pairs = wanted.of_all(given.env), wanted.pairs(given.env)
    for address, afu in devices:
        info = _board(address, known)
        if info.health.status is HealthStatus.FAILED and not info.health.needs_image:
            raise DeviceStateError(f"{address} can't be used: {info.health.reason}.")
        found += [Wish(info, one) for one in (afu and wanted.canonical_afu(afu), for_all) if one]
    if not (pairs or for_all or devices):
        raise HookError(
            f"The container has no variables {wanted.REGION}_1 and {wanted.AFU}_1.",
            hint="The webhook sets them.  A hook for containers without them has the option --device.",
        )
    if pairs or not devices:
        mine = slots(given, known)
        found += wanted.assign(pairs, mine)
        found += [Wish(info, for_all) for info in mine if for_all]
    return wanted.settled(found)


# --- the command ----------------------------------------------------------------------------------------------------


def build_parser() -> Parser:
    """Declare the options."""
    parser = Parser(
        prog="fpgahal-hook",
        epilog=EPILOG,
        description="Refuse a container whose FPGA boards do not run what they should (OCI hook, stage createRuntime).",
        formatter_class=Help,
    )
    parser.add_argument("--version", action="version", version=f"fpgahal {fpgahal.__version__}")
    parser.add_argument(
        "--device", action="append", default=[], metavar="ADDRESS[=AFU]", help="a board of the container; repeat it"
    )
    parser.add_argument("--program", action="store_true", help="load what does not run yet, from the image store")
    parser.add_argument("--store", metavar="DIR", help="image store (default /srv/intel.com/fpga)")
    parser.add_argument("--rack", metavar="DIR", help="boards are those of this EMULATED rack")
    parser.add_argument(
        "--timeout", type=seconds, default=30.0, metavar="S", help="refuse after S seconds (default 30)"
    )
    parser.add_argument(
        "--intel-annotation",
        action="store_true",
        help=f"do nothing unless the container has the annotation {INTEL_MODE[0]}={INTEL_MODE[1]} (only for runtimes "
        "that tell hooks all annotations: CRI-O does, containerd does not)",
    )
    parser.set_defaults(run=hook)
    return parser


def hook(args: argparse.Namespace, out: Output) -> int:
    """Look at the container on standard input."""
    previous = signal.signal(signal.SIGALRM, _late)
    signal.setitimer(signal.ITIMER_REAL, args.timeout + 1)  # what has no time limit of its own
    try:
        _examine(args, time.monotonic() + args.timeout)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    return OK


def _examine(args: argparse.Namespace, end: float) -> None:
    found = state(sys.stdin.buffer.read(_MAX_STATE) if sys.stdin is not None else b"")
    if args.intel_annotation and _strings(found.get("annotations"), "the state").get(INTEL_MODE[0]) != INTEL_MODE[1]:
        return
    given = container(found, emulated=args.rack is not None)
    devices = [(address, afu) for address, _, afu in (one.partition("=") for one in args.device)]
    todo = wishes(given, boards(args.rack), devices)
    if not todo:
        return
    from fpgahal.k8s.programming import ensure

    store = fpgahal.ImageStore(args.store) if args.store else fpgahal.ImageStore()
    for wish in todo:
        left = max(0.0, end - time.monotonic())
        ensure(wish.slot, wish.afu, store=store, namespace=given.namespace, timeout=left, program=args.program)


def boards(rack: str | None) -> list[DeviceInfo]:
    """List this machine's boards, or a rack's.

    Raises
    ------
    DeviceNotFoundError
        The folder is no rack.
    """
    if rack is None:
        return fpgahal.devices()
    found = fpgahal.devices(os.path.abspath(rack))
    if not found or not all(info.emulated for info in found):
        raise DeviceNotFoundError(f"{rack} is no rack of EMULATED boards.", hint="`fpgahal emulate` makes one.")
    return found


def _late(number: int, frame: FrameType | None) -> None:
    raise HookTimeoutError("The hook took longer than its --timeout; the container is refused.")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the hook and give the exit code."""
    return run("fpgahal-hook", build_parser().parse_args, argv)


if __name__ == "__main__":
    sys.exit(main())
