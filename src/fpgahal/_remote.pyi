# SPDX-License-Identifier: Apache-2.0
from fpgahal._session import Session
from fpgahal._types import DeviceInfo

def open_session(info: DeviceInfo, shared: bool) -> Session: ...
