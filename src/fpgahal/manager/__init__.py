# SPDX-License-Identifier: Apache-2.0
"""The node manager: many programs share the boards of a node."""
