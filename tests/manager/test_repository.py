# SPDX-License-Identifier: Apache-2.0
"""InAccel's bitstream repositories, offered by a manager."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from manager_daemon import Daemon, running

import fpgahal
from fpgahal.kernels import xgboost
from fpgahal.kernels.vadd import PASSTHROUGH, VADD
from fpgahal.manager.repository import read

PLATFORMS = {
    "u250": {"vendor": "xilinx", "name": "u250", "version": "gen3x16_xdma_shell_3.1"},
    "pac-a10": {"vendor": "intel", "name": "pac_a10", "version": "1.2.1"},
}
VECTOR = [
    {"type": "unsigned int*", "name": "input1", "memory": ["0"], "access": "r"},
    {"type": "unsigned int*", "name": "input2", "memory": ["0"], "access": "r"},
    {"type": "unsigned int*", "name": "output", "memory": ["0"], "access": "w"},
    {"type": "unsigned int", "name": "size"},
]
#: As in InAccel's own file of 2019, but for the kernel's name.
EXACT = [
    *({"type": "int", "name": name} for name in ("entry_num", "feature_num", "node_num", "entry_num_batch")),
    *(
        {"type": f"{kind}*", "name": name, "memory": ["0"], "access": "r"}
        for kind, name in (
            ("GSP8", "gpairs"),
            ("NID8", "node_idxs"),
            ("EntryP8", "entries"),
            ("bool8", "fvalid"),
            ("GSP8", "node_stats"),
            ("float8", "node_root_gain"),
        )
    ),
    {"type": "SplitP2*", "name": "best_splits", "memory": ["0"], "access": "w"},
    *(
        {"type": "float", "name": f"param_{name}"}
        for name in ("min_child_weight", "max_delta_step", "reg_alpha", "reg_lambda")
    ),
]


def package(
    folder: Path, spec: str, contract: fpgahal.KernelContract, name: str, kernel: Any, arguments: Any, **more: Any
) -> Path:
    """Put an image for an emulated board into a repository, as `inaccel bitstream install` does."""
    with fpgahal.emu.rack(spec) as rack:
        info = fpgahal.devices()[0]
        image = fpgahal.emu.build_image(contract, rack.board(info))
    at = folder / spec / name
    at.mkdir(parents=True)
    (at / "bitstream.bin").write_bytes(image)
    package_id, _, kernel_id = name.rpartition(".")
    document = {
        "name": "bitstream.bin",
        "bitstreamId": package_id,
        "version": "0.1",
        "description": "for the tests",
        "platform": PLATFORMS[spec],
        "kernels": [{"name": kernel, "kernelId": kernel_id, "arguments": arguments}],
    }
    path = at / "bitstream.json"
    path.write_text(json.dumps(document | more, indent=4))
    return path


def edit(path: Path, change: Callable[[Any], None]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document, indent=4))


def fill(folder: Path, spec: str) -> None:
    package(folder, spec, VADD, "com.inaccel.math.vector.addition", ["vadd"], VECTOR)
    package(folder, spec, xgboost.INACCEL_EXACT, "com.inaccel.xgboost.exact", "com_inaccel_xgboost_exact", EXACT)


@pytest.fixture(scope="module", params=["pac-a10", "u250"])
def daemon(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("repository")
    for spec in PLATFORMS:  # those for other boards do no harm
        fill(folder / "images", spec)
    with running(folder, request.param, "--images", str(folder / "images")) as started:
        yield started


def test_an_accelerator_of_a_repository(daemon: Daemon) -> None:
    a = np.arange(100, dtype=np.uint32)
    with daemon.connect() as m:
        name = "com.inaccel.math.vector.addition"
        found = m.submit(name, input1=a, input2=a, size=100).result(20)
        assert np.array_equal(found, 2 * a)
        assert np.array_equal(m.submit(name, input1=a, input2=a).result(20), 2 * a)
        with pytest.raises(fpgahal.ArgumentRangeError, match="input1"):
            m.submit(name, input1=a, input2=a, size=101).result(20)
        with pytest.raises(fpgahal.ArgumentError, match="input1"):
            m.submit(name, input1=a.astype("f4"), input2=a).result(20)
        board = m.status()["boards"][0]
        assert {name, "com.inaccel.xgboost.exact", "vadd"} <= set(board["accelerators"])
        document = m.status(name)
        assert [one["name"] for one in document["arguments"]] == ["input1", "input2", "output", "size"]
        assert len(document["images"]) == 1
    with fpgahal.open(f"manager:{daemon.socket}") as dev:
        x, y, out = (dev.allocate(100, "uint32") for _ in range(3))
        np.asarray(x)[:] = np.asarray(y)[:] = a
        dev.kernel(name)(x, y, out, 100, timeout=20)
        assert np.array_equal(np.asarray(out), 2 * a)


def directly(arguments: dict[str, Any]) -> Any:
    """What the same kernel writes on a board of one's own."""
    with fpgahal.emu.rack("u250"), fpgahal.open() as dev:
        dev.program(fpgahal.emu.build_image(xgboost.INACCEL_EXACT, fpgahal.emu.rack(dir=dev.info.root).board(dev.info)))
        values: list[Any] = []
        for value in [*list(arguments.values())[:-4], np.zeros(64, np.uint8), *list(arguments.values())[-4:]]:
            if isinstance(value, np.ndarray):
                buffer = dev.allocate(value.nbytes)
                np.asarray(buffer)[:] = value.ravel()
                buffer.sync_to_device()
                value = buffer
            values.append(value)
        dev.kernel(xgboost.INACCEL_EXACT)(*values, timeout=20)
        values[10].sync_from_device()
        return np.array(values[10])


