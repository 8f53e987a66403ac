# SPDX-License-Identifier: Apache-2.0
"""The device plugin: offers boards to kubelet, programs and verifies them, tells containers which is theirs."""
