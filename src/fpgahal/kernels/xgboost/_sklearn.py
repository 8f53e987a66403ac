# SPDX-License-Identifier: Apache-2.0
"""A model as a scikit-learn estimator: already fitted, and it stays so (as ``sklearn.frozen.FrozenEstimator``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin

from fpgahal import ArgumentRangeError, Device
from fpgahal.kernels.xgboost._model import Model, load


class _Frozen(BaseEstimator):  # type: ignore[misc]
    """What both have in common.

    Parameters
    ----------
    device : Device, or several
    booster : path, bytes, xgboost.Booster or a fitted estimator of xgboost.sklearn
    """

    def __init__(self, device: Device | Sequence[Device], booster: Any) -> None:
        self.device = device
        self.booster = booster
        self.model_: Model = load(device, booster)
        self.n_features_in_ = self.model_.n_features_in_
        if self.model_.feature_names is not None:
            self.feature_names_in_ = self.model_.feature_names_in_
        best = self.model_.best_iteration
        self._rounds = (0, 0) if best is None else (0, best + 1)

    @classmethod
    def from_booster(cls, device: Device | Sequence[Device], booster: Any) -> Self:
        """Load a trained model; early stopping's best round is the last that counts."""
        return cls(device, booster)

    def fit(self, X: Any, y: Any = None, **options: Any) -> Self:
        """Change nothing: the trees are given."""
        return self

    def close(self) -> None:
        """Give the board's memory back."""
        self.model_.close()

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_clone__(self) -> Self:
        return self

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags


class Classifier(ClassifierMixin, _Frozen):  # type: ignore[misc]
    """A classifier on a board; ``Classifier.from_booster(dev, booster)`` makes one.

    Attributes
    ----------
    classes_ : numpy.ndarray
        0 to the number of classes.
    model_ : Model
    """

    def __init__(self, device: Device | Sequence[Device], booster: Any) -> None:
        super().__init__(device, booster)
        if not self.model_.forest.n_classes:
            self.model_.close()
            raise ArgumentRangeError(
                f"A model with objective {self.model_.forest.objective.name} is no classifier.", hint="Use Regressor."
            )
        self.classes_ = self.model_.classes_

    def predict(self, X: Any) -> npt.NDArray[Any]:
        """The class of each row, as ``xgboost.XGBClassifier.predict``."""
        found = self.model_.predict(X, iteration_range=self._rounds)
        if found.ndim == 2:
            chosen = found.argmax(axis=1)
        elif self.model_.forest.objective.name == "multi:softmax":
            chosen = found.astype(np.int64)
        else:
            chosen = (found > 0.5).astype(np.int64)
        return np.asarray(self.classes_[chosen])

    def predict_proba(self, X: Any) -> npt.NDArray[np.float32]:
        """Probabilities, shape (n, classes)."""
        return self.model_.predict_proba(X, iteration_range=self._rounds)


class Regressor(RegressorMixin, _Frozen):  # type: ignore[misc]
    """A regressor on a board; ``Regressor.from_booster(dev, booster)`` makes one.

    Attributes
    ----------
    model_ : Model
    """

    def predict(self, X: Any) -> npt.NDArray[np.float32]:
        """The prediction for each row, as ``xgboost.XGBRegressor.predict``."""
        return self.model_.predict(X, iteration_range=self._rounds)


__all__ = ["Classifier", "Regressor"]
