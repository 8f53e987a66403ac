# SPDX-License-Identifier: Apache-2.0
"""AMD's scheme: ``amd.com/<shell>-<time stamp>``, until 2020 ``xilinx.com/fpga-<shell>-<time stamp>``."""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Iterator, Sequence
from posixpath import basename

from fpgahal import ArgumentRangeError, DeviceInfo
from fpgahal.k8s.names import check_resource
from fpgahal.k8s.plugin.unit import Skipped, Unit
from fpgahal.k8s.schemes import board
from fpgahal.k8s.schemes.settings import Settings

_VENDORS = (0x10EE, 0x1D0F, 0x13FE, 0x3475)  # Xilinx, AWS, Advantech, Arista
_LONGEST_CUSTOM_NAME = 60
_TERM = re.compile(r"'(?P<text>[^'+]*)'|(?P<field>[A-Za-z]+)")

_log = logging.getLogger(__name__)


def units(devices: Sequence[DeviceInfo], settings: Settings) -> Iterator[Unit | Skipped]:
    """Offer the cards of AMD's drivers; the id is the user function's PCI address."""
    for info in devices:
        if info.driver != "xrt" or info.vendor_id not in _VENDORS:
            continue
        problem = board.problem(info) or ("" if info.platform else info.health.reason or "its shell has no name")
        if problem:
            yield Skipped(info.address, problem)
            continue
        nodes = board.application_nodes(info)
        if settings.xilinx_management:
            nodes += tuple(node for node in info.device_nodes if basename(node).startswith("xclmgmt"))
        yield board.unit(info.bdf, _resource(info, settings), (info,), nodes)


def _resource(info: DeviceInfo, settings: Settings) -> str:
    domain = "xilinx.com/fpga-" if settings.xilinx_legacy else "amd.com/"
    return f"{domain}{_custom_name(info, settings, domain) or f'{info.platform}-{info.timestamp}'}"


def _custom_name(info: DeviceInfo, settings: Settings, domain: str) -> str:
    """Give the name that the settings have for a card; empty if they have none that can be used.

    A key is ``type-shell-id``, each ``*`` or what the card has; the id is the time stamp, or the last six digits of
    the shell's logic UUID.
    """
    card = _fields(info)
    for key, expression in settings.xilinx_names.items():
        wanted = key.split("-")
        if len(wanted) != 3:
            _warn(f"The name for {key!r} is ignored: a key has three parts, type-shell-timestamp.")
            continue
        kind, shell, id = (part.lower() for part in wanted)
        same_card = kind in ("*", card["deviceType"].lower()) and shell in ("*", card["shellVer"].lower())
        if same_card and (id in ("*", card["timestamp"]) or (len(id) == 6 and id == card["uuid"])):
            return _checked(expression, card, domain)
    return ""


def _fields(info: DeviceInfo) -> dict[str, str]:
    parts = info.platform.split("_")
    return {
        "deviceType": parts[1] if len(parts) > 1 else info.board,
        "shellVer": info.platform,
        "timestamp": str(info.timestamp),
        "uuid": info.logic_id.hex[-6:] if info.logic_id else "",
    }


def _checked(expression: str, card: dict[str, str], domain: str) -> str:
    terms = [_TERM.fullmatch(term.strip()) for term in expression.split("+")]
    if not all(term and (term["field"] is None or term["field"] in card) for term in terms):
        _warn(f"The name {expression!r} is ignored: expected 'text' and {', '.join(card)}, with + between them.")
        return ""
    name = "".join(card[term["field"]] if term["field"] else term["text"] for term in terms if term)
    if len(name) > _LONGEST_CUSTOM_NAME:
        _warn(f"The name {name!r} is ignored: it is longer than {_LONGEST_CUSTOM_NAME} characters.")
        return ""
    try:
        check_resource(domain + name)
    except ArgumentRangeError as error:
        _warn(f"The name {name!r} is ignored: {error.message}")
        return ""
    return name


@functools.cache
def _warn(message: str) -> None:
    """Say it once, not in each scan."""
    _log.warning(message)
