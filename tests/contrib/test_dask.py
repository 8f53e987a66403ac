# SPDX-License-Identifier: Apache-2.0
"""Boards in a real Dask cluster: two worker processes with two emulated boards each."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import dask.array as da
import dask.dataframe as dd
import engines
import numpy as np
import pandas as pd
import pytest
import xgboost
from distributed import Client, LocalCluster, get_worker
from engines import all_free, booster, once, raw, rows

import fpgahal
from fpgahal.contrib import dask as boards

BOARDS = 4


@pytest.fixture(scope="module")
def rack() -> Iterator[fpgahal.emu.Rack]:
    for module in (engines, sys.modules[__name__]):  # the workers can't import them
        cloudpickle.register_pickle_by_value(module)
    with fpgahal.emu.rack("pac-a10:2,u250:2", launch_us=10_000) as made:
        yield made


@pytest.fixture(scope="module")
def bare(rack: fpgahal.emu.Rack) -> Iterator[Client]:
    options = {"n_workers": 2, "threads_per_worker": 2, "resources": {"fpga": 2}, "dashboard_address": ":0"}
    with (
        LocalCluster(silence_logs=logging.CRITICAL, **options) as cluster,
        Client(cluster) as made,
    ):
        yield made
    assert all_free(BOARDS)


@pytest.fixture(scope="module")
def client(bare: Client) -> Client:
    bare.register_plugin(boards.Boards(timeout=20))
    return bare


def counted(client: Client) -> list[int]:
    """Boards of each worker, as the scheduler knows them."""
    return sorted(int(one["resources"]["fpga"]) for one in client.scheduler_info()["workers"].values())


def address(seconds: float = 0.0) -> str:
    with boards.board() as dev:
        time.sleep(seconds)
        return dev.info.address


def table(blocks: int, of: int = 10_000) -> da.Array:
    """Rows that are made block by block, where they are needed."""
    numbers = da.arange(blocks * of, chunks=of)
    return numbers.map_blocks(rows, dtype=np.float32, chunks=(numbers.chunks[0], engines.FEATURES), new_axis=1)


def test_without_the_plugin(bare: Client) -> None:
    with pytest.raises(fpgahal.DeviceStateError, match=r"has no boards open.*'fpga': 2.*\n.*register_plugin"):
        bare.submit(address, resources={"fpga": 1}).result()
    with pytest.raises(fpgahal.DeviceNotFoundError, match=r"needs 2 boards with {'name': 'no such'}"):
        bare.register_plugin(boards.Boards(name="no such"))


def test_every_task_has_its_own(client: Client) -> None:
    futures = [client.submit(address, 0.5, key=f"address-{i}", resources={"fpga": 1}) for i in range(4)]
    assert sorted(client.gather(futures)) == [info.address for info in fpgahal.devices()]
    for info in fpgahal.devices():
        with pytest.raises(fpgahal.DeviceBusyError):
            fpgahal.open(info)


def test_closed_by_a_task(client: Client) -> None:
    def careless() -> None:
        with boards.board() as dev, dev:
            pass

    client.gather([client.submit(careless, key=f"careless-{i}", resources={"fpga": 1}) for i in range(6)])
    test_every_task_has_its_own(client)


def test_array(client: Client, rack: fpgahal.emu.Rack) -> None:
    found = boards.predict(table(40), raw())
    assert (found.shape, found.dtype, found.chunks) == ((400_000,), np.float32, ((10_000,) * 40,))
    assert np.array_equal(found.compute(), booster().inplace_predict(rows(np.arange(400_000))))
    assert all(rack.status(i).programmed for i in range(BOARDS))
    assert len(client.has_what()) == 2


def test_several_outputs(client: Client) -> None:
    real = booster("multi:softprob", num_class=3)
    x = rows(np.arange(3000))
    narrow = da.from_array(x, chunks=(1000, 7))
    found = boards.predict(narrow, real, output_margin=True)
    assert found.shape == (3000, 3)
    assert np.array_equal(found.compute(), real.inplace_predict(x, predict_type="margin"))
    softmax = booster("multi:softmax", num_class=3)
    assert np.array_equal(boards.predict(narrow, softmax).compute(), softmax.inplace_predict(x))
    unknown = da.from_array(x, chunks=(1000, 20))
    unknown = unknown[unknown[:, 0] > 300]
    assert np.array_equal(boards.predict(unknown, real).compute(), real.inplace_predict(x[x[:, 0] > 300]))


def test_data_frame(client: Client) -> None:
    real = booster()
    x = pd.DataFrame(rows(np.arange(5000)), index=np.arange(5000) * 2 + 7).rename(columns=str)
    frame = dd.from_pandas(x, npartitions=5)
    frame["p"] = boards.predict(frame, real)
    assert np.array_equal(frame["p"].compute().to_numpy(), real.inplace_predict(x.to_numpy()))
    assert (frame["p"].dtype, frame.known_divisions) == (np.float32, True)
    several = boards.predict(frame.drop(columns="p"), booster("multi:softprob", num_class=3)).compute()
    want = booster("multi:softprob", num_class=3).inplace_predict(x.to_numpy())
    assert np.array_equal(several.to_numpy(), want)
    assert several.index.equals(x.index)


def test_missing_of_an_estimator(client: Client) -> None:
    x = rows(np.arange(4000))
    x[::7, 0] = -1
    real = xgboost.XGBClassifier(n_estimators=5, max_depth=3, missing=-1, n_jobs=1).fit(x, x[:, 1] > 500)
    margins = boards.predict(da.from_array(x, chunks=(1000, 20)), real, output_margin=True).compute()
    assert np.array_equal(margins, real.predict(x, output_margin=True))


def test_killed_in_the_middle(client: Client, tmp_path: Path) -> None:
    flag = tmp_path / "predictions before"

    def deadly(x: engines.Rows, block_info: Any = None) -> engines.Rows:
        worker = get_worker()
        done = [key for key in list(worker.data) if "_predict" in str(key)]
        if block_info[0]["chunk-location"][0] > 20 and done and once(flag):
            os.kill(os.getpid(), signal.SIGKILL)
        return x

    before = client.run(os.getpid)
    found = boards.predict(table(40).map_blocks(deadly, dtype=np.float32), raw())
    assert np.array_equal(found.compute(), booster().inplace_predict(rows(np.arange(400_000))))
    assert flag.exists()
    client.wait_for_workers(2)
    assert len(set(before.values()) - set(client.run(os.getpid).values())) == 1
    test_every_task_has_its_own(client)


def test_board_lost_in_the_middle(client: Client, rack: fpgahal.emu.Rack, tmp_path: Path) -> None:
    def losing(x: engines.Rows, block_info: Any = None) -> engines.Rows:
        if block_info[0]["chunk-location"][0] > 10 and once(tmp_path / "lost"):
            fpgahal.emu.rack(dir=rack.dir).fault(0, "vanish")
        return x

    found = boards.predict(table(20).map_blocks(losing, dtype=np.float32), raw())
    assert np.array_equal(found.compute(), booster().inplace_predict(rows(np.arange(200_000))))
    assert rack.status(0).vanished
    assert counted(client) == [1, 2]
    rack.clear()


def test_all_boards_lost_and_back(client: Client, rack: fpgahal.emu.Rack) -> None:
    for i in range(BOARDS):
        rack.fault(i, "vanish")
    x = table(8)
    with pytest.raises((fpgahal.DeviceNotFoundError, fpgahal.DeviceLostError)):
        boards.predict(x, raw()).compute()
    rack.clear()
    found = boards.predict(x + np.float32(0), raw())
    assert np.array_equal(found.compute(), booster().inplace_predict(rows(np.arange(80_000))))


def test_wrong_arguments(client: Client) -> None:
    for wrong in (rows(np.arange(3)), table(1)[:, :5], table(1)[:, 0]):
        with pytest.raises(fpgahal.ArgumentRangeError, match=r"x is a .* of shape \(.*expected a Dask array"):
            boards.predict(wrong, raw())


def test_no_worker_has_boards(rack: fpgahal.emu.Rack) -> None:
    with (
        LocalCluster(n_workers=0, processes=False, dashboard_address=":0") as cluster,
        Client(cluster),
        pytest.raises(fpgahal.DeviceNotFoundError, match='No worker of this cluster has the resource "fpga"'),
    ):
        boards.predict(table(1), raw())


def test_without_dask() -> None:
    code = "import sys; sys.modules['dask'] = None; import fpgahal.contrib.dask"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "LibraryNotFoundError: fpgahal.contrib.dask needs Dask, and dask" in done.stderr
    assert "pip install 'fpgahal[dask]'" in done.stderr
