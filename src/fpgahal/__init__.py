# SPDX-License-Identifier: Apache-2.0
"""fpgahal: one Device API for FPGA cards, over OPAE and XRT, on real and emulated boards.

>>> import fpgahal
>>> with fpgahal.emu.rack("pac-a10"):
...     with fpgahal.open() as dev:
...         dev.csr.read64(0x8) != 0
True
"""

from typing import TYPE_CHECKING, Any

try:
    import fpgahal._session  # noqa: F401 - any compiled module would do
except ImportError as error:
    raise ImportError(
        f"fpgahal is not compiled for this Python ({error}).  In a source tree run `pip install .` (it needs a C "
        "compiler; scripts/install-debian installs one), and import it from elsewhere than src/."
    ) from error
from fpgahal._errors import (
    AccessError,
    AFUMismatchError,
    AmbiguousDeviceError,
    ArgumentError,
    ArgumentRangeError,
    BitstreamError,
    BufferInUseError,
    ClosedError,
    CsrError,
    DeviceBusyError,
    DeviceLostError,
    DeviceMemoryError,
    DeviceNotFoundError,
    DeviceStateError,
    DriverError,
    FpgaError,
    ImageNotFoundError,
    ImageStoreError,
    IncompatibleBitstreamError,
    KernelNotFoundError,
    LibraryError,
    LibraryNotFoundError,
    PollTimeoutError,
    ProgramError,
    ProgramTimeoutError,
    RunError,
    RunTimeoutError,
    UnsupportedError,
)

if TYPE_CHECKING:
    from fpgahal import emu, kernels, manager
    from fpgahal._bitstream import Bitstream
    from fpgahal._buffer import Buffer
    from fpgahal._contract import Array, KernelContract, Register, RegisterContract, Scalar, Word, Write
    from fpgahal._csr import Csr, KernelCsr
    from fpgahal._device import Device
    from fpgahal._find import devices, find, kernel_drivers, open
    from fpgahal._group import DeviceGroup, open_all
    from fpgahal._info import DeviceInfo, Health, HealthStatus
    from fpgahal._interrupt import Interrupt
    from fpgahal._kernel import Kernel, Run
    from fpgahal._store import ImageStore, StoredImage, StoreProblem
    from fpgahal._types import ArgInfo, ArgKind, BankInfo, KernelInfo, RunState

__version__ = "0.1.0"

__all__ = [
    "AFUMismatchError",
    "AccessError",
    "AmbiguousDeviceError",
    "ArgInfo",
    "ArgKind",
    "ArgumentError",
    "ArgumentRangeError",
    "Array",
    "BankInfo",
    "Bitstream",
    "BitstreamError",
    "Buffer",
    "BufferInUseError",
    "ClosedError",
    "Csr",
    "CsrError",
    "Device",
    "DeviceBusyError",
    "DeviceGroup",
    "DeviceInfo",
    "DeviceLostError",
    "DeviceMemoryError",
    "DeviceNotFoundError",
    "DeviceStateError",
    "DriverError",
    "FpgaError",
    "Health",
    "HealthStatus",
    "ImageNotFoundError",
    "ImageStore",
    "ImageStoreError",
    "IncompatibleBitstreamError",
    "Interrupt",
    "Kernel",
    "KernelContract",
    "KernelCsr",
    "KernelInfo",
    "KernelNotFoundError",
    "LibraryError",
    "LibraryNotFoundError",
    "PollTimeoutError",
    "ProgramError",
    "ProgramTimeoutError",
    "Register",
    "RegisterContract",
    "Run",
    "RunError",
    "RunState",
    "RunTimeoutError",
    "Scalar",
    "StoredImage",
    "StoreProblem",
    "UnsupportedError",
    "Word",
    "Write",
    "devices",
    "emu",
    "find",
    "kernel_drivers",
    "kernels",
    "manager",
    "open",
    "open_all",
]


# Loaded when first used: a program on a real board needs no emulator, and one that only looks at boards, as a hook does
# for which a container waits and a plugin for which a node's pods wait, needs no NumPy, no contracts and no images.
_MODULES = {
    "_bitstream": "Bitstream",
    "_buffer": "Buffer",
    "_contract": "Array KernelContract Register RegisterContract Scalar Word Write",
    "_csr": "Csr KernelCsr",
    "_device": "Device",
    "_find": "devices find kernel_drivers open",
    "_group": "DeviceGroup open_all",
    "_info": "DeviceInfo Health HealthStatus",
    "_interrupt": "Interrupt",
    "_kernel": "Kernel Run",
    "_store": "ImageStore StoreProblem StoredImage",
    "_types": "ArgInfo ArgKind BankInfo KernelInfo RunState",
}
_LAZY = {name: f"fpgahal.{module}" for module, names in _MODULES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    import importlib

    if name in ("emu", "kernels", "manager"):
        return importlib.import_module(f"fpgahal.{name}")
    if name in _LAZY:
        value = globals()[name] = getattr(importlib.import_module(_LAZY[name]), name)
        return value
    raise AttributeError(f"module 'fpgahal' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
