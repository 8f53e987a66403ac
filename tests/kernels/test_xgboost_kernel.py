# SPDX-License-Identifier: Apache-2.0
"""The kernel itself, with forests that no host of ours would write: each ends in an error, at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import fpgahal
from fpgahal import emu
from fpgahal.kernels import open_kernel
from fpgahal.kernels.xgboost import NODE, PREDICT, TREE


@pytest.fixture(scope="module", params=["opae", "xrt"])
def kernel(request: pytest.FixtureRequest) -> Iterator[tuple[fpgahal.Device, fpgahal.Kernel]]:
    with emu.rack("pac-a10,u250"), fpgahal.open(driver=request.param) as dev:
        yield dev, open_kernel(dev, PREDICT)


# Two trees, feature 0 at 0.5, then feature 1 at -1 on the left of the first: [value, offset, feature, default left]
NODES = [(0.5, 1, 0, 0), (-1.0, 2, 1, 1), (10.0, 0, 0, 0), (1.0, 0, 0, 0), (2.0, 0, 0, 0), (100.0, 0, 0, 0)]
TREES = [(0, 2, 0, 5, 0), (5, 0, 0, 1, 0)]
ROWS = np.array([[0, -2], [0, np.nan], [0, 0], [1, 0], [np.nan, 0]], np.float32)
WANT = [101.0, 101.0, 102.0, 110.0, 110.0]


def run(
    kernel: tuple[fpgahal.Device, fpgahal.Kernel],
    nodes: Any = NODES,
    trees: Any = TREES,
    model_id: int = 0,
    buffers: dict[str, fpgahal.Buffer] | None = None,
    **scalars: int,
) -> np.ndarray:
    dev, predict = kernel
    packed = np.zeros(len(nodes), NODE)
    for at, (value, offset, feature, default) in enumerate(nodes):
        packed[at] = (value, offset | feature << 16 | default << 31)
    arrays = {
        "x": ROWS,
        "y": np.zeros(len(ROWS), np.float32),
        "nodes": packed,
        "trees": np.array(trees, TREE),
        "base": np.zeros(1, np.float32),
    }
    used = {name: dev.allocate(array.nbytes) for name, array in arrays.items()} | (buffers or {})
    values = {
        "n_rows": 5,
        "n_features": 2,
        "x_stride": 2,
        "tree_begin": 0,
        "tree_end": len(trees),
        "n_out": 1,
        "flags": 0,
    }
    values |= scalars
    for name, array in arrays.items():
        np.asarray(used[name])[: array.nbytes] = array.view(np.uint8).ravel()
        used[name].sync_to_device()
    try:
        predict(*used.values(), *values.values(), model_id, timeout=20)
        used["y"].sync_from_device()
        return np.asarray(used["y"]).view(np.float32).copy()
    finally:
        for name, buffer in used.items():
            if name not in (buffers or {}):
                buffer.close()


def test_it_computes(kernel: Any) -> None:
    assert run(kernel).tolist() == WANT
    assert run(kernel, tree_begin=1).tolist() == [100.0] * 5
    assert run(kernel, tree_end=0).tolist() == [0.0] * 5
    assert run(kernel, n_rows=0).tolist() == [0.0] * 5
    assert run(kernel, n_rows=2).tolist() == [101.0, 101.0, 0, 0, 0]
    assert run(kernel, tree_end=1, flags=1).view(np.uint32).tolist() == [3, 3, 4, 2, 2]
    assert run(kernel, x_stride=3, n_rows=3).tolist()[0] == 101.0


def changed(at: int, node: tuple[float, int, int, int]) -> list[tuple[float, int, int, int]]:
    return [*NODES[:at], node, *NODES[at + 1 :]]


BAD: dict[str, dict[str, Any]] = {
    "a child behind the tree": {"nodes": changed(0, (0.5, 4, 0, 0))},
    "a child far away": {"nodes": changed(0, (0.5, 0xFFFF, 0, 0))},
    "a right child in the next tree": {"nodes": changed(1, (-1.0, 3, 1, 1))},
    "two ways to a node": {"nodes": changed(1, (-1.0, 1, 1, 1))},
    "a feature that is not there": {"nodes": changed(1, (-1.0, 2, 2, 1))},
    "feature 32767": {"nodes": changed(0, (0.5, 1, 0x7FFF, 0))},
    "deeper than it says": {"trees": [(0, 1, 0, 5, 0), TREES[1]]},
    "a leaf that is none": {"trees": [TREES[0], (1, 5, 0, 1, 0)]},
    "no nodes": {"trees": [(0, 2, 0, 0, 0)]},
    "a root beyond the buffer": {"trees": [(1 << 20, 2, 0, 5, 0)]},
    "a root beyond everything": {"trees": [(0xFFFFFFFF, 2, 0, 0xFFFFFFFF, 0)]},
    "more nodes than the buffer": {"trees": [(0, 2, 0, 1 << 28, 0)]},
    "an output that is not there": {"trees": [(0, 2, 1, 5, 0)]},
    "a reserved field": {"trees": [(0, 2, 0, 5, 1)]},
    "trees beyond the buffer": {"tree_end": 1 << 24},
    "all the trees of the world": {"tree_end": 0xFFFFFFFF},
    "trees backwards": {"tree_begin": 2, "tree_end": 1},
    "no outputs": {"n_out": 0},
    "too many outputs": {"n_out": 0xFFFFFFFF},
    "no features": {"n_features": 0},
    "too many features": {"n_features": 40000, "x_stride": 40000, "n_rows": 1},
    "a stride that is too short": {"x_stride": 1},
    "rows beyond the buffer": {"n_rows": 1 << 20},
    "rows beyond everything": {"n_rows": 0xFFFFFFFF, "x_stride": 0xFFFFFFFF},
    "unknown flags": {"flags": 4},
    "leaves beyond the buffer": {"flags": 1, "n_rows": 5, "tree_end": 2, "x_stride": 1 << 28},
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("model_id", [0, 77], ids=["loaded each time", "kept"])
def test_bad_forests(kernel: Any, name: str, model_id: int) -> None:
    with pytest.raises(fpgahal.RunError):
        run(kernel, model_id=model_id, **BAD[name])
    assert run(kernel).tolist() == WANT  # and the board still works


def test_a_model_is_kept_under_its_id(kernel: Any) -> None:
    dev, _ = kernel
    other = [(0.5, 0, 0, 0)] * len(NODES)
    resident = {"nodes": dev.allocate(len(NODES) * 8), "trees": dev.allocate(len(TREES) * 16)}
    assert run(kernel, model_id=1, buffers=resident).tolist() == WANT
    assert run(kernel, other, model_id=1, buffers=resident).tolist() == WANT, "kept"
    assert run(kernel, other, model_id=2, buffers=resident).tolist() == [1.0] * 5, "another id: loaded"
    assert run(kernel, model_id=2, buffers=resident).tolist() == [1.0] * 5
    assert run(kernel, model_id=0, buffers=resident).tolist() == WANT, "no id: loaded each time"
    for buffer in resident.values():
        buffer.close()


def test_paths_by_name(kernel: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FPGAHAL_EMU_ISA", "mmx")
    with pytest.raises(fpgahal.RunError):
        run(kernel)
    monkeypatch.setenv("FPGAHAL_EMU_ISA", "")
    assert run(kernel).tolist() == WANT
