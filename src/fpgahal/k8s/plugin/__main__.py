# SPDX-License-Identifier: Apache-2.0
"""``python -m fpgahal.k8s.plugin`` is the command ``fpgahal-plugin``."""

import sys

from fpgahal.k8s.plugin.app import main

sys.exit(main())
