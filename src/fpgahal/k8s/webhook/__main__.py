# SPDX-License-Identifier: Apache-2.0
"""``python -m fpgahal.k8s.webhook`` is the command ``fpgahal-webhook``."""

import sys

from fpgahal.k8s.webhook.app import main

sys.exit(main())
