# SPDX-License-Identifier: Apache-2.0
"""Models that the tests of fpgahal.kernels.xgboost share: real data, trained once; and models made by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import xgboost

from fpgahal.bench.nycflights import table

Table = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Case:
    """A model to train: on which data, how, and for how many rounds."""

    data: str
    rounds: int
    parameters: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.data}-{self.parameters['objective']}-d{self.parameters.get('max_depth', 0)}x{self.rounds}"


def case(data: str, objective: str, depth: int, rounds: int, **parameters: Any) -> Case:
    return Case(data, rounds, {"objective": objective, "max_depth": depth, **parameters})


CASES = [
    # real rows with real missing values
    case("flights", "binary:logistic", 6, 100),
    case("flights", "binary:logistic", 1, 1),
    case("flights", "binary:logistic", 12, 10, tree_method="exact"),
    case("flights", "binary:logitraw", 7, 10),
    case("flights", "binary:hinge", 5, 10),
    case("flights", "binary:logistic", 0, 5, grow_policy="lossguide", max_leaves=200, tree_method="hist"),
    case("flights-delay", "reg:squarederror", 8, 20),
    case("flights-delay", "reg:absoluteerror", 9, 5),
    case("flights-delay", "reg:quantileerror", 4, 5, quantile_alpha=[0.1, 0.5, 0.9]),
    case("flights-delay", "reg:squarederror", 6, 5, base_score=-17.25),
    case("flights-delay", "reg:squarederror", 5, 4, num_parallel_tree=5, subsample=0.5, colsample_bynode=0.5),
    # scikit-learn's
    case("breast_cancer", "binary:logistic", 6, 100, tree_method="exact"),
    case("breast_cancer", "binary:logistic", 3, 50, base_score=0.9),
    case("breast_cancer", "reg:logistic", 10, 20),
    case("breast_cancer", "rank:ndcg", 4, 10),
    case("breast_cancer", "rank:pairwise", 4, 10),
    case("breast_cancer", "rank:map", 2, 10),
    case("diabetes", "reg:squarederror", 2, 1000),
    case("diabetes", "reg:squarederror", 11, 30, tree_method="approx"),
    case("diabetes", "count:poisson", 4, 30),
    case("diabetes", "reg:gamma", 4, 30),
    case("diabetes", "reg:tweedie", 4, 30, tweedie_variance_power=1.3),
    case("diabetes", "reg:pseudohubererror", 3, 20),
    case("diabetes", "reg:squaredlogerror", 3, 20),
    case("diabetes", "survival:cox", 3, 20),
    case("diabetes", "survival:aft", 3, 20),
    case("digits", "multi:softprob", 6, 100),  # 1,000 trees
    case("digits", "multi:softmax", 3, 10),
    case("wine", "multi:softprob", 4, 30),
    case("wine", "multi:softmax", 2, 30, num_parallel_tree=3, subsample=0.7),
    case("linnerud", "reg:squarederror", 3, 30),  # three targets
    # sizes that no real set has
    case("wide", "binary:logistic", 6, 20),  # 500 features
    case("narrow", "reg:squarederror", 5, 20),  # one feature
    case("holes", "binary:logistic", 8, 20, tree_method="exact"),
]


@cache
def flights() -> tuple[Table, npt.NDArray[np.float64]]:
    """NYC's flights of 2013: 15 features with missing values as they are, and the delay on arrival in minutes."""
    frame = table("flights.csv.zip")
    frame = frame[frame["arr_delay"].notna()]
    columns = [
        frame[name].to_numpy(np.float32)
        for name in (
            *("month", "day", "dep_time", "sched_dep_time", "dep_delay", "sched_arr_time"),
            *("flight", "air_time", "distance", "hour", "minute"),
        )
    ]
    columns += [np.unique(frame[name].astype(str), return_inverse=True)[1] for name in ("carrier", "origin", "dest")]
    planes = table("planes.csv").set_index("tailnum")["year"]
    columns.append(planes.reindex(frame["tailnum"]).to_numpy(np.float32))  # one in six is not known
    return np.column_stack(columns).astype(np.float32), frame["arr_delay"].to_numpy(np.float64)


