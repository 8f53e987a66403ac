# SPDX-License-Identifier: Apache-2.0
"""Boards in a Dask cluster.

Workers say how many boards are theirs (``dask worker --resources "fpga=2"``), and the plugin :class:`Boards` opens
them.  A task that asks for ``resources={"fpga": 1}`` gets one with :func:`board`; :func:`predict` does all of it.
"""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from fpgahal import ArgumentRangeError, Device, DeviceNotFoundError, DeviceStateError, LibraryNotFoundError
from fpgahal.contrib._claim import RESOURCE, resources
from fpgahal.contrib._pool import Pool
from fpgahal.kernels import xgboost

try:
    import dask.array as da
    from distributed import WorkerPlugin, default_client, get_worker
except ModuleNotFoundError as error:
    raise LibraryNotFoundError(
        f"fpgahal.contrib.dask needs Dask, and {error.name} is not installed.", hint="pip install 'fpgahal[dask]'"
    ) from None


class Boards(WorkerPlugin):
    """Opens a worker's boards when it starts: ``client.register_plugin(Boards())``.

    As many as the worker has of the resource ``"fpga"``; a worker that has none is left alone.  When a board is lost,
    the worker has one less; ``client.restart()`` counts them again.

    Parameters
    ----------
    timeout : float
        Seconds to wait for boards that a process before has open, and for a task's turn.
    **select : optional
        Only boards that match, as for :func:`resources`.

    Raises
    ------
    DeviceNotFoundError, DeviceBusyError
        From ``register_plugin``: a worker's machine has not as many, or others use them.
    """

    name = "fpgahal"

    def __init__(self, *, timeout: float = 30.0, **select: Any) -> None:
        self._timeout, self._select = timeout, select
        self.pool: Pool | None = None

    async def setup(self, worker: Any) -> None:
        """Open the boards."""

        def changed(count: int) -> None:  # in a task's thread
            worker.loop.add_callback(worker.set_resources, **{RESOURCE: count})

        if count := int(worker.state.total_resources.get(RESOURCE, 0)):
            self.pool = Pool(count, changed, self._timeout, **self._select)
            await asyncio.to_thread(self.pool.open)

    def teardown(self, worker: Any) -> None:
        """Close the boards."""
        if self.pool is not None:
            self.pool.close()


def _pool() -> Pool:
    worker = get_worker()
    pool: Pool | None = getattr(worker.plugins.get(Boards.name), "pool", None)
    if pool is None:
        raise DeviceStateError(
            f"Worker {worker.name} has no boards open (its resources: {dict(worker.state.total_resources)}).",
            hint=f'It must be started with --resources "{RESOURCE}=1" or more, '
            "and client.register_plugin(fpgahal.contrib.dask.Boards()) be called.",
        )
    return pool


@contextmanager
def board() -> Iterator[Device]:
    """In a task: a board that is this task's alone, as long as the block lasts.

    Raises
    ------
    DeviceStateError
        The worker has none, or the plugin :class:`Boards` is not registered.
    DeviceBusyError
        None got free: other tasks than those with ``resources={"fpga": 1}`` use boards.
    DeviceNotFoundError
        All were lost.
    """
    with _pool().lease() as held:
        held.unload()  # the task may want another image
        yield held.dev


def _predict(part: Any, forest: xgboost.Forest, columns: int, options: dict[str, Any]) -> Any:
    with _pool().lease() as held:
        found = held.model(forest).predict(part, **options)
    return _frame(found, part.index, columns) if hasattr(part, "index") else found


def _frame(found: Any, index: Any, columns: int) -> Any:
    import pandas

    return pandas.DataFrame(found, index) if columns else pandas.Series(found, index, name="prediction")


def predict(x: Any, model: Any, *, output_margin: bool = False, missing: float | None = None) -> Any:
    """Predict on the boards of the current client's cluster.

    The work begins at once, a task for each partition.  Tasks of a worker that dies are done by others.

    Parameters
    ----------
    x : dask.array.Array, shape (n, n_features), or dask.dataframe.DataFrame
    model : path, bytes, xgboost.Booster or fitted estimator of xgboost.sklearn
    output_margin, missing
        As for :meth:`fpgahal.kernels.xgboost.Model.predict`.

    Returns
    -------
    dask.array.Array, dask.dataframe.Series or DataFrame
        float32, partitioned as `x`: one column, or one for each output of the model.

    Raises
    ------
    ArgumentRangeError
        `x` is neither, or has another number of columns than the model.
    DeviceNotFoundError
        No worker has boards.
    ModelError, UnsupportedError
        As for :func:`fpgahal.kernels.xgboost.load`.
    """
    forest = xgboost.read(model)
    if not hasattr(x, "to_delayed") or x.ndim != 2 or x.shape[1] != forest.n_features:
        raise ArgumentRangeError(
            f"x is a {type(x).__name__} of shape {getattr(x, 'shape', None)}: expected a Dask array or data frame with "
            f"the model's {forest.n_features} features (dask.array.from_array makes one)."
        )
    client = default_client()
    if not any(RESOURCE in one["resources"] for one in client.scheduler_info(n_workers=-1)["workers"].values()):
        raise DeviceNotFoundError(
            f'No worker of this cluster has the resource "{RESOURCE}".',
            hint=f'Start them with it: dask worker --resources "{RESOURCE}=2", LocalCluster(resources=resources()).',
        )
    single = forest.n_outputs == 1 or (forest.objective.name == "multi:softmax" and not output_margin)
    columns = 0 if single else forest.n_outputs
    missing = getattr(model, "missing", None) if missing is None else missing
    frame = hasattr(x, "divisions")
    parts = x.to_delayed() if frame else x.rechunk({1: -1}).to_delayed().ravel().tolist()
    # Futures, not a lazy graph: Dask drops the resources of tasks that it fuses, and ignores them in data frames.
    # The model is a task's result, not scattered: what only a dead worker had of scattered data is lost.
    done = client.map(
        _predict,
        client.compute(parts),
        forest=client.submit(pickle.loads, pickle.dumps(forest)),
        columns=columns,
        options={"output_margin": output_margin, "missing": missing},
        resources={RESOURCE: 1},
        retries=3,
        priority=1,  # before more rows are computed
    )
    if frame:
        import dask.dataframe as dd

        meta = _frame(np.empty((0, columns) if columns else 0, np.float32), x._meta.index, columns)
        return dd.from_delayed(done, meta=meta, divisions=x.divisions)
    shapes = [(size, columns) if columns else (size,) for size in x.chunks[0]]
    arrays = [da.from_delayed(one, shape, np.float32) for one, shape in zip(done, shapes, strict=True)]
    return da.concatenate(arrays, allow_unknown_chunksizes=True)


__all__ = ["RESOURCE", "Boards", "board", "predict", "resources"]
