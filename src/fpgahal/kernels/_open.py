# SPDX-License-Identifier: Apache-2.0
"""From a contract to a kernel that can be called: find an image for the board, load it, open the kernel."""

from __future__ import annotations

import os
from pathlib import Path

import fpgahal
from fpgahal import Bitstream, BitstreamError, Device, Kernel, KernelContract, KernelNotFoundError

#: Folders with images (``.gbs``, ``.xclbin``), separated by ``os.pathsep``.
IMAGES = "FPGAHAL_IMAGES"

Image = str | os.PathLike[str] | bytes | Bitstream


def open_kernel(dev: Device, contract: KernelContract, image: Image | None = None) -> Kernel:
    """Open a kernel; load an image that has it, if the board runs another one.

    Parameters
    ----------
    dev : Device
    contract : KernelContract
    image : path, bytes or Bitstream, optional
        What to load.  By default, an emulated board gets the image that :func:`fpgahal.emu.build_image` makes, any
        other one the first image for it in the folders of ``FPGAHAL_IMAGES`` (by name) that has the kernel.

    Raises
    ------
    KernelNotFoundError
        Nothing was passed and nothing found; the message says what is needed.  Or the boards are a manager's, which
        offers no such kernel.
    ArgumentError
        The kernel's arguments in the image are not those of the contract.
    BufferInUseError, ProgramError, ...
        As :meth:`Device.program` does.
    """
    if dev.info.driver in ("opae", "xrt") and not _runs(dev, contract):  # else its owner decides what it runs
        dev.program(find_image(dev, contract) if image is None else image)
    return dev.kernel(contract)


def find_image(dev: Device, contract: KernelContract) -> bytes | Bitstream:
    """The image that :func:`open_kernel` loads if it is given none.

    Raises
    ------
    KernelNotFoundError
        There is none.
    """
    if dev.info.emulated:
        return fpgahal.emu.build_image(contract, fpgahal.emu.rack(dir=dev.info.root).board(dev.info))
    seen = []
    for folder in filter(None, os.environ.get(IMAGES, "").split(os.pathsep)):
        try:
            paths = sorted(path for path in Path(folder).iterdir() if path.suffix in (".gbs", ".xclbin"))
        except OSError as error:
            seen.append(f"{folder}: {error.strerror}")
            continue
        for path in paths:
            try:
                image = Bitstream.load(path)
                image.check_compatible(dev.info)
            except (BitstreamError, OSError) as error:
                seen.append(str(getattr(error, "message", error)))
                continue
            if why := _unfit(image, contract):
                seen.append(f"{path}: {why}")
            else:
                return image
    looked = "".join(f"\n  {reason}" for reason in seen) or f" ({IMAGES} names no folder with images)"
    if dev.info.driver == "xrt":
        wanted = f"an xclbin for {dev.info.platform} that has a kernel {contract.name}"
    else:
        wanted = f"a GBS for interface {dev.info.interface_id} with AFU {contract.afu_id}"
    raise KernelNotFoundError(
        f"{dev.info.address} does not run {contract.name}, and no image with it was found{looked}",
        hint=f"Needed: {wanted}.  Build it, then pass image=path or name its folder in {IMAGES}.",
    )


def _runs(dev: Device, contract: KernelContract) -> bool:
    if dev.info.driver == "xrt":
        return any(kernel.name == contract.name and not contract.difference(kernel) for kernel in dev.kernels)
    return contract.afu_id is not None and dev.afu_id == contract.afu_id


def _unfit(image: Bitstream, contract: KernelContract) -> str:
    """Why an image for the right board has not this kernel; empty if it has."""
    if image.kernels:
        named = [kernel for kernel in image.kernels if kernel.name == contract.name]
        return contract.difference(named[0]) if named else f"has no kernel {contract.name}"
    return "" if image.afu_id == contract.afu_id else f"is AFU {image.afu_id}"


__all__ = ["IMAGES", "Image", "find_image", "open_kernel"]
