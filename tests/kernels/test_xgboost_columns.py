# SPDX-License-Identifier: Apache-2.0
"""Sorted columns: equal values stand where libstdc++'s std::sort leaves them, because xgboost sums in that order."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fpgahal.kernels.xgboost import _grow

SORT = """
#include <algorithm>
#include <cstdint>
struct Entry { std::uint32_t row; float value; };
extern "C" void sort_entries(Entry *first, std::int64_t count)
{
    std::sort(first, first + count, [](const Entry &a, const Entry &b) { return a.value < b.value; });
}
"""
KINDS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "few values": lambda rng, n: rng.integers(0, 3, n),
    "some values": lambda rng, n: rng.integers(0, max(1, n // 4), n),
    "all different": lambda rng, n: rng.permutation(n),
    "ascending": lambda _rng, n: np.arange(n),
    "descending": lambda _rng, n: -np.arange(n),
    "equal": lambda _rng, n: np.zeros(n),
    "up and down": lambda _rng, n: np.r_[np.arange(n // 2), -np.arange(n - n // 2)],
}


@pytest.fixture(scope="module")
def std_sort(tmp_path_factory: pytest.TempPathFactory) -> Callable[[np.ndarray], None]:
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("needs a C++ compiler: apt-get install g++")
    folder: Path = tmp_path_factory.mktemp("sort")
    source, library = folder / "sort.cpp", folder / "sort.so"
    source.write_text(SORT)
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", library, source], check=True)
    call = ctypes.CDLL(str(library)).sort_entries
    return lambda entries: call(ctypes.c_void_p(entries.ctypes.data), ctypes.c_int64(len(entries)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [0, 1, 2, 15, 16, 17, 100, 127, 128, 129, 192, 255, 256, 300, 1000, 5000, 65_000])
def test_columns_are_sorted_as_by_std_sort(std_sort: Callable[[np.ndarray], None], kind: str, count: int) -> None:
    rng = np.random.default_rng(count)
    for _ in range(20 if count <= 1000 else 2):
        values = KINDS[kind](rng, count).astype(np.float32)
        expected = np.empty(count, _grow.ENTRY)
        expected["row"], expected["value"] = np.arange(count), values
        std_sort(expected)
        rows, feature = np.arange(count + 1, dtype=np.int64), np.zeros(count, np.int32)
        entries, _ = _grow.sorted_columns(rows, feature, values, 1)
        assert entries.tobytes() == expected.tobytes()
