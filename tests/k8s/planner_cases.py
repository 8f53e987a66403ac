# SPDX-License-Identifier: Apache-2.0
"""The source documents' case, which the planner's, the webhook's and the command line's tests share."""

from __future__ import annotations

from pathlib import Path

EXACT = "com.inaccel.xgboost.exact"
U250, U280, F1 = "xilinx/u250", "xilinx/u280", "xilinx/aws-vu9p-f1"

CATALOGUE = f"""
[images.xgboost-u250]
board = "{U250}"
accelerators = {{ "{EXACT}" = 4 }}
namespaces = ["*"]

[images.xgboost-f1]
board = "{F1}"
accelerators = {{ "{EXACT}" = 2 }}
namespaces = ["*"]

[images.vadd-u280]
board = "{U280}"
accelerators = {{ "vadd" = 1 }}
namespaces = ["*"]

[groups.f1-2xlarge]
instance_type = "f1.2xlarge"

[groups.f1-4xlarge]
instance_type = "f1.4xlarge"
"""


def catalogue_file(folder: Path, text: str = CATALOGUE) -> Path:
    """Write a catalogue."""
    path = folder / "catalogue.toml"
    path.write_text(text)
    return path
