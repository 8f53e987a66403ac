# SPDX-License-Identifier: Apache-2.0
"""Models from outside: Python functions and shared objects in a rack; contracts and what is built from them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest

import fpgahal
from fpgahal import Array, Bitstream, KernelContract, Scalar, _contract, emu
from fpgahal._catalogue import accelerators
from fpgahal.kernels import find_image, open_kernel
from fpgahal.kernels.vadd import NAMESPACE, PASSTHROUGH, VADD

EVERY = KernelContract(
    "every_kind",
    (
        Scalar("i", "int32"),
        Scalar("f", "float32"),
        Array("matrix", "float64", ("rows", 3)),
        Scalar("d", "float64"),
        Scalar("rows", "uint32"),
        Scalar("u", "uint64"),
        Array("out", "float64", (7,), access="w"),
        Scalar("long", "int64"),
        Array("raw", "void", (4,), access="rw"),
    ),
    afu_id=uuid.UUID("0b9a2dfc-40a1-4d5c-8c2f-2f3ad0b8c311"),
    summary="takes every kind of argument",
)
SCALE = KernelContract(
    "scale",
    (Array("x", "float32", ("n",), access="rw"), Scalar("factor", "float32"), Scalar("n", "uint32")),
    afu_id=uuid.UUID("f5fc845d-df3b-55e5-ac97-fec594779f64"),
)
SOURCE = """
#include <errno.h>
#include <fpgahal_emu.h>
#include <string.h>
static int execute(struct emu_call *c)
{
    float f;
    memcpy(&f, &c->regs[0x1c / 4], 4);
    float *x = c->memory(c, c->regs[4] | (uint64_t)c->regs[5] << 32, 4ull * c->regs[0x24 / 4]);
    for (uint32_t i = 0; x && i < c->regs[0x24 / 4]; i++)
        x[i] *= f;
    return x ? 0 : EFAULT;
}
const struct emu_model fpgahal_emu_model = {
    .name = "scale",
    .kernel = "scale",
    .afu_id = { 0xf5, 0xfc, 0x84, 0x5d, 0xdf, 0x3b, 0x55, 0xe5, 0xac, 0x97, 0xfe, 0xc5, 0x94, 0x77, 0x9f, 0x64 },
    .execute = execute,
};
"""


@pytest.fixture(params=["n3000", "u250"])
def rack(request: pytest.FixtureRequest) -> Iterator[emu.Rack]:
    with emu.rack(request.param) as rack:
        yield rack


@pytest.fixture
def dev(rack: emu.Rack) -> Iterator[fpgahal.Device]:
    with fpgahal.open() as dev:
        yield dev


@pytest.fixture(scope="module")
def shared_object(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scale")
    (folder / "scale.c").write_text(SOURCE)
    made = folder / "libscale.so"
    command = ["-Wall", "-Wextra", "-Werror", "-O2", "-shared", "-fPIC", f"-I{emu.include()}", "scale.c", "-o", made]
    subprocess.run([shutil.which("cc") or "gcc", *command], cwd=folder, check=True)
    return made


def put(dev: fpgahal.Device, values: np.ndarray) -> fpgahal.Buffer:
    buffer = dev.allocate(values.shape, values.dtype)
    np.asarray(buffer)[:] = values
    buffer.sync_to_device()
    return buffer


def get(buffer: fpgahal.Buffer) -> np.ndarray:
    buffer.sync_from_device()
    return np.array(buffer)


def scaled(dev: fpgahal.Device, n: int = 100) -> bool:
    kernel = open_kernel(dev, SCALE)
    with put(dev, np.arange(n, dtype=np.float32)) as x:
        kernel(x, 0.1, n, timeout=30)
        return np.array_equal(get(x), np.arange(n, dtype=np.float32) * np.float32(0.1))


# --- functions ------------------------------------------------------------------------------------------------------


def test_every_kind_of_argument_arrives(rack: emu.Rack, dev: fpgahal.Device) -> None:
    seen = {}

    def model(*, matrix: np.ndarray, out: np.ndarray, raw: np.ndarray, **scalars: float) -> None:
        seen.update(scalars, shape=matrix.shape, raw=raw.dtype, writable=(matrix.flags.writeable, out.flags.writeable))
        out[:] = matrix.sum(), *scalars.values()
        raw[:] = raw[::-1].copy()

    rack.accelerator(EVERY, model)
    kernel = open_kernel(dev, EVERY)
    matrix, out, raw = put(dev, np.ones((5, 3))), put(dev, np.zeros(7)), put(dev, np.arange(4, dtype=np.uint8))
    kernel(-7, 0.1, matrix, 0.1, 5, 2**64 - 1, out, -(2**63), raw, timeout=30)
    f = float(np.float32(0.1))
    assert seen == {"i": -7, "f": f, "d": 0.1, "rows": 5, "u": 2**64 - 1, "long": -(2**63), "shape": (5, 3),
                    "raw": np.dtype("uint8"), "writable": (False, True)}  # fmt: skip
    assert get(out).tolist() == [15.0, -7.0, f, 0.1, 5.0, float(2**64), -float(2**63)]
    assert get(raw).tolist() == [3, 2, 1, 0]


def test_a_failing_function_is_a_failed_run(
    rack: emu.Rack, dev: fpgahal.Device, capfd: pytest.CaptureFixture[str]
) -> None:
    def model(x: np.ndarray, factor: float, n: int) -> None:
        if factor < 0:
            raise ZeroDivisionError("the model's own mistake")
        x *= np.float32(factor)

    rack.accelerator(SCALE, model)
    kernel, x = open_kernel(dev, SCALE), put(dev, np.ones(16, np.float32))
    with pytest.raises(fpgahal.RunError, match="error state"):
        kernel(x, -1.0, 16, timeout=30)
    told = capfd.readouterr().err
    assert "EMULATED kernel scale: its Python function failed:" in told
    assert "ZeroDivisionError: the model's own mistake" in told
    with pytest.raises(fpgahal.RunError):
        kernel(x, 1.0, 1 << 30, timeout=30)
    assert "argument x: 4294967296 bytes" in capfd.readouterr().err
    assert scaled(dev)


def test_it_is_gone_with_the_rack(shared_object: Path) -> None:
    def build() -> bytes:
        return emu.build_image("scale", emu.boards()["pac-a10"])

    for model in (lambda **_: None, shared_object):
        with emu.rack("pac-a10") as rack, fpgahal.open() as dev:
            rack.accelerator(SCALE, model)
            dev.program(build())
            assert [kernel.name for kernel in dev.kernels] == ["scale"]
        with pytest.raises(fpgahal.ArgumentRangeError, match="no accelerator 'scale'"):
            build()
        with emu.rack("pac-a10"), fpgahal.open() as dev, pytest.raises(fpgahal.ProgramError):
            open_kernel(dev, SCALE)


def test_the_newest_of_two_counts(rack: emu.Rack, dev: fpgahal.Device) -> None:
    def vsub(a: np.ndarray, b: np.ndarray, out: np.ndarray, n: int) -> None:
        out[:] = a - b

    rack.accelerator(VADD, vsub)  # also instead of one that is built in
    kernel = open_kernel(dev, VADD)
    a, b, out = (put(dev, np.full(8, value, np.uint32)) for value in (5, 3, 0))
    kernel(a, b, out, 8, timeout=30)
    assert (get(out) == 2).all()


def test_faults_and_pace_hold_for_functions_too() -> None:
    with emu.rack("d5005", launch_us=20_000) as rack, fpgahal.open() as dev:
        rack.accelerator(SCALE, lambda x, factor, n: np.multiply(x, np.float32(factor), out=x))
        assert scaled(dev)
        kernel, x = open_kernel(dev, SCALE), put(dev, np.ones(16, np.float32))
        started = time.monotonic()
        kernel(x, 2, 16)
        assert time.monotonic() - started >= 0.02
        rack.fault(0, "flip", count=1)
        kernel(x, 1, 16)
        assert np.count_nonzero(get(x) != 2) == 1
        rack.fault(0, "hang", count=1)
        run = kernel.start(x, 1, 16)
        dev.reset()
        assert run.state is fpgahal.RunState.ABORTED


def test_threads_and_a_busy_function(rack: emu.Rack, dev: fpgahal.Device) -> None:
    """The function takes the GIL while other threads read registers, start runs and are turned away."""
    rack.accelerator(SCALE, lambda x, factor, n: [None for _ in range(20_000)])
    open_kernel(dev, SCALE).close()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            kernel, x = dev.kernel(SCALE), put(dev, np.ones(16, np.float32))
            for _ in range(10):
                while True:
                    try:
                        kernel(x, 1, 16, timeout=30)
                        break
                    except fpgahal.DeviceBusyError:
                        assert dev.afu_id
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures, failures[0]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("end", ["reset", "close", "vanish"])
def test_a_function_is_waited_for(rack: emu.Rack, dev: fpgahal.Device, end: str) -> None:
    """Whoever stops a run must not hold the GIL that the function needs to end."""
    ended = []

    def model(x: np.ndarray, factor: float, n: int) -> None:
        time.sleep(0.4)
        x *= 2  # its memory is still there
        ended.append(True)

    rack.accelerator(SCALE, model)
    kernel = open_kernel(dev, SCALE)
    run = kernel.start(put(dev, np.ones(16, np.float32)), 2, 16)
    time.sleep(0.1)
    if end == "reset":
        dev.reset()
    elif end == "vanish":
        rack.fault(0, "vanish")
        with pytest.raises(fpgahal.FpgaError):
            run.wait(10)
        rack.clear()
    dev.close()
    assert run.state is fpgahal.RunState.ABORTED
    assert ended


@pytest.mark.parametrize("board", ["n3000", "u250"])
def test_the_program_may_end_in_mid_run(board: str) -> None:
    code = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_models import *
rack = emu.rack({board!r}).__enter__()
dev = fpgahal.open()
rack.accelerator(SCALE, lambda x, factor, n: time.sleep(0.5))
run = open_kernel(dev, SCALE).start(put(dev, np.ones(16, np.float32)), 2, 16)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_another_process_is_told(rack: emu.Rack, dev: fpgahal.Device) -> None:
    rack.accelerator(SCALE, lambda **_: None)
    image = find_image(dev, SCALE)
    dev.program(image)
    dev.close()
    code = f"""
