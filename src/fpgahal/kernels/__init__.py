# SPDX-License-Identifier: Apache-2.0
"""Host side of particular accelerators, on the public names of fpgahal only."""

from fpgahal.kernels import image
from fpgahal.kernels._lane import Lane, Work
from fpgahal.kernels._open import find_image, open_kernel
from fpgahal.kernels._pipeline import Pipeline
from fpgahal.kernels.dma import DMA
from fpgahal.kernels.nlb import NLB0, NLB3, NLBCounters, NLBResult

__all__ = [
    "DMA",
    "NLB0",
    "NLB3",
    "Lane",
    "NLBCounters",
    "NLBResult",
    "Pipeline",
    "Work",
    "find_image",
    "image",
    "open_kernel",
]
