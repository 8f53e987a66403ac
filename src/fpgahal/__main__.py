# SPDX-License-Identifier: Apache-2.0
"""``python -m fpgahal`` is the command ``fpgahal``."""

import sys

from fpgahal.cli import main

sys.exit(main())
