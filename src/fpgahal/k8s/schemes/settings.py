# SPDX-License-Identifier: Apache-2.0
"""What a node is told about how to offer its boards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fpgahal import ArgumentRangeError

NAMES = ("own", "intel", "xilinx", "inaccel", "bcom", "bcom-counter")
MODES = ("af", "region", "regiondevel")
INTEL_NAMES = ("2020", "2018")
MAX_COUNTED_UNITS = 10_000


@dataclass(frozen=True, slots=True)
class Settings:
    """How boards are offered.

    Attributes
    ----------
    schemes : tuple of str
        Names of :data:`NAMES`; a board is offered under the first one that takes it, and no other.
    mode : str
        Intel's scheme: ``"af"`` (programmed functions), ``"region"`` (regions that are programmed for a pod),
        ``"regiondevel"`` (regions that the pod programs itself: it gets the management node, too).
    intel_names : str
        ``"2020"``, or ``"2018"``: programmed functions are named by the AFU alone, as until release 0.17.
    intel_annotation : bool
        Give containers of mode region the annotation that Intel's hook asked for until release 0.30.
    xilinx_legacy : bool
        ``xilinx.com/fpga-...`` instead of ``amd.com/...``, as until 2020.
    xilinx_names : mapping of str to str
        AMD's NameCustomize.json: ``{"u200-*-*": "deviceType+'-prod'"}``.
    xilinx_management : bool
        Give containers the management node, as AMD's plugin did: whoever has it can reflash the card.
    bcom_units : int
        How many units the scheme bcom-counter counts; 0 is none.
    cdi : bool
        Name CDI devices for every unit; otherwise only where a hook must see the container (mode region).

    Raises
    ------
    ArgumentRangeError
        A value is none of those named above.
    """

    schemes: tuple[str, ...] = ("own",)
    mode: str = "af"
    intel_names: str = "2020"
    intel_annotation: bool = False
    xilinx_legacy: bool = False
    xilinx_names: Mapping[str, str] = field(default_factory=dict)
    xilinx_management: bool = False
    bcom_units: int = 40
    cdi: bool = False

    def __post_init__(self) -> None:
        if not self.schemes:
            raise ArgumentRangeError(f"No naming scheme: expected some of {', '.join(NAMES)}.")
        for scheme in self.schemes:
            _one_of(scheme, NAMES, "naming scheme")
        if len(set(self.schemes)) != len(self.schemes):
            raise ArgumentRangeError(f"A naming scheme is listed twice: {', '.join(self.schemes)}.")
        _one_of(self.mode, MODES, "mode")
        _one_of(self.intel_names, INTEL_NAMES, "naming of programmed functions")
        if not 0 <= self.bcom_units <= MAX_COUNTED_UNITS:
            raise ArgumentRangeError(f"bcom_units={self.bcom_units}: expected 0 to {MAX_COUNTED_UNITS}.")


def _one_of(value: str, known: tuple[str, ...], what: str) -> None:
    if value not in known:
        raise ArgumentRangeError(f"{value!r} is no {what}: expected {' or '.join(known)}.")
