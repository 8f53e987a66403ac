# SPDX-License-Identifier: Apache-2.0
"""Buffers, on this run's targets: the checks are the package's, so that `fpgahal conformance` has the same."""

from fpgahal.conformance.buffer import *  # noqa: F403
