# SPDX-License-Identifier: Apache-2.0
"""The conformance suite: what fpgahal promises of every board, as checks for pytest.

``fpgahal conformance`` runs it on one board; the repository's tests run it on emulated boards, below each driver.
"""
