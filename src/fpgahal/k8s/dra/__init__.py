# SPDX-License-Identifier: Apache-2.0
"""The driver for dynamic resource allocation (``resource.k8s.io/v1``): claims instead of counted resources.

`devices` says what a node offers, `slices` writes that as ResourceSlices, `claims` reads what was allocated: these do
no I/O.  `publisher` keeps the slices, `checkpoint` what is prepared, `driver` prepares, `service` runs all of it.
"""

DRIVER = "fpga.fpgahal.dev"
