# SPDX-License-Identifier: Apache-2.0
"""``python -m fpgahal.bench`` is the command ``fpgahal-bench``."""

import sys

from fpgahal.bench import main

sys.exit(main())
