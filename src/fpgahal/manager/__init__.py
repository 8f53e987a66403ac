# SPDX-License-Identifier: Apache-2.0
"""The node manager: many programs share the boards of a node.

>>> import fpgahal.manager
>>> with fpgahal.manager.connect() as m:  # doctest: +SKIP
...     y = m.submit("xgboost.predict", model="model.ubj", x=X).result()

The manager itself is the command ``fpgahal-manager``.  docs/manager-protocol.md says how clients in other languages
talk to it.
"""

from fpgahal.manager.client import Client, Constant, Request, connect
from fpgahal.manager.errors import (
    CancelledError,
    DeadlineError,
    ManagerError,
    ManagerLostError,
    ProtocolError,
    QuotaError,
    WaitTimeoutError,
)

__all__ = [
    "CancelledError",
    "Client",
    "Constant",
    "DeadlineError",
    "ManagerError",
    "ManagerLostError",
    "ProtocolError",
    "QuotaError",
    "Request",
    "WaitTimeoutError",
    "connect",
]
