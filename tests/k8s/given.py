# SPDX-License-Identifier: Apache-2.0
"""What a container's variables say."""

from __future__ import annotations

from collections.abc import Mapping


def boards_of(env: Mapping[str, str]) -> str:
    """Addresses of a container's boards, with commas between them."""
    return ",".join(sorted(value for name, value in env.items() if name.startswith("FPGAHAL_DEVICE_")))
