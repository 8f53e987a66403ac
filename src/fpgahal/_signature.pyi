# SPDX-License-Identifier: Apache-2.0
from fpgahal._session import KernelSession

class Signature:
    def __init__(self, kernel: KernelSession) -> None: ...