def test_xgboost_exact(daemon: Daemon) -> None:
    """Two features of which the second splits the rows; every array is as large as it has to be, and no larger."""
    n = 16
    gpairs = np.array([[-1.0, 1.0]] * 8 + [[1.0, 1.0]] * 8, np.float32)
    entries = np.zeros((1, n, 8), [("row", "<u4"), ("value", "<f4")])
    entries["row"] = 0xFFFFFFFF
    entries["row"][0, :, :2] = np.arange(n)[:, None]
    entries["value"][0, :, 0] = 1
    entries["value"][0, :, 1] = np.arange(n)
    arguments = {
        "entry_num": n,
        "feature_num": 2,
        "node_num": 1,
        "entry_num_batch": n,
        "gpairs": gpairs.view(np.uint8),
        "node_idxs": np.zeros(n, np.uint16).view(np.uint8),
        "entries": entries.view(np.uint8).ravel(),
        "fvalid": np.full(1, 0xFF, np.uint8),
        "node_stats": np.array([[0.0, 16.0]] + [[0, 0]] * 7, np.float32).view(np.uint8),
        "node_root_gain": np.zeros(8, np.float32).view(np.uint8),
        "param_min_child_weight": 1.0,
        "param_max_delta_step": 0.0,
        "param_reg_alpha": 0.0,
        "param_reg_lambda": 1.0,
    }
    with daemon.connect() as m:
        best = m.allocate(64)
        best[:] = 0
        m.submit("com.inaccel.xgboost.exact", best_splits=best, **arguments).result(20)
        loss, index, value = best.view("<f4")[0], best.view("<u4")[1], best.view("<f4")[2]
        assert index & 0x7FFFFFFF == 1
        assert 6 <= value <= 8
        assert loss > 10
        assert np.array_equal(best, directly(arguments))
        for name in ("gpairs", "entries", "node_stats"):
            short = arguments | {name: arguments[name].ravel()[:-1]}
            with pytest.raises(fpgahal.ArgumentRangeError, match=name):
                m.submit("com.inaccel.xgboost.exact", best_splits=best, **short).result(20)
        missing = {key: value for key, value in arguments.items() if key != "entry_num"}
        with pytest.raises(fpgahal.ArgumentError, match="entry_num"):
            m.submit("com.inaccel.xgboost.exact", best_splits=best, **missing).result(20)


def start(folder: Path, *options: str) -> str:
    """Start a manager that does not get far; what it says."""
    command = [sys.executable, "-m", "fpgahal.manager.app", "--emulate", "u250", "--images", str(folder), *options]
    done = subprocess.run([*command, "--socket", str(folder / "s")], capture_output=True, text=True, timeout=30)
    assert done.returncode not in (0, -11), done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda it: it.pop("platform"), "bitstream.json has no 'platform'"),
        (lambda it: it["platform"].pop("version"), "bitstream.json.platform has no 'version'"),
        (lambda it: it.update(bitstreamId=7), "bitstream.json.bitstreamId is 7, expected a text"),
        (lambda it: it.update(name="../bitstream.bin"), "expected the name of a file beside it"),
        (lambda it: it.update(name="other.bin"), "expected an image that is there"),
        (lambda it: it.update(kernels=[]), "bitstream.json.kernels is [], expected a list"),
        (lambda it: it["kernels"][0].update(name=["vsub"]), 'kernels[0].name[0] is "vsub", expected a kernel of'),
        (lambda it: it["kernels"][0].update(kernelId="add ition"), "kernels[0].kernelId"),
        (lambda it: it["kernels"][0]["arguments"].pop(), "expected 4 arguments, as the kernel has"),
        (lambda it: it["kernels"][0]["arguments"][1].update(type="float*"), "kernels[0].arguments[1].type"),
        (lambda it: it["kernels"][0]["arguments"][3].update(type="uint*"), "kernels[0].arguments[3].type"),
        (lambda it: it["kernels"][0]["arguments"][2].update(access="x"), 'arguments[2].access is "x", expected r, w'),
        (lambda it: it["kernels"][0]["arguments"][1].update(name="input1"), "kernels[0]: Contract vadd"),
    ],
)
def test_a_broken_file(tmp_path: Path, change: Callable[[Any], None], message: str) -> None:
    path = package(tmp_path, "u250", VADD, "com.inaccel.math.vector.addition", ["vadd"], VECTOR)
    edit(path, change)
    with pytest.raises(fpgahal.ArgumentRangeError) as caught:
        read(tmp_path)
    assert message in str(caught.value)
    assert str(path.parent) in str(caught.value)