import fpgahal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_models import SCALE
with fpgahal.open() as dev:
    if dev.info.driver == "xrt":
        dev.program(sys.stdin.buffer.read())
    dev.kernel(SCALE)(dev.allocate(4), 1, 1, timeout=5)
"""
    done = subprocess.run([sys.executable, "-c", code], input=bytes(image), capture_output=True, timeout=60)
    assert done.returncode == 1
    assert b"a Python function is known only to the process that registered it" in done.stderr


# --- shared objects -------------------------------------------------------------------------------------------------


def test_a_shared_object(rack: emu.Rack, dev: fpgahal.Device, shared_object: Path) -> None:
    rack.accelerator(SCALE, shared_object)
    assert scaled(dev)
    assert scaled(dev, 1 << 18)


def test_a_shared_object_for_children(rack: emu.Rack, shared_object: Path) -> None:
    code = f"""
import fpgahal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_models import scaled
with fpgahal.open() as dev:
    assert scaled(dev)
"""
    environment = os.environ | {"FPGAHAL_EMU_MODELS": f"{shared_object}"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=60)


def test_bad_shared_objects(rack: emu.Rack, dev: fpgahal.Device, shared_object: Path, tmp_path: Path) -> None:
    (tmp_path / "text.so").write_text("no object")
    for path in ("nowhere.so", tmp_path / "text.so", "libm.so.6"):
        with pytest.raises(fpgahal.LibraryError, match="no model"):
            rack.accelerator(SCALE, shutil.which(str(path)) or path)
    for wrong in (replace(SCALE, name="other"), replace(SCALE, afu_id=uuid.UUID(int=3)), replace(SCALE, afu_id=None)):
        with pytest.raises(emu.SpecError, match="is a model of kernel scale"):
            rack.accelerator(wrong, shared_object)
    assert "FPGAHAL_EMU_MODELS" not in os.environ


def test_a_bad_path_in_the_environment(
    rack: emu.Rack, dev: fpgahal.Device, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FPGAHAL_EMU_MODELS", "/nowhere/model.so")
    with pytest.raises(fpgahal.ProgramError):
        open_kernel(dev, SCALE)
    assert "/nowhere/model.so (from FPGAHAL_EMU_MODELS) is no model" in capfd.readouterr().err


# --- contracts and images ---------------------------------------------------------------------------------------------


def test_offsets() -> None:
    assert [arg.offset for arg in EVERY.info.args] == [0x10, 0x18, 0x20, 0x2C, 0x38, 0x40, 0x4C, 0x58, 0x64]
    assert [(write.offset, write.shift) for write in VADD.registers.start] == [
        (0x50, 0), (0x54, 32), (0x5C, 0), (0x60, 32), (0x68, 0), (0x6C, 32), (0x74, 0), (0x40, 0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: KernelContract("a b", ()), "letters, digits"),
        (lambda: KernelContract("k", (Array("x", "complex64"),)), "dtype 'complex64'"),
        (lambda: KernelContract("k", (Scalar("x", "uint8"),)), "dtype 'uint8'"),
        (lambda: KernelContract("k", (Array("x", "uint8", ("n",)),)), "extent 'n'"),
        (lambda: KernelContract("k", (Array("x", "uint8", ("f",)), Scalar("f", "float32"))), "extent 'f'"),
        (lambda: KernelContract("k", (Array("x", "uint8", (-1,)),)), "extent -1"),
        (lambda: KernelContract("k", (Array("x", "uint8", (), "rx"),)), "access 'rx'"),
        (lambda: KernelContract("k", (Scalar("x", "int32"), Scalar("x", "int32"))), "there once"),
    ],
)
def test_bad_contracts(make: Callable[[], KernelContract], expected: str) -> None:
    with pytest.raises(fpgahal.ArgumentRangeError, match=expected):
        make()


@pytest.mark.parametrize("contract", [VADD, PASSTHROUGH], ids=lambda contract: contract.name)
def test_ids_are_those_of_the_models(contract: KernelContract) -> None:
    assert contract.afu_id == uuid.uuid5(NAMESPACE, contract.name)
    with emu.rack("pac-a10"), fpgahal.open() as dev:
        assert open_kernel(dev, contract).name == contract.name
        assert dev.afu_id == contract.afu_id


def test_several_compute_units() -> None:
    board = emu.boards()["u280"]
    assert Bitstream.parse(emu.build_image("vadd*3", board)).kernels[0].compute_units == ("vadd_1", "vadd_2", "vadd_3")
    with emu.rack("u280") as rack, fpgahal.open() as dev:
        dev.program(emu.build_image("vadd*3", rack.board(0)))
        dev.kernel(VADD).close()
        dev.kernel("vadd:{vadd_2}").close()
    with pytest.raises(fpgahal.ArgumentRangeError, match="no accelerator"):
        emu.build_image("vadd*2", emu.boards()["pac-a10"])


def test_the_catalogue_knows_contracts() -> None:
    assert accelerators()["vadd"].families == ("opae", "xrt")
    assert accelerators()["nlb0"].families == ("opae",)
    with pytest.raises(fpgahal.IncompatibleBitstreamError, match="is for XRT boards"):
        emu.build_image(replace(VADD, afu_id=None), emu.boards()["pac-a10"])


def test_a_broken_entry_point_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_contract, "_points", lambda: (EntryPoint("x", "no_such_module:K", _contract.GROUP),))
    with pytest.raises(fpgahal.LibraryError, match="no_such_module:K of a package can't be loaded: ModuleNotFound"):
        emu.build_image("nlb0", emu.boards()["pac-a10"])


# --- images for real boards -------------------------------------------------------------------------------------------


@pytest.fixture(params=["pac-a10", "u250"])
def real(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[fpgahal.Device]:
    """A board that says that it is real, as far as open_kernel can see, and images that say it, too."""
    monkeypatch.setattr(fpgahal.Bitstream, "emulated", False)
    with emu.rack(request.param), fpgahal.open() as dev:
        dev.info = replace(dev.info, emulated=False)
        yield dev


def test_images_are_searched(real: fpgahal.Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    xrt = real.info.driver == "xrt"
    board = emu.boards()["u250" if xrt else "pac-a10"]
    other = emu.boards()["u280" if xrt else "d5005"]
    monkeypatch.setenv("FPGAHAL_IMAGES", f"{tmp_path}{os.pathsep}{tmp_path / 'missing'}")
    end = "xclbin" if xrt else "gbs"
    (tmp_path / f"1.{end}").write_bytes(b"broken")
    (tmp_path / f"2.{end}").write_bytes(emu.build_image("vadd", other))
    (tmp_path / f"3.{end}").write_bytes(emu.build_image("passthrough", board))
    (tmp_path / "4.txt").write_bytes(emu.build_image("vadd", board))
    with pytest.raises(fpgahal.KernelNotFoundError) as caught:
        open_kernel(real, VADD)
    for text in (f"1.{end}", f"2.{end}", f"3.{end}", "missing", "Needed", "FPGAHAL_IMAGES", "image="):
        assert text in str(caught.value)
    (tmp_path / f"5.{end}").write_bytes(emu.build_image("vadd", board))
    assert open_kernel(real, VADD).name == "vadd"


def test_an_image_that_is_passed(real: fpgahal.Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FPGAHAL_IMAGES", raising=False)
    board = emu.boards()["u250" if real.info.driver == "xrt" else "pac-a10"]
    with pytest.raises(fpgahal.KernelNotFoundError, match="names no folder"):
        open_kernel(real, VADD)
    assert open_kernel(real, VADD, emu.build_image("vadd", board)).name == "vadd"
    with pytest.raises(fpgahal.KernelNotFoundError):
        open_kernel(real, PASSTHROUGH, emu.build_image("vadd", board))
