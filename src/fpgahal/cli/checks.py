# SPDX-License-Identifier: Apache-2.0
"""What an FPGA machine needs, one function a check.

A vendor's stack that is missing on a machine without boards is "absent", not a failure.  Everything that might
take this process down (vendor libraries abort when they dislike their environment) is tried in a child.
"""

from __future__ import annotations

import glob
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

import fpgahal
from fpgahal import DeviceInfo, DeviceNotFoundError

Status = Literal["ok", "warn", "fail", "absent"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes
    ----------
    name : str
    status : {"ok", "warn", "fail", "absent"}
    found : str
        What is there.
    advice : str
        What to do about it; empty if nothing.
    """

    name: str
    status: Status
    found: str
    advice: str = ""


# PCI vendor and device ids of boards, by the family that drives them, and the driver modules of each family.
# Sources: the table of libopae-c 2.14, the drivers xocl and xclmgmt of XRT 2.13.
OPAE_IDS = {
    "8086": {
        "09c4",
        "09c5",
        "0b2b",
        "0b2c",
        "0b30",
        "0b31",
        "bcbd",
        "bcc0",
        "bcc1",
        "bcce",
        "bccf",
        "af00",
        "af01",
        "0ddb",
    },
    "1c2c": {"1000", "1001", "1002", "1003"},
    "1ded": {"8103"},
}
XRT_VENDORS = {"10ee", "13fe", "3475"}
XRT_AWS_IDS = {"1042", "f010", "f011"}
ACCELERATOR_CLASS = "0x12"  # PCI class "processing accelerator": boards of vendors that make other things as well
MODULES = {"opae": ("dfl_pci", "intel_fpga_pci"), "xrt": ("xocl", "xclmgmt")}


def all_checks(root: str = "/", timeout: float = 10.0) -> list[Check]:
    """Run every check; `root` is the folder that stands for ``/``."""
    cards = pci_cards(root)
    families = {family for _, family, _ in cards}
    checks = [python()]
    checks += [modules(root, family, cards) for family in ("opae", "xrt")]
    checks += bound_elsewhere(cards)
    checks += [library(family, family in families, timeout) for family in ("opae", "xrt")]
    checks += [xilinx_xrt("xrt" in families)]
    checks += [hugepages(root, size, "opae" in families) for size in (2048, 1048576)]
    checks += [memlock(bool(families))]
    checks += devices()
    checks += [emulator(family, timeout) for family in ("opae", "xrt")]
    checks += [opae_programs(timeout), programs_of_xrt(), runtime_folder()]
    return checks


def python() -> Check:
    """The versions to put into a bug report."""
    return Check(
        "versions",
        "ok",
        f"fpgahal {fpgahal.__version__}, Python {platform.python_version()}, "
        f"NumPy {np.__version__}, Linux {platform.release()} {platform.machine()}",
    )


def pci_cards(root: str) -> list[tuple[str, str, str]]:
    """(PCI address, family, bound driver or empty) of every FPGA function on the bus."""
    found = []
    for folder in sorted(glob.glob(os.path.join(root, "sys/bus/pci/devices/*"))):
        vendor, device, kind = (_read(f"{folder}/{name}") for name in ("vendor", "device", "class"))
        family = _family(vendor.removeprefix("0x"), device.removeprefix("0x"), kind)
        if family:
            link = f"{folder}/driver"
            driver = os.path.basename(os.path.realpath(link)) if os.path.exists(link) else ""
            found.append((os.path.basename(folder), family, driver))
    return found


def _family(vendor: str, device: str, kind: str) -> str:
    if device in OPAE_IDS.get(vendor, ()):
        return "opae"
    if vendor == "1d0f":
        return "xrt" if device in XRT_AWS_IDS else ""
    return "xrt" if vendor in XRT_VENDORS and kind.startswith(ACCELERATOR_CLASS) else ""


def modules(root: str, family: str, cards: list[tuple[str, str, str]]) -> Check:
    """The kernel driver of a family; several are possible, one is enough."""
    names = MODULES[family]
    name = f"kernel modules for {family.upper()}"
    loaded = [
        f"{module} {_read(f'{root}/sys/module/{module}/version')}".strip()
        for module in names
        if os.path.isdir(os.path.join(root, "sys/module", module))
    ]
    bare = [bdf for bdf, kind, driver in cards if kind == family and not driver]
    wanted = " or ".join(names) if family == "opae" else " and ".join(names)
    if bare:
        return Check(
            name,
            "fail",
            f"{', '.join(bare)} without a driver; loaded: {', '.join(loaded) or 'none'}",
            f"Load the driver: modprobe {names[0]}.  dmesg tells why a driver refuses a card.",
        )
    if loaded:
        return Check(name, "ok", ", ".join(loaded))
    return Check(
        name,
        "absent",
        f"{wanted} not loaded, no such board on the bus",
        f"Only needed with a board: modprobe {names[0]}.",
    )


def bound_elsewhere(cards: list[tuple[str, str, str]]) -> Iterator[Check]:
    """Boards that are given to virtual machines or user-space drivers."""
    for bdf, _, driver in cards:
        if driver == "vfio-pci":
            yield Check(
                f"driver of {bdf}",
                "warn",
                "bound to vfio-pci",
                "fpgahal uses the kernel's FPGA drivers: unbind it from vfio-pci, bind it to its own driver.",
            )


def probe(what: str, timeout: float) -> dict[str, str]:
    """Load a library in a child; ``{"path", "via", "version"}``, or ``{"error", "hint"}``."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "fpgahal._probe", what], capture_output=True, text=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired:
        return {"error": f"loading it took more than {timeout:g} s", "hint": "See what it waits for: strace -f."}
    try:
        answer: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {"error": f"loading it ended the process ({how}): {last}", "hint": "Mend that installation."}
    return answer


def library(family: str, has_board: bool, timeout: float) -> Check:
    """The vendor's library that would be used."""
    name = {"opae": "library libopae-c", "xrt": "library libxrt_coreutil"}[family]
    answer = probe(family, timeout)
    if "path" in answer:
        return Check(name, "ok", f"{answer['path']} {answer['version']} (via {answer['via']})".replace("  ", " "))
    missing = answer.get("type") == "LibraryNotFoundError"
    if missing and has_board and family == "opae" and not os.environ.get("FPGAHAL_OPAE_LIBRARY"):
        return Check(
            name,
            "absent",
            "not installed; fpgahal opens Intel boards through their kernel driver itself",
            "Only setting user clocks needs it.",
        )
    status: Status = "absent" if missing and not has_board else "fail"
    return Check(name, status, answer["error"], answer["hint"])


def xilinx_xrt(has_board: bool) -> Check:
    """XRT 2.13 takes its driver from $XILINX_XRT/lib, and aborts the process when it is not there."""
    name, folder = "XILINX_XRT", os.environ.get("XILINX_XRT", "")
    mode = os.environ.get("XCL_EMULATION_MODE")
    if mode is not None:
        return Check(
            name,
            "warn",
            f"XCL_EMULATION_MODE={mode!r}: XRT would not use real boards",
            "unset XCL_EMULATION_MODE, unless you want XRT's own emulation.",
        )
    if not folder:
        status: Status = "warn" if has_board else "absent"
        return Check(name, status, "not set", "With a board: source /opt/xilinx/xrt/setup.sh.")
    driver = Path(folder, "lib", "libxrt_core.so.2")
    if driver.exists():
        return Check(name, "ok", folder)
    return Check(
        name,
        "fail",
        f"{folder} has no lib/libxrt_core.so.2: XRT 2.13 would abort the process",
        "Source XRT's setup.sh, or unset XILINX_XRT.",
    )


def hugepages(root: str, kilobytes: int, has_board: bool) -> Check:
    """OPAE takes buffers above 4 KiB from 2 MiB pages, above 2 MiB from 1 GiB pages."""
    label = "2 MiB" if kilobytes == 2048 else "1 GiB"
    name = f"huge pages, {label}"
    folder = os.path.join(root, f"sys/kernel/mm/hugepages/hugepages-{kilobytes}kB")
    total, free = (_number(f"{folder}/{file}") for file in ("nr_hugepages", "free_hugepages"))
    advice = (
        f"echo {64 if kilobytes == 2048 else 4} > /sys/kernel/mm/hugepages/hugepages-{kilobytes}kB/nr_hugepages "
        "(as root; at boot: hugepages= on the kernel's command line)."
    )
    if total is None:
        memory = _meminfo(root)
        if memory.get("Hugepagesize") == kilobytes:
            total, free = memory.get("HugePages_Total"), memory.get("HugePages_Free")
    if total is None:
        return Check(name, "absent", "this kernel or CPU has none of that size")
    found = f"{total} reserved, {free or 0} free"
    if total and free:
        return Check(name, "ok", found)
    if not has_board:
        return Check(name, "absent", found, f"Only OPAE boards need them: {advice}")
    small = kilobytes == 2048
    return Check(name, "warn", found, f"Buffers above {'4 KiB' if small else '2 MiB'} will fail.  {advice}")


def memlock(has_board: bool) -> Check:
    """Drivers count pinned memory against this limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    name = "limit of locked memory"
    if soft == resource.RLIM_INFINITY:
        return Check(name, "ok", "unlimited")
    found = f"{soft // 1024} KiB"
    if has_board and soft < 1 << 30:
        return Check(
            name,
            "warn",
            found,
            "Larger buffers will fail.  ulimit -l unlimited; for good: memlock in "
            "/etc/security/limits.conf, LimitMEMLOCK=infinity in a systemd unit.",
        )
    return Check(name, "ok", found)


def devices() -> Iterator[Check]:
    """What the enumerator finds, how it fares, and whether this user may open it."""
    try:
        found = fpgahal.devices()
    except DeviceNotFoundError as error:
        yield Check("devices", "fail", error.message, error.hint)
        return
    emulated = " EMULATED" if any(info.emulated for info in found) else ""
    if not found:
        yield Check("devices", "absent", "none", "For an emulated one: --emulate pac-a10, or FPGAHAL_EMULATE=pac-a10.")
        return
    yield Check("devices", "ok", f"{len(found)}{emulated}")
    for info in found:
        if not info.health.ok:
            status: Status = "warn" if info.health.status is fpgahal.HealthStatus.DEGRADED else "fail"
            yield Check(
                f"health of {info.address}{emulated}",
                status,
                str(info.health),
                "Program an image that is known to be good; if that fails, reboot or power-cycle the card.",
            )
        yield permissions(info)


def permissions(info: DeviceInfo) -> Check:
    """May this user open the device's nodes?"""
    name = f"access to {info.address}{' EMULATED' if info.emulated else ''}"
    nodes = info.device_nodes
    missing = [node for node in nodes if not os.path.exists(node)]
    denied = [node for node in nodes if node not in missing and not os.access(node, os.R_OK | os.W_OK)]
    if denied:
        status: Status = "fail" if nodes[0] in denied else "warn"  # the first is the application's
        return Check(
            name,
            status,
            f"not readable and writable for this user: {', '.join(denied)}",
            f"Add the user to group {_group(denied[0])!r}, or a udev rule that gives it access.",
        )
    if missing:
        return Check(
            name,
            "fail" if nodes[0] in missing else "warn",
            f"no such node: {', '.join(missing)}",
            "In a container, pass the nodes in: docker run --device NODE; else see dmesg for the driver.",
        )
    return Check(name, "ok", ", ".join(nodes) or "needs no node")


def emulator(family: str, timeout: float) -> Check:
    """The emulated vendor library that comes with fpgahal."""
    answer = probe(f"emu-{family}", timeout)
    name = f"emulated {family.upper()} library"
    if "path" in answer:
        return Check(name, "ok", answer["path"])
    return Check(name, "fail", answer["error"], answer["hint"])


def opae_programs(timeout: float) -> Check:
    """What `fpgahal emulate` gives to a program that uses libopae-c."""
    name = "OPAE programs on emulated boards"
    try:
        route = fpgahal.emu.opae_route(timeout)
    except fpgahal.FpgaError as error:
        return Check(name, "fail", error.message, error.hint)
    if route.library:
        seen = f"PCI id {':'.join(route.pci_id)}" if route.pci_id else "the simulator's PCI id"
        return Check(name, "ok", f"fpgahal emulate: plugin below {route.library} {route.version} (through {seen})")
    return Check(
        name,
        "ok",
        "fpgahal emulate: stand-alone library as libopae-c.so.2 and .so.1; fpgainfo and fpgad, "
        f"which need the real one, do not run ({route.why_not})",
    )


def programs_of_xrt() -> Check:
    """Whether ``fpgahal emulate u250 -- PROGRAM`` can run a program that uses libxrt itself."""
    name = "XRT programs on emulated boards"
    path, obstacle = fpgahal.emu.xrt_driver()
    if path is None:
        return Check(
            name,
            "absent",
            obstacle,
            "Only for programs that call XRT without fpgahal: docs/xrt-versions.md "
            "says how to build the driver that they need.",
        )
    return Check(name, "ok", path)


def runtime_folder() -> Check:
    """Where racks of emulated boards live."""
    folder = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    name = "folder for emulated racks"
    if not os.access(folder, os.W_OK):
        return Check(name, "fail", f"{folder} is not writable", "Set XDG_RUNTIME_DIR to a folder of your own.")
    free = shutil.disk_usage(folder).free >> 20
    if free < 64:
        return Check(name, "warn", f"{folder}, {free} MiB free", "Make room there: an emulated board needs a few MiB.")
    return Check(name, "ok", f"{folder}, {free} MiB free")


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace").strip("\0\n ")
    except OSError:
        return ""


def _number(path: str) -> int | None:
    text = _read(path)
    return int(text) if text.isdigit() else None


def _meminfo(root: str) -> dict[str, int]:
    lines = (line.split() for line in _read(os.path.join(root, "proc/meminfo")).splitlines())
    return {words[0].rstrip(":"): int(words[1]) for words in lines if len(words) > 1 and words[1].isdigit()}


def _group(node: str) -> str:
    import grp

    number = os.stat(node).st_gid
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)
