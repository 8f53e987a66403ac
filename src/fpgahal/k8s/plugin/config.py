# SPDX-License-Identifier: Apache-2.0
"""What the plugin is told: by flags, then environment variables, then a TOML file, then defaults."""

# ruff: noqa: RUF009 - `_option` is dataclasses.field with a help text
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from fpgahal import ArgumentRangeError
from fpgahal.k8s.schemes.settings import INTEL_NAMES, MODES, NAMES, Settings

PREFIX = "FPGAHAL_PLUGIN_"  # of the variables: FPGAHAL_PLUGIN_SCAN_SECONDS
LEVELS = ("debug", "info", "warning", "error")
NODE_NAME = "NODE_NAME"  # what DaemonSets call it


def _option(default: Any, help: str, **more: Any) -> Any:
    factory = {"default_factory": lambda: default} if isinstance(default, dict) else {"default": default}
    return field(**factory, metadata={"help": help, **more})


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All options; the metadata's ``help`` says what each is."""

    schemes: tuple[str, ...] = _option(
        ("own",),
        f"naming schemes, comma-separated; a board is offered under the first that takes it: {' '.join(NAMES)}",
    )
    mode: str = _option(
        "af", "of Intel's scheme; the node's annotation device-plugin-mode says otherwise", choices=MODES
    )
    intel_names: str = _option("2020", "name functions by interface and AFU, or by AFU only", choices=INTEL_NAMES)
    intel_annotation: bool = _option(False, "annotate containers of mode region as Intel's plugin did")
    xilinx_legacy: bool = _option(False, "name AMD's boards xilinx.com/fpga-..., as until 2020")
    xilinx_names: dict[str, str] = _option({}, "AMD's NameCustomize.json", metavar="FILE")
    xilinx_management: bool = _option(False, "give containers the management node of AMD's boards: dangerous")
    bcom_units: int = _option(40, "how many units scheme bcom-counter counts", metavar="N")
    cdi: bool = _option(False, "name CDI devices for all units, not only where a hook is needed")
    cdi_dir: Path = _option(Path("/var/run/cdi"), "where container runtimes look for CDI files", metavar="DIR")
    hook: str = _option(
        "/opt/fpgahal/bin/fpgahal-hook", "the CDI devices' hook: its path on the node; empty: none", metavar="PATH"
    )
    prestart: bool = _option(True, "verify boards before each start of a container")
    program: bool = _option(True, "load the image that is wanted, if it is not loaded; without prestart, in the hook")
    store: Path = _option(Path("/srv/intel.com/fpga"), "folder of images", metavar="DIR")
    kubelet_dir: Path = _option(Path("/var/lib/kubelet"), "kubelet's root folder", metavar="DIR")
    scan_seconds: float = _option(5.0, "look at the boards so often, besides at each event", metavar="S")
    grace_seconds: float = _option(60.0, "keep a board that vanished so long, unhealthy", metavar="S")
    status_host: str = _option("0.0.0.0", "address of /healthz, /readyz and /metrics", metavar="ADDRESS")
    status_port: int = _option(8081, "port of them; -1: none", metavar="PORT")
    node_name: str = _option("", f"this node (default: ${NODE_NAME})", metavar="NAME")
    api_server: str = _option("", "instead of the pod's own: that of `kubectl proxy`", metavar="URL")
    emulate: str = _option("", "offer emulated boards, and no others: pac-a10:2,u250", metavar="SPEC")
    rack: str = _option("", "folder of the emulated boards; made if it is not there, and kept", metavar="DIR")
    json: bool = _option(False, "log one JSON object a line; with --once: print one JSON document")
    log_level: str = _option("info", "least level that is logged", choices=LEVELS)

    def __post_init__(self) -> None:
        for name in ("scan_seconds", "grace_seconds"):
            if not 0.05 <= getattr(self, name) <= 86400:
                raise ArgumentRangeError(f"{name} = {getattr(self, name)}: expected 0.05 to 86400 seconds.")
        if not -1 <= self.status_port <= 65535:
            raise ArgumentRangeError(f"status_port = {self.status_port} is no port.")
        if self.api_server and not self.api_server.startswith(("http://", "https://")):
            raise ArgumentRangeError(
                f"api_server = {self.api_server!r} is no URL.", hint="Try --api-server http://127.0.0.1:8001."
            )
        if self.hook and not self.hook.startswith("/"):
            raise ArgumentRangeError(f"hook = {self.hook!r}: an absolute path was expected.")
        for option in fields(self):
            choices = option.metadata.get("choices")
            if choices and getattr(self, option.name) not in choices:
                raise ArgumentRangeError(
                    f"{option.name} = {getattr(self, option.name)!r}: expected one of {', '.join(choices)}."
                )

    def settings(self) -> Settings:
        """Give what the schemes need to know; raises ArgumentRangeError where they refuse it."""
        return Settings(**{option.name: getattr(self, option.name) for option in fields(Settings)})


