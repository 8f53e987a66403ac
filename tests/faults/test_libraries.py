# SPDX-License-Identifier: Apache-2.0
"""Vendor libraries: absent, broken, incomplete, of another version.  Each case is a process of its own."""

from __future__ import annotations

import ctypes.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

import fpgahal
from fpgahal import _library

sys.path.insert(0, str(Path(__file__).parent))

from processes import Script, run

HEADERS = Path(__file__).parents[2] / "native" / "include"
DRIVERS = {"opae": ("FPGAHAL_OPAE_LIBRARY", "opae_abi.h"), "xrt": ("FPGAHAL_XRT_LIBRARY", "xrt_abi.h")}

#: A card as sysfs would show it, so that opening it asks for the vendor's library.
REAL = """
def real(driver):
    return fpgahal.DeviceInfo(bdf="0000:d8:00.0", driver=driver, name="a card")
def refusal(driver):
    try:
        fpgahal.open(real(driver))
    except fpgahal.LibraryError as error:
        assert isinstance(error, ImportError)
        say(type(error).__name__)
        say(str(error))
    else:
        raise AssertionError("it opened")
"""

each_driver = pytest.mark.parametrize("driver", DRIVERS)


def functions(driver: str) -> dict[str, bool]:
    """Name -> required, as the header's table says."""
    text = (HEADERS / DRIVERS[driver][1]).read_text()
    return {
        name: required == "1"
        for required, name in re.findall(r"\bF\(([01]),\s*[^,()]*?[\s*]*,\s*(\w+),", text.replace("\\\n", " "))
    }


def refusal(driver: str, **environment: str) -> tuple[str, str]:
    out = run(REAL + f"refusal({driver!r})", **environment)
    kind, _, text = out.partition("\n")
    return kind, text


def library(tmp_path: Path, names: list[str], file: str, body: str = "") -> Path:
    """A shared library with those functions, each of which returns 0."""
    gcc = shutil.which("gcc") or pytest.skip("gcc is missing (apt-get install gcc)")
    source, target = tmp_path / "fake.c", tmp_path / file
    source.write_text("".join(f"long {name}() {{ return 0; }}\n" for name in names) + body)
    soname = file if ".so." in file else ""
    subprocess.run(
        [gcc, "-shared", "-fPIC", "-o", str(target), str(source), *([f"-Wl,-soname,{soname}"] if soname else [])],
        check=True,
    )
    return target


# --- not there --------------------------------------------------------------------------------------------------


#: Drivers whose library this machine lacks; the test after the next is for machines that have both.
ABSENT = [
    driver for driver, name in (("opae", "opae-c"), ("xrt", "xrt_coreutil")) if not ctypes.util.find_library(name)
]


@pytest.mark.parametrize("driver", ABSENT)
def test_no_library_at_all(driver: str) -> None:
    # an Intel board is opened without libopae-c, too, unless that is asked for
    kind, text = refusal(driver, FPGAHAL_OPAE_BINDING="opae", **{DRIVERS[driver][0]: ""})
    assert kind == "LibraryNotFoundError"
    assert f"{DRIVERS[driver][0]} unset" in text
    assert "system loader: no " in text
    assert "FPGAHAL_EMULATE" in text
    if driver == "opae":
        assert "libopae-c.so.2" in text
        assert "libopae-c.so.1" in text
    else:
        assert "/opt/xilinx/xrt/lib" in text


def test_every_place_is_in_the_message() -> None:
    """The same on a machine that has both vendors' libraries."""
    with pytest.raises(fpgahal.LibraryNotFoundError) as caught:
        _library.load(
            "FPGAHAL_NO_SUCH_VARIABLE", ("libno-such.so.2", "libno-such.so.1"), ("/nowhere",), install="Get it"
        )
    for place in (
        "FPGAHAL_NO_SUCH_VARIABLE unset",
        "system loader: no libno-such.so.2",
        "no libno-such.so.1",
        "/nowhere: no /nowhere/libno-such.so.2",
        "Get it, set FPGAHAL_NO_SUCH_VARIABLE",
    ):
        assert place in str(caught.value)


