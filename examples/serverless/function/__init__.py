# SPDX-License-Identifier: Apache-2.0
"""What Knative's func looks for: `new`, which makes the function."""

from function.func import new

__all__ = ["new"]
