# SPDX-License-Identifier: Apache-2.0
from fpgahal._info import DeviceInfo
from fpgahal._session import Session

def open_session(info: DeviceInfo, shared: bool) -> Session: ...
