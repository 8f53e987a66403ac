# SPDX-License-Identifier: Apache-2.0
"""Failures of the package's checks are explained as those of tests are."""

import pytest

pytest.register_assert_rewrite(
    *(f"fpgahal.conformance.{name}" for name in ("buffer", "csr", "find", "kernel", "program"))
)
