# SPDX-License-Identifier: Apache-2.0
"""Find devices and open one."""

from __future__ import annotations

import os
import sys
import time
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from fpgahal import _sysfs
from fpgahal._errors import (
    AmbiguousDeviceError,
    DeviceBusyError,
    DeviceLostError,
    DeviceNotFoundError,
    UnsupportedError,
)
from fpgahal._info import DeviceInfo
from fpgahal._scheme import scheme, split

if TYPE_CHECKING:
    from fpgahal._device import Device

#: Names the only devices that this process sees, by address, with commas between them.
VISIBLE_DEVICES = "FPGAHAL_VISIBLE_DEVICES"
#: What starts the names of variables that name one device each; they count where the list above is not set.
GIVEN_DEVICE = "FPGAHAL_DEVICE_"


def devices(root: str = "/") -> list[DeviceInfo]:
    """List the programmable slots of this machine, in the order of their PCI addresses.

    Reads sysfs only: opens no device, needs no vendor library.  A broken device is listed with the reason in
    ``health``.  While an emulated rack is active (``with fpgahal.emu.rack(...)``, FPGAHAL_EMULATE,
    FPGAHAL_EMU_RACK), that rack's boards are listed and no others.

    ``FPGAHAL_VISIBLE_DEVICES=3b:00.0,0000:5e:00.1/0`` narrows it to these; an address without slot means all slots of
    the function.  A container sees every board of its machine in sysfs: what it was given is in that variable, or in
    one variable ``FPGAHAL_DEVICE_...`` for each device.

    Parameters
    ----------
    root : str
        Folder that stands for ``/``.

    Raises
    ------
    DeviceNotFoundError
        A device that a variable names is not there; the message lists those that are.
    """
    return _visible(_sysfs.scan(_machine(root)))


def kernel_drivers(root: str = "/") -> list[str]:
    """List which of the boards' Linux drivers are loaded: ``"dfl"``, ``"intel-fpga"``, ``"xocl"``.

    Parameters
    ----------
    root : str
        Folder that stands for ``/``; an active emulated rack stands for it, too, as in :func:`devices`.
    """
    return _sysfs.kernel_drivers(_machine(root))


def _machine(root: str) -> str:
    """Give the folder to look at: an active rack takes the place of the machine."""
    if root == "/" and _may_be_emulated():
        rack = os.environ.get("FPGAHAL_EMU_RACK")
        if rack and "fpgahal.emu" not in sys.modules and os.path.exists(f"{rack}/rack.bin"):
            return rack  # what the emulator would say: to look at a rack takes none
        from fpgahal import emu

        return emu.active() or root
    return root


def _may_be_emulated() -> bool:
    """Whether to ask the emulator, which is not loaded for real boards."""
    return "fpgahal.emu" in sys.modules or any(map(os.environ.get, ("FPGAHAL_EMU_RACK", "FPGAHAL_EMULATE")))


def _visible(infos: list[DeviceInfo]) -> list[DeviceInfo]:
    """Those that the environment names; all, if it names none."""
    listed = os.environ.get(VISIBLE_DEVICES, "")
    given = {VISIBLE_DEVICES: listed} if listed.strip() else dict(_given())
    if not given:
        return infos
    found: set[str] = set()
    for variable, addresses in given.items():
        for text in filter(None, map(str.strip, addresses.split(","))):
            bdf, slot = _address(text)
            named = [info.address for info in infos if _matches(info, "bdf", bdf) and _matches(info, "slot", slot)]
            if not named:
                raise DeviceNotFoundError(
                    f"{variable} names {text}, which is not there.  There are:{_listing(infos) or ' none'}",
                    hint=f"Name one of them, or unset {variable} to see them all.",
                )
            found.update(named)
    return [info for info in infos if info.address in found]


def _given() -> Iterator[tuple[str, str]]:
    return ((name, value) for name, value in os.environ.items() if name.startswith(GIVEN_DEVICE) and value)


_SELECTORS = frozenset({"bdf", "slot", "afu_id", "driver", "name", "platform"})


def open(
    selector: DeviceInfo | str | Any = None,
    *,
    bdf: str | None = None,
    slot: int | None = None,
    afu_id: uuid.UUID | str | None = None,
    driver: str | None = None,
    name: str | None = None,
    platform: str | None = None,
    shared: bool = False,
    timeout: float = 0.0,
) -> Device:
    """Open the one device that matches.

    Parameters
    ----------
    selector : DeviceInfo, str or pyxrt.device, optional
        A DeviceInfo, or an address: ``"0000:3b:00.0"``, ``"3b:00.0"``, ``"0000:3b:00.0/1"``; or ``"manager:"``, the
        boards of this node's manager (``"manager:/path/to.sock"``).  A ``pyxrt.device`` stands for its board, which is
        then opened shared: pyxrt gives no handle away that could be used for both.
    bdf, slot, afu_id, driver, name, platform : optional
        What it must be; `name` and `platform` match any part, ignoring case.  ``driver="dfl"`` is an Intel board,
        opened through the kernel driver itself; with ``"opae"`` that is done where no libopae-c is installed.
    shared : bool
        Let others have it open too.  By default the device is this process's alone, on every driver (on XRT, which
        shares all devices, among users of fpgahal).
    timeout : float
        Seconds to wait while somebody else has it open; 0 by default.

    Raises
    ------
    DeviceNotFoundError, AmbiguousDeviceError
        None, or several match; the message lists the candidates (both are LookupErrors).
    DeviceBusyError, AccessError, LibraryNotFoundError, LibraryError
        It is there, but can't be opened.
    UnsupportedError
        A ``pyxrt.device`` is a real board, and this process's boards are emulated.
    """
    from fpgahal._device import Device  # not at import time: many programs look at boards and open none

    of_pyxrt = selector is not None and not isinstance(selector, DeviceInfo | str)
    if of_pyxrt:
        selector, shared = _pyxrt_bdf(selector), True
    if isinstance(selector, DeviceInfo):
        info = selector
    else:
        info = find(selector, bdf=bdf, slot=slot, afu_id=afu_id, driver=family(driver), name=name, platform=platform)
    if of_pyxrt and info.emulated:
        _refuse_other_board(info)
    end = time.monotonic() + timeout
    while True:
        try:
            return Device(info, shared=shared, driver=driver)
        except DeviceBusyError:
            if time.monotonic() >= end:
                raise
            time.sleep(0.02)


