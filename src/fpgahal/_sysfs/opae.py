# SPDX-License-Identifier: Apache-2.0
"""What the two Intel drivers share: FPGA functions with management engines (FME) and ports.

A class folder links to one container for each PCI function.  In it are ports (a slot each) and at most one FME,
which knows the interface id.  With SR-IOV a port moves to a virtual function; its FME stays on the physical one,
which the virtual function's ``physfn`` link names.  `dfl` and `intel_fpga` say how the folders are called.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from fpgahal._info import DeviceInfo
from fpgahal._sysfs import pci, read
from fpgahal._sysfs.tree import BDF, Tree, base, parent

InterfaceReader = Callable[[Tree, str], "uuid.UUID | read.Unreadable | None"]


class Layout(NamedTuple):
    """How one driver calls things."""

    kernel_driver: str
    class_folder: str
    container: re.Pattern[str]  # a container in the class folder
    parent: str  # the folder between the PCI function and the container
    port: re.Pattern[str]
    fme: re.Pattern[str]
    interface_id: InterfaceReader  # of an FME's folder (real path)
    alarms: Callable[[Tree, str], tuple[str, str] | None]  # likewise: the files that say it is hot, and too hot
    modules: str  # which kernel modules bring ports, FME and interface id


@dataclass(slots=True)
class Function:
    """One PCI function: its ports and FMEs, as real paths."""

    bdf: str
    folder: str
    physical: str = ""  # BDF of the physical function, on a virtual one
    ports: list[str] = field(default_factory=list)
    fmes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def scan(tree: Tree, layout: Layout) -> list[DeviceInfo]:
    """Return the slots that one driver shows."""
    functions = _functions(tree, layout)
    serving = {f.physical for f in functions.values() if f.physical and f.ports}
    found: list[DeviceInfo] = []
    for function in functions.values():
        if function.ports:
            found += _slots(tree, layout, functions, function)
        elif function.bdf not in serving:  # one that serves virtual functions has no slot of its own
            found.append(_without_port(tree, layout, function))
    return found


def _functions(tree: Tree, layout: Layout) -> dict[str, Function]:
    functions: dict[str, Function] = {}
    names = tree.entries(layout.class_folder)
    if isinstance(names, read.Unreadable):
        return functions
    for name in names:
        if not layout.container.fullmatch(name):
            continue
        path = tree.follow(f"{layout.class_folder}/{name}")
        between = parent(path)
        folder = parent(between) if base(between) == layout.parent else ""
        if path.startswith(layout.class_folder):  # not a link: ask the container itself
            folder = tree.follow(f"{path}/device")
        bdf = base(folder)
        if not BDF.fullmatch(bdf):
            continue  # nested region, or an FPGA that is not a PCI board
        function = functions.setdefault(bdf, Function(bdf, tree.root + folder))
        problem = tree.leads_out(path) or tree.leads_out(folder)
        children = read.Unreadable(0, problem) if problem else tree.folders(tree.root + path)
        if isinstance(children, read.Unreadable):
            function.problems.append(f"{name} can't be read ({children.reason}): is the device gone?")
            continue
        for child in children:
            if layout.port.fullmatch(child):
                function.ports.append(f"{tree.root}{path}/{child}")
            elif layout.fme.fullmatch(child):
                function.fmes.append(f"{tree.root}{path}/{child}")
        if not function.fmes:
            physical = base(tree.follow(f"{folder}/physfn"))
            function.physical = physical if BDF.fullmatch(physical) else ""
    return functions


def _slots(tree: Tree, layout: Layout, functions: dict[str, Function], function: Function) -> list[DeviceInfo]:
    manager = functions.get(function.physical) if function.physical else function
    common = pci.Verdict()
    ids = pci.ids(function.folder, common)
    pci.judge_bus(function.folder, common)
    interface_id, fme = _interface(tree, layout, manager, function, common)
    if fme:
        _judge_heat(tree, layout, fme, common)
    found = []
    for number, port in _numbered(function.ports):
        verdict = pci.Verdict()
        verdict.absorb(common)
        node = base(port)
        afu_id = pci.loaded(read.guid(f"{port}/afu_id"), f"{node}/afu_id", verdict, f"is {layout.modules} loaded?")
        if not tree.has_node(node):
            verdict.failed(pci.missing_node(tree, node))
        nodes = (node, base(fme)) if fme else (node,)
        found.append(
            pci.record(
                tree,
                function.folder,
                ids,
                verdict,
                bdf=function.bdf,
                slot=number,
                driver="opae",
                kernel_driver=layout.kernel_driver,
                afu_id=afu_id,
                interface_id=interface_id,
                nodes=nodes,
                management_bdf=manager.bdf if manager and manager is not function else "",
            )
        )
    return found


def _interface(
    tree: Tree, layout: Layout, manager: Function | None, function: Function, verdict: pci.Verdict
) -> tuple[uuid.UUID | None, str]:
    """Return the interface id and the FME's folder; what is wrong with them leaves the ports usable."""
    for problem in function.problems:
        verdict.degraded(problem)
    if manager is None or not manager.fmes:
        where = f"physical function {function.physical}" if function.physical else "this function"
        verdict.degraded(
            f"no management engine (FME) on {where}: the slot can't be programmed from here; "
            f"in a virtual machine that is normal, else check that {layout.modules} is loaded"
        )
        return None, ""
    fme = manager.fmes[0]
    if len(manager.fmes) > 1:
        verdict.degraded(f"{len(manager.fmes)} management engines on {manager.bdf}: {base(fme)} is used")
    value = layout.interface_id(tree, fme)
    if not tree.has_node(base(fme)):
        verdict.degraded(f"the slot can't be programmed: {pci.missing_node(tree, base(fme))}")
    if isinstance(value, uuid.UUID):
        return value, fme
    reason = value.reason if isinstance(value, read.Unreadable) else "it is empty or all zero"
    verdict.degraded(
        f"the interface id of {base(fme)} can't be read ({reason}): images can't be checked "
        f"against it; is {layout.modules} loaded?",
        dead=isinstance(value, read.Unreadable) and value.dead,
    )
    return None, fme


