# SPDX-License-Identifier: Apache-2.0
"""What a client of a soak does all day; it imports what it needs before it becomes another user."""

from __future__ import annotations

import random
from collections import deque
from multiprocessing.connection import Connection

import numpy as np
from manager_clients import Asked, Wish, predicted
from manager_ledger import ONCE

from fpgahal import FpgaError, manager

DEPTH = 24  # requests under way
LIFE = 200  # requests of a connection
NOTED = 1 << 61  # a bit of the numbers that the ledger gets


def work(link: Connection, socket: str, first: int) -> None:
    """Be a client for as long as it is let: tell what was asked for, then what came of it."""
    source = random.Random(first)
    number, rows = first, predicted()
    while True:
        with manager.connect(socket, patience=60) as m:
            under_way: deque[tuple[Wish, Asked]] = deque()
            for _ in range(LIFE):
                number += 1
                wish = some(source, number)
                try:
                    under_way.append((wish, Asked(m, wish, rows)))
                except FpgaError as error:
                    link.send((wish.number, type(error).__name__))
                    continue
                if source.random() < 0.02:
                    under_way[-1][1].request.cancel()
                if len(under_way) > DEPTH:
                    wish, asked = under_way.popleft()
                    link.send((wish.number, asked.outcome()[0]))
            if source.random() < 0.8:  # else it leaves with its requests under way
                for wish, asked in under_way:
                    link.send((wish.number, asked.outcome()[0]))


def some(source: random.Random, number: int) -> Wish:
    """Any request."""
    once = source.random() < 0.3
    accelerator = source.choice(["vadd", "ledger", "ledger", "xgboost.predict"])
    return Wish(
        number | (ONCE if once else 0) | (NOTED if accelerator == "ledger" else 0),
        accelerator,
        source.choice([1, 1, 10, 100, 500]) if accelerator == "xgboost.predict" else source.choice([1, 100, 10_000]),
        source.choice([0, 0, 0, 0, 500, 10_000]),
        source.randrange(3),
        source.choice([None] * 8 + [0.001, 30.0]),
        once,
        source.random() < 0.5,
    )


def hold(link: Connection, socket: str, queued: int) -> None:
    """Have a large buffer, a request that runs, and others that wait."""
    with manager.connect(socket) as m:
        large = m.allocate(8 << 20)
        ones = np.ones(4, np.uint32)
        requests = [m.submit("vadd", a=ones, b=ones, once=True) for _ in range(queued)]
        requests[0].result(20)
        link.send("busy")
        link.recv()
        del large
