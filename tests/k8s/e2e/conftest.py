# SPDX-License-Identifier: Apache-2.0
"""These tests need root and other programs: `nox -s k8s` and `nox -s kubelet` run them, by name."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # tests/k8s: fake_kubelet and others

collect_ignore_glob = ["test_*.py"]  # not for those that are named on the command line