def test_what_is_no_json_and_no_folder(tmp_path: Path) -> None:
    path = package(tmp_path, "u250", VADD, "com.inaccel.math.vector.addition", ["vadd"], VECTOR)
    path.write_text(path.read_text().replace('"version": "0.1",', '"version": "0.1"'))
    assert f"{path}:5:5: is no JSON" in start(tmp_path)
    assert "is no folder" in start(tmp_path / "none")


def test_an_image_for_another_platform_is_never_loaded(tmp_path: Path) -> None:
    path = package(tmp_path / "images", "u250", VADD, "com.inaccel.math.vector.addition", ["vadd"], VECTOR)
    edit(path, lambda it: it["platform"].update(version="xdma_201830.2"))
    other = package(
        tmp_path / "images",
        "u250",
        PASSTHROUGH,
        "a.b.copy",
        ["passthrough"],
        [
            {"type": "void*", "access": "r"},
            {"type": "void*", "access": "w"},
            {"type": "size_t"},
        ],
    )
    (other.parent / "bitstream.bin").write_bytes(b"no image")
    with running(tmp_path, "u250", "--images", str(tmp_path / "images")) as daemon:
        with daemon.connect() as m:
            assert not {"com.inaccel.math.vector.addition", "a.b.copy"} & set(m.status()["boards"][0]["accelerators"])
            with pytest.raises(fpgahal.DeviceNotFoundError):
                m.submit("com.inaccel.math.vector.addition", input1=np.ones(1, "u4"), input2=np.ones(1, "u4")).result(9)
            with pytest.raises(fpgahal.KernelNotFoundError):
                m.submit("a.b.copy", n=1).result(9)
        assert daemon.stop() == 0
        log = daemon.log.read_text()
    assert "is for shell xdma_201830.2, this board has gen3x16_xdma_shell_3.1" in log
    assert "no image that can be loaded" in log


def test_sizes(tmp_path: Path) -> None:
    """A kernel that no package knows is offered with sizes of its own, or to clients that are trusted."""
    names = ("x", "y", "z", "count")
    args = [replace(arg, name=name) for arg, name in zip(VADD.args, names, strict=True)]
    args[:3] = [replace(arg, shape=("count",)) for arg in args[:3]]
    unknown = fpgahal.KernelContract("vadd", tuple(args))
    images = tmp_path / "images"
    plain = [{key: value for key, value in one.items() if key not in ("memory", "name")} for one in VECTOR]
    sized = [one | {"shape": ["count"]} if "access" in one else one for one in plain]
    package(images, "u250", unknown, "org.example.sized", ["vadd_1"], sized)
    package(images, "u250", unknown, "org.example.unsized", ["vadd"], plain)
    assert set(read(images)) == {"org.example.sized"}
    with running(tmp_path, "u250", "--images", str(images), "--unsized") as daemon, daemon.connect() as m:
        a = np.arange(10, dtype=np.uint32)
        assert np.array_equal(m.submit("org.example.sized", x=a, y=a).result(20), 2 * a)
        with pytest.raises(fpgahal.ArgumentRangeError):
            m.submit("org.example.sized", x=a, y=a, count=11).result(20)
        with pytest.raises(fpgahal.ArgumentError):  # nothing says how large the result is
            m.submit("org.example.unsized", x=a, y=a, count=10).result(20)
        out = m.allocate(10, "uint32")
        m.submit("org.example.unsized", x=a, y=a, z=out, count=10).result(20)
        assert np.array_equal(out, 2 * a)
    other = package(images / "more", "u250", unknown, "org.example.sized", ["vadd_1"], sized)
    edit(other, lambda it: it["kernels"][0]["arguments"][0].update(access="rw"))
    with pytest.raises(fpgahal.ArgumentRangeError, match=r"has other arguments than in"):
        read(images)
