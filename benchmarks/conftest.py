# SPDX-License-Identifier: Apache-2.0
"""What every benchmark shares: an emulated rack, the C baseline, and a book of results for the report."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import harness
import pytest

sys.path.insert(0, str(Path(__file__).parent))

import fpgahal
from fpgahal import _opae, _xrt, emu

ROOT = Path(__file__).parent.parent
UNITS = ((1e3, "ms"), (1e6, "µs"), (1e9, "ns"))


class Book:
    """Rows of the table in the README: what, ours, the baseline's, ratio, goal."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def enter(
        self,
        what: str,
        ours: float,
        baseline: float,
        against: str,
        *,
        at_most: float | None = None,
        at_least: float | None = None,
    ) -> None:
        """Note a ratio and fail when it misses its goal.  `at_least`: baseline/ours; `at_most`: ours/baseline."""
        ratio = baseline / ours if at_least is not None else ours / baseline
        goal = f">= {at_least:g}x" if at_least is not None else f"<= {at_most:.3g}x" if at_most is not None else ""
        self.rows.append(
            {"what": what, "ours": ours, "baseline": baseline, "against": against, "ratio": ratio, "goal": goal}
        )
        print(f"{what}: {ours * 1e9:.0f} ns, {against} {baseline * 1e9:.0f} ns, ratio {ratio:.2f} (goal {goal})")
        assert at_least is None or ratio >= at_least, f"{what} vs {against}: {ratio:.2f}, goal {goal}"
        assert at_most is None or ratio <= at_most, f"{what} vs {against}: {ratio:.2f}, goal {goal}"

    def limit(self, what: str, ours: float, limit: float) -> None:
        """Note a time and fail when it is over its limit (both in seconds)."""
        self.rows.append(
            {
                "what": what,
                "ours": ours,
                "baseline": None,
                "against": "",
                "ratio": ours / limit,
                "goal": next(f"< {limit * f:g} {u}" for f, u in UNITS if limit * f >= 1 or u == "ns"),
            }
        )
        print(f"{what}: {ours * 1e9:.0f} ns (goal < {limit * 1e9:g} ns)")
        assert ours < limit, f"{what}: {ours * 1e9:.0f} ns"

    def size(self, what: str, mebibytes: float, limit: float) -> None:
        """Note an amount of memory and fail when it is over its limit (both in MiB)."""
        row = {"what": f"{what}: {mebibytes:.0f} MiB", "ours": None, "baseline": None, "against": ""}
        self.rows.append({**row, "ratio": mebibytes / limit, "goal": f"< {limit:g} MiB"})
        print(f"{what}: {mebibytes:.1f} MiB (goal < {limit:g} MiB)")
        assert mebibytes < limit, f"{what}: {mebibytes:.1f} MiB"

    def rate(self, what: str, nbytes: int, ours: float, memcpy: float, gbps: float) -> None:
        """Note a bandwidth beside memcpy's; it must reach `gbps` (GB/s) where memcpy does."""
        reached, possible = nbytes / ours / 1e9, nbytes / memcpy / 1e9
        self.rows.append(
            {
                "what": f"{what}: {reached:.1f} GB/s",
                "ours": ours,
                "baseline": memcpy,
                "against": f"memcpy: {possible:.1f} GB/s",
                "ratio": ours / memcpy,
                "goal": f">= {gbps:g} GB/s",
            }
        )
        print(f"{what}: {reached:.1f} GB/s, memcpy {possible:.1f} GB/s (goal >= {gbps:g} GB/s)")
        assert reached >= min(gbps, possible), f"{what}: {reached:.1f} GB/s"

    def peer(
        self, what: str, ours: float, theirs: float, peer: str, *, at_least: float, floor: float | None = None
    ) -> None:
        """Note how much slower another binding is; `floor` is a C loop over the same calls of the vendor's library."""
        ratio = theirs / ours
        self.rows.append(
            {"what": what, "ours": ours, "peer": peer, "theirs": theirs, "ratio": ratio, "goal": at_least}
            | {"floor": floor}
        )
        print(f"{what}: {ours * 1e9:.0f} ns, {peer} {theirs * 1e9:.0f} ns, ratio {ratio:.2f}, C {floor}")
        assert ratio >= at_least, f"{what} vs {peer}: {ratio:.2f}, goal {at_least}"