def load(flags: Mapping[str, Any], environ: Mapping[str, str], file: Path | None = None) -> Config:
    """Put the configuration together.

    Parameters
    ----------
    flags : mapping
        Option name -> value, of those that the command line has.
    environ : mapping
        ``FPGAHAL_PLUGIN_<OPTION>``, and NODE_NAME.  An empty variable is none.
    file : Path, optional
        TOML: options by name, with ``_`` or ``-``.

    Raises
    ------
    ArgumentRangeError
        A value is not what was expected, or there is no such option; the message says where.
    OSError
        The file can't be read.
    """
    known = {option.name: option for option in fields(Config)}
    values: dict[str, Any] = {}
    if file is not None:
        for name, value in _toml(file).items():
            plain = name.replace("-", "_")
            if plain not in known:
                raise ArgumentRangeError(f"{file}: there is no option {name!r}; there are {', '.join(known)}.")
            values[plain] = _parsed(plain, value, f"{file}: {name}")
    if environ.get(NODE_NAME):
        values["node_name"] = environ[NODE_NAME]
    for name in known:
        variable = PREFIX + name.upper()
        if environ.get(variable):
            values[name] = _parsed(name, environ[variable], variable)
    for name, value in flags.items():
        values[name] = _parsed(name, value, f"--{name.replace('_', '-')}")
    return Config(**values)


def default(name: str) -> Any:
    """Give an option's default."""
    option = next(option for option in fields(Config) if option.name == name)
    return {} if option.default is MISSING else option.default


def _toml(file: Path) -> dict[str, Any]:
    import tomllib  # only those who have a file need it

    with file.open("rb") as stream:
        try:
            return tomllib.load(stream)
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ArgumentRangeError(f"{file} is no TOML: {error}.") from None


def _parsed(name: str, value: Any, where: str) -> Any:
    """Give a value the type of the option's default."""
    kind = type(default(name))
    try:
        if kind is bool:
            return value if isinstance(value, bool) else _bool(value)
        if kind is tuple:
            parts = value.split(",") if isinstance(value, str) else value
            return tuple(str(part).strip() for part in parts)
        if kind is dict:
            return value if isinstance(value, dict) else _names(Path(value))
        if kind in (int, float) and isinstance(value, bool):
            raise ValueError
        return kind(value)
    except (ValueError, TypeError):
        expected = {bool: "true or false", tuple: "a list", int: "a whole number", float: "a number"}
        raise ArgumentRangeError(f"{where} = {value!r}: expected {expected.get(kind, kind.__name__)}.") from None


def _bool(text: str) -> bool:
    known = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
    if text.lower() not in known:
        raise ValueError
    return known[text.lower()]


def _names(path: Path) -> dict[str, str]:
    import json  # as tomllib

    document = json.loads(path.read_bytes())
    if not isinstance(document, dict):
        raise ValueError
    return {str(key): str(value) for key, value in document.items()}
