# SPDX-License-Identifier: Apache-2.0
"""Finding and opening, on this run's targets: the checks are the package's, so that `fpgahal conformance` has the same."""

from fpgahal.conformance.find import *  # noqa: F403
