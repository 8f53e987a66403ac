# SPDX-License-Identifier: Apache-2.0
"""What an installed wheel must do, without pytest or the sources: list, program and run on emulated boards."""

from __future__ import annotations

import numpy as np

import fpgahal
from fpgahal import emu


def main() -> None:
    """Copy 64 KiB through an emulated board of each driver."""
    with emu.rack("pac-a10,u250") as rack:
        infos = rack.devices()
        assert [info.driver for info in infos] == ["opae", "xrt"], infos
        for info, model, image, kernel in zip(
            infos, ("pac-a10", "u250"), ("nlb0", "demo"), ("lpbk1", "passthrough"), strict=True
        ):
            print(info)
            with fpgahal.open(info) as dev:
                dev.program(emu.build_image(image, emu.boards()[model]))
                src, dst = dev.allocate(1 << 16), dev.allocate(1 << 16)
                np.asarray(src)[:] = np.arange(1 << 16) % 251
                src.sync_to_device()
                dev.kernel(kernel)(src, dst, (1 << 16) // (64 if kernel == "lpbk1" else 1), timeout=10)
                dst.sync_from_device()
                assert np.array_equal(np.array(src), np.array(dst)), info
    print("ok")


if __name__ == "__main__":
    main()
