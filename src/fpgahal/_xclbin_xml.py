# SPDX-License-Identifier: Apache-2.0
"""EMBEDDED_METADATA: the XML section of an xclbin that describes its kernels.

Read with expat itself: it gives line numbers for messages, and lets a document type (where entities that
expand to gigabytes would be declared) be refused at once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import pairwise
from xml.parsers import expat

from fpgahal._reader import Reader, shown
from fpgahal._types import ArgInfo, ArgKind, KernelInfo
from fpgahal._xclbin_format import FIRST_REGISTER, MAX_CUS_OF_KERNEL

MAX_XML = 16 << 20
_MAX_DEPTH = 32
_CORE = ["project", "platform", "device", "core"]
_NUMBER = re.compile(r"0[xX][0-9a-fA-F]{1,16}|0|[1-9][0-9]{0,19}")
_NAME = re.compile(r"[A-Za-z0-9_]+")  # XRT makes a regular expression of kernel and instance names
_FREQUENCY = re.compile(r"([0-9]{1,6}(\.[0-9]{1,6})?) *MHz")
_COMMON_PROTOCOLS = ("ap_ctrl_hs", "ap_ctrl_chain")
_DEFAULT_RANGE = 0x10000  # of a kernel without a slave port
_KINDS = {0: ArgKind.SCALAR, 1: ArgKind.BUFFER, 2: ArgKind.BUFFER, 3: ArgKind.STREAM, 4: ArgKind.STREAM}


@dataclass(slots=True)
class _Element:
    tag: str
    attributes: dict[str, str]
    line: int
    children: list[_Element] = field(default_factory=list)


@dataclass(slots=True)
class _Argument:
    """One <arg>; several of the same id make one argument."""

    name: str
    kind: ArgKind
    type: str
    size: int
    offset: int
    line: int


class _Tree:
    """Collects the elements that matter and drops the rest."""

    def __init__(self, part: Reader) -> None:
        self.part = part
        self.path: list[str] = []
        self.kernels: list[_Element] = []
        self.clocks: list[_Element] = []
        self.core = False
        self.parser = expat.ParserCreate("utf-8")  # whatever encoding the text claims
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.StartDoctypeDeclHandler = self._doctype

    def _doctype(self, *_: object) -> None:
        raise self.part.error(f"line {self.parser.CurrentLineNumber} declares a DOCTYPE; entities are not accepted")

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        path, line = self.path, self.parser.CurrentLineNumber
        path.append(tag)
        if len(path) > _MAX_DEPTH:
            raise self.part.error(f"line {line}: elements are nested deeper than {_MAX_DEPTH} levels")
        if len(path) < 4 or path[:4] != _CORE:
            if len(path) == 1 and tag != "project":
                raise self.part.error(f"the root element is <{tag[:40]}>, expected <project>")
            return
        element = _Element(tag, attributes, line)
        if len(path) == 4:
            self.core = True
        elif len(path) == 5 and tag == "kernel":
            self.kernels.append(element)
        elif len(path) == 6 and path[4] == "kernel" and tag in ("port", "arg", "instance"):
            self.kernels[-1].children.append(element)
        elif path[4:] == ["kernelClocks", "clock"]:
            self.clocks.append(element)

    def _end(self, _: str) -> None:
        self.path.pop()


def parse_metadata(part: Reader) -> tuple[list[KernelInfo], list[tuple[str, float]]]:
    """Return the kernels (compute units in the order of the XML, no banks yet) and the kernel clocks in MHz.

    Raises
    ------
    BitstreamError
        Not XML, or not a sound description of kernels.
    """
    if len(part) > MAX_XML:
        raise part.error(f"the XML text has {len(part)} bytes; more than {MAX_XML} make no sense")
    text = bytes(part.view).rstrip(b"\0")  # XRT's parser stops at a NUL
    tree = _Tree(part)
    try:
        tree.parser.Parse(text, True)
    except expat.ExpatError as error:
        raise part.error(f"not XML: {error}") from None
    if not tree.core:
        raise part.error("the XML text has no project/platform/device/core element")
    kernels = [_kernel(part, element) for element in tree.kernels]
    names: set[str] = set()
    for kernel, element in zip(kernels, tree.kernels, strict=True):
        if kernel.name in names:
            raise part.error(f"line {element.line}: there are two kernels named {kernel.name!r}")
        names.add(kernel.name)
    return kernels, [_clock(part, element) for element in tree.clocks]


def _kernel(part: Reader, element: _Element) -> KernelInfo:
    name = _name(part, element)
    kind = element.attributes.get("type", "pl")
    if kind not in ("pl", "ps", "dpu"):
        raise part.error(f"line {element.line}: kernel {name} has type {shown(kind)}, expected pl, ps or dpu")
    children: dict[str, list[_Element]] = {"port": [], "arg": [], "instance": []}
    for child in element.children:
        children[child.tag].append(child)
    instances = [_name(part, child) for child in children["instance"]]
    if not instances:
        raise part.error(f"line {element.line}: kernel {name} has no instance")
    if len(instances) > MAX_CUS_OF_KERNEL:
        raise part.error(
            f"line {element.line}: kernel {name} has {len(instances)} instances, XRT takes at most {MAX_CUS_OF_KERNEL}"
        )
    if len(set(instances)) != len(instances):
        raise part.error(f"line {element.line}: kernel {name} has two instances of the same name")
    slaves = [child for child in children["port"] if child.attributes.get("mode") == "slave"]
    registers = _number(part, slaves[0], "range") if slaves else _DEFAULT_RANGE
    # User-managed and PS kernels lay out their registers as they like.
    common = kind == "pl" and element.attributes.get("hwControlProtocol", "ap_ctrl_hs") in _COMMON_PROTOCOLS
    args = _arguments(part, name, children["arg"], registers, common)
    return KernelInfo(name=name, args=args, compute_units=tuple(instances), register_bytes=registers)


def _arguments(
    part: Reader, kernel: str, elements: list[_Element], registers: int, common: bool
) -> tuple[ArgInfo, ...]:
    by_id: dict[int, _Argument] = {}
    spans: list[tuple[int, int, str]] = []
    for element in elements:
        index, arg = _argument(part, kernel, element)
        if arg.kind is not ArgKind.STREAM:
            _check_registers(part, kernel, arg, registers, common)
            spans.append((arg.offset, arg.offset + arg.size, arg.name))
        if index is None:
            continue
        first = by_id.setdefault(index, arg)
        if first is not arg:  # parts of one argument
            if first.kind is not arg.kind:
                raise part.error(
                    f"line {arg.line}: {kernel}.{arg.name} has the same id {index} as {first.name}, "
                    "but another addressQualifier"
                )
            first.size += arg.size
            first.offset = min(first.offset, arg.offset)
    if common:
        spans.sort()
        for (_, end, name), (start, _, other) in pairwise(spans):
            if start < end:
                raise part.error(f"arguments {name} and {other} of kernel {kernel} overlap at offset {start:#x}")
    for position, index in enumerate(sorted(by_id)):
        if position != index:
            raise part.error(f"the argument ids of kernel {kernel} are not contiguous: {position} is missing")
    return tuple(
        ArgInfo(index=index, name=arg.name, kind=arg.kind, type=arg.type, size=arg.size, offset=arg.offset)
        for index, arg in sorted(by_id.items())
    )


def _argument(part: Reader, kernel: str, element: _Element) -> tuple[int | None, _Argument]:
    name = _attribute(part, element, "name")
    if not name or not name.isprintable():
        raise part.error(f"line {element.line}: an argument of kernel {kernel} has the name {shown(name)}")
    qualifier = _number(part, element, "addressQualifier")
    if qualifier not in _KINDS:
        raise part.error(f"line {element.line}: addressQualifier of {kernel}.{name} is {qualifier}, expected 0..4")
    index = _number(part, element, "id") if _attribute(part, element, "id") else None
    _number(part, element, "hostSize")
    return index, _Argument(
        name=name,
        kind=_KINDS[qualifier],
        type=element.attributes.get("type", "").strip(),
        size=_number(part, element, "size"),
        offset=_number(part, element, "offset"),
        line=element.line,
    )


def _check_registers(part: Reader, kernel: str, arg: _Argument, registers: int, common: bool) -> None:
    where = f"line {arg.line}: {kernel}.{arg.name}"
    if not arg.size:
        raise part.error(f"{where} has size 0")
    if arg.offset + arg.size > registers:
        raise part.error(
            f"{where} ends at register offset {arg.offset + arg.size:#x}, "
            f"beyond the register range of {registers:#x} bytes"
        )
    if arg.offset % 4:
        raise part.error(f"{where} is at register offset {arg.offset:#x}, expected a multiple of 4")
    if common and arg.offset < FIRST_REGISTER:
        raise part.error(f"{where} is at register offset {arg.offset:#x}, on the control registers below 0x10")


def _attribute(part: Reader, element: _Element, key: str) -> str:
    value = element.attributes.get(key)
    if value is None:
        raise part.error(f"line {element.line}: <{element.tag}> has no attribute {key!r}")
    return value


def _name(part: Reader, element: _Element) -> str:
    name = _attribute(part, element, "name")
    if not _NAME.fullmatch(name) or len(name) > 63:
        raise part.error(
            f"line {element.line}: <{element.tag}> is named {shown(name)}, "
            "expected 1 to 63 letters, digits and underscores"
        )
    return name


def _number(part: Reader, element: _Element, key: str) -> int:
    text = _attribute(part, element, key)
    if not text:
        return 0
    problem = f"line {element.line}: {key}={shown(text)} of <{element.tag}>"
    if not _NUMBER.fullmatch(text):
        raise part.error(
            f"{problem} is {'negative' if text.startswith('-') else 'not a number'}, "
            "expected decimal digits or 0x and hexadecimal digits"
        )
    value = int(text, 0)
    if value >> 64:
        raise part.error(f"{problem} does not fit in 64 bits")
    return value


def _clock(part: Reader, element: _Element) -> tuple[str, float]:
    text = _attribute(part, element, "frequency")
    match = _FREQUENCY.fullmatch(text)
    if not match:
        raise part.error(f"line {element.line}: frequency={shown(text)} of <clock> is not like 300MHz")
    return _attribute(part, element, "port"), float(match[1])
