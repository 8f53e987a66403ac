# SPDX-License-Identifier: Apache-2.0
"""How commands print: aligned text in a pipe, rich tables on a terminal, one JSON document on request."""

from __future__ import annotations

import dataclasses
import enum
import os
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TextIO


def plain(value: Any) -> Any:
    """Turn a value of the API into what JSON has: a dataclass becomes an object, an id its text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if isinstance(value, (uuid.UUID, os.PathLike)):
        return str(value)
    if isinstance(value, (bytes, bytearray)):
        return value.hex()
    return value


def size_text(size: int) -> str:
    """``64 MiB``."""
    for unit, bits in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size >= 1 << bits and size % (1 << bits) == 0:
            return f"{size >> bits} {unit}"
    return f"{size} B"


class Output:
    """Where one command's result goes.

    Parameters
    ----------
    as_json : bool
        Print one JSON document, and no text.
    stream : file, optional
        Standard output if not given.
    """

    def __init__(self, as_json: bool, stream: TextIO | None = None) -> None:
        self.as_json = as_json
        self.stream = stream or sys.stdout

    def result(self, document: Any, text: Callable[[], None]) -> None:
        """Print the document, or call `text` to print it for people."""
        if self.as_json:
            import json  # not at import time: most print text

            self.line(json.dumps(plain(document), indent=2))
        else:
            text()

    def line(self, text: str = "") -> None:
        """Print one line."""
        self.stream.write(text + "\n")

    def fields(self, pairs: Sequence[tuple[str, object]]) -> None:
        """Print names and values, aligned."""
        width = max((len(name) for name, _ in pairs), default=0)
        for name, value in pairs:
            first, *more = str(value).splitlines() or [""]
            self.line(f"{name:{width}}  {first}".rstrip())
            for text in more:
                self.line(f"{'':{width}}  {text}")

    def table(self, headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Print a table; columns of numbers are set to the right."""
        cells = [[str(cell) for cell in row] for row in rows]
        right = [bool(rows) and all(isinstance(row[i], (int, float)) for row in rows) for i in range(len(headings))]
        if not (self.stream.isatty() and self._rich_table(headings, cells, right)):
            widths = [max(map(len, column)) for column in zip(headings, *cells, strict=True)]
            for row in [list(headings), *cells]:
                texts = (f"{cell:{'>' if r else '<'}{w}}" for cell, w, r in zip(row, widths, right, strict=True))
                self.line("  ".join(texts).rstrip())

    def _rich_table(self, headings: Sequence[str], cells: list[list[str]], right: list[bool]) -> bool:
        try:
            from rich.console import Console
            from rich.table import Table
            from rich.text import Text
        except ImportError:
            return False
        table = Table(box=None, header_style="bold", pad_edge=False)
        for heading, r in zip(headings, right, strict=True):
            table.add_column(heading, justify="right" if r else "left", overflow="fold")
        for row in cells:
            table.add_row(*(Text(cell) for cell in row))  # Text: "DDR[0]" is no markup
        Console(file=self.stream).print(table)
        return True


@contextmanager
def progress(label: str, total: float | None, enabled: bool = True) -> Iterator[Callable[[float], None]]:
    """Show a bar on standard error while the body runs, if that is a terminal; give a function that sets it.

    Parameters
    ----------
    label : str
    total : float or None
        The value that means "done"; None if it is not known.
    enabled : bool
        False: show nothing.
    """
    if not (enabled and sys.stderr.isatty()):
        yield lambda done: None
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    except ImportError:
        yield lambda done: None
        return
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total)
        yield lambda done: bar.update(task, completed=done)
