# SPDX-License-Identifier: Apache-2.0
"""What an objective makes of base scores and margins, in float32 and with the C library's functions, as XGBoost does.

Checked against xgboost 3.2 by the tests; the rules are those of its ObjFunction::ProbToMargin and PredTransform.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fpgahal import UnsupportedError
from fpgahal.kernels.xgboost import _numbers
from fpgahal.kernels.xgboost._errors import ModelError

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Objective:
    """An objective, as far as prediction needs it.

    Attributes
    ----------
    name : str
        XGBoost's.
    link : str
        How a base score becomes a margin: ``"identity"``, ``"logit"`` or ``"log"``.
    transform : int
        How margins become predictions: a constant of _numbers.
    classifies : bool
    """

    name: str
    link: str = "identity"
    transform: int = _numbers.IDENTITY
    classifies: bool = False

    def margins(self, scores: Floats) -> Floats:
        """Base margins from base scores.

        Raises
        ------
        ModelError
            A base score that the objective does not have, such as a probability of 2.
        """
        if self.link == "identity":
            return scores
        low, high = (0.0, 1.0) if self.link == "logit" else (0.0, np.inf)
        if not ((scores >= low) & (scores <= high)).all():
            raise ModelError(f"base_score {scores.tolist()} with objective {self.name}: expected {low:g} to {high:g}.")
        link = _numbers.logit if self.link == "logit" else _numbers.log
        return np.array([link(score) for score in scores.tolist()], np.float32)


_KNOWN = {
    one.name: one
    for one in (
        *(
            Objective(name)
            for name in (
                "reg:squarederror",
                "reg:linear",
                "reg:squaredlogerror",
                "reg:pseudohubererror",
                "reg:absoluteerror",
                "reg:quantileerror",
                "reg:expectileerror",
                "rank:pairwise",
                "rank:ndcg",
                "rank:map",
            )
        ),
        *(
            Objective(name, "log", _numbers.EXP)
            for name in ("count:poisson", "reg:gamma", "reg:tweedie", "survival:cox", "survival:aft")
        ),
        Objective("reg:logistic", "logit", _numbers.SIGMOID),
        Objective("binary:logistic", "logit", _numbers.SIGMOID, True),
        Objective("binary:logitraw", classifies=True),
        Objective("binary:hinge", "identity", _numbers.HINGE, True),
        Objective("multi:softprob", "identity", _numbers.SOFTMAX, True),
        Objective("multi:softmax", "identity", _numbers.ARGMAX, True),
    )
}


def objective(name: str) -> Objective:
    """Look an objective up.

    Raises
    ------
    UnsupportedError
        Nobody has checked what it makes of its margins.
    """
    try:
        return _KNOWN[name]
    except KeyError:
        raise UnsupportedError(
            f"The model's objective {name!r} is not one that fpgahal knows: {', '.join(sorted(_KNOWN))}.",
            hint="Which base margin and which transformation belong to it is the objective's own.",
        ) from None


__all__ = ["Objective", "objective"]
