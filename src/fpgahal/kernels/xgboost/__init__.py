# SPDX-License-Identifier: Apache-2.0
"""XGBoost on a board: the trees of a model that ``xgboost`` saved, with results equal to the last bit; and training.

>>> from fpgahal.kernels import xgboost
>>> with fpgahal.open() as dev, xgboost.load(dev, "model.json") as model:  # doctest: +SKIP
...     model.predict(X)

:func:`train` grows the trees of xgboost's exact method, with the split finding on boards.
`Classifier` and `Regressor` are the same for scikit-learn, which is imported only when one of them is used.
"""

from typing import TYPE_CHECKING, Any

from fpgahal.kernels.xgboost._contract import NODE, PREDICT, TREE
from fpgahal.kernels.xgboost._errors import ModelError
from fpgahal.kernels.xgboost._forest import Forest, read
from fpgahal.kernels.xgboost._model import Model, load
from fpgahal.kernels.xgboost._numbers import ARGMAX, IDENTITY
from fpgahal.kernels.xgboost._pack import Packed, pack
from fpgahal.kernels.xgboost._rows import Rows
from fpgahal.kernels.xgboost._train import train
from fpgahal.kernels.xgboost._train_contracts import EXACT, INACCEL_EXACT

if TYPE_CHECKING:
    from fpgahal.kernels.xgboost._sklearn import Classifier, Regressor

__all__ = [
    "ARGMAX",
    "EXACT",
    "IDENTITY",
    "INACCEL_EXACT",
    "NODE",
    "PREDICT",
    "TREE",
    "Classifier",
    "Forest",
    "Model",
    "ModelError",
    "Packed",
    "Regressor",
    "Rows",
    "load",
    "pack",
    "read",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in ("Classifier", "Regressor"):
        from fpgahal.kernels.xgboost import _sklearn

        return getattr(_sklearn, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
