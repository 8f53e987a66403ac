# SPDX-License-Identifier: Apache-2.0
"""Host side of particular accelerators, on the public names of fpgahal only."""

from fpgahal.kernels._open import find_image, open_kernel
from fpgahal.kernels.nlb import NLB0, NLB3, NLBResult

__all__ = ["NLB0", "NLB3", "NLBResult", "find_image", "open_kernel"]
