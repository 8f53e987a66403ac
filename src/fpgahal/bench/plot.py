# SPDX-License-Identifier: Apache-2.0
"""``--plot``: bandwidth over size, and a histogram of launch latencies, as a PNG."""

from __future__ import annotations

from typing import Any

import numpy as np

import fpgahal


def check() -> None:
    """Raise before anything is measured if matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise fpgahal.UnsupportedError(
            "--plot needs matplotlib, which is not installed.", hint="pip install fpgahal[plot]"
        ) from None


def draw(path: str, title: str, dma: list[dict[str, Any]], launches: list[float]) -> None:
    """Write the picture.

    Parameters
    ----------
    path : str
        File name; its ending chooses the format.
    title : str
        Names the board, and says EMULATED if it is no real one.
    dma : list of dict
        As :func:`fpgahal.bench.dma.bandwidths` gives them.
    launches : list of float
        Nanoseconds.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    figure.suptitle(title)
    left, right = figure.subplots(1, 2)
    if dma:
        sizes = [entry["bytes"] for entry in dma]
        left.plot(sizes, [entry["to_device_gbps"] for entry in dma], marker="o", label="to device")
        left.plot(sizes, [entry["from_device_gbps"] for entry in dma], marker="s", label="from device")
        left.set_xscale("log", base=2)
        left.legend()
    left.set(title="Copy and sync", xlabel="bytes", ylabel="GB/s", ylim=(0, None))
    left.grid(alpha=0.3)
    if launches:
        microseconds = np.asarray(launches) / 1e3
        shown = microseconds[microseconds <= np.percentile(microseconds, 99.5)]
        right.hist(shown, bins=60)
        p50, p99 = np.percentile(microseconds, [50, 99])
        for value, style, name in ((p50, "--", "p50"), (p99, ":", "p99")):
            right.axvline(value, color="black", linestyle=style, label=f"{name} {value:.1f} us")
        right.legend()
    right.set(title="Kernel launch, start and wait", xlabel="us", ylabel="runs")
    figure.savefig(path, dpi=120)
