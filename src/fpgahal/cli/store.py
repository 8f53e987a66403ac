# SPDX-License-Identifier: Apache-2.0
"""``fpgahal images add | list | verify | remove``: a node's folder of images, from which containers are served."""

from __future__ import annotations

import argparse
from typing import Any

from fpgahal import ArgumentRangeError, ImageStore, StoredImage
from fpgahal.cli.app import NOT_SO, OK, UsageError
from fpgahal.cli.output import Output


def add_to(commands: argparse._SubParsersAction[Any], common: argparse.ArgumentParser) -> None:
    """Declare the commands."""
    store = argparse.ArgumentParser(add_help=False)
    store.add_argument("--store", metavar="DIR", help="the store's folder (default /srv/intel.com/fpga)")
    changing = argparse.ArgumentParser(add_help=False)
    changing.add_argument("--dry-run", action="store_true", help="check everything, change nothing")
    parser = commands.add_parser("images", parents=[common], help="the images that containers may be given")
    parser.set_defaults(run=_nothing_asked)
    actions = parser.add_subparsers(title="commands", metavar="COMMAND")

    parser = actions.add_parser("add", parents=[common, store, changing], help="check image files and take them in")
    parser.add_argument("files", nargs="+", metavar="FILE", help="a .gbs, .aocx or .xclbin")
    parser.add_argument("--force", action="store_true", help="replace what is there")
    parser.add_argument(
        "--namespace",
        action="append",
        metavar="NS",
        help="a namespace that may use it, repeat it for more (default: all; replacing: as before)",
    )
    parser.set_defaults(run=add)

    parser = actions.add_parser("list", parents=[common, store], help="show the index")
    parser.set_defaults(run=show)

    parser = actions.add_parser("verify", parents=[common, store], help="compare every file with the index")
    parser.set_defaults(run=verify)

    parser = actions.add_parser("remove", parents=[common, store, changing], help="take an image out")
    parser.add_argument("image", metavar="INTERFACE/AFU", help="as `fpgahal images list` shows it")
    parser.add_argument("--force", action="store_true", help="also if the file was changed or is not in the index")
    parser.set_defaults(run=remove)


def add(args: argparse.Namespace, out: Output) -> int:
    """``fpgahal images add``."""
    store = _store(args)
    added = []
    for file in args.files:
        added.append(store.add(file, namespaces=args.namespace, force=args.force, dry_run=args.dry_run))
        if not out.as_json:
            told = "would be added" if args.dry_run else "added"
            out.line(f"{added[-1].path}: {told}, for {_who(added[-1])}")
    if out.as_json:
        out.result({"images": added, "dry_run": args.dry_run}, lambda: None)
    return OK


def show(args: argparse.Namespace, out: Output) -> int:
    """``fpgahal images list``."""
    images = _store(args).list()
    rows = [[f"{one.interface_id}/{one.afu_id}", one.size, one.sha256[:16], _who(one)] for one in images]
    out.result({"images": images}, lambda: out.table(["IMAGE", "BYTES", "SHA-256", "NAMESPACES"], rows))
    return OK


def verify(args: argparse.Namespace, out: Output) -> int:
    """``fpgahal images verify``."""
    store = _store(args)
    problems = store.verify()

    def text() -> None:
        for problem in problems:
            out.line(f"{problem.kind}: {store.folder}/{problem.path}: {problem.message}")
        if not problems:
            out.line(f"{store.folder}: {len(store.list())} images, all as they were added")

    out.result({"store": store.folder, "problems": problems}, text)
    return NOT_SO if problems else OK


def remove(args: argparse.Namespace, out: Output) -> int:
    """``fpgahal images remove``."""
    interface, slash, afu = args.image.partition("/")
    if not slash:
        raise ArgumentRangeError(f"{args.image!r} names no image: INTERFACE/AFU was expected.")
    path = _store(args).remove(interface, afu, force=args.force, dry_run=args.dry_run)
    told = "would be removed" if args.dry_run else "removed"
    out.result({"removed": path, "dry_run": args.dry_run}, lambda: out.line(f"{path}: {told}"))
    return OK


def _nothing_asked(args: argparse.Namespace, out: Output) -> int:
    raise UsageError("`fpgahal images` does nothing by itself.", hint="`fpgahal images --help` lists its commands.")


def _store(args: argparse.Namespace) -> ImageStore:
    return ImageStore(args.store) if args.store else ImageStore()


def _who(image: StoredImage) -> str:
    return "everybody" if image.namespaces is None else ", ".join(image.namespaces) or "nobody"
