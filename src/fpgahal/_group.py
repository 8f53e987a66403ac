# SPDX-License-Identifier: Apache-2.0
"""Open several devices at once."""

from __future__ import annotations

import time
import uuid
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from fpgahal._device import Device
from fpgahal._find import family, find, find_all, open
from fpgahal._info import DeviceInfo


class DeviceGroup(tuple[Device, ...]):
    """Devices that were opened together: a tuple that can be closed, and that closes in ``with``."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<fpgahal.DeviceGroup {', '.join(dev.info.address for dev in self)}>"

    def close(self) -> None:
        """Close all of them.  Errors as for :meth:`Device.close`; the others are closed all the same."""
        with ExitStack() as stack:
            for dev in self:
                stack.callback(dev.close)

    def __enter__(self) -> Self:
        for dev in self:
            dev.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        stack = ExitStack()
        for dev in self:
            stack.push(dev)
        stack.__exit__(kind, error, traceback)


def open_all(
    *selectors: DeviceInfo | str,
    afu_id: uuid.UUID | str | None = None,
    driver: str | None = None,
    name: str | None = None,
    platform: str | None = None,
    shared: bool = False,
    timeout: float = 0.0,
) -> DeviceGroup:
    """Open all devices that match, or none.

    Parameters
    ----------
    *selectors : DeviceInfo or str
        Devices or addresses, as for :func:`open`; without any, all devices of this machine.
    afu_id, driver, name, platform : optional
        What each must be, as for :func:`open`.
    shared : bool
        Let others have them open too.
    timeout : float
        Seconds to wait, in all, while somebody else has one open; 0 by default.

    Returns
    -------
    DeviceGroup
        In the order of `selectors`, or of the PCI addresses.

    Raises
    ------
    DeviceNotFoundError
        None matches, or one of `selectors` does not.
    DeviceBusyError, AccessError, LibraryNotFoundError, LibraryError
        One can't be opened; those that were opened are closed again.

    Examples
    --------
    >>> with fpgahal.emu.rack("u250:2"), fpgahal.open_all(driver="xrt") as boards:
    ...     len(boards)
    2
    """
    wanted = {"afu_id": afu_id, "driver": family(driver), "name": name, "platform": platform}
    if selectors:
        infos = [one if isinstance(one, DeviceInfo) else find(one, **wanted) for one in selectors]
    else:
        infos = find_all(**wanted)
    end = time.monotonic() + timeout
    with ExitStack() as opened:
        group = DeviceGroup(
            opened.enter_context(open(info, driver=driver, shared=shared, timeout=end - time.monotonic()))
            for info in infos
        )
        opened.pop_all()
    return group


__all__ = ["DeviceGroup", "open_all"]
