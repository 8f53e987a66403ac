# SPDX-License-Identifier: Apache-2.0
"""AMD's drivers: user functions (xocl, in XRT 2.20 and later xrt-user) and management functions (xclmgmt, xrt-mgmt).

An application opens the user function, ``BDF/drm/renderD*``.  The management function of the same card writes the
fabric.  AWS hides it.  A card that still holds its factory (golden) image shows a management function only.
"""

from __future__ import annotations

import re
import uuid

from fpgahal._info import DeviceInfo
from fpgahal._sysfs import boards, pci, read
from fpgahal._sysfs.tree import BDF, Tree

DRIVERS = "/sys/bus/pci/drivers"
USER_DRIVERS = ("xocl", "xrt-user")
_RENDER = re.compile(r"renderD[0-9]{1,9}")


def scan(tree: Tree) -> list[DeviceInfo]:
    """Return the cards that AMD's drivers show."""
    managers = _bound(tree, ("xclmgmt", "xrt-mgmt"))
    users = _bound(tree, USER_DRIVERS)
    of_card: dict[str, str] = {}  # the card's address without function -> management function
    for bdf in managers:
        of_card.setdefault(bdf[:-1], bdf)
    found = [_user(tree, bdf, path, of_card.get(bdf[:-1], ""), managers) for bdf, path in users.items()]
    served = {bdf[:-1] for bdf in users}
    return found + [_lonely_manager(tree, bdf, path) for bdf, path in managers.items() if bdf[:-1] not in served]


def _bound(tree: Tree, drivers: tuple[str, ...]) -> dict[str, str]:
    """Return the functions bound to one of `drivers`: BDF -> folder below the root."""
    found: dict[str, str] = {}
    for driver in drivers:
        names = tree.entries(f"{DRIVERS}/{driver}")
        for name in filter(BDF.fullmatch, [] if isinstance(names, read.Unreadable) else names):
            found.setdefault(name, tree.follow(f"{DRIVERS}/{driver}/{name}"))
    return found


def _open(tree: Tree, path: str, verdict: pci.Verdict) -> tuple[str, list[str]]:
    """Return a function's real folder and the names in it; a bad one is noted and gives no folder."""
    names = tree.entries(path)
    if isinstance(names, read.Unreadable):
        verdict.failed(f"the PCI function's folder can't be read ({names.reason}): is the device gone?")
        return "", []
    return tree.root + path, names


def _user(tree: Tree, bdf: str, path: str, manager: str, managers: dict[str, str]) -> DeviceInfo:
    verdict = pci.Verdict()
    folder, names = _open(tree, path, verdict)
    if not folder:
        return pci.record(
            tree, "", pci.Ids(), verdict, bdf=bdf, driver="xrt", kernel_driver="xocl", management_bdf=manager
        )
    ids = pci.ids(folder, verdict)
    pci.judge_bus(folder, verdict)
    _judge_driver_state(folder, verdict)
    loaded = pci.loaded(read.guid(f"{folder}/xclbinuuid"), "xclbinuuid", verdict, "is this really a user function?")
    vbnv, timestamp = _shell(folder, names, ids, verdict)
    return pci.record(
        tree,
        folder,
        ids,
        verdict,
        bdf=bdf,
        driver="xrt",
        kernel_driver="xocl",
        afu_id=loaded,
        interface_id=_interface_id(folder, verdict),
        vbnv=vbnv,
        timestamp=timestamp,
        nodes=_nodes(tree, folder, names, managers.get(manager, ""), verdict),
        management_bdf=manager,
        serial=_serial(folder, names),
        logic_id=_logic_id(folder, names),
    )


def _judge_driver_state(folder: str, verdict: pci.Verdict) -> None:
    ready = read.number(f"{folder}/ready")
    if ready == 0:
        verdict.failed(
            "the driver reports the card as not ready (ready=0x0): dmesg says why; a reset may help (xbutil reset)"
        )
    elif isinstance(ready, read.Unreadable) and not ready.missing:  # very old drivers have no such file
        verdict.degraded(f"whether the card is ready can't be read ({ready.reason})")
    if read.number(f"{folder}/dev_offline") == 1:
        verdict.failed("the card is offline (dev_offline=1): it is being reset, or its reset failed")


def _part(names: list[str], prefix: str) -> str:
    return next((name for name in names if name.startswith(prefix)), "")


def _serial(folder: str, names: list[str]) -> str:
    part = _part(names, "xmc.u.") or _part(names, "hwmon_sdm.u.")  # the latter on V70 and Versal
    return read.line(f"{folder}/{part}/serial_num") if part else ""


