# SPDX-License-Identifier: Apache-2.0
"""FPGA boards in Kubernetes: consumers of fpgahal's public names.  Needs the extra ``fpgahal[k8s]``."""
