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
from fpgahal._bitstream import Bitstream
from fpgahal._buffer import Buffer
from fpgahal._contract import Array, KernelContract, Register, RegisterContract, Scalar, Word, Write
from fpgahal._csr import Csr, KernelCsr
from fpgahal._device import Device
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
from fpgahal._find import devices, find, open
from fpgahal._group import DeviceGroup, open_all
from fpgahal._interrupt import Interrupt
from fpgahal._kernel import Kernel, Run
from fpgahal._types import (
    ArgInfo,
    ArgKind,
    BankInfo,
    DeviceInfo,
    Health,
    HealthStatus,
    KernelInfo,
    RunState,
)

if TYPE_CHECKING:
    from fpgahal import emu, kernels, manager

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
    "UnsupportedError",
    "Word",
    "Write",
    "devices",
    "emu",
    "find",
    "kernels",
    "manager",
    "open",
    "open_all",
]


def __getattr__(name: str) -> Any:
    # Loaded when first used: a program on a real board needs no emulator.
    if name in ("emu", "kernels", "manager"):
        import importlib

        return importlib.import_module(f"fpgahal.{name}")
    raise AttributeError(f"module 'fpgahal' has no attribute {name!r}")
