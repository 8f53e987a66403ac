# SPDX-License-Identifier: Apache-2.0
"""Arrivals: boards that were away, or not there yet, when the manager began."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable

from fpgahal import DeviceInfo, FpgaError

_PAUSE = 2.0  # seconds between two looks: reading sysfs takes a millisecond
_LOG = logging.getLogger(__name__)


class Arrivals:
    """A thread that looks for boards.

    Parameters
    ----------
    seek : callable
        Gives the boards that are there.
    known : callable
        Gives the addresses of those that nobody has to be told of.
    arrived : callable
        Is told of another one, in this thread, until it is known.
    """

    def __init__(
        self,
        seek: Callable[[], Iterable[DeviceInfo]],
        known: Callable[[], Iterable[str]],
        arrived: Callable[[DeviceInfo], None],
    ) -> None:
        self._seek = seek
        self._known = known
        self._arrived = arrived
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._look, name="arrivals", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it."""
        self._stopping.set()
        self._thread.join(5.0)

    def _look(self) -> None:
        while not self._stopping.wait(_PAUSE):
            try:
                found = list(self._seek())
            except FpgaError as error:
                _LOG.debug("boards can't be looked for", extra={"error": str(error)})
                continue
            known = set(self._known())
            for info in found:
                if info.address not in known:
                    self._arrived(info)


__all__ = ["Arrivals"]
