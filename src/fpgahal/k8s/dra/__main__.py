# SPDX-License-Identifier: Apache-2.0
"""``python -m fpgahal.k8s.dra`` is the command ``fpgahal-dra``."""

import sys

from fpgahal.k8s.dra.app import main

sys.exit(main())
