# SPDX-License-Identifier: Apache-2.0
from fpgahal._contract import RegisterContract
from fpgahal._session import KernelSession, Session

class RegisterKernel(KernelSession):
    def __init__(self, session: Session, contract: RegisterContract) -> None: ...
    def close(self) -> None: ...
