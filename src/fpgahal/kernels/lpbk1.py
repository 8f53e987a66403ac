# SPDX-License-Identifier: Apache-2.0
"""NLB mode 0 as a kernel: ``dev.kernel("lpbk1")(src, dst, lines)`` copies cache lines through the AFU.

The whole accelerator is this one table.  Source: NLB register map of OPAE 1.x (CTL 0x138, CFG 0x140, SRC 0x120,
DST 0x128, NUM_LINES 0x130, DSM 0x110; SRC and DST are cache-line indices; the DSM line is at +0x40).
"""

from __future__ import annotations

import uuid

from fpgahal import ArgInfo, ArgKind, RegisterContract, Word, Write

AFU_ID = uuid.UUID("d8424dc4-a4a3-c413-f89e-433683f9040b")

LPBK1 = RegisterContract(
    name="lpbk1",
    afu_id=AFU_ID,
    args=(
        ArgInfo(0, "src", ArgKind.BUFFER, "void*"),
        ArgInfo(1, "dst", ArgKind.BUFFER, "void*"),
        ArgInfo(2, "lines", ArgKind.SCALAR, "ushort", size=2),  # 64 bytes each; the AFU takes up to 65,535
    ),
    start=(
        Write(0x138, 0),  # CTL: hold the test in reset
        Write(0x138, 1),  # out of reset: SRC, DST and CFG may be written
        Write(0x110, "dsm", bits=64),
        Write(0x120, "src", bits=64, shift=6),
        Write(0x128, "dst", bits=64, shift=6),
        Write(0x130, "lines"),
        Write(0x140, 0x42000),  # lpbk1; reads and writes over PCIe channel 0
        Write(0x138, 3),  # go
    ),
    done=Word(0x40, mask=1, value=1),  # the upper bits count DSM writes
    error=Word(0x44, value=0),
    finish=(Write(0x138, 7),),
)
