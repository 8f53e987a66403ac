# SPDX-License-Identifier: Apache-2.0
"""Boards in a Ray cluster.

Boards are the custom resource ``"fpga"``; ``ray start --resources "$(python -m fpgahal.contrib.ray)"`` offers those of
a machine.  Who gets ``resources={"fpga": n}`` from Ray opens n boards with :func:`boards`, and no other process has
them: :class:`Predict` does so for Ray Data, :data:`Board` is an actor for everything else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fpgahal import ArgumentRangeError, DeviceGroup, DeviceStateError, LibraryNotFoundError
from fpgahal.contrib._claim import GONE, RESOURCE, claim, resources
from fpgahal.kernels import xgboost

try:
    import ray
except ModuleNotFoundError as error:
    raise LibraryNotFoundError(
        f"fpgahal.contrib.ray needs Ray, and {error.name} is not installed.", hint="pip install 'fpgahal[ray]'"
    ) from None

Batch = dict[str, Any]


def boards(*, least: int | None = None, timeout: float = 30.0, **select: Any) -> DeviceGroup:
    """Open as many boards as Ray gave this actor or task; they are its own until it closes them or dies.

    A task must close them, as its process lives on: ``with boards() as (dev,): ...``.

    Parameters
    ----------
    least : int, optional
        Be content with so many; by default all.
    timeout : float
        Seconds to wait for boards that a process before has open.
    **select : optional
        As for :func:`resources`; use the same for both.

    Raises
    ------
    DeviceStateError
        This is no actor or task with ``resources={"fpga": n}``, n whole.
    DeviceNotFoundError, DeviceBusyError
        The machine has not as many as Ray was told, or others use them.
    """
    worker = ray.is_initialized() and ray.get_runtime_context().worker.mode == ray.WORKER_MODE
    given = ray.get_runtime_context().get_assigned_resources().get(RESOURCE, 0) if worker else 0
    if given < 1 or given != int(given):
        raise DeviceStateError(
            f"Ray gave {given:g} boards to this {'worker' if worker else 'process, which is none of its workers'}; "
            "expected a whole number from 1 on.",
            hint=f'Ask for them: @ray.remote(resources={{"{RESOURCE}": 1}}).',
        )
    return claim(int(given), least=least, timeout=timeout, **select)


class _Board:
    def __init__(self, **select: Any) -> None:
        self._boards = boards(**select)

    def run(self, function: Callable[..., Any], *args: Any, **more: Any) -> Any:
        """Call ``function(dev, *args, **more)``; with several boards ``function(dev, dev, ...)``."""
        return function(*self._boards, *args, **more)


#: Actor that has a board (``.options(resources={"fpga": n})``: n boards) to itself.  ``Board.remote(**select)``, then
#: ``ray.get(board.run.remote(function, *args))`` calls ``function(dev, *args)`` where the board is.
Board = ray.remote(num_cpus=0, resources={RESOURCE: 1})(_Board)


class Predict:
    """XGBoost predictions for ``Dataset.map_batches``: one actor on its boards, the model resident.

    Parameters
    ----------
    model : bytes, path (on the worker), xgboost.Booster or fitted estimator of xgboost.sklearn
    features : str or sequence of str, optional
        A column of vectors, or a column for each feature; by default the model's feature names, and if it has none
        ``"data"``, as ``ray.data.from_numpy`` calls its column.
    output : str
        The column to add: float32.
    select : dict, optional
        Only boards that match, as for :func:`resources`.
    **options
        For :meth:`fpgahal.kernels.xgboost.Model.predict`.

    Notes
    -----
    An actor that is killed is restarted by Ray, and its batch done again.  After the loss of a board the actor goes on
    with those that it can open, if there is one.

    Examples
    --------
    >>> ds.map_batches(  # doctest: +SKIP
    ...     Predict, fn_constructor_args=(raw,), batch_size=65_536, num_cpus=0, resources={"fpga": 2},
    ...     compute=ray.data.ActorPoolStrategy(size=2),
    ... )
    """

    def __init__(
        self,
        model: Any,
        features: str | Sequence[str] | None = None,
        output: str = "prediction",
        *,
        select: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self._source, self._output, self._options = model, output, options
        self._select = select or {}
        self._boards = boards(**self._select)
        self._model = xgboost.load(self._boards, model)
        self._features = features or self._model.feature_names or "data"

    def __call__(self, batch: Batch) -> Batch:
        """Add the predictions to a batch in Ray's format ``"numpy"``."""
        rows = self._rows(batch)
        try:
            predictions = self._model.predict(rows, **self._options)
        except GONE:
            self._boards.close()
            self._boards = boards(least=1, timeout=1.0, **self._select)
            self._model = xgboost.load(self._boards, self._source)
            predictions = self._model.predict(rows, **self._options)
        return {**batch, self._output: predictions}

    def _rows(self, batch: Batch) -> Any:
        names = [self._features] if isinstance(self._features, str) else list(self._features)
        absent = [name for name in names if name not in batch]
        if absent:
            raise ArgumentRangeError(
                f"The batch has no column {', '.join(absent[:5])}; it has {', '.join(map(str, batch))}.",
                hint="Name the columns of the features, in the model's order: "
                'fn_constructor_kwargs={"features": [...]}.',
            )
        if isinstance(self._features, str):
            return batch[self._features]
        return np.column_stack([np.asarray(batch[name], np.float32) for name in names])


if __name__ == "__main__":
    print(json.dumps(resources()))

__all__ = ["RESOURCE", "Board", "Predict", "boards", "resources"]
