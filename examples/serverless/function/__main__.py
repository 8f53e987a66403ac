# SPDX-License-Identifier: Apache-2.0
"""Serves the function, as what Knative's func puts around it does."""

from func_python.http import serve

from function.func import new

serve(new)
