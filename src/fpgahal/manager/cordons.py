# SPDX-License-Identifier: Apache-2.0
"""Cordons: boards that administrators took out of service; in a file, because they stay so if the manager dies."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from fpgahal import AccessError, DeviceNotFoundError
from fpgahal.manager.codes import Verb
from fpgahal.manager.node import Node

_LOG = logging.getLogger(__name__)


class Cordons:
    """What administrators want of boards.

    Parameters
    ----------
    path : Path
        Of the file; it is there while a board is out of service.
    node : Node
        Which is told.
    """

    def __init__(self, path: Path, node: Node) -> None:
        self._path = path
        self._node = node
        self._wanted: dict[str, Verb] = {}
        try:
            self._wanted = {str(name): Verb[verb] for name, verb in json.loads(path.read_bytes()).items()}
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, AttributeError) as error:
            _LOG.error("which boards were cordoned is not known", extra={"file": str(path), "error": str(error)})
        for board in node.boards:
            self.apply(board)

    def apply(self, board: str) -> None:
        """Have the node do what is wanted of a board that it did not have before."""
        self._node.want(board, self._wanted.get(board, Verb.UNCORDON))

    def want(self, verb: Verb, board: str, administrator: bool, **who: object) -> None:
        """Do what somebody wants of a board, or of all of them if it is none.

        Raises
        ------
        AccessError
            It is no administrator.
        DeviceNotFoundError
            There is no such board.
        """
        if not administrator:
            raise AccessError("This user may not cordon boards.", hint="`admin` in the manager's policy says who may.")
        if board and board not in self._node.boards:
            known = ", ".join(self._node.boards)
            raise DeviceNotFoundError(f"This manager has no board {board!r}.", hint=f"It has {known}.")
        for name in [board] if board else self._node.boards:
            self._node.want(name, verb)
            self._wanted.pop(name, None)
            if verb is not Verb.UNCORDON:
                self._wanted[name] = verb
            _LOG.info(verb.name.lower(), extra={"board": name, **who})
        self._keep()

    def _keep(self) -> None:
        try:
            if not self._wanted:
                self._path.unlink(missing_ok=True)
                return
            new = self._path.with_name(f"{self._path.name}.new")
            new.write_text(json.dumps({name: verb.name for name, verb in self._wanted.items()}) + "\n")
            new.replace(self._path)
        except OSError as error:
            _LOG.error("cordons will not outlive the manager", extra={"file": str(self._path), "error": str(error)})


__all__ = ["Cordons"]
