# SPDX-License-Identifier: Apache-2.0
"""The kinds of boards that can be emulated, from ``data/boards.toml`` and the user's own files."""

from __future__ import annotations

import functools
import itertools
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fpgahal._errors import FpgaError
from fpgahal._types import BankInfo

#: Files with more boards, separated by ``os.pathsep``.
BOARD_FILES = "FPGAHAL_BOARDS"

_OWN_FILE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "data", "boards.toml")
_LAYOUTS = {"dfl": "opae", "intel-fpga": "opae", "xocl": "xrt", "xocl-user": "xrt"}
#: Memory kinds and their numbers in an xclbin.
BANK_KINDS = {"ddr3": 0, "ddr4": 1, "dram": 2, "hbm": 6, "bram": 7, "uram": 8, "host": 10}
_MAX_BANKS = 48  # EMU_MAX_BANKS of board.h
MAX_CORES = 256  # EMU_MAX_CORES
_REQUIRED: Any = object()


class BoardFileError(FpgaError, ValueError):
    """A file with emulated boards is broken; the message names the file and the field."""


@dataclass(frozen=True, slots=True)
class Board:
    """A kind of board that can be emulated.

    Attributes
    ----------
    name : str
        What a spec calls it: ``"pac-a10"``.
    title : str
        Its name for people.
    family : str
        ``"opae"`` or ``"xrt"``: which binding opens it.
    layout : str
        Which driver's sysfs tree it shows: ``"dfl"``, ``"intel-fpga"``, ``"xocl"``, ``"xocl-user"``.
    vendor_id, device_id, subvendor_id, subdevice_id, management_device_id : int
        PCI ids; the last one of the management function, 0 where there is none.
    interface_id : uuid.UUID or None
        What images must be built for.
    vbnv : str
        The shell's name (XRT).
    timestamp : int
        The shell's time stamp (XRT, one-stage shells).
    banks : tuple of BankInfo
        Device memory, in the order of MEM_TOPOLOGY.
    default_afu : uuid.UUID or None
        Loaded at power-up.
    program_ms, link_gbps, launch_us : float
        Reconfiguration time, link speed in GB/s (10^9 bytes), time added to each run; 0: as fast as it goes.
    cores : int
        Threads of this computer that a kernel may use.
    """

    name: str
    title: str
    family: str
    layout: str
    vendor_id: int
    device_id: int
    subvendor_id: int = 0
    subdevice_id: int = 0
    management_device_id: int = 0
    interface_id: uuid.UUID | None = None
    vbnv: str = ""
    timestamp: int = 0
    banks: tuple[BankInfo, ...] = ()
    default_afu: uuid.UUID | None = None
    program_ms: float = 0.0
    link_gbps: float = 0.0
    launch_us: float = 0.0
    cores: int = 1


def boards() -> dict[str, Board]:
    """Return the boards that can be emulated, by name: our own and those of the files in ``FPGAHAL_BOARDS``.

    Raises
    ------
    BoardFileError
        A file can't be read or has a wrong field.  It is a ValueError.
    """
    files = [path for path in os.environ.get(BOARD_FILES, "").split(os.pathsep) if path]
    found = dict(_own())
    for path in files:
        found.update(read_file(path))
    return found


@functools.cache
def _own() -> dict[str, Board]:
    return read_file(_OWN_FILE)


