# SPDX-License-Identifier: Apache-2.0
"""A slot shall run an AFU when a container starts: verify that, or load it from the store, or refuse."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass

import fpgahal
from fpgahal import (
    AFUMismatchError,
    Bitstream,
    DeviceBusyError,
    DeviceInfo,
    DeviceLostError,
    DeviceStateError,
    HealthStatus,
    ImageNotFoundError,
    ImageStore,
    IncompatibleBitstreamError,
)
from fpgahal.k8s.names import AFU_DIGITS, canonical_id

_RETRY_SECONDS = 0.02
_HASH_DIGITS = 40  # an AOCX is named by its hash: on the board, all OpenCL images have the same AFU id


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was found or done.

    Attributes
    ----------
    address : str
    afu_id : str
        What the slot runs, 32 hex digits.
    programmed : bool
        False: it ran that already.
    sha256 : str
        Of the image, if one was needed; else empty.
    """

    address: str
    afu_id: str
    programmed: bool
    sha256: str = ""


def ensure(
    info: DeviceInfo,
    afu_id: str,
    *,
    store: ImageStore | None,
    namespace: str | None,
    timeout: float,
    program: bool = True,
) -> Outcome:
    """Return when the slot runs the AFU; raise, whatever the reason, when it does not.

    Two that ask for the same at once do not program twice: the one waits until the other has closed the slot, and
    finds the AFU loaded.

    Parameters
    ----------
    info : DeviceInfo
        What it runs is read again.
    afu_id : str
        AFU id, xclbin UUID or AOCX hash.
    store : ImageStore or None
        Where the image and its allow-list are; None: there is no store, so nothing is programmed and there is no
        allow-list.
    namespace : str or None
        Of the pod; None: not known.  Then only images that everybody may use are.
    timeout : float
        Seconds for all of it.
    program : bool
        Whether to load the AFU; else it must be there.

    Raises
    ------
    AccessError
        The namespace may not use the image (be it loaded or not), or this user not the board.
    AFUMismatchError
        Another AFU is loaded and `program` is False; or the driver reported success, but another one answers.
    ImageNotFoundError, ImageStoreError, BitstreamError
        The image is not in the store, was changed, or is for another board.  Nothing was written.
    DeviceBusyError, DeviceLostError, DeviceStateError, ProgramError, ProgramTimeoutError
        As `Device.program` has it.
    ArgumentRangeError
        The AFU id is none.
    """
    end = time.monotonic() + timeout
    wanted = canonical_id(afu_id, AFU_DIGITS, "AFU id")
    now = _again(info)
    image = missing = None
    if store is not None:
        try:
            image = store.find(now.interface_id, wanted)
            image.check_allowed(namespace)
        except ImageNotFoundError as error:  # no image, no allow-list; a board that runs it needs no image
            missing = error
    if now.afu_id is not None and now.afu_id.hex == wanted:
        if now.health.status is HealthStatus.FAILED:
            raise DeviceStateError(f"{now.address} runs {wanted}, but can't be used: {now.health.reason}.")
        return Outcome(now.address, wanted, False)
    if now.interface_id is None and now.driver == "opae":
        raise DeviceStateError(
            f"{now.address} runs {_hex(now.afu_id)}, expected {wanted}; it can't be programmed: no interface id can "
            f"be read, against which an image could be checked ({now.health.reason}).",
            hint="`fpgahal doctor` says what is missing.",
        )
    if missing is not None and program:
        raise missing
    if store is None or image is None or not program:
        raise AFUMismatchError(
            f"{now.address} runs {_hex(now.afu_id)}, expected {wanted}; it is not programmed here.{_untold(wanted)}",
            hint="Program it (`fpgahal program`), or configure programming and add the image (`fpgahal images add`).",
        )
    bitstream = store.load(image)
    bitstream.check_compatible(now)
    if bitstream.emulated and not now.emulated:
        raise IncompatibleBitstreamError(f"{bitstream.name} is for EMULATED boards only.  Nothing was written.")
    programmed = _load(now, bitstream, end, always=len(wanted) == _HASH_DIGITS)
    actual = _again(info).afu_id
    if actual != bitstream.afu_id:
        raise _wrong(now, actual, bitstream)
    return Outcome(now.address, bitstream.afu_id.hex, programmed, image.sha256)


def _load(info: DeviceInfo, bitstream: Bitstream, end: float, *, always: bool) -> bool:
    """Program, and wait as long as somebody else has the slot, or a driver still works for somebody who gave up."""
    while True:
        try:
            with fpgahal.open(info) as dev:
                try:
                    return dev.program(bitstream, timeout=max(0.0, end - time.monotonic()), force=always)
                except AFUMismatchError as error:
                    raise _wrong(info, dev.afu_id, bitstream) from error
        except DeviceBusyError:
            if time.monotonic() >= end:
                raise
            time.sleep(_RETRY_SECONDS)


def _again(info: DeviceInfo) -> DeviceInfo:
    for found in fpgahal.devices(info.root):
        if found.address == info.address and found.interface_id == info.interface_id:
            return found
    raise DeviceLostError(f"{info.address} is gone, or another board is in its place.", hint="See `fpgahal list`.")


def _hex(afu_id: uuid.UUID | None) -> str:
    return afu_id.hex if afu_id is not None else "nothing"


def _untold(wanted: str) -> str:
    told = "  It may run it: a board does not tell which OpenCL image is loaded."
    return told if len(wanted) == _HASH_DIGITS else ""


def _wrong(info: DeviceInfo, actual: uuid.UUID | None, expected: Bitstream) -> AFUMismatchError:
    return AFUMismatchError(
        f"{info.address}: programmed function {_hex(actual)} instead of {expected.afu_id.hex} ({expected.name}).",
        hint="Do not use it.  Program it again with an image that is known to be good.",
    )
