# SPDX-License-Identifier: Apache-2.0
"""Training that can't go on: wrong input, boards that fail, Ctrl-C; and the kernel itself with wrong arguments."""

from __future__ import annotations

import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import xgboost as xgb
from training import check

import fpgahal
from fpgahal import emu
from fpgahal.kernels import vadd
from fpgahal.kernels import xgboost as ours
from fpgahal.kernels.xgboost import _grow, _train_board
from fpgahal.kernels.xgboost._train_contracts import BEST, EXACT, INACCEL_EXACT

BINARY = {"objective": "binary:logistic"}


@pytest.fixture
def rack() -> Iterator[emu.Rack]:
    with emu.rack("pac-a10,u250") as rack:
        yield rack


@pytest.fixture(params=["opae", "xrt"])
def dev(request: pytest.FixtureRequest, rack: emu.Rack) -> Iterator[fpgahal.Device]:
    with open_one(rack, request.param) as dev:
        yield dev


def open_one(rack: emu.Rack, driver: str) -> fpgahal.Device:
    dev = fpgahal.open(driver=driver)
    dev.program(emu.build_image("xgboost_exact", rack.board(dev.info)))
    return dev


def data(n: int = 300) -> xgb.DMatrix:
    rng = np.random.default_rng(0)
    return xgb.DMatrix(rng.normal(size=(n, 4)).astype(np.float32), rng.integers(0, 2, n))


# --- the contracts ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("contract", [EXACT, INACCEL_EXACT], ids=lambda contract: contract.name)
@pytest.mark.parametrize("driver", ["opae", "xrt"])
def test_image_and_contract_agree(rack: emu.Rack, contract: fpgahal.KernelContract, driver: str) -> None:
    assert contract.afu_id == uuid.uuid5(vadd.NAMESPACE, contract.name)
    with fpgahal.open(driver=driver) as dev:
        dev.program(emu.build_image(contract.name.replace("_", ".", 2), rack.board(dev.info)))
        if driver == "opae":
            assert dev.afu_id == contract.afu_id
        assert dev.kernel(contract).info.args[-1].name == "reg_lambda"


def test_offsets_are_those_of_the_original(rack: emu.Rack) -> None:
    offsets = [arg.offset for arg in INACCEL_EXACT.info.args]
    assert offsets == [
        0x10, 0x18, 0x20, 0x28, 0x30, 0x3C, 0x48, 0x54, 0x60, 0x6C, 0x78, 0x84, 0x8C, 0x94, 0x9C,
    ]  # fmt: skip


# --- the kernel with wrong arguments ----------------------------------------------------------------------------
def row_out_of_range(call: dict[str, Any]) -> None:
    call["entries"]["row"][3] = 5


def node_out_of_range(call: dict[str, Any]) -> None:
    call["rows"]["node"][2] = 2


def negative_node(call: dict[str, Any]) -> None:
    call["rows"]["node"][2] = -2


def column_goes_back(call: dict[str, Any]) -> None:
    call["col_ptr"][1] = 11


def column_too_long(call: dict[str, Any]) -> None:
    call["col_ptr"][:] = [0, 0, 10]


def beyond_the_buffer(call: dict[str, Any]) -> None:
    call["col_ptr"][:] = [0, 5, 1 << 40]


def huge_count(call: dict[str, Any]) -> None:
    call["col_ptr"][:] = [0, 5, 1 << 63]


def too_many_nodes(call: dict[str, Any]) -> None:
    call["n_nodes"] = 5000


def more_rows_than_there_are(call: dict[str, Any]) -> None:
    call["n_rows"] = 1 << 30


def more_features_than_there_are(call: dict[str, Any]) -> None:
    call["n_features"] = 1 << 31


def unknown_flag(call: dict[str, Any]) -> None:
    call["flags"] = 2


def not_a_number(call: dict[str, Any]) -> None:
    call["lambda"] = float("nan")


def negative_alpha(call: dict[str, Any]) -> None:
    call["alpha"] = -1.0


WRONG = (
    row_out_of_range,
    node_out_of_range,
    negative_node,
    column_goes_back,
    column_too_long,
    beyond_the_buffer,
    huge_count,
    too_many_nodes,
    more_rows_than_there_are,
    more_features_than_there_are,
    unknown_flag,
    not_a_number,
    negative_alpha,
)


