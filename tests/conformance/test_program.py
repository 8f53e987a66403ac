# SPDX-License-Identifier: Apache-2.0
"""Programming and verifying, on this run's targets: the checks are the package's, so that `fpgahal conformance` has the same."""

from fpgahal.conformance.program import *  # noqa: F403
