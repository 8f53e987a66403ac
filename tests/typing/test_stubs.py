# SPDX-License-Identifier: Apache-2.0
"""The stubs beside the extension modules say what the modules have, and nothing else."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

STUBS = sorted(Path(__file__).parent.parent.parent.glob("src/fpgahal/*.pyi"))
PLUMBING = {
    "__init__",
    "__new__",
    "__enter__",
    "__exit__",
    "__buffer__",
    "__len__",
    "__await__",
    "__call__",
    "__array__",
    "__dlpack__",
    "__dlpack_device__",
}


def members(cls: type) -> set[str]:
    return {name for name in vars(cls) if not name.startswith("__")}


@pytest.mark.parametrize("path", STUBS, ids=lambda path: path.stem)
def test_stub_and_module_agree(path: Path) -> None:
    module = importlib.import_module(f"fpgahal.{path.stem}")
    tree = ast.parse(path.read_text())
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            declared = {item.name for item in node.body if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)}
            actual = members(getattr(module, node.name))
            assert declared - PLUMBING <= actual, f"{node.name}: the stub has more"
            public = {name for name in actual if not name.startswith("_")}
            assert public <= declared, f"{node.name}: the stub lacks {public - declared}"
        elif isinstance(node, ast.FunctionDef):
            assert callable(getattr(module, node.name))


def test_every_extension_module_has_a_stub() -> None:
    modules = {path.stem for path in STUBS[0].parent.glob("*.pyx")}
    assert modules == {path.stem for path in STUBS}