def find(selector: str | None = None, **wanted: Any) -> DeviceInfo:
    """The one device that matches; parameters and errors as for :func:`open`."""
    owner = None if selector is None else split(selector)
    if owner is not None:
        if asked := _asked(wanted):
            raise DeviceNotFoundError(f"{selector} is no board, and can't be chosen by {asked}.")
        return scheme(owner[0]).info(owner[1])
    if selector is not None:
        wanted["bdf"], wanted["slot"] = _address(selector)
    matches = find_all(**wanted)
    if len(matches) == 1:
        return matches[0]
    asked = _asked(wanted)
    raise AmbiguousDeviceError(
        f"{len(matches)} devices match{f' {asked}' if asked else ''}:{_listing(matches)}",
        hint=f'Name one: fpgahal.open("{matches[0].address}").',
    )


def family(driver: str | None) -> str | None:
    """Which boards a binding is for: ``"dfl"`` is another way to open an OPAE board."""
    return "opae" if driver == "dfl" else driver


def find_all(**wanted: Any) -> list[DeviceInfo]:
    """The devices that match, at least one; parameters as for :func:`open`."""
    for key in wanted.keys() - _SELECTORS:
        raise TypeError(
            f"find() got an unexpected keyword argument {key!r}: known are {', '.join(sorted(_SELECTORS))}."
        )
    known = devices()
    matches = [info for info in known if all(_matches(info, key, value) for key, value in wanted.items())]
    if matches:
        return matches
    if known:
        raise DeviceNotFoundError(
            f"No device matches {_asked(wanted)}.  There are:{_listing(known)}",
            hint=f"{VISIBLE_DEVICES} is set and hides all others."
            if os.environ.get(VISIBLE_DEVICES, "").strip()
            else "`fpgahal list` shows them.",
        )
    raise DeviceNotFoundError(
        "No FPGA device was found in /sys (drivers looked for: dfl, intel-fpga, xocl).",
        hint="`fpgahal doctor` says what is missing; FPGAHAL_EMULATE=pac-a10,u250 gives you emulated boards.",
    )


def _pyxrt_bdf(device: Any) -> str:
    """The PCI address of a ``pyxrt.device``; a TypeError for any other object."""
    kind = type(device)
    keys = getattr(sys.modules.get(kind.__module__), "xrt_info_device", None)
    if kind.__name__ != "device" or keys is None:
        raise TypeError(f"open() takes a DeviceInfo, an address or a pyxrt.device, not {kind.__name__}.")
    try:
        return str(device.get_info(keys.bdf))
    except RuntimeError as error:
        raise DeviceLostError(f"pyxrt does not say which board its device is: {error}.") from error


def _refuse_other_board(info: DeviceInfo) -> None:
    """A real board may have the same address as the emulated one: never take one for the other."""
    from fpgahal import _xrt_library

    if not _xrt_library.emulated_driver_loaded():
        raise UnsupportedError(
            f"{info.address} is a real board in pyxrt, but this process's boards are emulated.",
            hint="Leave the emulated rack, or put emulated boards below pyxrt, too: FPGAHAL_EMU_XRT=real.",
        )


def _asked(wanted: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in wanted.items() if value is not None)


def _listing(infos: list[DeviceInfo]) -> str:
    return "".join(f"\n    {info}" for info in infos)


def _address(text: str) -> tuple[str, int | None]:
    bdf, _, slot = text.partition("/")
    if slot and not slot.isdigit():
        raise DeviceNotFoundError(
            f"{text!r} is not a device's address.", hint="Right are 0000:3b:00.0, 3b:00.0 or 0000:3b:00.0/1."
        )
    return bdf, int(slot) if slot else None


def _matches(info: DeviceInfo, key: str, value: Any) -> bool:
    if value is None:
        return True
    actual = getattr(info, key)
    if key == "bdf":
        return str(actual) == _full_bdf(str(value))
    if key == "afu_id":
        return actual is not None and str(actual) == str(uuid.UUID(str(value)))
    if key in ("name", "platform"):
        return str(value).lower() in str(actual).lower()
    return bool(actual == value)


def _full_bdf(text: str) -> str:
    text = text.lower()
    return text if text.count(":") == 2 else f"0000:{text}"


__all__ = ["devices", "find", "kernel_drivers", "open"]
