# SPDX-License-Identifier: Apache-2.0
"""How long to wait before trying again."""

from __future__ import annotations


class Backoff:
    """Seconds to wait after one failure, after two, …: doubled each time, with jitter, until `reset`."""

    def __init__(self, first: float = 0.5, most: float = 30.0) -> None:
        self.first, self.most = first, most
        self.failures = 0

    def reset(self) -> None:
        """Begin again."""
        self.failures = 0

    def next(self) -> float:
        """Give the next wait."""
        import random  # not at import time: who starts well never waits

        wait = min(self.most, self.first * (1 << min(self.failures, 16)))
        self.failures += 1
        return wait * random.uniform(0.5, 1.0)
