# SPDX-License-Identifier: Apache-2.0
from fpgahal._session import Session

class PortSession(Session): ...