@each_driver
def test_a_variable_that_names_nothing(driver: str, tmp_path: Path) -> None:
    variable = DRIVERS[driver][0]
    kind, text = refusal(driver, **{variable: str(tmp_path / "absent.so")})
    assert kind == "LibraryNotFoundError"
    assert variable in text
    assert "absent.so" in text


# --- there, but no good -----------------------------------------------------------------------------------------


@each_driver
def test_a_file_that_is_no_library(driver: str, tmp_path: Path) -> None:
    path = tmp_path / "text.so"
    path.write_text("not a library\n")
    kind, text = refusal(driver, **{DRIVERS[driver][0]: str(path)})
    assert kind == "LibraryError"
    assert str(path) in text
    assert "does not load" in text


@each_driver
def test_a_folder_is_no_library(driver: str, tmp_path: Path) -> None:
    kind, text = refusal(driver, **{DRIVERS[driver][0]: str(tmp_path)})
    assert kind == "LibraryError"
    assert str(tmp_path) in text


@each_driver
def test_a_library_that_lacks_another(driver: str, tmp_path: Path) -> None:
    path = library(
        tmp_path,
        ["unused"],
        "libneedy.so",
        "extern int nowhere_to_be_found(void);\nint (*use)(void) = nowhere_to_be_found;\n",
    )
    kind, text = refusal(driver, **{DRIVERS[driver][0]: str(path)})
    assert kind == "LibraryError"
    assert "nowhere_to_be_found" in text


@each_driver
def test_each_required_function_is_asked_for(driver: str, tmp_path: Path) -> None:
    required = [name for name, needed in functions(driver).items() if needed]
    assert len(required) > 15
    for absent in (required[0], required[-1]):
        path = library(tmp_path, [name for name in required if name != absent], f"lib{absent}.so")
        kind, text = refusal(driver, **{DRIVERS[driver][0]: str(path)})
        assert kind == "LibraryError"
        assert f"has no function {absent}" in text
        assert str(path) in text


@each_driver
def test_another_library_altogether(driver: str, tmp_path: Path) -> None:
    path = library(tmp_path, ["hello"], "libhello.so")
    kind, text = refusal(driver, **{DRIVERS[driver][0]: str(path)})
    assert kind == "LibraryError"
    assert "has no function" in text


# --- good -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("soname", ["libopae-c.so.1", "libopae-c.so.2"])
def test_both_sonames_of_opae_without_the_optional_functions(tmp_path: Path, soname: str) -> None:
    needed = [name for name, required in functions("opae").items() if required]
    library(tmp_path, needed, soname)
    out = run(
        """
        from fpgahal import _opae
        found, version = _opae.library()
        say(found.path, found.found_via, found.version)
    """,
        LD_LIBRARY_PATH=str(tmp_path),
        FPGAHAL_OPAE_LIBRARY="",
    )
    assert out.split() == [str(tmp_path / soname), "system", "loader", soname[-1]]


def test_the_newer_opae_goes_first(tmp_path: Path) -> None:
    needed = [name for name, required in functions("opae").items() if required]
    library(tmp_path, needed, "libopae-c.so.1")
    library(tmp_path, needed, "libopae-c.so.2")
    out = run("from fpgahal import _opae; say(_opae.library()[0].path)", LD_LIBRARY_PATH=str(tmp_path))
    assert out.strip().endswith("libopae-c.so.2")


def test_a_real_card_that_no_library_knows(tmp_path: Path) -> None:
    """The library is there, but enumerates nothing: the card went away between sysfs and us."""
    needed = [name for name, required in functions("opae").items() if required]
    path = library(tmp_path, needed, "libopae-c.so.2")
    out = run(
        REAL
        + dedent("""
        try:
            fpgahal.open(real("opae"))
        except fpgahal.DeviceLostError as error:
            say(error)
    """),
        FPGAHAL_OPAE_LIBRARY=str(path),
    )
    assert "0000:d8:00.0" in out


def test_an_unknown_driver() -> None:
    out = run(
        REAL
        + dedent("""
        try:
            fpgahal.open(real("vfio"))
        except fpgahal.UnsupportedError as error:
            say(error)
    """)
    )
    assert "no driver 'vfio'" in out
    assert "opae, xrt" in out


