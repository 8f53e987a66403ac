# SPDX-License-Identifier: Apache-2.0
"""What predicts with XGBoost models on a CPU, one thread each: XGBoost itself, and the engines that are installed."""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

Predict = Callable[[npt.NDArray[np.float32]], object]

#: Set this to 0 to leave out tl2cgen, which compiles a model for half a minute.
COMPILE = "FPGAHAL_BENCH_COMPILE"


def peers(booster: Any) -> Iterator[tuple[str, Predict]]:
    """Every engine that can be imported and takes the model: its name, and what predicts probabilities."""
    yield "xgboost inplace_predict", booster.inplace_predict
    yield "xgboost predict", _dmatrix(booster)
    for name, make in (
        ("onnxruntime", _onnxruntime),
        ("daal4py", _daal4py),
        ("treelite gtil", _treelite),
        ("tl2cgen", _tl2cgen),
    ):
        try:
            with _no_output():
                predict = make(booster)
        except Exception:  # not installed, at odds with another package, or it does not take this model
            continue
        yield name, predict


@contextmanager
def _no_output() -> Iterator[None]:
    """Send what compilers print to standard error: standard output may be a JSON document."""
    sys.stdout.flush()
    saved = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)


def _dmatrix(booster: Any) -> Predict:
    xgboost = importlib.import_module("xgboost")
    return lambda x: booster.predict(xgboost.DMatrix(x, nthread=1))


def _onnxruntime(booster: Any) -> Predict:
    onnxmltools = importlib.import_module("onnxmltools")
    types = importlib.import_module("onnxmltools.convert.common.data_types")
    onnxruntime = importlib.import_module("onnxruntime")
    shape = types.FloatTensorType([None, booster.num_features()])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    model = onnxmltools.convert_xgboost(booster, initial_types=[("x", shape)]).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    last = [session.get_outputs()[-1].name]
    return lambda x: session.run(last, {"x": x})


def _daal4py(booster: Any) -> Predict:
    daal4py = importlib.import_module("daal4py")
    daal4py.daalinit(1)
    model = importlib.import_module("daal4py.mb").convert_model(booster)
    predict: Predict = model.predict_proba if model.is_classifier_ else model.predict
    return predict


def _treelite(booster: Any) -> Predict:
    treelite = importlib.import_module("treelite")
    model = treelite.frontend.from_xgboost(booster)
    return lambda x: treelite.gtil.predict(model, x, nthread=1)


def _tl2cgen(booster: Any) -> Predict:
    if os.environ.get(COMPILE) == "0":
        raise ImportError(COMPILE)
    treelite, tl2cgen = importlib.import_module("treelite"), importlib.import_module("tl2cgen")
    with tempfile.TemporaryDirectory() as folder:
        library = os.path.join(folder, "model.so")
        model = treelite.frontend.from_xgboost(booster)
        tl2cgen.export_lib(model, toolchain="gcc", libpath=library, params={"parallel_comp": 16})
        predictor = tl2cgen.Predictor(library, nthread=1)
    return lambda x: predictor.predict(tl2cgen.DMatrix(x))


__all__ = ["COMPILE", "Predict", "peers"]
