# SPDX-License-Identifier: Apache-2.0
"""A C program that knows only libopae-c, on emulated boards: `fpgahal emulate SPEC -- PROGRAM`."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fpgahal import _library, _opae_plugin, emu
from fpgahal.emu import _programs

TESTS = Path(__file__).parent


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> str:
    """tests/native/opae_app.c, linked with libopae-c.so.2."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    folder = tmp_path_factory.mktemp("opae_app")
    (folder / "libopae-c.so.2").symlink_to(_library.emulator("opae"))
    path = str(folder / "opae_app")
    subprocess.run(
        [
            compiler,
            "-std=gnu11",
            "-O1",
            "-Wall",
            "-Wextra",
            "-o",
            path,
            str(TESTS / "native/opae_app.c"),
            f"-L{folder}",
            "-l:libopae-c.so.2",
        ],
        check=True,
    )
    return path


def emulate(choice: str, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}
    return subprocess.run(
        [sys.executable, "-m", "fpgahal", "emulate", *command],
        env={**environment, "FPGAHAL_EMU_OPAE": choice},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_own_library(program: str) -> None:
    """Without an OPAE, the stand-alone library takes its place."""
    done = emulate("own", "pac-a10", "--", program)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "copied: identical" in done.stdout
    assert "clock: 312 156" in done.stdout
    assert "lines read: 1024" in done.stdout


def test_real_library(program: str) -> None:
    """With an OPAE, it is the vendor's that runs."""
    done = emulate("real", "pac-a10", "--", program)
    if "FPGAHAL_EMU_OPAE=real, but" in done.stderr:
        pytest.skip(f"needs a libopae-c of 2.12 or newer: {done.stderr.strip()}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "copied: identical" in done.stdout
    assert "lines read: 1024" in done.stdout


def test_board_without_that_accelerator(program: str) -> None:
    assert emulate("own", "n3000", "--", program).returncode == 4


def test_machine_without_opae_boards(program: str) -> None:
    """A rack is the whole machine: no boards of another make are found instead."""
    assert emulate("own", "u250", "--", program).returncode == 4


def test_environment_is_the_programs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FPGAHAL_EMU_OPAE", "own")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/lib")
    monkeypatch.setenv("WITH_ASE", "1")
    monkeypatch.setenv("LIBOPAE_CFGFILE", "/etc/opae/opae.cfg")
    with emu.rack("pac-a10") as rack:
        before = dict(os.environ)
        made = emu.program_environment(rack.dir)
        assert dict(os.environ) == before
        folder, rest = made["LD_LIBRARY_PATH"].split(":")
        assert rest == "/opt/lib"
        assert sorted(os.listdir(folder)) == ["libopae-c.so.1", "libopae-c.so.2"]
        assert os.path.samefile(f"{folder}/libopae-c.so.2", _library.emulator("opae"))
        assert "WITH_ASE" not in made
        assert "LIBOPAE_CFGFILE" not in made
        assert made["FPGAHAL_EMU_RACK"] == rack.dir


@pytest.mark.parametrize(
    ("pci_id", "variable"), [(("0x1af4", "0x1045"), "LIBOPAE_CFGFILE"), ((), "OPAE_PLATFORM_ROOT")]
)
def test_configuration_of_the_vendors_library(
    tmp_path: Path, pci_id: tuple[str, ...], variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names a PCI function that is there; without a bus the library is told that it runs on a simulator."""
    vendors = tmp_path / "elsewhere.so"
    vendors.touch()
    monkeypatch.setattr(_programs, "opae_route", lambda: emu.OpaeRoute(str(vendors), "2.14.0", True, pci_id))
    made = emu.program_environment(str(tmp_path), {"LD_LIBRARY_PATH": "", "FPGAHAL_EMULATE": "u250"})
    file = Path(made[variable]) if pci_id else Path(made[variable]) / "share/opae/ase/opae_ase.cfg"
    board = json.loads(file.read_text())["configurations"]["fpgahal"]
    assert board["devices"][0]["id"] == [*(pci_id or ("0x8086", "0x0a5e")), "*", "*"]
    assert board["opae"]["plugin"][0]["module"] == _opae_plugin.plugin()
    assert ("WITH_ASE" in made) == (not pci_id)
    assert os.path.samefile(f"{made['LD_LIBRARY_PATH']}/libopae-c.so.2", vendors)
    assert "FPGAHAL_EMULATE" not in made


def test_own_library_is_not_taken_for_the_vendors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FPGAHAL_OPAE_LIBRARY", _library.emulator("opae"))
    route = emu.opae_route()
    assert not route.library
    assert "not the vendor's" in route.why_not


def test_unknown_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FPGAHAL_EMU_OPAE", "maybe")
    with pytest.raises(_opae_plugin.LibraryError, match="maybe"):
        emu.opae_route()


# --- what it answers -----------------------------------------------------------------------------------------------


def answers(choice: str, library: str) -> str:
    """What a libopae-c says to every call of tests/opae_answers.py."""
    done = emulate(choice, "pac-a10:2", "--", sys.executable, str(TESTS / "opae_answers.py"), library)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_answers_are_the_vendors() -> None:
    """The stand-alone library answers as libopae-c 2.14.0 did when its answers were written down."""
    assert answers("own", _library.emulator("opae")) == (TESTS / "data/opae_answers.txt").read_text()


def test_answers_of_the_installed_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """And as the one of this machine does."""
    route = emu.opae_route()
    if not route.library:
        pytest.skip(f"needs a libopae-c of 2.12 or newer: {route.why_not}")
    monkeypatch.setenv("LIBOPAE_LOG", "0")
    assert answers("real", route.library) == answers("own", _library.emulator("opae"))


def test_every_public_function_is_there() -> None:
    """The 112 functions of OPAE 2.14, and what its tools print with."""
    library = ctypes.CDLL(_library.emulator("opae"))
    named = (TESTS / "data/opae_functions.txt").read_text().split()
    assert len(named) == 112
    assert [name for name in [*named, "opae_print"] if not hasattr(library, name)] == []


# --- a libopae-c that is not what the plugin is for ----------------------------------------------------------------

SHELL = """
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
struct version { uint8_t major, minor; uint16_t patch; };
int fpgaGetOPAECVersion(struct version *v) { *v = (struct version) { MAJOR, MINOR, 0 }; return 0; }
int fpgaInitialize(const char *file) { (void)file; return 0; }
int run(const char *plugin)
{
    void *table[62] = { 0 };
    void *library = dlopen(plugin, RTLD_LAZY | RTLD_LOCAL);
    int (*configure)(void *, const char *) = 0;
    if (library)
        *(void **)&configure = dlsym(library, "opae_plugin_configure");
    if (!configure)
        return 9;
    int result = configure(table, "{}");
    int filled = 0;
    for (int i = 3; i < 62; i++)
        filled += table[i] != 0;
    printf("%d %d\\n", result, filled);
    return 0;
}
"""


@pytest.mark.parametrize(
    ("major", "minor", "good"), [(1, 4, False), (2, 0, False), (2, 11, False), (2, 12, True), (2, 14, True)]
)
def test_versions(tmp_path: Path, major: int, minor: int, good: bool) -> None:
    """The plugin fills no table of an older layout, and the binding says which version it found."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    (tmp_path / "shell.c").write_text(SHELL)
    library = str(tmp_path / "libopae-c.so.2")
    subprocess.run(
        [
            compiler,
            "-shared",
            "-fPIC",
            f"-DMAJOR={major}",
            f"-DMINOR={minor}",
            "-o",
            library,
            str(tmp_path / "shell.c"),
        ],
        check=True,
    )
    call = "import ctypes, sys; sys.exit(ctypes.CDLL(sys.argv[1]).run(sys.argv[2].encode()))"
    done = subprocess.run(
        [sys.executable, "-c", call, library, _opae_plugin.plugin()], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    result, filled = map(int, done.stdout.split())
    assert (result == 0) == good
    assert (filled > 40) == good
    assert good or f"was loaded by {major}.{minor}.0" in done.stderr
    probe = subprocess.run(
        [sys.executable, "-m", "fpgahal._probe", "real-opae"],
        capture_output=True,
        text=True,
        env={**os.environ, "FPGAHAL_OPAE_LIBRARY": library},
        check=True,
    )
    assert (f"is OPAE {major}.{minor}.0; emulated boards" in probe.stdout) != good
