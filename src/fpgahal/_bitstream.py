# SPDX-License-Identifier: Apache-2.0
"""An image for a board, checked from end to end before any board is touched: GBS (OPAE) or xclbin (XRT)."""

from __future__ import annotations

import os
import stat
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from fpgahal._errors import BitstreamError, IncompatibleBitstreamError
from fpgahal._image import is_emulated
from fpgahal._info import DeviceInfo
from fpgahal._types import BankInfo, KernelInfo

MAX_BYTES = 4 << 30
GBS_MAGIC = b"XeonFPGA\xb7GBSv001"
GBS_LEGACY_MAGIC = (0x1D1F8680).to_bytes(4, "little")
_HEAD = 16  # bytes that tell the format
_EMULATION_MODES = ("hw_emu", "sw_emu", "hw_emu_pr")


@dataclass(frozen=True, slots=True)
class Bitstream:
    """A sound image: `load` and `parse` raise on anything else.  Equal if the bytes are equal.

    Attributes
    ----------
    kind : str
        ``"gbs"`` (OPAE) or ``"xclbin"`` (XRT).
    data : bytes
        The whole file.
    name : str
        Where it came from, for messages: a path, or ``"<bytes>"``.
    afu_id : uuid.UUID
        What a board shows once this is loaded: accelerator-type-uuid of the first cluster (GBS), or the
        xclbin's UUID.
    interface_id : uuid.UUID or None
        The shell that it was built for: interface-uuid (GBS), or the first interface_uuid of the
        PARTITION_METADATA section (xclbin; None in images for one-stage shells).
    platform : str
        platform-name (GBS, may be empty), or VBNV (xclbin).
    timestamp : int
        Feature ROM time stamp of the shell (xclbin); 0 is "not checked".
    kernels : tuple of KernelInfo
        Empty for a GBS.
    banks : tuple of BankInfo
        Memories by index, with the groups if the image has a GROUP_TOPOLOGY; empty for a GBS.
    clocks : tuple of (str, float)
        Name and frequency, MHz.
    metadata : mapping
        Everything else, read-only.  GBS: the JSON.  xclbin: ``version``, ``mode``, ``signed``, ``created``,
        ``sections`` (tuples of kind, name, offset, size), ``key_values``, ``interfaces``, ``logic_uuid``,
        ``compute_units`` (tuples of "kernel:instance", base address, in XRT's index order), ``connections``
        ("kernel:instance" to argument index to memory indices).
    """

    kind: str
    data: bytes = field(repr=False)
    name: str = field(compare=False)
    afu_id: uuid.UUID = field(compare=False)
    interface_id: uuid.UUID | None = field(compare=False)
    platform: str = field(compare=False)
    timestamp: int = field(default=0, compare=False)
    kernels: tuple[KernelInfo, ...] = field(default=(), compare=False)
    banks: tuple[BankInfo, ...] = field(default=(), compare=False, repr=False)
    clocks: tuple[tuple[str, float], ...] = field(default=(), compare=False)
    metadata: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}), compare=False, repr=False)
    payload_span: tuple[int, int] = field(default=(0, 0), compare=False, repr=False)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Bitstream:
        """Read and check a file.

        Parameters
        ----------
        path : str or os.PathLike
            A regular file (or a link to one) of at most 4 GiB.

        Raises
        ------
        FileNotFoundError
            There is no such file.
        BitstreamError
            It can't be read, is no regular file, or is no sound GBS or xclbin.
        """
        name = os.fsdecode(path)
        try:
            data = _read(name)
        except FileNotFoundError:
            raise
        except (OSError, ValueError, MemoryError) as error:
            if isinstance(error, BitstreamError):
                raise
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or "no memory"
            raise BitstreamError(f"{name}: can't be read: {reason}.") from error
        return cls.parse(data, name)

    @classmethod
    def parse(cls, data: bytes | bytearray | memoryview, name: str = "<bytes>") -> Bitstream:
        """Check an image that is in memory.

        Parameters
        ----------
        data : bytes-like
            Kept as it is if it is `bytes`, else copied once.
        name : str
            What messages call it.

        Raises
        ------
        BitstreamError
            It is no sound GBS or xclbin; nothing else is raised, whatever the bytes.
        """
        # Imported here, because programs that load no image should not pay for the XML and JSON parsers.
        data = data if isinstance(data, bytes) else bytes(data)
        if _detect(data[:_HEAD], len(data), name) == "gbs":
            from fpgahal._gbs import parse_gbs

            return parse_gbs(data, name)
        from fpgahal._xclbin import parse_xclbin

        return parse_xclbin(data, name)

    @property
    def payload(self) -> memoryview:
        """What goes into the fabric: the RBF, or the BITSTREAM section (empty if there is none)."""
        offset, size = self.payload_span
        return memoryview(self.data)[offset : offset + size]

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return len(self.data)

    @property
    def sha256(self) -> str:
        """Digest of the whole file in hexadecimal; computed at each access."""
        import hashlib  # here: it loads OpenSSL, which takes longer than the rest of this file

        return hashlib.sha256(self.data).hexdigest()

    @property
    def emulated(self) -> bool:
        """Whether this is an image for emulated boards: no real board can run it."""
        return is_emulated(self.payload)

    def check_compatible(self, info: DeviceInfo) -> None:
        """Raise unless this image was built for that slot.

        Raises
        ------
        IncompatibleBitstreamError
            Wrong vendor stack, interface id or feature ROM time stamp, or made for emulated boards; the message
            names both sides.
        """
        slot = f"slot {info.address}"
        if (self.kind == "xclbin") != (info.driver == "xrt"):
            raise self._incompatible(
                f"is {self._article()}, {slot} is driven by {info.driver or 'no known driver'}",
                "OPAE boards take .gbs files, XRT boards take .xclbin files.",
            )
        if self.emulated and not info.emulated:
            raise self._incompatible(
                f"is for EMULATED boards only, {slot} is a real one", "Ask the AFU's vendor for its image."
            )
        if self.metadata.get("mode") in _EMULATION_MODES:
            raise self._incompatible(
                f"was built for {self.metadata['mode']} (simulation), {slot} is a board",
                "Build it with `v++ --target hw`.",
            )
        shells = f"The image names platform {self.platform or '(none)'}, the slot has {info.platform or '(none)'}."
        stamped = bool(self.timestamp)  # the driver compares it with the board's if the image has one
        if stamped and self.timestamp != info.timestamp:
            found = f"{info.timestamp:#x}" if info.timestamp else "none that can be read"
            raise self._incompatible(
                f"was built for the shell with time stamp {self.timestamp:#x}, {slot} has {found}", shells
            )
        # A one-stage XRT shell has no interface id, and its images have none: the time stamp must do.
        if self.interface_id == info.interface_id or (self.interface_id is None and stamped):
            return
        known = self.metadata.get("interfaces", ()) if self.kind == "xclbin" else ()
        if info.interface_id not in known:
            raise self._incompatible(
                f"was built for interface {self.interface_id or '(none named)'}, "
                f"{slot} has {info.interface_id or 'none that can be read'}",
                shells,
            )

    def _article(self) -> str:
        return "an xclbin (XRT)" if self.kind == "xclbin" else "a GBS (OPAE)"

    def _incompatible(self, problem: str, hint: str) -> IncompatibleBitstreamError:
        return IncompatibleBitstreamError(f"{self.name} {problem}. Nothing was written.", hint=hint)

    def __reduce__(self) -> tuple[Any, ...]:
        return Bitstream.parse, (self.data, self.name)


