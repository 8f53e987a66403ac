# SPDX-License-Identifier: Apache-2.0
"""Complaints: what clients do wrong is logged once a second: nobody keeps the manager busy with writing logs."""

from __future__ import annotations

import logging

from fpgahal.manager.board import clock

_EVERY = 1.0  # seconds
_NEVER = float("-inf")


class Complaints:
    """A log of what clients do wrong, and how often."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._said = _NEVER
        self._times = 0

    def add(self, message: str, **extra: object) -> None:
        """Count one, and log it unless another one was just before."""
        self._times += 1
        if clock() - self._said >= _EVERY:
            self._log.warning(message, extra=extra | {"times": self._times})
            self._said, self._times = clock(), 0


__all__ = ["Complaints"]