def read_file(path: str) -> dict[str, Board]:
    """Return the boards that one file describes."""
    import tomllib  # not at import time: most users of fpgahal never emulate a board

    try:
        with open(path, "rb") as file:
            content = tomllib.load(file)
    except OSError as error:
        raise BoardFileError(
            f"{path}: the board file can't be read: {error.strerror}.",
            hint=f"Check the list of files in {BOARD_FILES}.",
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BoardFileError(f"{path}: not a TOML file: {error}.", hint=_HINT) from None
    found: dict[str, Board] = {}
    for name, table in content.items():
        if not isinstance(table, dict):
            raise BoardFileError(f"{path}: {name} stands outside a board's table.", hint=_HINT)
        found[name] = _Fields(path, name, table).board()
    return found


_HINT = (
    'A board looks like this: [my-board] title = "My board", layout = "dfl", vendor_id = 0x8086, ...; '
    "the file boards.toml of this package explains every field."
)


class _Fields:
    """Takes the fields of one table, checking each; `path` and `name` are for the messages."""

    def __init__(self, path: str, name: str, table: Mapping[str, Any]) -> None:
        self.path = path
        self.name = name
        self.table = dict(table)

    def board(self) -> Board:
        if (
            not self.name
            or not self.name.isascii()
            or not self.name.replace("-", "").replace("_", "").isalnum()
            or len(self.name) > 31
        ):
            raise self.wrong("the name", self.name, "at most 31 letters, digits, - and _")
        layout = self.text("layout", 16)
        if layout not in _LAYOUTS:
            raise self.wrong("layout", layout, "one of " + ", ".join(_LAYOUTS))
        board = Board(
            name=self.name,
            title=self.text("title", 63),
            family=_LAYOUTS[layout],
            layout=layout,
            vendor_id=self.integer("vendor_id", 1, 0xFFFF),
            device_id=self.integer("device_id", 1, 0xFFFF),
            subvendor_id=self.integer("subvendor_id", 0, 0xFFFF, 0),
            subdevice_id=self.integer("subdevice_id", 0, 0xFFFF, 0),
            management_device_id=self.integer("management_device_id", 0, 0xFFFF, 0),
            interface_id=self.id("interface_id"),
            vbnv=self.text("vbnv", 63, ""),
            timestamp=self.integer("timestamp", 0, (1 << 64) - 1, 0),
            banks=self.banks(),
            default_afu=self.id("default_afu"),
            program_ms=self.amount("program_ms"),
            link_gbps=self.amount("link_gbps"),
            launch_us=self.amount("launch_us"),
            cores=self.integer("cores", 1, MAX_CORES, 1),
        )
        if self.table:
            unknown = ", ".join(self.table)
            raise BoardFileError(f"{self.path}: [{self.name}] has no field called {unknown}.", hint=_HINT)
        if board.family == "xrt" and not board.vbnv:
            raise self.wrong("vbnv", "", "the shell's name, which XRT boards need")
        if board.family == "opae" and board.interface_id is None:
            raise self.wrong("interface_id", None, "a UUID, which OPAE boards need")
        return board

    def wrong(self, field: str, value: object, expected: str) -> BoardFileError:
        return BoardFileError(f"{self.path}: {field} of [{self.name}] is {value!r}, expected {expected}.", hint=_HINT)

    def take(self, field: str, default: Any) -> Any:
        value = self.table.pop(field, default)
        if value is _REQUIRED:
            raise BoardFileError(f"{self.path}: [{self.name}] has no {field}, which every board needs.", hint=_HINT)
        return value

    def text(self, field: str, longest: int, default: Any = _REQUIRED) -> str:
        value = self.take(field, default)
        if not isinstance(value, str) or not value.isprintable() or not value.isascii() or len(value) > longest:
            raise self.wrong(field, value, f"a text of at most {longest} plain characters")
        return value

    def integer(self, field: str, low: int, high: int, default: Any = _REQUIRED) -> int:
        value = self.take(field, default)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.wrong(field, value, f"an integer from {low} to {high:#x}")
        return value

    def amount(self, field: str) -> float:
        value = self.take(field, 0.0)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= 1e9:
            raise self.wrong(field, value, "a number from 0 to 1e9")
        return float(value)

    def id(self, field: str) -> uuid.UUID | None:
        value = self.take(field, None)
        if value is None:
            return None
        try:
            return uuid.UUID(value)
        except (ValueError, TypeError, AttributeError):
            raise self.wrong(field, value, "a UUID like 9926ab6d-6c92-5a68-aabc-a7d84c545738") from None

    def banks(self) -> tuple[BankInfo, ...]:
        entries = self.take("banks", [])
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise self.wrong("banks", entries, "a list of tables")
        found: list[BankInfo] = []
        for position, entry in enumerate(entries):
            fields = _Fields(self.path, f"{self.name}.banks[{position}]", entry)
            tag, kind = fields.text("tag", 15), fields.text("kind", 8)
            if kind not in BANK_KINDS:
                raise fields.wrong("kind", kind, "one of " + ", ".join(BANK_KINDS))
            base, size = fields.integer("base", 0, 1 << 62), fields.integer("size", 4096, 1 << 50)
            stride = fields.integer("stride", size, 1 << 56, size)
            for i in range(fields.integer("count", 1, _MAX_BANKS, 1)):
                found.append(BankInfo(len(found), tag.replace("{i}", str(i)), kind, base + i * stride, size))
            if fields.table:
                raise fields.wrong("a field", ", ".join(fields.table), "tag, kind, base, size, stride, count")
        if len(found) > _MAX_BANKS:
            raise self.wrong("the number of banks", len(found), f"at most {_MAX_BANKS}")
        ends = sorted((bank.base, bank.base + bank.size) for bank in found)
        if any(low_end > high for (_, low_end), (high, _) in itertools.pairwise(ends)):
            raise self.wrong("banks", "overlapping", "banks that do not overlap")
        return tuple(found)
