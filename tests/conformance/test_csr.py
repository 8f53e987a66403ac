# SPDX-License-Identifier: Apache-2.0
"""Registers, on this run's targets: the checks are the package's, so that `fpgahal conformance` has the same."""

from fpgahal.conformance.csr import *  # noqa: F403
