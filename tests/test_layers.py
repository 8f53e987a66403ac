# SPDX-License-Identifier: Apache-2.0
"""The rules of the house that a machine can check: layers, vendors, file sizes, licences."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "fpgahal"
PLUGIN = ROOT / "src" / "pytest_fpgahal" / "__init__.py"

# Lower may not import higher.  Names are top-level modules of fpgahal; what is not named here is layer 0.
LAYERS = {
    "_session": 1,
    "_wait": 1,
    "_use": 1,
    "_register_kernel": 2,
    "_port": 2,
    "_opae": 2,
    "_dfl": 2,
    "_xrt": 2,
    "_xrt_library": 2,
    "_remote": 2,
    "_csr": 3,
    "_buffer": 3,
    "_signature": 3,
    "_interrupt": 3,
    "_kernel": 3,
    "_device": 3,
    "_find": 3,
    "_group": 3,
    "__init__": 4,
    "kernels": 5,
    "cli": 6,
    "bench": 6,
    "conformance": 6,
    "k8s": 6,
    "manager": 6,
    "contrib": 6,
    "__main__": 6,
    "_probe": 6,
}
# Consumers use the public names only, as any user could.
PUBLIC_ONLY = ("kernels", "cli", "bench", "conformance", "k8s", "manager", "contrib")

SOURCES = sorted(path for path in PACKAGE.rglob("*") if path.suffix in (".py", ".pyx", ".pxd"))


def module(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].partition(".")[0]


def imports(path: Path) -> set[str]:
    """Modules of fpgahal that a file imports, wherever the statement stands."""
    text = path.read_text()
    if path.suffix == ".py":
        found = set()
        tree = ast.parse(text)
        typing_only = {
            child
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
            for child in ast.walk(node)
        }
        for node in set(ast.walk(tree)) - typing_only:
            if isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module)
                if node.module == "fpgahal":
                    found.update(f"fpgahal.{alias.name}" for alias in node.names)
            elif isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
    else:
        found = set(re.findall(r"^\s*(?:from|c?import)\s+(fpgahal[\w.]*)", text, re.MULTILINE))
        for names in re.findall(r"^\s*from fpgahal import (.*)$", text, re.MULTILINE):
            found.update(f"fpgahal.{name.strip()}" for name in names.split(","))
    return {name.split(".")[1] for name in found if name.startswith("fpgahal.")}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    own = module(path)
    known = {module(source) for source in SOURCES}
    for other in imports(path) & known - {own}:
        assert LAYERS.get(other, 0) <= LAYERS.get(own, 0), f"{own} imports {other}, which is above it"


@pytest.mark.parametrize(
    "path", [path for path in SOURCES if module(path) in PUBLIC_ONLY], ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_consumers_use_public_names(path: Path) -> None:
    private = {name for name in imports(path) if name.startswith("_")}
    assert not private, f"{path.name} imports {', '.join(sorted(private))}: use what `import fpgahal` offers"


def test_the_pytest_plugin_is_a_user() -> None:
    """It stands outside the package, uses public names, and imports them no earlier than in a fixture."""
    assert {name for name in imports(PLUGIN) if name.startswith("_")} == set()
    top = [node for node in ast.parse(PLUGIN.read_text()).body if isinstance(node, (ast.Import, ast.ImportFrom))]
    assert not [node for node in top if "fpgahal" in ast.unparse(node)]


def test_few_files_know_a_vendor_library() -> None:
    call = re.compile(r"\b(?:abi\.|cdef .*)(fpga[A-Z]\w+|xrt[A-Z]\w+)\s*\(")
    knowing = {path.name for path in SOURCES if call.search(path.read_text())}
    assert knowing == {"_opae.pyx", "_xrt.pyx", "_xrt_library.pyx"}


def tracked() -> list[Path]:
    folders = ("src", "native", "tests", "benchmarks", "examples", "scripts", ".ci")
    kinds = (".py", ".pyx", ".pxd", ".pyi", ".c", ".h", ".cpp", ".toml", "")
    return [
        path
        for folder in folders
        for path in (ROOT / folder).rglob("*")
        if path.is_file()
        and path.suffix in kinds
        and not any(part == "__pycache__" or part.endswith("_cache") for part in path.parts)
        and path.name != "py.typed"
        and path.stat().st_size
    ]


def test_every_file_names_its_licence() -> None:
    missing = [
        str(path.relative_to(ROOT))
        for path in tracked()
        if "SPDX-License-Identifier: Apache-2.0" not in path.read_text()[:300]
    ]
    assert not missing


def test_files_can_be_read_in_one_sitting() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in tracked()
        if path.suffix != ".toml" and "tests" not in path.parts and (lines := len(path.read_text().splitlines())) > 520
    }
    assert not long
