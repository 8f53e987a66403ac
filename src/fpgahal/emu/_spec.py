# SPDX-License-Identifier: Apache-2.0
"""From a text like ``"pac-a10:2,u250"`` to boards with PCI addresses."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fpgahal._errors import FpgaError
from fpgahal.emu._boards import MAX_CORES, Board, boards

_ITEM = re.compile(r"([A-Za-z0-9_-]+)(?::([0-9]{1,4}))?")
MAX_BOARDS = 1024


class SpecError(FpgaError, ValueError):
    """A rack was described wrongly; the hint shows how it is done."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A board in a rack: `index` counts from 0 in the rack, `ordinal` among the boards of the same layout."""

    board: Board
    index: int
    ordinal: int
    bdf: str  #: the function that an application opens
    management_bdf: str = ""


def parse(specs: Iterable[str]) -> list[Board]:
    """Return the boards that `specs` ask for, in that order.

    Raises
    ------
    SpecError
        An unknown board, a count that is not 1 or more, too many boards, or none.
    """
    known = boards()
    wanted: list[Board] = []
    for spec in specs:
        if not isinstance(spec, str):
            raise SpecError(f"{spec!r} is not a rack spec: it is no text.", hint=_hint(known))
        for item in spec.split(","):
            match = _ITEM.fullmatch(item.strip())
            if match is None:
                raise SpecError(
                    f"{item.strip()!r} in rack spec {spec!r} is not of the form BOARD or BOARD:COUNT.",
                    hint=_hint(known),
                )
            name, count = match[1], int(match[2] or 1)
            if name not in known:
                raise SpecError(f"there is no emulated board {name!r}.", hint=_hint(known))
            if not 1 <= count <= MAX_BOARDS:
                raise SpecError(f"{item.strip()!r}: a rack holds 1 to {MAX_BOARDS} boards.", hint=_hint(known))
            wanted += [known[name]] * count
    if not wanted:
        raise SpecError("the rack spec names no board.", hint=_hint(known))
    if len(wanted) > MAX_BOARDS:
        raise SpecError(f"{len(wanted)} boards: a rack holds at most {MAX_BOARDS}.", hint=_hint(known))
    return wanted


def _hint(known: Mapping[str, Board]) -> str:
    return f"Try pac-a10, pac-a10:2 or pac-a10:2,u250; known boards: {', '.join(known)}."


def place(wanted: Iterable[Board]) -> list[Placed]:
    """Give each board its PCI address.

    OPAE boards sit at 0000:3b:00.0 and up, XRT boards at 0000:5e:00 (.0 management, .1 user), AWS cards at
    0000:00:1d.0 and up.  What no longer fits goes to the next PCI domain, so that addresses never collide.
    """
    placed: list[Placed] = []
    ordinals: dict[str, int] = {}
    buses: dict[str, int] = {}
    for index, board in enumerate(wanted):
        ordinal = ordinals.get(board.layout, 0)
        ordinals[board.layout] = ordinal + 1
        group = board.layout if board.layout.startswith("xocl") else "opae"
        position = buses.get(group, 0)
        buses[group] = position + 1
        if group == "opae":
            domain, bus = divmod(position, 0x5E - 0x3B)
            placed.append(Placed(board, index, ordinal, f"{domain:04x}:{0x3B + bus:02x}:00.0"))
        elif group == "xocl":
            domain, bus = divmod(position, 0x100 - 0x5E)
            card = f"{domain:04x}:{0x5E + bus:02x}:00"
            placed.append(Placed(board, index, ordinal, f"{card}.1", f"{card}.0"))
        else:
            domain, device = divmod(position, 3)
            placed.append(Placed(board, index, ordinal, f"{domain:04x}:00:{0x1D + device:02x}.0"))
    return placed


def tuned(
    wanted: Iterable[Board],
    program_ms: float | None,
    link_gbps: float | None,
    launch_us: float | None,
    cores: int | None = None,
) -> list[Board]:
    """Return the boards with the speeds and the number of cores that are not None."""
    speeds = {"program_ms": program_ms, "link_gbps": link_gbps, "launch_us": launch_us}
    changed: dict[str, float] = {}
    if cores is not None:
        if not isinstance(cores, int) or not 1 <= cores <= MAX_CORES:
            raise SpecError(f"cores={cores!r}: expected a whole number from 1 to {MAX_CORES}.")
        changed["cores"] = cores
    for name, value in speeds.items():
        if value is None:
            continue
        if not isinstance(value, (int, float)) or not 0 <= value <= 1e9:
            raise SpecError(f"{name}={value!r}: expected a number from 0 (as fast as it goes) to 1e9.")
        changed[name] = float(value)
    if not changed:
        return list(wanted)
    return [dataclasses.replace(board, **changed) for board in wanted]  # type: ignore[arg-type]