@pytest.fixture(scope="session")
def book() -> Iterator[Book]:
    book = Book()
    yield book
    if path := os.environ.get("FPGAHAL_BENCH_BOOK"):
        Path(path).write_text(json.dumps(book.rows, indent=1))


@pytest.fixture(scope="module")
def undisturbed() -> Iterator[None]:
    """Go before the machine's other users, where that is allowed: a queue for the processor is not the server's."""
    with harness.undisturbed():
        yield


@pytest.fixture(scope="session")
def rack() -> Iterator[emu.Rack]:
    with emu.rack("pac-a10,u250") as rack:
        yield rack


def compile_c(source: Path, output: Path, *flags: str) -> Path:
    """Compile one C file into a shared library."""
    subprocess.run(
        [
            "gcc",
            "-O2",
            "-shared",
            "-fPIC",
            f"-I{ROOT / 'native/include'}",
            *flags,
            str(source),
            "-o",
            str(output),
            "-ldl",
        ],
        check=True,
    )
    return output


@pytest.fixture(scope="session")
def baseline(rack: emu.Rack, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The loops in plain C, over the libraries that the bindings use."""
    path = compile_c(ROOT / "native/bench/baseline.c", tmp_path_factory.mktemp("c") / "baseline.so")
    library = ctypes.CDLL(str(path))
    pointer = ctypes.c_void_p
    for name, result, args in (
        ("baseline_load", ctypes.c_int, [ctypes.c_char_p, ctypes.c_char_p]),
        ("baseline_opae_open", pointer, []),
        ("baseline_opae_close", None, [pointer]),
        ("baseline_read64", ctypes.c_double, [pointer, ctypes.c_uint64, ctypes.c_int]),
        ("baseline_xrt_open", pointer, [ctypes.c_char_p, ctypes.c_char_p]),
        ("baseline_xrt_kernel", pointer, [pointer, ctypes.c_char_p]),
        ("baseline_xrt_buffer", pointer, [pointer, ctypes.c_size_t, ctypes.c_uint32]),
        ("baseline_xrt_map", pointer, [pointer]),
        ("baseline_xrt_close", None, [pointer, pointer, ctypes.POINTER(pointer), ctypes.c_int]),
        ("baseline_vadd", ctypes.c_double, [pointer] * 4 + [ctypes.c_uint, ctypes.c_int]),
        ("baseline_restart", ctypes.c_double, [pointer] * 4 + [ctypes.c_uint, ctypes.c_int]),
        ("baseline_sync", ctypes.c_double, [pointer, ctypes.c_size_t, ctypes.c_int, ctypes.c_int]),
        ("baseline_memcpy", ctypes.c_double, [pointer, pointer, ctypes.c_size_t, ctypes.c_int]),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, args
    below = [binding.library(emulated=True)[0].path.encode() for binding in (_opae, _xrt)]
    assert library.baseline_load(*below) == 0, f"{below} lack a function"
    return library


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The module benchmarks/bare.pyx."""
    folder = tmp_path_factory.mktemp("bare")
    c_file = folder / "bare.c"
    subprocess.run(
        [sys.executable, "-m", "cython", "-3", str(ROOT / "benchmarks/bare.pyx"), "-o", str(c_file)], check=True
    )
    compile_c(
        c_file, folder / f"bare{sysconfig.get_config_var('EXT_SUFFIX')}", "-O3", f"-I{sysconfig.get_path('include')}"
    )
    sys.path.insert(0, str(folder))
    import bare

    return bare


@pytest.fixture(scope="session")
def opae_device(rack: emu.Rack) -> Iterator[fpgahal.Device]:
    with fpgahal.open(driver="opae", shared=True) as dev:
        yield dev


@pytest.fixture(scope="session")
def xrt_device(rack: emu.Rack) -> Iterator[fpgahal.Device]:
    with fpgahal.open(driver="xrt", shared=True) as dev:
        dev.program(emu.build_image("vadd", emu.boards()["u250"]))
        yield dev
