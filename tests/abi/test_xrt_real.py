# SPDX-License-Identifier: Apache-2.0
"""Emulated boards under the real libxrt_coreutil 2.13: the conformance suite, a C++ program, other releases."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fpgahal import emu

sys.path.insert(0, str(Path(__file__).parent))

from real_xrt import ROOT, build_driver, missing, prefix

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "-")


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_driver(tmp_path_factory.mktemp("driver"))


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("app") / "xrt_app"
    done = subprocess.run(
        [
            "g++",
            "-std=c++17",
            "-I/usr/include/xrt",
            str(ROOT / "tests/native/xrt_app.cpp"),
            "-o",
            str(program),
            "-lxrt_coreutil",
            "-luuid",
            "-pthread",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return program


SUITES = {
    "conformance": (["tests/conformance"], 100),
    "faults": ([f"tests/faults/test_{name}.py" for name in ("faults", "threads", "leaks", "processes")], 60),
}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("suite", SUITES)
def test_suite(suite: str, driver: Path, record_property: Callable[[str, object], None]) -> None:
    files, least = SUITES[suite]
    environment = os.environ | {"FPGAHAL_EMU_XRT": "real", "FPGAHAL_XRT_DRIVER": str(driver)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = re.search(r"(\d+) passed.*", done.stdout)
    assert counts, done.stdout
    assert int(counts[1]) >= least
    assert "skipped" not in counts[0]
    record_property(f"target:xrt-real (libxrt_coreutil 2.13), {suite}", counts[0])


def test_a_cpp_program(driver: Path, app: Path, tmp_path: Path) -> None:
    image = tmp_path / "demo.xclbin"
    image.write_bytes(emu.build_image("demo", emu.boards()["u250"]))
    with emu.rack("u250") as rack:
        folder = prefix(tmp_path / "prefix", driver)
        environment = os.environ | {"XILINX_XRT": str(folder), "FPGAHAL_EMU_RACK": rack.dir}
        done = subprocess.run([app, image], env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "ok vadd adds" in done.stdout
        assert "ok registers" in done.stdout
        assert rack.devices()[0].bdf in done.stdout


def test_emulate_runs_a_cpp_program(driver: Path, app: Path, tmp_path: Path) -> None:
    image = tmp_path / "demo.xclbin"
    image.write_bytes(emu.build_image("demo", emu.boards()["u250"]))
    environment = {name: value for name, value in os.environ.items() if name != "XILINX_XRT"}
    environment["FPGAHAL_XRT_DRIVER"] = str(driver)
    command = [sys.executable, "-m", "fpgahal", "emulate", "u250", "--", str(app), str(image)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok vadd adds" in done.stdout


NOOP = """
import numpy as np
import fpgahal
from fpgahal import _xrt, emu
image = emu.build_image("demo", emu.boards()["u250"])
bits = fpgahal.Bitstream.parse(image)
fpgahal.Bitstream.emulated = False  # no real image is here; this driver takes any
def board(index):  # this driver knows its boards by number only
    return fpgahal.DeviceInfo(index, driver="xrt", kernel_driver="xocl", interface_id=bits.interface_id)
def refused(kind, action):
    try:
        action()
    except kind:
        return
    raise SystemExit(f"no {kind.__name__}")
for index in ("0", "1"):
    with fpgahal.open(board(index)) as dev:
        assert dev.afu_id is None
        refused(fpgahal.DeviceStateError, lambda: dev.allocate(64))
        assert dev.program(image) and dev.afu_id == bits.afu_id
        assert [kernel.name for kernel in dev.kernels] == ["vadd", "passthrough"]
        src, dst = dev.allocate(4096), dev.allocate((2, 8), "u4", bank="DDR[1]")
        np.asarray(src)[:] = 7
        src.sync_to_device()
        src.sync_from_device()
        assert (np.asarray(src) == 7).all()
        kernel = dev.kernel("passthrough")
        assert kernel(src, dst, 64, timeout=10).done  # it does nothing, in no time
        assert kernel.map([(src, dst, 64)] * 100, timeout=10) == 100
        refused(fpgahal.KernelNotFoundError, lambda: dev.kernel("nothing"))
        refused(fpgahal.UnsupportedError, dev.reset)
