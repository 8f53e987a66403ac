# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with a model."""

from __future__ import annotations

from fpgahal import FpgaError


class ModelError(FpgaError, ValueError):
    """The file is not a whole, consistent XGBoost model; the message says where."""


__all__ = ["ModelError"]