def run(dev: fpgahal.Device, spoil: Callable[[dict[str, Any]], None] | None) -> np.ndarray:
    """Two features, five rows, two nodes."""
    board = _train_board.Board(dev, EXACT, None)
    try:
        call: dict[str, Any] = {
            "entries": board.array("entries", 10, _grow.ENTRY),
            "col_ptr": board.array("col_ptr", 3, np.uint64),
            "dirs": board.array("dirs", 2, np.uint8),
            "rows": board.array("rows", 5, _grow.ROW),
            "stats": board.array("stats", 4, np.float64).reshape(2, 2),
            "gain": board.array("gain", 2, np.float32),
            "best": board.array("best", 2, BEST),
            "n_rows": 5,
            "n_features": 2,
            "n_nodes": 2,
            "flags": 0,
            "alpha": 0.0,
            "lambda": 1.0,
        }
        call["entries"]["row"] = [0, 1, 2, 3, 4] * 2
        call["entries"]["value"] = [1, 2, 3, 4, 5, 1, 1, 2, 2, 3]
        call["col_ptr"][:] = [0, 5, 10]
        call["dirs"][:] = 3
        call["rows"]["g"], call["rows"]["h"], call["rows"]["node"] = [-1, -2, 5, 6, 7], 1, [0, 0, 0, 0, -1]
        call["stats"][:] = [[8, 4], [0, 0]]
        call["gain"][:] = [64 / 5, 0]
        if spoil:
            spoil(call)
        for name in ("entries", "col_ptr", "dirs", "rows", "stats", "gain"):
            board.send(name)
        board.start(
            call["n_rows"],
            call["n_features"],
            call["n_nodes"],
            call["flags"],
            *("entries", "col_ptr", "dirs", "rows", "stats", "gain", "best"),
            1.0,
            0.0,
            call["alpha"],
            call["lambda"],
        )
        board.wait()
        board.fetch("best")
        return call["best"].copy()
    finally:
        call.clear()
        board.close()


def test_kernel_by_hand(dev: fpgahal.Device) -> None:
    best = run(dev, None)
    # between 2 and 3 of feature 0: (-3)^2 / 3 + 11^2 / 3 - 8^2 / 5
    assert best["loss"][0] == pytest.approx(9 / 3 + 121 / 3 - 64 / 5, rel=1e-6)
    assert best["index"][0] == 0
    assert best["value"][0] == 2.5
    assert best["left"][0].tolist() == [-3, 2]
    assert best["right"][0].tolist() == [11, 2]
    assert best["loss"][1] == 0


@pytest.mark.parametrize("spoil", WRONG, ids=lambda spoil: spoil.__name__)
def test_kernel_refuses(dev: fpgahal.Device, spoil: Callable[[dict[str, Any]], None]) -> None:
    with pytest.raises(fpgahal.RunError):
        run(dev, spoil)
    assert run(dev, None)["loss"][0] > 0  # the next one runs


def test_kernel_stops_at_once(dev: fpgahal.Device) -> None:
    n = 2_000_000
    board = _train_board.Board(dev, EXACT, None)
    entries, rows = board.array("entries", n, _grow.ENTRY), board.array("rows", n, _grow.ROW)
    entries["row"] = np.random.default_rng(0).permutation(n)
    entries["value"] = np.arange(n)
    rows["g"], rows["h"], rows["node"] = 1, 1, 0
    board.array("col_ptr", 2, np.uint64)[:] = [0, n]
    board.array("dirs", 1, np.uint8)[:] = 3
    board.array("stats", 2, np.float64)[:] = [n, n]
    board.array("gain", 1, np.float32)[:] = 0
    board.array("best", 1, BEST)
    for name in ("entries", "rows", "col_ptr", "dirs", "stats", "gain"):
        board.send(name)
    del entries, rows
    board.start(n, 1, 1, 0, "entries", "col_ptr", "dirs", "rows", "stats", "gain", "best", 1.0, 0.0, 0.0, 1.0)
    begin = time.monotonic()
    dev.reset()
    assert time.monotonic() - begin < 2
    with pytest.raises(fpgahal.RunError):
        board.wait()
    board.close()


# --- boards that fail in the middle -----------------------------------------------------------------------------
def at_level(monkeypatch: pytest.MonkeyPatch, number: int, action: Callable[[], Any]) -> None:
    """Do something before the search of a certain level."""
    search, seen = _train_board.Boards.search, []

    def counting(self: _train_board.Boards, *args: Any) -> Any:
        seen.append(None)
        if len(seen) == number:
            action()
        return search(self, *args)

    monkeypatch.setattr(_train_board.Boards, "search", counting)


