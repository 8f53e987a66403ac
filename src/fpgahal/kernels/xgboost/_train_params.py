# SPDX-License-Identifier: Apache-2.0
"""Parameters of training: those of xgboost that the board can honour; the others are refused, with the reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fpgahal import ArgumentError, ArgumentRangeError, UnsupportedError

Params = Mapping[str, Any] | Iterable[tuple[str, Any]]

_ALIASES = {
    "learning_rate": "eta",
    "min_split_loss": "gamma",
    "reg_lambda": "lambda",
    "reg_alpha": "alpha",
    "random_state": "seed",
    "n_jobs": "nthread",
}
SQUARED, LOGISTIC, SOFTMAX = "squared", "logistic", "softmax"
_OBJECTIVES = {
    "reg:squarederror": SQUARED,
    "reg:logistic": LOGISTIC,
    "binary:logistic": LOGISTIC,
    "binary:logitraw": LOGISTIC,
    "multi:softprob": SOFTMAX,
    "multi:softmax": SOFTMAX,
}
# Of no influence on the trees that tree_method="exact" grows with one thread.
_HARMLESS = {
    "nthread",
    "seed",
    "seed_per_iteration",
    "verbosity",
    "validate_parameters",
    "eval_metric",
    "disable_default_eval_metric",
    "base_score",
    "missing",
    "use_rmm",
    "enable_categorical",
}
_NO_RANDOM = "the random numbers are xgboost's own, and equal trees could not be promised"
_NOT_EXACT = "xgboost's exact method does not know it either"
_LATER = "split finding on the board does not look at it"
_REFUSED = {  # name -> the value that changes nothing, why another one is refused
    "booster": ("gbtree", "boards grow trees only"),
    "device": ("cpu", "the boards are named by devices="),
    "subsample": (1.0, _NO_RANDOM),
    "colsample_bytree": (1.0, _NO_RANDOM),
    "colsample_bylevel": (1.0, _NO_RANDOM),
    "colsample_bynode": (1.0, _NO_RANDOM),
    "sampling_method": ("uniform", _NO_RANDOM),
    "num_parallel_tree": (1, "a round grows one tree a class"),
    "grow_policy": ("depthwise", _NOT_EXACT),
    "max_leaves": (0, _NOT_EXACT),
    "max_bin": (256, _NOT_EXACT),
    "max_cat_to_onehot": (4, _NOT_EXACT),
    "max_cat_threshold": (64, _NOT_EXACT),
    "multi_strategy": ("one_output_per_tree", _NOT_EXACT),
    "process_type": ("default", "trees are grown, never updated"),
    "updater": ("grow_colmaker,prune", "the board stands for these two"),
    "refresh_leaf": (1, _LATER),
    "monotone_constraints": ("", _LATER),
    "interaction_constraints": ("", _LATER),
    "feature_selector": ("", "it belongs to gblinear"),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """What training needs to know; floats are float32, as in xgboost."""

    objective: str
    kind: str
    tree_method: str
    n_groups: int
    max_depth: int
    eta: np.float32
    gamma: np.float32
    reg_lambda: np.float32
    reg_alpha: np.float32
    min_child_weight: np.float32
    max_delta_step: np.float32
    scale_pos_weight: np.float32
    n_requests: int
    xgboost: dict[str, Any]  # for a real Booster


def settings(params: Params) -> Settings:
    """Read parameters as ``xgboost.train`` takes them.

    Raises
    ------
    UnsupportedError
        A parameter or value that the board can't honour.
    ArgumentError, ArgumentRangeError
        A value of the wrong type, or out of its range; a parameter that nobody knows.
    """
    given: dict[str, Any] = {}
    metrics: list[Any] = []
    for key, value in params.items() if isinstance(params, Mapping) else params:
        name = _ALIASES.get(key, key)
        if name == "eval_metric":
            metrics += value if isinstance(value, (list, tuple)) else [value]
        elif value is not None:
            if name in given and given[name] != value:
                raise ArgumentError(f"Parameter {name} is given twice: {given[name]!r} and {value!r}.")
            given[name] = value
    if metrics:
        given["eval_metric"] = metrics
    known = {
        "objective",
        "tree_method",
        "num_class",
        "max_depth",
        "eta",
        "gamma",
        "lambda",
        "alpha",
        "min_child_weight",
        "max_delta_step",
        "scale_pos_weight",
        "nRequests",
    }
    for name, value in given.items():
        if name in _REFUSED:
            neutral, reason = _REFUSED[name]
            if str(value) != str(neutral) and _number(value) != neutral:
                raise UnsupportedError(
                    f"Parameter {name}={value!r} is not supported: {reason}.",
                    hint=f"Leave it out (it is {neutral!r} then), or train with xgboost.train.",
                )
        elif name not in known | _HARMLESS:
            raise ArgumentError(
                f"There is no parameter {name!r} for training on a board.",
                hint=f"There are: {', '.join(sorted(known | _HARMLESS))}.",
            )
    objective = str(given.get("objective", "reg:squarederror"))
    if objective not in _OBJECTIVES:
        raise UnsupportedError(
            f"Objective {objective!r} is not supported: its gradients are not among those computed here.",
            hint=f"There are: {', '.join(_OBJECTIVES)}.",
        )
    method = str(given.get("tree_method", "exact"))
    if method not in ("exact", "fpga_exact", "auto"):
        raise UnsupportedError(
            f"tree_method={method!r} is not supported: boards search all splits.",
            hint='"exact" grows the trees of xgboost, "fpga_exact" those of InAccel\'s accelerator of 2019.',
        )
    kind = _OBJECTIVES[objective]
    n_groups = 1
    if kind == SOFTMAX:
        n_groups = _whole(given, "num_class", 0, low=1)
    elif _whole(given, "num_class", 0, low=0) > 1:
        raise ArgumentRangeError(f"num_class={given['num_class']!r}, but {objective} has one output.")
    depth = _whole(given, "max_depth", 6, low=0)
    if not 1 <= depth <= 30:
        raise ArgumentRangeError(
            f"max_depth is {depth}; the exact method wants 1 to 30.", hint="Unlimited depth needs another tree method."
        )
    requests = _whole(given, "nRequests", 2, low=1)  # 2: the kernels of one of InAccel's cards
    if "nRequests" in given and method != "fpga_exact":
        raise ArgumentError('nRequests belongs to tree_method="fpga_exact"; boards are named by devices=.')
    own = {"tree_method": "exact", "nthread": 1, "objective": objective}
    keep = (known | _HARMLESS) - {"tree_method", "nRequests"}
    return Settings(
        objective=objective,
        kind=kind,
        tree_method="fpga_exact" if method == "fpga_exact" else "exact",
        n_groups=n_groups,
        max_depth=depth,
        eta=_real(given, "eta", 0.3),
        gamma=_real(given, "gamma", 0.0),
        reg_lambda=_real(given, "lambda", 1.0),
        reg_alpha=_real(given, "alpha", 0.0),
        min_child_weight=_real(given, "min_child_weight", 1.0),
        max_delta_step=_real(given, "max_delta_step", 0.0),
        scale_pos_weight=_real(given, "scale_pos_weight", 1.0),
        n_requests=requests,
        xgboost=own | {name: value for name, value in given.items() if name in keep},
    )


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _converted(given: Mapping[str, Any], name: str, default: float, to: Callable[[Any], Any], what: str) -> Any:
    value = given.get(name, default)
    try:
        return to(value)
    except (TypeError, ValueError, OverflowError):
        raise ArgumentError(f"Parameter {name} is {value!r}, expected {what}.") from None


def _whole(given: Mapping[str, Any], name: str, default: int, *, low: int) -> int:
    value: int = _converted(given, name, default, _exact_int, "a whole number")
    if value < low:
        raise ArgumentRangeError(f"{name} is {value}, expected {low} or more.")
    return value


def _exact_int(value: Any) -> int:
    number = int(value)
    if number != float(value):
        raise ValueError
    return number


def _real(given: Mapping[str, Any], name: str, default: float) -> np.float32:
    value: np.float32 = _converted(given, name, default, lambda v: np.float32(float(v)), "a number")
    if not (value >= 0 and np.isfinite(value)):
        raise ArgumentRangeError(f"{name} is {given[name]!r}, expected 0 or more, and finite.")
    return value
