# SPDX-License-Identifier: Apache-2.0
"""Two kernels to begin with: ``vadd(a, b, out, n)`` adds, ``passthrough(src, dst, bytes)`` copies.

A contract is all that a kernel needs; it runs on boards of both vendors.  ``native/emu/models/vadd.c`` is what the
emulated boards execute.  AFU ids are ``uuid5(NAMESPACE, name)``, fixed here.
"""

from __future__ import annotations

import uuid

from fpgahal import Array, KernelContract, Scalar

NAMESPACE = uuid.UUID("5b3c1f0e-7a44-5d0b-9c55-6670676168a1")  #: of the AFU ids of fpgahal's own kernels

VADD = KernelContract(
    "vadd",
    (
        Array("a", "uint32", ("n",)),
        Array("b", "uint32", ("n",)),
        Array("out", "uint32", ("n",), access="w"),
        Scalar("n", "uint32"),
    ),
    afu_id=uuid.UUID("6b33dc51-1ead-5d64-97fb-48d000d2673d"),
    summary="adds two vectors of uint32",
)

PASSTHROUGH = KernelContract(
    "passthrough",
    (
        Array("src", "void", ("bytes",)),
        Array("dst", "void", ("bytes",), access="w"),
        Scalar("bytes", "uint64"),
    ),
    afu_id=uuid.UUID("907f1d42-d51d-526c-bea2-4a71a4e1365b"),
    summary="copies bytes",
)
