# SPDX-License-Identifier: Apache-2.0
"""Kubelet's messages: .proto files of our own with upstream's package names and field numbers, and what
``scripts/protos`` generates from them.  `fpgahal.k8s.rpc` makes servers and calls of the services.
"""
