# SPDX-License-Identifier: Apache-2.0
"""``fpgahal top``: what the manager does, again and again, until q or Ctrl-C."""

from __future__ import annotations

import os
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fpgahal import FpgaError
from fpgahal.cli.output import Output
from fpgahal.manager.control import Control
from fpgahal.manager.overview import headline, overview, sections

if TYPE_CHECKING:
    from rich.console import Group

Report = dict[str, Any]
_ONCE = 0.5  # seconds between the two reports of a single view


def once(control: Control, interval: float, out: Output) -> None:
    """Print one view."""
    before, since = control.status(), time.monotonic()
    time.sleep(min(interval, _ONCE))
    view = overview(before, control.status(), time.monotonic() - since)

    def text() -> None:
        out.line(headline(view))
        for section in sections(view):
            if section.rows:
                out.line()
                out.table(section.headings, section.rows)

    out.result(view, text)


def live(path: str | None, timeout: float, interval: float) -> None:
    """Show views on the terminal until q or Ctrl-C; a manager that goes away is waited for."""
    from rich.live import Live

    control: Control | None = Control(path, timeout)
    before: tuple[float, Report] | None = None
    with _keys() as keys, Live(screen=True, auto_refresh=False, redirect_stderr=False) as screen:
        try:
            while True:
                try:
                    control = control or Control(path, timeout)
                    now = time.monotonic(), control.status()
                    since, old = before or (now[0] - interval, now[1])
                    view = overview(old, now[1], now[0] - since)
                    screen.update(_drawn(view, path), refresh=True)
                    before = now
                except FpgaError as error:
                    if control is not None:
                        control.close()
                    control = before = None
                    screen.update(f"{error}\n\nTrying again; q ends.", refresh=True)
                if keys(interval if before is None or before is now else 0.2) in ("q", "Q"):
                    return
        except KeyboardInterrupt:
            return
        finally:
            if control is not None:
                control.close()


def _drawn(view: Report, path: str | None) -> Group:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    styles = dict.fromkeys(("drained", "draining", "cordoned"), "yellow")
    styles |= {"lost": "bold red", "resting": "bold red", "running": "green"}
    drawn: list[Any] = [Text(headline(view), style="bold"), Text("q ends", style="dim")]
    for section in sections(view):
        table = Table(title=section.title, title_justify="left", box=None, pad_edge=False, header_style="dim")
        for number, heading in enumerate(section.headings):
            right = bool(section.rows) and isinstance(section.rows[0][number], int)
            table.add_column(heading, justify="right" if right else "left", no_wrap=True)
        for row in section.rows:
            table.add_row(*(Text(str(cell), style=styles.get(str(cell), "")) for cell in row))
        drawn += [Text(), table]
    return Group(*drawn)


@contextmanager
def _keys() -> Iterator[Any]:
    """Gives a function that waits for a key for so many seconds, and gives it, or an empty text."""
    if not sys.stdin.isatty():

        def sleep(seconds: float) -> str:
            time.sleep(seconds)
            return ""

        yield sleep
        return
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)

    def key(seconds: float) -> str:
        ready, _, _ = select.select([fd], [], [], seconds)
        return os.read(fd, 1).decode("ascii", "replace") if ready else ""

    try:
        tty.setcbreak(fd)
        yield key
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


__all__ = ["live", "once"]