def _detect(head: bytes, size: int, name: str) -> str:
    """Tell the format by its first bytes: "gbs" or "xclbin"."""
    if head.startswith(b"xclbin2\0"):
        return "xclbin"
    if head == GBS_MAGIC:
        return "gbs"
    if head.startswith(GBS_LEGACY_MAGIC):
        raise BitstreamError(
            f"{name}: has the legacy GBS header 0x1d1f8680, which has no metadata.",
            hint="Add metadata with Intel's packager: `packager create-gbs --rbf=... --afu-json=...`.",
        )
    if head.startswith((b"xclbin0", b"xclbin1")):
        raise BitstreamError(
            f"{name}: has the obsolete magic {head[:7].decode()!r}; expected 'xclbin2'.",
            hint="Link it again with a current v++.",
        )
    if not size:
        raise BitstreamError(f"{name}: is empty.")
    if size < _HEAD and (GBS_MAGIC.startswith(head) or b"xclbin2\0".startswith(head)):
        raise BitstreamError(f"{name}: ends inside the magic, after {size} bytes.", hint="Copy the file again.")
    raise BitstreamError(
        f"{name}: is no GBS and no xclbin: it starts with {head!r}, expected {GBS_MAGIC!r} or b'xclbin2\\x00'."
    )


def _read(name: str) -> bytes:
    """Read a regular file; never open anything else, and never wait."""
    _check_regular(os.stat(name), name)
    # Between stat and open it may have become a FIFO: O_NONBLOCK, and look again.
    descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    with os.fdopen(descriptor, "rb") as file:
        size = _check_regular(os.fstat(descriptor), name)
        head = file.read(_HEAD)
        _detect(head, size, name)  # before gigabytes of something else are read
        data = head + file.read(size - len(head) + 1)
    if len(data) != size:
        raise BitstreamError(f"{name}: changed while it was read: {size} bytes before, {len(data)} after.")
    return data


def _check_regular(status: os.stat_result, name: str) -> int:
    if not stat.S_ISREG(status.st_mode):
        kind = "a directory" if stat.S_ISDIR(status.st_mode) else "a device, FIFO or socket"
        raise BitstreamError(f"{name}: is {kind}, not a regular file.")
    if status.st_size > MAX_BYTES:
        raise BitstreamError(f"{name}: has {status.st_size} bytes; more than {MAX_BYTES} make no sense.")
    return status.st_size
