#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Make a folder from which a host runs ``fpgahal-hook``, and put it on a host.

A container runtime starts the hook on the host, which may have no Python, another C library, or no shell.  So the
bundle has all of it: this interpreter, its standard library, the packages, and every shared library with the dynamic
loader.  It runs from one folder only, because a program's loader and a script's interpreter are absolute paths.

    bundle.py make /bundle --prefix /opt/fpgahal --packages /packages   # when the image is built; needs patchelf
    bundle.py install /bundle /host/opt/fpgahal                         # init container
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

LEFT_OUT = shutil.ignore_patterns(
    "__pycache__", "site-packages", "dist-packages", "test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip",
    "lib2to3", "config-*", "_tkinter*", "_test*", "xx*", "*.a",
)  # fmt: skip
SCRIPT = """\
#!{prefix}/bin/python3 -IS
import sys

sys.path.append("{prefix}/lib/packages")
from fpgahal.k8s.hook import main

sys.exit(main())
"""
STAMP = "digest"


def make(folder: Path, prefix: Path, packages: Path) -> None:
    """Fill an empty folder; it is to be used as `prefix`."""
    library = folder / "lib" / f"python{sysconfig.get_python_version()}"
    shutil.copytree(sysconfig.get_path("stdlib"), library, ignore=LEFT_OUT, symlinks=False)
    shutil.copytree(packages, folder / "lib" / "packages", ignore=shutil.ignore_patterns("__pycache__", "bin"))
    program = folder / "bin" / "python3"
    program.parent.mkdir()
    shutil.copy(Path(sys.executable).resolve(), program)
    for needed in sorted(shared_libraries([program, *folder.rglob("*.so*")])):
        if not needed.is_relative_to(folder):
            shutil.copy(needed.resolve(), folder / "lib" / needed.name)
    (loader,) = (folder / "lib").glob("ld-*")
    # RPATH, not RUNPATH: it holds for what a library needs in its turn.  The loader and libc need nothing.
    own = {loader, folder / "lib" / "libc.so.6"}
    patch = ["patchelf", "--force-rpath", "--add-rpath", f"{prefix}/lib"]
    subprocess.run([*patch, *sorted({*folder.rglob("*.so"), *folder.rglob("*.so.*"), program} - own)], check=True)
    subprocess.run(["patchelf", "--set-interpreter", prefix / "lib" / loader.name, program], check=True)
    script = folder / "bin" / "fpgahal-hook"
    script.write_text(SCRIPT.format(prefix=prefix))
    script.chmod(0o755)
    (folder / STAMP).write_text(digest(folder))


def shared_libraries(files: list[Path]) -> set[Path]:
    """Give what the loader would load for these programs and libraries."""
    found = set()
    for file in files:
        listed = subprocess.run(["ldd", file], capture_output=True, text=True, check=False).stdout
        if "not found" in listed:
            raise SystemExit(f"bundle: {file} needs a library that is not here:\n{listed}")
        found |= {Path(path) for path in re.findall(r"(/\S+) \(0x", listed)}
    return found


def install(bundle: Path, target: Path) -> bool:
    """Make `target` equal to a bundle, and tell whether there was anything to do.

    Each file is replaced by renaming, so that a hook that runs meanwhile keeps what it has open, and one that starts
    meanwhile finds old or new files, never half of one.
    """
    stamp = target / STAMP
    if stamp.is_file() and stamp.read_text() == (bundle / STAMP).read_text():
        return False
    stamp.unlink(missing_ok=True)  # an interrupted installation is begun again
    wanted = set(files(bundle))
    for name in sorted(wanted):
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.new")
        shutil.copy(bundle / name, temporary)
        temporary.replace(path)
    for name in set(files(target)) - wanted:
        (target / name).unlink()
    shutil.copy(bundle / STAMP, stamp)
    return True


def files(folder: Path) -> Iterator[Path]:
    """Give all files of a bundle but its stamp, relative to it."""
    return (path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and path != folder / STAMP)


def digest(folder: Path) -> str:
    """Give a SHA-256 of the files' names, modes and contents."""
    total = hashlib.sha256()
    for name in sorted(files(folder)):
        path = folder / name
        total.update(f"{name}\0{os.stat(path).st_mode:o}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest() + "\n"


def build_parser() -> argparse.ArgumentParser:
    """Declare the options."""
    parser = argparse.ArgumentParser(
        prog="bundle.py", description="Make or install what a host needs for fpgahal-hook."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make")
    making.add_argument("folder", type=Path)
    making.add_argument("--prefix", type=Path, default=Path("/opt/fpgahal"), help="where it will be on the host")
    making.add_argument("--packages", type=Path, required=True, help="what `pip install --target` made")
    installing = commands.add_parser("install")
    installing.add_argument("bundle", type=Path)
    installing.add_argument("target", type=Path)
    return parser


def main() -> None:
    """Run the command line."""
    args = build_parser().parse_args()
    if args.command == "make":
        make(args.folder, args.prefix, args.packages)
    elif install(args.bundle, args.target):
        print(f"{args.target} is installed")
    else:
        print(f"{args.target} is up to date")


if __name__ == "__main__":
    main()