def test_a_board_vanishes(rack: emu.Rack, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = open_one(rack, "opae"), open_one(rack, "xrt")
    with first, second:
        at_level(monkeypatch, 9, lambda: rack.fault(second.info, "vanish"))
        with pytest.raises(fpgahal.FpgaError, match=second.info.address):
            ours.train(BINARY, data(), 20, devices=[first, second])
        assert not first._buffers
        monkeypatch.undo()
        check(first, BINARY, data(), 2)  # the other one is as good as before


@pytest.mark.parametrize("driver", ["opae", "xrt"])
def test_a_run_fails(rack: emu.Rack, monkeypatch: pytest.MonkeyPatch, driver: str) -> None:
    with open_one(rack, driver) as dev:
        at_level(monkeypatch, 5, lambda: rack.fault(dev.info, "run-error", count=1))
        with pytest.raises(fpgahal.RunError, match=dev.info.address):
            ours.train(BINARY, data(), 20, devices=dev)
        assert not dev._buffers
        monkeypatch.undo()
        check(dev, BINARY, data(), 2)


def test_control_c(dev: fpgahal.Device, monkeypatch: pytest.MonkeyPatch) -> None:
    at_level(monkeypatch, 7, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        ours.train(BINARY, data(20_000), 1000, devices=dev)
    assert not dev._buffers
    monkeypatch.undo()
    check(dev, BINARY, data(), 2)


# --- wrong input ------------------------------------------------------------------------------------------------
REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"booster": "dart"}, fpgahal.UnsupportedError, "trees only"),
    ({"booster": "gblinear"}, fpgahal.UnsupportedError, "trees only"),
    ({"tree_method": "hist"}, fpgahal.UnsupportedError, "all splits"),
    ({"device": "cuda"}, fpgahal.UnsupportedError, "devices="),
    ({"objective": "reg:absoluteerror"}, fpgahal.UnsupportedError, "reg:squarederror"),
    ({"objective": "rank:ndcg"}, fpgahal.UnsupportedError, "rank:ndcg"),
    ({"subsample": 0.5}, fpgahal.UnsupportedError, "random"),
    ({"colsample_bytree": 0.5}, fpgahal.UnsupportedError, "random"),
    ({"colsample_bynode": "0.5"}, fpgahal.UnsupportedError, "random"),
    ({"num_parallel_tree": 3}, fpgahal.UnsupportedError, "one tree"),
    ({"grow_policy": "lossguide"}, fpgahal.UnsupportedError, "exact"),
    ({"max_leaves": 9}, fpgahal.UnsupportedError, "exact"),
    ({"monotone_constraints": "(1,0,0,0)"}, fpgahal.UnsupportedError, "monotone_constraints"),
    ({"interaction_constraints": "[[0,1]]"}, fpgahal.UnsupportedError, "interaction_constraints"),
    ({"multi_strategy": "multi_output_tree"}, fpgahal.UnsupportedError, "multi_strategy"),
    ({"process_type": "update"}, fpgahal.UnsupportedError, "never updated"),
    ({"updater": "grow_quantile_histmaker"}, fpgahal.UnsupportedError, "stands for"),
    ({"max_dept": 3}, fpgahal.ArgumentError, "max_depth"),
    ({"max_depth": 0}, fpgahal.ArgumentRangeError, "1 to 30"),
    ({"max_depth": 31}, fpgahal.ArgumentRangeError, "1 to 30"),
    ({"max_depth": "deep"}, fpgahal.ArgumentError, "whole number"),
    ({"max_depth": 2.5}, fpgahal.ArgumentError, "whole number"),
    ({"eta": -1}, fpgahal.ArgumentRangeError, "eta"),
    ({"eta": float("nan")}, fpgahal.ArgumentRangeError, "eta"),
    ({"gamma": "much"}, fpgahal.ArgumentError, "number"),
    ({"lambda": float("inf")}, fpgahal.ArgumentRangeError, "finite"),
    ({"eta": 0.1, "learning_rate": 0.2}, fpgahal.ArgumentError, "twice"),
    ({"nRequests": 2}, fpgahal.ArgumentError, "fpga_exact"),
    ({"num_class": 3}, fpgahal.ArgumentRangeError, "one output"),
    ({"objective": "multi:softprob"}, fpgahal.ArgumentRangeError, "num_class"),
    ({"objective": "multi:softprob", "num_class": 1}, xgb.core.XGBoostError, "label"),
    ({"base_score": 7}, xgb.core.XGBoostError, "base_score"),
    ({"eval_metric": "nonsense"}, xgb.core.XGBoostError, "nonsense"),
]