def _sklearn(name: str) -> tuple[Table, npt.NDArray[np.float64]]:
    from sklearn import datasets

    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    return x.astype(np.float32), y


@cache
def data(name: str) -> tuple[Table, npt.NDArray[np.float64]]:
    """Rows and labels."""
    random = np.random.default_rng(7)
    if name.startswith("flights"):
        x, delay = flights()
        chosen = random.permutation(len(x))[:8000]
        return x[chosen], delay[chosen] if name.endswith("delay") else (delay[chosen] > 15).astype(float)
    if name in ("breast_cancer", "diabetes", "digits", "wine", "linnerud"):
        return _sklearn(name)
    n, width = {"wide": (600, 500), "narrow": (500, 1), "holes": (2000, 12)}[name]
    x = random.normal(size=(n, width)).astype(np.float32)
    if name == "holes":
        x[random.random(x.shape) < 0.3] = np.nan
    y = np.nan_to_num(x[:, : max(1, width // 2)]).sum(axis=1)
    return x, y if name == "narrow" else (y > 0).astype(float)


@cache
def _trained(at: int) -> bytes:
    this = CASES[at]
    x, y = data(this.data)
    matrix = xgboost.DMatrix(x, y)
    parameters = {"nthread": 1, "seed": 1, **this.parameters}
    if parameters["objective"].startswith("multi:"):
        parameters["num_class"] = int(y.max()) + 1
    if parameters["objective"].startswith("rank:"):
        matrix.set_group([len(x) // 4] * 3 + [len(x) - 3 * (len(x) // 4)])
    if parameters["objective"] == "survival:aft":
        matrix.set_float_info("label_lower_bound", y)
        matrix.set_float_info("label_upper_bound", y + 10)
    return bytes(xgboost.train(parameters, matrix, this.rounds).save_raw("ubj"))


def trained(this: Case) -> tuple[xgboost.Booster, Table]:
    """The model, and the rows that it was trained on."""
    return booster(_trained(CASES.index(this))), data(this.data)[0]


def booster(model: bytes | str | dict[str, Any]) -> xgboost.Booster:
    """What the real xgboost makes of a model."""
    if isinstance(model, dict):
        model = dumps(model)
    made = xgboost.Booster({"nthread": 1})
    made.load_model(bytearray(model.encode() if isinstance(model, str) else model))
    made.set_param({"nthread": 1})
    return made


# --- models made by hand ------------------------------------------------------------------------------------


class Raw(float):
    """A number of a JSON text, with its very digits."""

    text: str

    def __new__(cls, text: str) -> Raw:
        made = super().__new__(cls, text)
        made.text = text
        return made

    def __repr__(self) -> str:
        return self.text


def single(value: float) -> Raw:
    """The shortest digits that give a float32 back, as XGBoost writes them: it refuses integers here."""
    value = np.float32(value)
    return Raw(
        np.format_float_scientific(value, trim="0") if np.isfinite(value) else "Infinity" if value > 0 else "-Infinity"
    )


def dumps(document: Any) -> str:
    """JSON, with the digits of Raw as they are."""
    if isinstance(document, dict):
        return "{" + ",".join(f"{json.dumps(key)}:{dumps(item)}" for key, item in document.items()) + "}"
    if isinstance(document, list):
        return "[" + ",".join(map(dumps, document)) + "]"
    return document.text if isinstance(document, Raw) else json.dumps(document)


@dataclass(frozen=True)
class Leaf:
    value: float


@dataclass(frozen=True)
class Split:
    feature: int
    threshold: float
    default_left: bool
    left: Leaf | Split
    right: Leaf | Split


def tree(root: Leaf | Split, n_features: int, index: int = 0) -> dict[str, Any]:
    """A tree of a JSON model: both children of a node next to each other, as XGBoost takes for granted."""
    left, right, feature, value, default, parents = [], [], [], [], [], []
    waiting: list[tuple[Leaf | Split, int]] = [(root, 2147483647)]
    for node, parent in waiting:
        split = isinstance(node, Split)
        parents.append(parent)
        feature.append(node.feature if split else 0)
        number = node.threshold if split else node.value
        value.append(number if isinstance(number, Raw) else single(number))
        default.append(int(split and node.default_left))
        left.append(len(waiting) if split else -1)
        right.append(len(waiting) + 1 if split else -1)
        if split:
            waiting += [(node.left, len(left) - 1), (node.right, len(left) - 1)]
    n = len(left)
    return {
        "base_weights": [single(0)] * n,
        "categories": [],
        "categories_nodes": [],
        "categories_segments": [],
        "categories_sizes": [],
        "default_left": default,
        "id": index,
        "left_children": left,
        "loss_changes": [single(0)] * n,
        "parents": parents,
        "right_children": right,
        "split_conditions": value,
        "split_indices": feature,
        "split_type": [0] * n,
        "sum_hessian": [single(1)] * n,
        "tree_param": {
            "num_deleted": "0",
            "num_feature": str(n_features),
            "num_nodes": str(n),
            "size_leaf_vector": "1",
        },
    }


def document(
    roots: list[Leaf | Split],
    n_features: int,
    classes: int = 0,
    base: str = "[5E-1]",
    objective: str = "binary:logistic",
) -> dict[str, Any]:
    """A JSON model of XGBoost 3.2."""
    groups = max(1, classes)
    name: dict[str, Any] = {"name": objective}
    if objective.startswith("multi:"):
        name["softmax_multiclass_param"] = {"num_class": str(classes)}
    else:
        name["reg_loss_param"] = {"scale_pos_weight": "1"}
    return {
        "learner": {
            "attributes": {},
            "feature_names": [],
            "feature_types": [],
            "gradient_booster": {
                "model": {
                    "cats": {"enc": [], "feature_segments": [], "sorted_idx": []},
                    "gbtree_model_param": {"num_parallel_tree": "1", "num_trees": str(len(roots))},
                    "iteration_indptr": [*range(0, len(roots) + 1, groups)],
                    "tree_info": [at % groups for at in range(len(roots))],
                    "trees": [tree(root, n_features, at) for at, root in enumerate(roots)],
                },
                "name": "gbtree",
            },
            "learner_model_param": {
                "base_score": base,
                "boost_from_average": "1",
                "num_class": str(classes),
                "num_feature": str(n_features),
                "num_target": "1",
            },
            "objective": name,
        },
        "version": [3, 2, 0],
    }


def trees_of(model: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = model["learner"]["gradient_booster"]["model"]["trees"]
    return found


def small() -> dict[str, Any]:
    """Three trees over three features."""
    stump = Split(0, 0.5, True, Leaf(-1.5), Leaf(2.25))
    return document([Split(1, -1.0, False, stump, Leaf(0.125)), stump, Leaf(0.5)], 3)


def chain(depth: int) -> str:
    """A model with one tree that is one long branch: a text, because so many nodes take their time otherwise."""
    n = 2 * depth + 1
    inner = range(0, n - 1, 2)
    fields = {
        "left_children": ",".join(f"{at + 1},-1" for at in inner) + ",-1",
        "right_children": ",".join(f"{at + 2},-1" for at in inner) + ",-1",
        "split_conditions": "0.5," * (n - 1) + "0.5",
        "split_indices": "0," * (n - 1) + "0",
        "default_left": "0," * (n - 1) + "0",
        "split_type": "",
    }
    made = document([Leaf(0.0)], 3)
    first = trees_of(made)[0]
    first["tree_param"]["num_nodes"] = str(n)
    first.update((name, f"@{name}@") for name in fields)
    text = dumps(made)
    for name, numbers in fields.items():
        text = text.replace(f'"@{name}@"', f"[{numbers}]")
    return text


def paths() -> Iterator[str]:
    """Instruction paths that this processor has."""
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
        flags = file.read().split()
    yield "portable"
    if "avx2" in flags:
        yield "avx2"
    if {"avx512f", "avx512dq", "avx512bw", "avx512vl"} <= set(flags):
        yield "avx512"


Predict = Callable[..., npt.NDArray[np.float32]]