# --- what an import costs ---------------------------------------------------------------------------------------


def test_import_loads_no_vendor_library_and_no_luxury() -> None:
    run(
        """
        maps = open("/proc/self/maps").read()
        for name in ("opae-c", "xrt", "emu-opae", "libboost"):
            assert name not in maps, name
        for name in ("matplotlib", "rich", "cffi", "asyncio", "multiprocessing", "unittest"):
            assert name not in sys.modules, name
        fpgahal.devices()
        assert "libopae-c" not in open("/proc/self/maps").read()
    """,
        FPGAHAL_EMULATE="",
    )


# --- the real libxrt_coreutil -----------------------------------------------------------------------------------

FOLDER = "/usr/lib/x86_64-linux-gnu"
real_xrt = pytest.mark.skipif(
    not os.path.exists(f"{FOLDER}/libxrt_coreutil.so.2"),
    reason="needs the real libxrt_coreutil.so.2: apt-get install libxrt1 (Debian 12)",
)


def xrt_script(body: str, **environment: str) -> tuple[str, str, int]:
    for variable in ("XILINX_XRT", "XCL_EMULATION_MODE"):
        environment.setdefault(variable, "<unset>")
    unset = "; ".join(f"os.environ.pop({name!r})" for name, value in environment.items() if value == "<unset>")
    with Script(f"{unset}\n{REAL}\n{body}", **environment) as script:
        return script.finish(60)


@real_xrt
@pytest.mark.parametrize(
    "environment",
    [
        {"XCL_EMULATION_MODE": "bogus"},
        {"XCL_EMULATION_MODE": ""},
        {"XCL_EMULATION_MODE": "bogus", "XILINX_XRT": "/no"},
    ],
)
def test_xrt_that_would_abort_is_refused(environment: dict[str, str]) -> None:
    out, err, code = xrt_script('refusal("xrt")', **environment)
    assert (code, err) == (0, ""), "the process was aborted" if code == -6 else err
    assert out.startswith("LibraryError")
    assert "would abort this process" in out
    assert next(iter(environment)) in out


@real_xrt
@pytest.mark.parametrize("environment", [{}, {"XILINX_XRT": "/nowhere"}, {"XILINX_XRT": "/usr"}, {"XILINX_XRT": ""}])
def test_xrt_finds_the_driver_of_the_system_loader(environment: dict[str, str]) -> None:
    out, err, code = xrt_script(
        """
try:
    fpgahal.open(real("xrt"))
except fpgahal.FpgaError as error:
    say(type(error).__name__, error)
""",
        **environment,
    )
    assert code == 0, err
    assert "DeviceLostError" in out
    assert "0000:d8:00.0" in out
    assert err == ""


@real_xrt
def test_the_probe_of_doctor_survives_xrt() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fpgahal._probe", "xrt"],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"XCL_EMULATION_MODE": "bogus"},
        check=False,
    )
    assert done.returncode == 0
    assert "XCL_EMULATION_MODE" in done.stdout


@real_xrt
def test_the_real_coreutil_with_its_noop_driver(tmp_path: Path) -> None:
    """Buffers of the real library without a card: our table and our signatures against the vendor's binary."""
    prefix = tmp_path / "prefix"
    prefix.mkdir()
    (prefix / "lib").symlink_to(FOLDER)
    out, err, code = xrt_script(
        """
from fpgahal import _xrt
found, version = _xrt.library()
say(found.path, version)
try:
    dev = fpgahal.open(fpgahal.DeviceInfo(bdf="0000:00:00.0", driver="xrt"))
    say("opened", dev.afu_id)
    try:
        dev.allocate(64)
    except fpgahal.DeviceStateError as error:
        say("no image")
    dev.close()
except fpgahal.FpgaError as error:
    say(type(error).__name__, error)
say("alive")
""",
        XILINX_XRT=str(prefix),
        XCL_EMULATION_MODE="noop",
    )
    assert code == 0, err
    assert "libxrt_coreutil.so.2.13" in out
    assert out.rstrip().endswith("alive")