def _shell(folder: str, names: list[str], ids: pci.Ids, verdict: pci.Verdict) -> tuple[str, int]:
    """Return the shell's name and time stamp, from the feature ROM or, on AWS, from the driver's table."""
    rom = _part(names, "rom.u.") or _part(names, "rom")
    vbnv: str | read.Unreadable = read.Unreadable(0, "there is no rom.u.* folder")
    timestamp: int | read.Unreadable = 0
    if rom:
        vbnv = read.text(f"{folder}/{rom}/VBNV")
        timestamp = read.number(f"{folder}/{rom}/timestamp")
    if not isinstance(vbnv, str) or not vbnv:
        if ids.vendor == boards.AWS and ids.device in boards.AWS_VBNV:
            return boards.AWS_VBNV[ids.device], 0xABCD  # the constant that xocl gives every F1 card
        reason = vbnv.reason if isinstance(vbnv, read.Unreadable) else "it is empty"
        verdict.degraded(f"the shell's name (VBNV) can't be read ({reason}): images can't be checked against it")
        vbnv = ""
    if isinstance(timestamp, read.Unreadable) or not 0 <= timestamp < 1 << 64:
        reason = timestamp.reason if isinstance(timestamp, read.Unreadable) else "it is out of range"
        verdict.degraded(f"the shell's time stamp can't be read ({reason})")
        timestamp = 0
    return vbnv.partition("\n")[0], timestamp


def _interface_id(folder: str, verdict: pci.Verdict) -> uuid.UUID | None:
    """Return the first of ``interface_uuids``: what images for a two-stage shell are built for; one-stage has none."""
    value = read.guid(f"{folder}/interface_uuids")
    if not isinstance(value, read.Unreadable):
        return value
    if not value.missing:
        verdict.degraded(f"interface_uuids can't be read ({value.reason})")
    return None


def _logic_id(folder: str, names: list[str]) -> uuid.UUID | None:
    """Return the last of ``logic_uuids``, which is the outermost partition."""
    value = read.text(f"{folder}/logic_uuids") if "logic_uuids" in names else ""
    found = read.parse_guid(value.rpartition("\n")[2]) if isinstance(value, str) else None
    return found if isinstance(found, uuid.UUID) else None


def _nodes(tree: Tree, folder: str, names: list[str], manager: str, verdict: pci.Verdict) -> tuple[str, ...]:
    """Return the render node, the streaming node (QDMA shells) and the management node, as far as they are there.

    A container sees all of sysfs but only the nodes that it was given; without the management node it works.
    """
    nodes: list[str] = []
    inside = tree.folders(f"{folder}/drm")
    render = next(filter(_RENDER.fullmatch, [] if isinstance(inside, read.Unreadable) else inside), "")
    if not render:
        verdict.failed("no render node (drm/renderD*): the driver has not finished setting the card up; see dmesg")
    else:
        nodes.append(f"dri/{render}")
        if not tree.has_node(nodes[0]):
            verdict.failed(pci.missing_node(tree, nodes[0]))
    instance = _part(names, "dma.qdma.u.").rpartition(".")[2]
    if instance and tree.has_node(f"xfpga/dma.qdma.u{instance}.0"):
        nodes.append(f"xfpga/dma.qdma.u{instance}.0")
    node = _management_node(tree, manager)
    if node and tree.has_node(node):
        nodes.append(node)
    return tuple(nodes)


def _management_node(tree: Tree, path: str) -> str:
    if not path or tree.leads_out(path):
        return ""
    instance = read.number(f"{tree.root}{path}/instance", 10)
    return f"xclmgmt{instance}" if isinstance(instance, int) and instance >= 0 else ""


def _lonely_manager(tree: Tree, bdf: str, path: str) -> DeviceInfo:
    """Report a management function whose user function is not there."""
    verdict = pci.Verdict()
    folder, _ = _open(tree, path, verdict)
    ids = pci.ids(folder, verdict) if folder else pci.Ids()
    name = ""
    if folder and read.number(f"{folder}/mfg") == 1:
        board = read.line(f"{folder}/board_name") or boards.lookup(ids.vendor, ids.device)[0] or "board"
        name = f"xilinx_{board}_GOLDEN_{read.line(f'{folder}/mfg_ver') or '?'}"
        verdict.failed(
            f"the card holds its factory (golden) image {name}: flash a shell with xbmgmt program --base "
            "and power-cycle the machine"
        )
    elif folder:
        verdict.failed(
            "a management function without user function: load xocl (xrt-user), or program a shell with "
            "xbmgmt program --shell"
        )
    node = _management_node(tree, path) if folder else ""
    return pci.record(
        tree,
        folder,
        ids,
        verdict,
        bdf=bdf,
        driver="xrt",
        kernel_driver="xocl",
        vbnv=name,
        name=name,
        nodes=(node,) if node and tree.has_node(node) else (),
        management_bdf=bdf,
    )
