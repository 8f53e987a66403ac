# SPDX-License-Identifier: Apache-2.0
"""Control: what operators use of the manager."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

from fpgahal import DeviceNotFoundError
from fpgahal.manager.client import default_socket
from fpgahal.manager.codes import Verb
from fpgahal.manager.errors import ManagerLostError, WaitTimeoutError, check
from fpgahal.manager.link import Link
from fpgahal.manager.wire import Admin, Frame, Report, Status

_POLL = 0.05  # seconds between two looks at boards that are being drained


class Control:
    """A connection for questions and orders.

    Parameters
    ----------
    path : path, optional
        Of the manager's socket; by default ``$FPGAHAL_MANAGER``, else ``/run/fpgahal/manager.sock``.
    timeout : float
        Seconds that a manager may take to answer.

    Raises
    ------
    ManagerLostError
        There is none, or it does not answer.
    AccessError
        This user may not connect.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, timeout: float = 5.0) -> None:
        self._timeout = timeout
        end = time.monotonic() + timeout
        while True:
            try:
                self._link = Link(default_socket() if path is None else path, 0.0)
                return
            except ManagerLostError as error:
                if not isinstance(error.__cause__, TimeoutError) or time.monotonic() >= end:
                    raise

    def status(self) -> dict[str, Any]:
        """What the manager does now: boards, users, clients, figures.

        Raises
        ------
        ManagerLostError
        """
        answer = self._ask(Status())
        assert isinstance(answer, Report)
        found: dict[str, Any] = json.loads(answer.text)
        return found

    def want(self, verb: Verb, board: str = "") -> None:
        """Cordon, drain or uncordon a board, or all of them; does not wait for what that takes.

        Raises
        ------
        AccessError
            This user is no administrator.
        DeviceNotFoundError
            The manager has no such board.
        ManagerLostError
        """
        self._ask(Admin(verb, board))

    def boards(self, names: list[str]) -> list[dict[str, Any]]:
        """The boards of these addresses, as they are now; all, if none is named.

        Raises
        ------
        DeviceNotFoundError
            The manager has no such board.
        ManagerLostError
        """
        known = {board["address"]: board for board in self.status()["boards"]}
        for name in names:
            if name not in known:
                raise DeviceNotFoundError(
                    f"This manager has no board {name!r}.", hint=f"It has {', '.join(known) or 'none'}."
                )
        return [known[name] for name in names or known]

    def drain(self, names: list[str], timeout: float) -> Iterator[list[dict[str, Any]]]:
        """Drain boards; gives how they are whenever that changes, last when all are drained, or the time is over.

        Raises
        ------
        AccessError, DeviceNotFoundError, ManagerLostError
        """
        self.boards(names)
        for name in names or [""]:
            self.want(Verb.DRAIN, name)
        end = time.monotonic() + timeout
        last: list[tuple[Any, ...]] = []
        while True:
            boards = self.boards(names)
            now = [(board["state"], board["running"]) for board in boards]
            if now != last:
                yield boards
            last = now
            if all(board["state"] == "drained" for board in boards) or time.monotonic() >= end:
                return
            time.sleep(_POLL)

    def _ask(self, frame: Frame) -> Frame:
        try:
            return check(self._link.wait(self._link.call(frame)[1], self._timeout))
        except WaitTimeoutError as error:
            raise ManagerLostError(
                f"{self._link.path}: the manager does not answer within {self._timeout:g} s.",
                hint="Is it stopped, or busy with something else?  --timeout waits for longer.",
            ) from error

    def close(self) -> None:
        """Hang up."""
        self._link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


__all__ = ["Control"]