def _judge_heat(tree: Tree, layout: Layout, fme: str, verdict: pci.Verdict) -> None:
    files = layout.alarms(tree, fme)
    if files is None or read.number(files[0], 10) != 1:  # the lower limit is reached first
        return
    if read.number(files[1], 10) == 1:
        verdict.failed(f"the FPGA is too hot: {base(fme)} reports its critical temperature; look at the fans")
    else:
        verdict.degraded(f"the FPGA is hot: {base(fme)} reports its upper temperature limit; look at the fans")


def _numbered(ports: list[str]) -> list[tuple[int, str]]:
    """Give each port its number: what the driver says (``id``), or its position if that makes no sense."""
    if len(ports) == 1:
        return [(0, ports[0])]
    ports = sorted(ports, key=lambda path: int(path.rpartition(".")[2]))
    numbers = [read.number(f"{port}/id", 10) for port in ports]
    valid = [n for n in numbers if isinstance(n, int) and 0 <= n < 256]
    if len(set(valid)) != len(ports):
        return list(enumerate(ports))
    return sorted(zip(valid, ports, strict=True))


def _without_port(tree: Tree, layout: Layout, function: Function) -> DeviceInfo:
    verdict = pci.Verdict()
    ids = pci.ids(function.folder, verdict)
    interface_id: uuid.UUID | None = None
    nodes: tuple[str, ...] = ()
    if function.problems:
        for problem in function.problems:
            verdict.failed(problem)
    elif not function.fmes:
        verdict.failed(f"no port and no management engine: is {layout.modules} loaded?")
    else:
        virtual = read.number(f"{function.folder}/sriov_numvfs", 10)
        if isinstance(virtual, int) and virtual > 0:
            advice = f"they are on its {virtual} virtual functions, which another driver holds (vfio-pci?)"
        else:
            advice = f"is {layout.modules} loaded, is a port assigned to the physical function?"
        verdict.failed(f"a management engine (FME) without port: {advice}")
        value = layout.interface_id(tree, function.fmes[0])
        interface_id = value if isinstance(value, uuid.UUID) else None
        nodes = (base(function.fmes[0]),)
    return pci.record(
        tree,
        function.folder,
        ids,
        verdict,
        bdf=function.bdf,
        driver="opae",
        kernel_driver=layout.kernel_driver,
        interface_id=interface_id,
        nodes=nodes,
    )
