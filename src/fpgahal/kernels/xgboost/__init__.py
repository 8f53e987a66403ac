# SPDX-License-Identifier: Apache-2.0
"""XGBoost on boards: :func:`train` grows the trees of xgboost's exact method."""

from fpgahal.kernels.xgboost._train import train

__all__ = ["train"]
