# SPDX-License-Identifier: Apache-2.0
"""What a change must pass: ``nox`` runs lint, typing and tests; ``nox -l`` lists the rest."""

from __future__ import annotations

import atexit
import fcntl
import functools
import os
import random
import shutil
import sysconfig
import tempfile
from pathlib import Path

import nox

nox.needs_version = ">=2024.4.15"
nox.options.sessions = ["lint", "typing", "tests"]
nox.options.default_venv_backend = "virtualenv"

ROOT = Path(__file__).parent
PYPROJECT = nox.project.load_toml("pyproject.toml")
C_SOURCES = ["native", "tests/native", "tests/fuzz"]


def group(name: str) -> list[str]:
    return nox.project.dependency_groups(PYPROJECT, name)


@functools.cache
def wheelhouse() -> Path:
    """Give the folder of the wheel that the sessions of this run share; scripts/lanes.py has two runs share one."""
    if shared := os.environ.get("FPGAHAL_WHEELHOUSE"):
        return Path(shared)
    folder = tempfile.mkdtemp(prefix="fpgahal-wheel-")
    atexit.register(shutil.rmtree, folder)
    return Path(folder)


def package(session: nox.Session, extra: str = "") -> str:
    """Give what to install: fpgahal, built once a run, with an extra as in ``"[k8s]"``."""
    folder = wheelhouse()
    with Path(folder, "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not any(folder.glob("*.whl")):
            session.run("pip", "wheel", "-q", "--no-deps", "-w", str(folder), ".")
    return f"{next(folder.glob('*.whl'))}{extra}"


@nox.session
def tests(session: nox.Session) -> None:
    """The test suite, on the installed package."""
    session.install("-q", package(session), *group("test"))
    session.run("pytest", *session.posargs)


@nox.session
def k8s(session: nox.Session) -> None:
    """Real containers on emulated boards: device plugin, podman, runc, CDI, hook, NLB3.  Needs root."""
    for tool in ("podman", "runc"):
        if not shutil.which(tool):
            session.error(f"{tool} is missing: scripts/install-debian installs it")
    if os.geteuid() != 0:
        session.skip("containers with devices need root: run it as root, as CI does")
    session.install("-q", package(session, "[k8s]"), *group("e2e"))
    session.run("pytest", "tests/k8s/e2e/test_containers.py", *session.posargs)


@nox.session
def kubelet(session: nox.Session) -> None:
    """Kubelet's own device manager, in Go, drives the device plugin.  Needs Go >= 1.24 and root."""
    go = shutil.which("go") or shutil.which("/usr/local/go/bin/go")
    if go is None:
        session.skip("Go >= 1.24 is missing: unpack https://go.dev/dl/ into /usr/local; Debian 12's own is too old")
    if os.geteuid() != 0:
        session.skip("a mount namespace needs root: run it as root, as CI does")
    program = ROOT / "build" / "kubelet-devices"
    with session.chdir("tests/k8s/kubelet"):  # 3 minutes for two cores at first, then Go's cache has it
        session.run(go, "build", "-trimpath", "-ldflags=-s -w", "-o", str(program), external=True)
    session.install("-q", package(session, "[k8s]"), *group("e2e"))
    variables = {"FPGAHAL_KUBELET": str(program)}
    session.run("pytest", "tests/k8s/e2e/test_device_manager.py", *session.posargs, env=variables)


@nox.session
def image(session: nox.Session) -> None:
    """deploy/Dockerfile, on a Debian of its own, and README's pod in its containers.  Needs root; ten minutes."""
    for tool in ("podman", "runc", "debootstrap", "unshare"):
        if not shutil.which(tool):
            session.error(f"{tool} is missing: apt-get install podman runc debootstrap")
    if os.geteuid() != 0:
        session.skip("containers and debootstrap need root")
    session.install("-q", package(session, "[k8s]"), *group("test"))
    with tempfile.TemporaryDirectory() as folder:
        podman, base = Path(folder, "podman"), Path(folder, "base")
        own = f"--root={folder}/storage --runroot={folder}/run --tmpdir={folder}/tmp"
        how = "--runtime=runc --cgroup-manager=cgroupfs --events-backend=none"
        podman.write_text(f'#!/bin/sh\nexec podman {own} {how} "$@"\n')
        podman.chmod(0o755)
        session.run("debootstrap", "--variant=minbase", "bookworm", str(base), external=True, silent=True)
        archive = f"{folder}/base.tar"
        session.run("tar", "-C", str(base), "-cf", archive, ".", external=True)
        session.run(str(podman), "import", archive, "localhost/debian", external=True, silent=True)
        options = ["--isolation=chroot", "--network=host", "--build-arg=BASE=localhost/debian"]
        if certificates := os.environ.get("PIP_CERT"):  # of a proxy
            options += [f"--volume={certificates}:/certificates:ro", "--env=PIP_CERT=/certificates"]
        name = f"localhost/fpgahal:{PYPROJECT['project']['version']}"
        session.run(str(podman), "build", *options, "-f", "deploy/Dockerfile", "-t", name, ".", external=True)
        empty = "for folder in /var/lib /srv /opt /run/cdi; do mkdir -p $folder; mount -t tmpfs none $folder; done"
        pytest = [str(Path(session.bin, "python")), "-m", "pytest", "tests/k8s/e2e/test_image.py", *session.posargs]
        inside = ["unshare", "--mount", "--propagation=private", "sh", "-ec", f'{empty}; exec "$@"', "sh", *pytest]
        session.run(*inside, external=True, env={"FPGAHAL_PODMAN": str(podman)})


@nox.session
def storm(session: nox.Session) -> None:
    """Ten thousand random events over the device plugin, two thousand over the node manager, others each time.

    ``nox -s storm -- 500`` has 500, and 100.
    """
    session.install("-q", package(session, "[k8s]"), *group("e2e"))
    variables = {"FPGAHAL_STORM": session.posargs[0] if session.posargs else "10000"}
    variables["FPGAHAL_STORM_SEED"] = os.environ.get("FPGAHAL_STORM_SEED", str(random.randrange(1 << 32)))
    storms = ["tests/k8s/test_plugin_storm.py", "tests/manager/test_manager_machine.py"]
    session.run("pytest", "-s", *storms, env=variables)


@nox.session
def soak(session: nox.Session) -> None:
    """Ten minutes of the node manager under clients, kills and faults; ``nox -s soak -- 60`` has one."""
    session.install("-q", package(session), *group("e2e"))
    variables = {"FPGAHAL_SOAK_SECONDS": session.posargs[0] if session.posargs else "600"}
    variables["FPGAHAL_SOAK_SEED"] = os.environ.get("FPGAHAL_SOAK_SEED", str(random.randrange(1 << 32)))
    session.run("pytest", "-s", "tests/manager/test_manager_soak.py", env=variables)


@nox.session
def lint(session: nox.Session) -> None:
    """Style of Python, Cython and spelling."""
    session.install("-q", *group("lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("cython-lint", *map(str, sorted((ROOT / "src/fpgahal").rglob("*.p[yx][xd]"))))
    session.run("codespell", "src", "native", "tests", "benchmarks", "docs", "deploy", "README.md", "ARCHITECTURE.md")


@nox.session
def typing(session: nox.Session) -> None:
    """mypy --strict on the package, and a user's program against its types."""
    session.install("-q", package(session), *group("typing"))
    session.run("mypy")
    session.run("mypy", "--strict", "tests/typing/user_program.py")


@nox.session
def bench(session: nox.Session) -> None:
    """Overheads as ratios to C, ctypes and cffi in the same run."""
    session.install("-q", package(session), *group("bench"))
    session.run("python", "benchmarks/report.py", *session.posargs)


@nox.session
def sanitize(session: nox.Session) -> None:
    """The native part under ASan+UBSan and valgrind, and 60 s of fuzzing each parser.

    ``nox -s sanitize -- 5`` fuzzes for 5 s instead.
    """
    seconds = session.posargs[0] if session.posargs else "60"
    session.install("-q", package(session), "cmake", "ninja", *group("test"))
    for tool in ("gcc", "valgrind"):
        if not shutil.which(tool):
            session.error(f"{tool} is missing: scripts/install-debian installs it")
    real_xrt = Path("/usr/include/xrt/version.h").exists()
    with tempfile.TemporaryDirectory() as folder:
        build = Path(folder)
        emulators = build / "asan"
        session.run(
            "cmake",
            "-G",
            "Ninja",
            "-S",
            ".",
            "-B",
            str(emulators),
            "-DFPGAHAL_SANITIZE=ON",
            f"-DFPGAHAL_XRT_DRIVER={'ON' if real_xrt else 'OFF'}",
            "-DSKBUILD_PROJECT_NAME=fpgahal",
            "-DSKBUILD_PROJECT_VERSION=0",
            silent=True,
        )
        session.run("cmake", "--build", str(emulators), silent=True)
        strict = {
            "ASAN_OPTIONS": "detect_leaks=1:halt_on_error=1",
            "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
        }
        # 1. the C tests of both emulated libraries, instrumented, then (uninstrumented) under valgrind
        plain = Path(
            session.run(
                "python", "-c", "from fpgahal import _library; print(_library.emulator('opae'))", silent=True
            ).strip()
        ).parent
        for driver in ("opae", "xrt"):
            sources = sorted(str(path) for path in (ROOT / "tests/native").glob(f"test_{driver}*.c"))
            flags = [
                "-std=gnu11",
                "-g",
                "-O1",
                "-Wall",
                "-Wextra",
                "-Inative/include",
                "-Inative/emu",
                "-pthread",
                *sources,
                "-ldl",
                "-lm",
            ]
            library, program = f"libfpgahal-emu-{driver}.so", str(build / f"test_{driver}")
            session.run("gcc", "-fsanitize=address,undefined", *flags, "-o", f"{program}-asan", external=True)
            session.run(f"{program}-asan", str(emulators / library), env={**strict, "CYCLES": "1000"}, external=True)
            session.run("gcc", *flags, "-o", program, external=True)
            session.run(
                "valgrind",
                "-q",
                "--error-exitcode=99",
                "--leak-check=full",
                "--errors-for-leak-kinds=definite",
                "--child-silent-after-fork=yes",
                program,
                str(plain / library),
                env={"CYCLES": "200"},
                external=True,
            )
        # 2. the conformance suite of the bindings over the instrumented libraries
        preload = [
            session.run("gcc", f"-print-file-name={name}", silent=True, external=True).strip()
            for name in ("libasan.so", "libstdc++.so.6")  # ASan must find C++'s throw when it starts
        ]
        instrumented = {
            "LD_PRELOAD": " ".join(preload),
            "FPGAHAL_EMU_LIBDIR": str(emulators),
            "PYTHONMALLOC": "malloc",
            "ASAN_OPTIONS": "detect_leaks=0:halt_on_error=1:handle_segv=0",
            "UBSAN_OPTIONS": strict["UBSAN_OPTIONS"],
        }
        pytest = ("pytest", "-q", "-p", "no:cacheprovider", "tests/conformance")
        session.run(*pytest, "tests/faults/test_faults.py", env=instrumented)
        # ... and over the real libxrt_coreutil, with the instrumented driver below it
        if real_xrt:
            shim = build / "aligned_alloc.so"
            session.run("gcc", "-shared", "-fPIC", "tests/native/aligned_alloc.c", "-o", str(shim), external=True)
            real = {
                **instrumented,
                "FPGAHAL_EMU_XRT": "real",
                "LD_PRELOAD": f"{shim} {instrumented['LD_PRELOAD']}",
                "ASAN_OPTIONS": f"{instrumented['ASAN_OPTIONS']}:verify_asan_link_order=0:allocator_may_return_null=1",
            }
            session.run(*pytest, "tests/faults/test_threads.py", env=real)
        else:
            session.warn("libxrt-dev is missing (scripts/install-debian): no driver under the real libxrt")
        # 3. fuzzing: the Python parsers, and the C parser of the emulated board
        session.run("python", "tests/fuzz/fuzz_bitstream.py", "--seconds", seconds)
        session.run("python", "tests/fuzz/fuzz_manager.py", "--seconds", seconds)
        if shutil.which("clang"):
            fuzzer = build / "fuzz_xclbin"
            sources = sorted(str(path) for path in (ROOT / "native/emu").glob("x[cm]l*.c"))
            session.run(
                "clang",
                "-g",
                "-O1",
                "-fsanitize=fuzzer,address,undefined",
                "-D_GNU_SOURCE",
                "-Inative/include",
                "-Inative/emu",
                "tests/fuzz/fuzz_xclbin.c",
                *sources,
                "-o",
                str(fuzzer),
                external=True,
            )
            session.run(
                str(fuzzer),
                f"-max_total_time={seconds}",
                "-max_len=20000",
                "-print_final_stats=0",
                "-verbosity=0",
                external=True,
            )
        else:
            session.warn("clang is missing (scripts/install-debian): the C parser was not fuzzed")


@nox.session
def wheels(session: nox.Session) -> None:
    """Build a wheel for another Python minor version, and use it in an empty environment.

    The interpreter is $FPGAHAL_OTHER_PYTHON, or the newest other one on the path.
    """
    session.install("-q", "build")
    own = sysconfig.get_python_version()
    candidates = [f"python3.{minor}" for minor in (14, 13, 12, 11) if f"3.{minor}" != own]
    other = os.environ.get("FPGAHAL_OTHER_PYTHON") or next((name for name in candidates if _works(session, name)), None)
    if other is None:
        session.error("no other Python >= 3.11 was found; name one in FPGAHAL_OTHER_PYTHON")
    with tempfile.TemporaryDirectory() as folder:
        session.run(other, "-m", "venv", f"{folder}/build", external=True)
        session.run(
            f"{folder}/build/bin/python",
            "-m",
            "pip",
            "-q",
            "wheel",
            "--no-deps",
            "-w",
            f"{folder}/dist",
            ".",
            external=True,
        )
        wheel = next(Path(folder, "dist").glob("fpgahal-*.whl"))
        session.run("python", "tests/check_wheel.py", str(wheel))
        session.run(other, "-m", "venv", f"{folder}/empty", external=True)
        session.run(f"{folder}/empty/bin/python", "-m", "pip", "-q", "install", str(wheel), external=True)
        with session.chdir(folder):  # away from the sources
            session.run(f"{folder}/empty/bin/python", str(ROOT / "tests/smoke.py"), external=True)
            session.run(
                f"{folder}/empty/bin/python", "-m", "pip", "-q", "install", f"{wheel}[conformance]", external=True
            )
            for board in ("pac-a10", "u250"):
                command = ["-m", "fpgahal", "conformance", "--emulate", board]
                session.run(f"{folder}/empty/bin/python", *command, external=True, silent=True)
        (ROOT / "dist").mkdir(exist_ok=True)
        shutil.copy(wheel, ROOT / "dist")
        session.log(f"dist/{wheel.name} passed its smoke test on {other}")


def _works(session: nox.Session, name: str) -> bool:
    if not shutil.which(name):
        return False
    return session.run(
        name,
        "-c",
        "import ensurepip, sys; print(sys.version_info[:2])",
        external=True,
        silent=True,
        success_codes=[0, 1, 2, 126, 127],
    ).startswith("(3,")
