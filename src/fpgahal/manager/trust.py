# SPDX-License-Identifier: Apache-2.0
"""Trust: a board on which everything fails is always free, so it would get more requests than any other one."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

STRIKES = 3  #: requests that fail in a row until a board rests
REST = 1.0  #: seconds of the first rest; each one after it is twice as long
LONGEST = 64.0  #: seconds of a rest, at most


@dataclass(slots=True, eq=False)
class Trust:
    """How a board has done lately.

    Attributes
    ----------
    failed : set
        Ids of what failed since something was done: a request that is tried again and again counts once.
    rests : int
        Since something was done.
    began, until : float
        Of the last rest.
    """

    failed: set[Hashable] = field(default_factory=set)
    rests: int = 0
    began: float = 0.0
    until: float = 0.0

    @property
    def trial(self) -> bool:
        """Whether it has rested, and has done nothing since: it gets one request at a time."""
        return self.rests > 0

    def gain(self) -> None:
        """Something was done."""
        if self.failed or self.rests:
            self.failed.clear()
            self.rests, self.until = 0, 0.0

    def lose(self, id: Hashable, now: float) -> bool:
        """Something failed; True: the board has to rest."""
        self.failed.add(id)
        if not self.trial and len(self.failed) < STRIKES:
            return False
        self.failed.clear()
        self.began, self.until = now, now + min(LONGEST, REST * 2**self.rests)
        self.rests += 1
        return True

    def left(self, now: float, *, needed: bool) -> float:
        """Seconds for which it still rests; a board that is `needed`, because no other can do all it does: briefly."""
        return max(0.0, (min(self.until, self.began + REST) if needed else self.until) - now)


__all__ = ["LONGEST", "REST", "STRIKES", "Trust"]
