# SPDX-License-Identifier: Apache-2.0
"""The command ``fpgahal-plugin``: Kubernetes' device plugin for FPGA boards."""

from __future__ import annotations

import argparse
import gc
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import fpgahal
from fpgahal import ArgumentRangeError, FpgaError, LibraryNotFoundError
from fpgahal.cli.app import OK, Help, Parser, UsageError, run
from fpgahal.cli.output import Output
from fpgahal.k8s.plugin.config import PREFIX, Config, default, load

EPILOG = f"""\
Each option is also a variable ({PREFIX}SCAN_SECONDS) and a key of the TOML file (scan-seconds = 5); a flag goes
before a variable, and that before the file.  SIGTERM ends the plugin, and removes its sockets."""


def build_parser() -> Parser:
    """Declare the options."""
    parser = Parser(
        prog="fpgahal-plugin",
        description="Offers this node's FPGA boards, real or emulated, to kubelet.",
        epilog=EPILOG,
        formatter_class=Help,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("--version", action="version", version=f"fpgahal {fpgahal.__version__}")
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file with options")
    parser.add_argument("--once", action="store_true", help="print what would be offered, and end")
    for option in fields(Config):
        metadata = dict(option.metadata)
        value = default(option.name)
        name, text = option.name.replace("_", "-"), metadata.pop("help").replace("%", "%%")
        if isinstance(value, bool):
            action = argparse.BooleanOptionalAction
            parser.add_argument(f"--{name}", action=action, help=f"{text} (default {'yes' if value else 'no'})")
        else:
            shown = ",".join(value) if isinstance(value, tuple) else value
            default_text = f" (default {shown})" if shown and shown != {} else ""
            if "choices" in metadata:
                metadata["metavar"] = "|".join(metadata.pop("choices"))
            parser.add_argument(f"--{name}", help=text + default_text, **metadata)
    return parser


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line; the options that it has are in ``flags``."""
    flags = vars(build_parser().parse_args(argv))
    command = once if flags.pop("once", False) else serve
    return argparse.Namespace(run=command, file=flags.pop("config", None), flags=flags)


def serve(args: argparse.Namespace, out: Output) -> int:
    """Run the plugin."""
    config = _configured(args.flags, args.file)
    gc.disable()  # until the first registration: what is imported now is no garbage, and looking for some takes a tenth
    try:
        from fpgahal.k8s.plugin.service import Service
    except ModuleNotFoundError as error:
        raise LibraryNotFoundError(
            f"{error.name} is not installed.", hint="`pip install 'fpgahal[k8s]'` installs what this command needs."
        ) from None
    import asyncio

    async def main() -> None:
        await Service(config).run()

    asyncio.run(main())
    return OK


def once(args: argparse.Namespace, out: Output) -> int:
    """Print what would be offered."""
    from fpgahal.k8s.plugin.inventory import driver_problems, take

    settings = _configured(args.flags, args.file).settings()
    found = take(fpgahal.devices(), settings)
    problems = driver_problems(fpgahal.kernel_drivers(), settings)
    document = {
        "resources": {
            resource: [
                {
                    "id": unit.id,
                    "healthy": unit.healthy,
                    "reason": unit.reason,
                    "boards": [info.address for info in unit.slots],
                    "emulated": any(info.emulated for info in unit.slots),
                    "numa_nodes": unit.numa_nodes,
                    "nodes": [node.host_path for node in unit.nodes],
                    "env": dict(unit.env),
                }
                for unit in units.values()
            ]
            for resource, units in found.resources.items()
        },
        "skipped": [{"address": skip.address, "reason": skip.reason} for skip in found.skipped],
        "problems": problems,
    }

    def text() -> None:
        rows = [
            (
                resource,
                unit.id,
                unit.reason or "healthy",
                " ".join(f"{info.address} {info.name}" for info in unit.slots),
            )
            for resource, units in found.resources.items()
            for unit in units.values()
        ]
        if rows:
            out.table(("RESOURCE", "DEVICE", "HEALTH", "BOARD"), rows)
        else:
            out.line("Nothing would be offered.")
        for skip in found.skipped:
            out.line(f"Not offered: {skip.address}: {skip.reason}")
        for problem in problems:
            out.line(problem)

    out.result(document, text)
    return OK


def _configured(flags: Mapping[str, Any], file: Path | None) -> Config:
    try:
        config = load(flags, os.environ, file)
        config.settings()
    except ArgumentRangeError as error:
        raise UsageError(error.message, hint=error.hint or "`fpgahal-plugin --help` explains the options.") from None
    _log(config)
    _emulate(config)
    _see_all()
    return config


def _log(config: Config) -> None:
    level = getattr(logging, config.log_level.upper())
    if config.json:
        from fpgahal.k8s.logs import log_json

        log_json(level)
    else:
        logging.basicConfig(level=level, format="%(levelname)s: %(message)s", stream=sys.stderr, force=True)


def _emulate(config: Config) -> None:
    """Have this process see emulated boards, and no others, if that is what was asked for."""
    if config.rack:
        os.environ["FPGAHAL_EMU_RACK"] = os.path.abspath(config.rack)
        try:
            fpgahal.kernel_drivers()  # is there a rack?
        except FpgaError:
            specs = (config.emulate,) if config.emulate else ()
            fpgahal.emu.rack(*specs, dir=os.environ["FPGAHAL_EMU_RACK"], keep=True)
    elif config.emulate:
        os.environ["FPGAHAL_EMULATE"] = config.emulate
        os.environ.pop("FPGAHAL_EMU_RACK", None)


def _see_all() -> None:
    """Ignore what containers are told: a node's plugin that sees only some boards fails when one of them vanishes."""
    for variable in [name for name in os.environ if name.startswith(("FPGAHAL_VISIBLE_DEVICES", "FPGAHAL_DEVICE_"))]:
        logging.getLogger(__name__).warning("%s=%s is ignored", variable, os.environ.pop(variable))


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and give the exit code."""
    return run("fpgahal-plugin", parse, argv)
