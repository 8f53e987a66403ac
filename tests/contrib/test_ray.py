# SPDX-License-Identifier: Apache-2.0
"""Boards in a real Ray: one node, two workers with two emulated boards each."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import engines
import numpy as np
import pytest
import ray
import ray.data
import xgboost
from engines import all_free, booster, once, raw, rows

import fpgahal
from fpgahal.contrib import ray as boards

BOARDS = 4
pytestmark = pytest.mark.filterwarnings(  # Ray's, of its own defaults
    "ignore::DeprecationWarning:ray", "ignore:Tip:FutureWarning"
)


@pytest.fixture(scope="module")
def rack() -> Iterator[fpgahal.emu.Rack]:
    for module in (engines, sys.modules[__name__]):  # the workers can't import them
        ray.cloudpickle.register_pickle_by_value(module)
    with fpgahal.emu.rack("pac-a10:2,u250:2") as made:
        ray.init(
            num_cpus=2,
            resources=boards.resources(),
            include_dashboard=False,
            object_store_memory=80 << 20,
            logging_level="ERROR",
            log_to_driver=False,
        )
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        context.wait_for_min_actors_s = 120  # or the first actor to start may do all the work
        try:
            yield made
        finally:
            ray.shutdown()
        assert all_free(BOARDS)


def predicted(kind: type[boards.Predict], n: int, blocks: int, *args: Any) -> Any:
    """Rows 0 to `n` through two actors with two boards each, as a data frame."""
    source = ray.data.range(n, override_num_blocks=blocks).map_batches(lambda ids: {**ids, "data": rows(ids["id"])})
    found = source.map_batches(
        kind,
        fn_constructor_args=(raw(), *args),
        batch_size=None,
        compute=ray.data.ActorPoolStrategy(size=2),
        num_cpus=0,
        resources={"fpga": 2},
    )
    table = found.drop_columns(["data"]).to_pandas().sort_values("id")
    assert np.array_equal(table["id"], np.arange(n))
    return table


def test_resources(rack: fpgahal.emu.Rack) -> None:
    assert boards.resources() == {"fpga": 4}
    assert boards.resources(driver="xrt") == {"fpga": 2}
    assert boards.resources(name="no such") == {}
    command = [sys.executable, "-m", "fpgahal.contrib.ray"]
    assert json.loads(subprocess.run(command, check=True, capture_output=True).stdout) == {"fpga": 4}


def address(*devices: fpgahal.Device) -> list[str]:
    return [dev.info.address for dev in devices]


def test_every_actor_has_its_own(rack: fpgahal.emu.Rack) -> None:
    actors = [boards.Board.remote(), boards.Board.remote(), boards.Board.options(resources={"fpga": 2}).remote()]
    found = ray.get([actor.run.remote(address) for actor in actors])
    assert [len(one) for one in found] == [1, 1, 2]
    assert sorted(chain(*found)) == [info.address for info in fpgahal.devices()]
    for info in fpgahal.devices():
        with pytest.raises(fpgahal.DeviceBusyError):
            fpgahal.open(info)
    del actors
    assert all_free(BOARDS)


def test_killed_actor_gets_a_board_again(rack: fpgahal.emu.Rack) -> None:
    other = boards.Board.options(resources={"fpga": 3}).remote()
    taken = ray.get(other.run.remote(address))
    actor = boards.Board.options(max_restarts=1, max_task_retries=-1).remote()
    pid, last = ray.get([actor.run.remote(lambda dev: os.getpid()), actor.run.remote(address)])
    os.kill(pid, signal.SIGKILL)
    assert ray.get(actor.run.remote(address)) == last
    assert ray.get(actor.run.remote(lambda dev: os.getpid())) != pid
    assert not set(last) & set(taken)
    del actor, other
    assert all_free(BOARDS)


def test_task(rack: fpgahal.emu.Rack) -> None:
    @ray.remote(resources={"fpga": 1}, num_cpus=0)
    def task(seconds: float) -> list[str]:
        with boards.boards(driver="xrt") as found:
            time.sleep(seconds)
            return address(*found)

    assert [len(one) for one in ray.get([task.remote(0.05) for _ in range(6)])] == [1] * 6
    assert all_free(BOARDS)


class Counted(boards.Predict):
    def __call__(self, batch: boards.Batch) -> boards.Batch:
        return {**super().__call__(batch), "pid": np.full(len(batch["id"]), os.getpid())}


def test_more_than_the_object_store_holds(rack: fpgahal.emu.Rack) -> None:
    n = 1_200_000
    assert rows(np.arange(2)).nbytes // 2 * n > 80 << 20
    table = predicted(Counted, n, 24)
    assert np.array_equal(table["prediction"], booster().inplace_predict(rows(np.arange(n))))
    assert table["pid"].nunique() == 2
    assert all(rack.status(i).programmed for i in range(BOARDS))
    assert all_free(BOARDS)


class Troubled(Counted):
    """One of the actors is killed; later one of the boards drops off the bus."""

    def __init__(self, model: bytes, flags: Path) -> None:
        super().__init__(model)
        self._flags = flags

    def __call__(self, batch: boards.Batch) -> boards.Batch:
        first = batch["id"][0]
        if 20_000 < first < 40_000 and once(self._flags / "killed"):
            os.kill(os.getpid(), signal.SIGKILL)
        if first > 40_000 and once(self._flags / "lost"):
            info = self._boards[0].info
            fpgahal.emu.rack(dir=info.root).fault(info, "vanish")
        return super().__call__(batch)


def test_killed_and_lost_in_the_middle(rack: fpgahal.emu.Rack, tmp_path: Path) -> None:
    table = predicted(Troubled, 60_000, 20, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"killed", "lost"}
    assert sum(rack.status(i).vanished for i in range(BOARDS)) == 1
    rack.clear()
    assert np.array_equal(table["prediction"], booster().inplace_predict(rows(np.arange(60_000))))
    assert table["pid"].nunique() >= 2
    assert all_free(BOARDS)


def test_columns(rack: fpgahal.emu.Rack) -> None:
    """A model with feature names takes the columns of these names, in its own order; several outputs are a vector."""
    names = [f"f{i}" for i in range(20)]
    real = booster("multi:softprob", num_class=3)
    x = rows(np.arange(50))
    margins = real.inplace_predict(x, predict_type="margin")
    named = xgboost.Booster(model_file=real.save_raw("ubj"))
    named.feature_names = names
    model = bytes(named.save_raw("ubj"))
    actor = ray.remote(num_cpus=0, resources={"fpga": 1})(boards.Predict)
    by_name = actor.remote(model, output="p", output_margin=True)
    batch = {name: x[:, i].astype(np.float64) for i, name in reversed([*enumerate(names)])}
    assert np.array_equal(ray.get(by_name.__call__.remote(batch))["p"], margins)
    by_vector = actor.remote(model, "v", select={"driver": "opae"})
    assert np.array_equal(ray.get(by_vector.__call__.remote({"v": x}))["prediction"], real.inplace_predict(x))
    del batch["f3"]
    with pytest.raises(fpgahal.ArgumentRangeError, match=r"The batch has no column f3; it has f19, f18.*\n.*Name the"):
        ray.get(by_name.__call__.remote(batch))


def test_wrong_requests(rack: fpgahal.emu.Rack) -> None:
    with pytest.raises(fpgahal.DeviceStateError, match="this process, which is none of its workers"):
        boards.boards()
    half = boards.Board.options(resources={"fpga": 0.5}).remote()
    with pytest.raises(ray.exceptions.ActorDiedError, match=r"Ray gave 0\.5 boards to this worker; expected a whole"):
        ray.get(half.run.remote(address))
    none = boards.Board.remote(name="no such")
    with pytest.raises(ray.exceptions.ActorDiedError, match=r"This worker needs 1 board with {'name': 'no such'}"):
        ray.get(none.run.remote(address))


def test_without_ray() -> None:
    code = "import sys; sys.modules['ray'] = None; import fpgahal.contrib.ray"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "LibraryNotFoundError: fpgahal.contrib.ray needs Ray, and ray is not installed." in done.stderr
    assert "pip install 'fpgahal[ray]'" in done.stderr
