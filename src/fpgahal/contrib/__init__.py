# SPDX-License-Identifier: Apache-2.0
"""Boards in other people's engines: :mod:`fpgahal.contrib.ray`, :mod:`fpgahal.contrib.dask`.  Each wants its engine."""