@pytest.mark.parametrize(("params", "error", "text"), REFUSED, ids=[str(one[0]) for one in REFUSED])
def test_parameters_refused(rack: emu.Rack, params: dict[str, Any], error: type[Exception], text: str) -> None:
    with open_one(rack, "xrt") as dev:
        with pytest.raises(error, match=text):
            ours.train({**BINARY, **params}, data(), 2, devices=dev, evals=[(data(), "t")])
        assert not dev._buffers


def weird(name: str) -> Any:
    x, y = np.ones((6, 2), np.float32), np.zeros(6)
    if name == "no labels":
        return xgb.DMatrix(x)
    if name == "two labels a row":
        return xgb.DMatrix(x, np.zeros((6, 2)))
    if name == "categories":
        return xgb.DMatrix(x, y, feature_types=["c", "q"])
    if name == "quantiles":
        return xgb.QuantileDMatrix(x, y)
    if name == "groups":
        return xgb.DMatrix(x, y, group=[2, 4])
    if name == "labels out of range":
        return xgb.DMatrix(x, y + 2)
    if name == "no rows":
        return xgb.DMatrix(np.empty((0, 2)), np.empty(0))
    if name == "base margins":
        return xgb.DMatrix(x, y, base_margin=np.zeros((6, 3)))
    return {"list": [[1, 2]], "path": "train.csv"}[name]


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("no labels", fpgahal.UnsupportedError),
        ("two labels a row", fpgahal.UnsupportedError),
        ("categories", fpgahal.UnsupportedError),
        ("quantiles", fpgahal.UnsupportedError),
        ("groups", fpgahal.UnsupportedError),
        ("labels out of range", xgb.core.XGBoostError),
        ("no rows", fpgahal.ArgumentRangeError),
        ("base margins", fpgahal.ArgumentError),
        ("list", fpgahal.ArgumentError),
        ("path", fpgahal.ArgumentError),
    ],
)
def test_data_refused(rack: emu.Rack, name: str, error: type[Exception]) -> None:
    with open_one(rack, "xrt") as dev, pytest.raises(error):
        ours.train(BINARY, weird(name), 2, devices=dev)


def test_calls_refused(rack: emu.Rack) -> None:
    with open_one(rack, "xrt") as dev:
        for arguments, error in (
            ({"devices": []}, fpgahal.ArgumentError),
            ({"devices": "xrt"}, fpgahal.ArgumentError),
            ({"devices": [dev, dev]}, fpgahal.ArgumentError),
            ({"devices": dev, "num_boost_round": 0}, fpgahal.ArgumentRangeError),
            ({"devices": dev, "num_boost_round": 1.5}, fpgahal.ArgumentRangeError),
            ({"devices": dev, "early_stopping_rounds": 3}, fpgahal.ArgumentError),
            ({"devices": dev, "evals": [(np.ones(3), "x")]}, fpgahal.ArgumentError),
            ({"devices": dev, "evals": [(xgb.DMatrix(np.ones((3, 9)), np.ones(3)), "x")]}, fpgahal.ArgumentError),
        ):
            with pytest.raises(error):
                ours.train(BINARY, data(), **arguments)
    with pytest.raises(fpgahal.ClosedError):
        ours.train(BINARY, data(), devices=dev)


@pytest.mark.parametrize("driver", ["opae", "xrt"])
def test_images(rack: emu.Rack, driver: str) -> None:
    with fpgahal.open(driver=driver) as dev:
        board = rack.board(dev.info)
        vadd_image = emu.build_image("vadd", board)
        with pytest.raises(fpgahal.FpgaError, match=r"vadd|xgboost_exact"):
            ours.train(BINARY, data(), 2, devices=dev, image=vadd_image)
        dev.program(vadd_image)
        check(dev, BINARY, data(), 2)  # an emulated board finds its image itself
        dev.program(vadd_image)
        ours.train(BINARY, data(), 2, devices=dev, image=emu.build_image("xgboost_exact", board))
