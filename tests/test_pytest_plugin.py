# SPDX-License-Identifier: Apache-2.0
"""The pytest plugin: used here, and by inner runs of pytest as other people's projects would."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest

import fpgahal
from fpgahal import emu

pytest_plugins = ["pytester"]

# Of an editable install of fpgahal only: see docs/testing-your-program.md.
EDITABLE = "ignore:Module already imported so cannot be rewritten; _editable_skbc_:pytest.PytestAssertRewriteWarning"

Inner = Callable[..., pytest.RunResult]


@pytest.fixture
def inner(pytester: pytest.Pytester) -> Inner:
    """Run pytest on a text, strictly; returns its result."""

    def run(text: str) -> pytest.RunResult:
        header = "import gc, os\nimport numpy as np\nimport pytest\nimport fpgahal\n"
        pytester.makepyfile(header + text)
        strict = ["-p", "no:cacheprovider", "--strict-markers", "-W", "error", "-W", EDITABLE]
        return pytester.runpytest_subprocess(*strict)

    return run


# --- used by our own tests --------------------------------------------------------------------------------------


def test_a_board_by_default(fpga_rack: emu.Rack) -> None:
    assert [info.emulated for info in fpgahal.devices()] == [True]
    assert emu.active() == fpga_rack.dir


def test_a_device_by_default(fpga_device: fpgahal.Device) -> None:
    fpga_device.csr.write32(0x100, 7)
    assert fpga_device.csr.read32(0x100) == 7
    src, dst = fpga_device.allocate(64), fpga_device.allocate(64)
    fpga_device.kernel("lpbk1")(src, dst, 1, timeout=30)


@pytest.mark.fpga(boards="u250:2", image="vadd")
def test_vectors(fpga_device: fpgahal.Device, fpga_rack: emu.Rack) -> None:
    assert len(fpga_rack.devices()) == 2
    a, b, out = (fpga_device.allocate(8, np.uint32) for _ in range(3))
    np.asarray(a)[:] = np.asarray(b)[:] = 3
    a.sync_to_device()
    b.sync_to_device()
    fpga_device.kernel("vadd")(a, b, out, 8, timeout=30)
    out.sync_from_device()
    assert (np.array(out) == 6).all()


@pytest.mark.fpga(boards=["d5005", "aws-f2"])
class TestMarksAreMerged:
    @pytest.mark.fpga(faults=["hang"])
    def test_option_by_option(self, fpga_rack: emu.Rack) -> None:
        assert {fpga_rack.board(info).name for info in fpga_rack.devices()} == {"d5005", "aws-f2"}


@pytest.mark.fpga(boards="u250", image="vadd", faults=["hang"])
def test_faults_begin_when_the_device_is_ready(fpga_device: fpgahal.Device) -> None:
    a, b, out = (fpga_device.allocate(8, np.uint32) for _ in range(3))
    with pytest.raises(TimeoutError):
        fpga_device.kernel("vadd")(a, b, out, 8, timeout=0.1)


@pytest.mark.fpga(
    boards="pac-a10:2",
    faults=[(1, "vanish"), {"kind": "call", "call": "fpgaOpen", "code": 2, "count": 1}],
)
def test_faults_as_tuples_and_dicts(fpga_rack: emu.Rack) -> None:
    (info,) = fpga_rack.devices()
    with pytest.raises(fpgahal.DeviceBusyError):
        fpgahal.open(info, driver="opae")
    fpgahal.open(info, driver="opae").close()


@pytest.mark.fpga(boards="n3000")
def test_the_mark_is_enough() -> None:
    assert "N3000" in fpgahal.find().name


# --- used by others ---------------------------------------------------------------------------------------------


def test_loading_it_loads_no_bindings() -> None:
    code = (
        "import sys, pytest, pytest_fpgahal\n"
        "assert not {'fpgahal', 'numpy'} & set(sys.modules), 'every run of pytest would pay for it'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_each_test_gets_a_rack_of_its_own(inner: Inner) -> None:
    result = inner("""
seen = []

@pytest.mark.parametrize("turn", range(2))
def test_twice(fpga_device, fpga_rack, turn):
    assert fpga_device.csr.read32(0x100) == 0
    fpga_device.csr.write32(0x100, 1)
    seen.append(fpga_rack.dir)

def test_nothing_is_left():
    assert len(set(seen)) == 2
    assert not any(map(os.path.exists, seen))
    assert "FPGAHAL_EMU_RACK" not in os.environ
""")
    result.assert_outcomes(passed=3)


def test_views_do_not_mask_a_failure(inner: Inner) -> None:
    result = inner("""
@pytest.fixture
def array(fpga_device):
    return np.asarray(fpga_device.allocate(64))

def test_failing(fpga_device):
    view = np.asarray(fpga_device.allocate(64))
    assert view[0] == 1, "the reason"

def test_of_a_view(array):
    array[:] = 1
""")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*the reason*"])


def test_unittest_and_modules_can_be_marked(inner: Inner) -> None:
    result = inner("""
import unittest
pytestmark = pytest.mark.fpga(boards="u280")

def test_module():
    assert "U280" in fpgahal.find().name

@pytest.mark.fpga(boards="u200")
class TestCase(unittest.TestCase):
    def test_method(self):
        self.assertIn("U200", fpgahal.find().name)
""")
    result.assert_outcomes(passed=2)


@pytest.mark.parametrize(
    ("mark", "message"),
    [
        ('"u250"', "*does not take 'u250'; it takes boards=*"),
        ('board="u250"', "*does not take board; it takes boards=*"),
        ('boards="u251"', "*boards='u251': there is no emulated board 'u251'*"),
        ("boards=3", "*boards=3:*"),
        ('faults=["burn"]', "*fault 'burn': there is no fault 'burn'*"),
        ('faults=[(1, "hang")]', "*the rack has no board 1*"),
        ('faults=[{"knd": "hang"}]', "*unexpected keyword argument 'knd'*"),
        ("faults=[3]", "*fault 3: expected a kind, or a tuple or dict*"),
        ("faults=3", "*faults=3: expected a list*"),
        ('image="demo"', "*image='demo': Accelerator demo is for XRT boards*"),
        ('image="nothing"', "*There is no accelerator 'nothing'*"),
    ],
)
def test_a_wrong_mark_is_explained(inner: Inner, mark: str, message: str) -> None:
    result = inner(f"@pytest.mark.fpga({mark})\ndef test(fpga_device):\n    pass\n")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([message])
    assert "Traceback" not in result.stdout.str()


def test_it_says_what_it_offers(pytester: pytest.Pytester) -> None:
    pytester.runpytest_subprocess("--fixtures").stdout.fnmatch_lines(["fpga_rack*", "fpga_device*"])
    pytester.runpytest_subprocess("--markers").stdout.fnmatch_lines(["@pytest.mark.fpga(boards=*"])


def test_it_can_be_left_out(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test(fpga_rack): pass")
    result = pytester.runpytest_subprocess("-p", "no:fpgahal")
    result.assert_outcomes(errors=1)
    assert "FPGAHAL_EMU_RACK" not in os.environ
