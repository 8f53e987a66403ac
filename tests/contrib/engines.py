# SPDX-License-Identifier: Apache-2.0
"""What the tests of both engines share: a model, what xgboost itself makes of it, and a look at who has boards."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import fpgahal

FEATURES = 20
Rows = npt.NDArray[np.float32]


def rows(ids: Any) -> Rows:
    """The rows with these numbers: made where they are needed, so that no process has all of them."""
    primes = np.array([3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73], np.int64)
    return (np.asarray(ids)[:, None] * primes % 1009).astype(np.float32)


@cache
def booster(objective: str = "binary:logistic", **more: Any) -> Any:
    import xgboost  # not in the processes that only want a board

    x = rows(np.arange(3000))
    y = (x[:, 0] + x[:, 1] > x[:, 2]).astype(np.float32) + (x[:, 3] > 800) * bool(more)
    return xgboost.train({"objective": objective, "max_depth": 4, "nthread": 1, **more}, xgboost.DMatrix(x, y), 10)


def raw(**more: Any) -> bytes:
    return bytes(booster(**more).save_raw("ubj"))


def all_free(count: int) -> bool:
    """Whether nobody has a board any more; a killed process takes a moment to be gone."""
    with fpgahal.open_all(timeout=20) as boards:
        return len(boards) == count


def once(flag: Path) -> bool:
    """True for the first process that asks."""
    try:
        os.close(os.open(flag, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True
