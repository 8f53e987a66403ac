# SPDX-License-Identifier: Apache-2.0
"""Notify: tell systemd what goes on, as sd_notify(3) has it: a datagram to the socket that $NOTIFY_SOCKET names."""

from __future__ import annotations

import logging
import os
import socket

_LOG = logging.getLogger(__name__)


def notify(*lines: str) -> None:
    """Say something like ``READY=1``, if this is a service of systemd's with Type=notify."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.connect(path.replace("@", "\0", 1) if path.startswith("@") else path)
            sock.send("\n".join(lines).encode())
    except OSError as error:
        _LOG.warning("systemd does not listen", extra={"socket": path, "error": str(error)})


__all__ = ["notify"]