refused(fpgahal.DeviceLostError, lambda: fpgahal.open(board("0000:3b:00.1")))
assert _xrt.driver_file() == "libxrt_noop.so.2" and "libxrt_coreutil" in _xrt.library()[0].path
"""


def test_noop(tmp_path: Path) -> None:
    """The binding on XRT's own driver without a board, which accepts everything and computes nothing."""
    here = Path(os.path.realpath("/usr/lib/x86_64-linux-gnu/libxrt_noop.so.2"))
    if not here.exists():
        pytest.skip("libxrt1 has no noop driver here")
    folder = tmp_path / "prefix" / "lib"
    folder.mkdir(parents=True)
    (folder / "libxrt_noop.so.2").symlink_to(here)
    environment = os.environ | {"XILINX_XRT": str(tmp_path / "prefix"), "XCL_EMULATION_MODE": "noop"}
    done = subprocess.run(
        [sys.executable, "-c", NOOP], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


FAKE = """
char device_vtable[%d] __asm__("_ZTVN8xrt_core6deviceE"), system_vtable[112] __asm__("_ZTVN8xrt_core6systemE");
#include "xrt_abi.h"
#define STUB(required, type, name, args) type name args { return (type)0; }
XRT_FUNCTIONS(STUB)
"""
PLUG = (
    "_ZN8xrt_core17get_userpf_deviceEPvj",
    "_ZN8xrt_core6deviceC2Ej",
    "_ZN8xrt_core6deviceD2Ev",
    "_ZN8xrt_core6device13register_axlfEPK4axlf",
    "_ZN8xrt_core6systemC2Ev",
    "_ZTIN8xrt_core6deviceE",
    "_ZTIN8xrt_core6systemE",
)


@pytest.fixture
def other_release(tmp_path: Path) -> Path:
    """A libxrt_coreutil.so.2 with all the names, and a larger device class."""
    names = "".join(f'long p{i}[9] __asm__("{name}") = {{ 0 }};\n' for i, name in enumerate(PLUG))
    source, library = tmp_path / "fake.c", tmp_path / "libxrt_coreutil.so.2.99.0"
    source.write_text(FAKE % 600 + names)
    subprocess.run(
        [
            "gcc",
            "-w",
            "-shared",
            "-fPIC",
            f"-I{ROOT / 'native/include'}",
            "-Wl,-soname,libxrt_coreutil.so.2",
            str(source),
            "-o",
            str(library),
        ],
        check=True,
    )
    return library


def test_another_release_is_refused_by_the_binding(driver: Path, other_release: Path) -> None:
    script = """
import fpgahal
from fpgahal import emu
with emu.rack("u250"):
    try:
        fpgahal.open()
    except fpgahal.LibraryError as error:
        print(error)
"""
    environment = os.environ | {
        "FPGAHAL_EMU_XRT": "real",
        "FPGAHAL_XRT_DRIVER": str(driver),
        "FPGAHAL_XRT_LIBRARY": str(other_release),
    }
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "made for libxrt_coreutil 2.13 (classes of 584 and 112 bytes)" in done.stdout
    assert "this one has classes of 600 and 112" in done.stdout


def test_another_release_is_refused_by_the_driver(driver: Path, other_release: Path) -> None:
    script = f"""
import ctypes, os
ctypes.CDLL({str(other_release)!r}, mode=os.RTLD_NOW | os.RTLD_GLOBAL)
ctypes.CDLL({str(driver)!r}, mode=os.RTLD_NOW | os.RTLD_GLOBAL)
print("alive")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr
    assert "libfpgahal-xrt-driver.so is not used" in done.stderr


def test_the_driver_exports_only_its_own(driver: Path) -> None:
    library = ctypes.CDLL("libxrt_coreutil.so.2")  # the names must not shadow the real ones
    assert library.xrtDeviceOpen
    command = ["nm", "-D", "--defined-only", str(driver)]
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert all(line.split()[2].startswith("fpgahal_emu_") for line in names.splitlines())
