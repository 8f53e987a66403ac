# SPDX-License-Identifier: Apache-2.0
"""Limits: what a server takes of all clients together."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """What the server takes.

    Attributes
    ----------
    connections : int
        Of all users.
    timeout : float
        Seconds that one run may take.
    """

    connections: int = 2048
    timeout: float = 10.0


__all__ = ["Limits"]
