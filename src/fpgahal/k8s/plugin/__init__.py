# SPDX-License-Identifier: Apache-2.0
"""The device plugin: it offers a node's boards to kubelet, programs and verifies them, and tells containers which is theirs."""
