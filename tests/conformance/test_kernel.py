# SPDX-License-Identifier: Apache-2.0
"""Kernels and runs, on this run's targets: the checks are the package's, so that `fpgahal conformance` has the same."""

from fpgahal.conformance.kernel import *  # noqa: F403
