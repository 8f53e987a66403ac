# SPDX-License-Identifier: Apache-2.0
from fpgahal._contract import RegisterContract
from fpgahal._session import KernelSession, Session
from fpgahal._types import KernelInfo

class RegisterKernel(KernelSession):
    def __init__(self, session: Session, contract: RegisterContract) -> None: ...

def known_kernels(session: Session) -> tuple[KernelInfo, ...]: ...
def open_register_kernel(session: Session, name: str | RegisterContract) -> RegisterKernel: ...
