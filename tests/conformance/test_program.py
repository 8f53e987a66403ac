# SPDX-License-Identifier: Apache-2.0
"""The package's checks, which `fpgahal conformance` has too, on the targets of this run."""

from fpgahal.conformance.program import *  # noqa: F403
