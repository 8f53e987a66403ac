# SPDX-License-Identifier: Apache-2.0
"""The command `fpgahal-bench`: the table of nlb3, measuring, and a user's file through the board."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fpgahal
from fpgahal.bench import table
from fpgahal.bench.copy import PIECE
from fpgahal.kernels import NLB0, NLB3, NLBResult

BENCH = [sys.executable, "-m", "fpgahal.bench"]
HEADER = (
    "Cachelines Read_Count Write_Count Cache_Rd_Hit Cache_Wr_Hit Cache_Rd_Miss Cache_Wr_Miss   Eviction "
    "'Clocks(@400 MHz)'   Rd_Bandwidth   Wr_Bandwidth"
)


def run(*args: str | os.PathLike[str], code: int = 0, **options: Any) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*BENCH, *map(str, args)], capture_output=True, text=True, timeout=120, check=False, **options
    )
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No state of other tests, or of this machine."""
    runtime = tmp_path / "runtime"
    runtime.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    for name in ("FPGAHAL_EMULATE", "FPGAHAL_EMU_RACK"):
        monkeypatch.delenv(name, raising=False)


# --- the table --------------------------------------------------------------------------------------------------------


def test_the_table_is_the_one_of_nlb3() -> None:
    row = table.Row(NLBResult(1024, 1024, 1024, 10_015, 10, 5, 400_000_000))
    assert table.lines(row, emulated=False) == [
        "",
        HEADER,
        "      1024       1024        1024            0            0             0             0          0"
        "            10000     2.621 GB/s     2.621 GB/s",
        "",
        "VH0_Rd_Count VH0_Wr_Count VH1_Rd_Count VH1_Wr_Count VL0_Rd_Count VL0_Wr_Count ",
        "           0            0            0            0            0            0 ",
        "",
    ]


def test_a_continuous_run_counts_the_end_in() -> None:
    assert NLBResult(1, 1, 1, 100, 10, 5).ticks == 85
    assert NLBResult(1, 1, 1, 100, 10, 5, continuous=True).ticks == 90
    assert NLBResult(0, 0, 0, 0, 0, 0).read_gbps == 0.0


@pytest.mark.parametrize(
    ("hz", "text"), [(400_000_000, "400 MHz"), (1_999_999_999, "1 GHz"), (12_345, "12 KHz"), (999, "999 Hz")]
)
def test_frequency(hz: int, text: str) -> None:
    assert table.frequency(hz) == text


def test_counters_that_were_read_are_shown() -> None:
    row = table.Row(NLBResult(1, 1, 1, 100, 10, 5), {"read_miss": 7, "pcie0_read": 8})
    cells = table.csv_lines(row, emulated=True)[1].split(",")
    assert (cells[5], cells[11], cells[-1]) == ("7", "8", "EMULATED")


@pytest.mark.parametrize("mode", ["lpbk1", "read", "write", "trput"])
def test_sweep(mode: str) -> None:
    done = run("nlb", "--emulate", "pac-a10", "--mode", mode, "--begin", "1", "--end", "3")
    lines = [line for line in done.stdout.splitlines() if line]
    assert len(lines) == 3 * 4
    assert all(line.endswith(" EMULATED") for line in lines)
    assert [line.split()[0] for line in lines[1::4]] == ["1", "2", "3"]
    assert [line.split()[1] for line in lines[1::4]] == (["0"] * 3 if mode == "write" else ["1", "2", "3"])
    assert [line.split()[2] for line in lines[1::4]] == (["0"] * 3 if mode == "read" else ["1", "2", "3"])


def test_sweep_with_wide_requests_as_json_and_csv() -> None:
    args = (
        "nlb",
        "--emulate",
        "pac-a10",
        "--mode",
        "trput",
        "--begin",
        "4",
        "--end",
        "16",
        "--multi-cl",
        "4",
        "--strided-access",
        "2",
    )
    document = json.loads(run(*args, "--json").stdout)
    assert [result["cachelines"] for result in document["results"]] == [4, 8, 12, 16]
    assert document["emulated"] is True
    lines = run(*args, "--csv").stdout.splitlines()
    assert len(lines) == 5
    assert all(line.endswith(",EMULATED") for line in lines)
    assert {line.count(",") for line in lines} == {17}


def test_continuous() -> None:
    document = json.loads(
        run(
            "nlb",
            "--emulate",
            "pac-a10",
            "--mode",
            "read",
            "--begin",
            "1024",
            "--continuous",
            "--seconds",
            "0.1",
            "--json",
        ).stdout
    )
    (result,) = document["results"]
    assert result["reads"] > 1024
    assert result["continuous"] is True
    assert result["ticks"] == result["clocks"] - result["start_overhead"]


@pytest.mark.parametrize(
    ("mode", "reads", "writes"), [("lpbk1", True, True), ("read", True, False), ("write", False, True)]
)
def test_the_counters_of_the_board(mode: str, reads: bool, writes: bool) -> None:
    with fpgahal.emu.rack("pac-a10:2") as rack:
        board = ("--device", rack.devices()[1].bdf)
        document = json.loads(run("nlb", *board, "--mode", mode, "--begin", "7", "--end", "9", "--json").stdout)
        seen = [result["counters"] for result in document["results"]]
        assert [counters["read_miss"] for counters in seen] == [7 * reads, 8 * reads, 9 * reads]
        assert [counters["pcie0_write"] for counters in seen] == [7 * writes, 8 * writes, 9 * writes]
        rack.fault(1, "vanish")  # it comes back with other files
        rack.clear(1)
        document = json.loads(run("nlb", *board, "--mode", mode, "--begin", "5", "--json").stdout)
        assert document["results"][0]["counters"]["pcie0_read"] == 5 * reads
        other = json.loads(run("nlb", "--device", rack.devices()[0].bdf, "--mode", "read", "--json").stdout)
        assert other["results"][0]["counters"]["read_miss"] == 1


def test_a_board_without_counters() -> None:
    document = json.loads(run("nlb", "--emulate", "d5005", "--mode", "read", "--json").stdout)
    assert document["results"][0]["counters"] == {}


@pytest.mark.parametrize(
    "args",
    [
        ["nlb", "--begin", "0"],
        ["nlb", "--begin", "5", "--end", "4"],
        ["nlb", "--begin", "65536"],
        ["nlb", "--multi-cl", "3"],
        ["nlb", "--mode", "sw"],
        ["nlb", "--multi-cl", "2", "--begin", "3"],
        ["nlb", "--mode", "lpbk1", "--continuous"],
        ["nlb", "--input", "/etc/passwd"],
        ["fly"],
    ],
)
def test_wrong_usage(args: list[str]) -> None:
    assert run(*args, "--emulate", "pac-a10", code=2).stderr.startswith("fpgahal-bench: error: ")
    assert "error" in json.loads(run(*args, "--emulate", "pac-a10", "--json", code=2).stdout)


# --- measuring --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("board", ["pac-a10", "n3000", "u250", "u280", "aws-f1"])
def test_all_on_every_kind_of_board(board: str) -> None:
    document = json.loads(run("--emulate", board, "--seconds", "0.01", "--json").stdout)
    assert document["emulated"] is True
    assert set(document["latency"]) == {"enumerate", "verify", "csr", "launch"}
    assert document["latency"]["launch"]["p99_ns"] >= document["latency"]["launch"]["p50_ns"] > 0
    sizes = [entry["bytes"] for entry in document["dma"]]
    assert (sizes[0], sizes[-1]) == (4096, 64 << 20)
    assert all(entry["to_device_gbps"] > 0 for entry in document["dma"])
    assert all(entry["memcpy_gbps"] > 0 for entry in document["dma"])
    modes = {entry["mode"] for entry in document["nlb"]}
    assert modes == ({"lpbk1", "read", "write", "trput"} if board in ("pac-a10", "n3000") else set())


@pytest.mark.parametrize("what", ["all", "latency", "dma"])
@pytest.mark.parametrize("board", ["pac-a10", "u200"])
def test_every_line_says_emulated(what: str, board: str) -> None:
    lines = run(what, "--emulate", board, "--seconds", "0.01").stdout.splitlines()
    assert len(lines) > 3
    assert [line for line in lines if line and "EMULATED" not in line] == []


def test_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "out.png"
    run("--emulate", "u250", "--seconds", "0.01", "--plot", picture)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_plot_without_matplotlib_says_how_to_get_it(tmp_path: Path) -> None:
    (tmp_path / "matplotlib.py").write_text("raise ImportError('hidden')")
    done = run(
        "--emulate",
        "u250",
        "--plot",
        tmp_path / "x.png",
        code=3,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
    )
    assert "pip install fpgahal[plot]" in done.stderr
    assert done.stdout == ""


# --- a file through the board -----------------------------------------------------------------------------------------


def noise(path: Path, size: int) -> Path:
    path.write_bytes(np.random.default_rng(size).bytes(size))
    return path


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 8 * PIECE, 19 * PIECE + 5])
def test_the_copy_equals_the_input(tmp_path: Path, size: int) -> None:
    source, target = noise(tmp_path / "in", size), tmp_path / "out"
    done = run("nlb", "--emulate", "pac-a10", "--input", source, "--output", target)
    assert target.read_bytes() == source.read_bytes()
    header, row = [line for line in done.stdout.splitlines() if line][:2]
    assert header == f"{HEADER} EMULATED"
    lines = str(-(-size // 64))
    assert row.split()[:3] == [lines, lines, lines]
    assert done.stderr == ""


@pytest.mark.parametrize("board", ["d5005", "n3000"])
def test_nlb0_is_loaded_when_something_else_runs(tmp_path: Path, board: str) -> None:
    source, target = noise(tmp_path / "in", 1000), tmp_path / "out"
    with fpgahal.emu.rack(board) as rack:
        run("nlb", "--mode", "read")
        assert rack.status(0).afu_id == NLB3.AFU_ID
        document = json.loads(run("nlb", "--input", source, "--output", target, "--json").stdout)
        assert rack.status(0).afu_id == NLB0.AFU_ID
        programmed = rack.status(0).programmed
        run("nlb", "--input", source, "--output", target)
        assert rack.status(0).programmed == programmed
    assert document["result"]["reads"] == 16
    assert target.read_bytes() == source.read_bytes()


def test_input_and_output_may_be_pipes() -> None:
    data = os.urandom(3 * PIECE + 17)
    done = subprocess.run(
        [*BENCH, "nlb", "--emulate", "pac-a10", "--input", "-", "--output", "-"],
        input=data,
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == data
    assert HEADER.encode() in done.stderr


def test_the_output_may_be_a_device(tmp_path: Path) -> None:
    run("nlb", "--emulate", "pac-a10", "--input", noise(tmp_path / "in", 5000), "--output", "/dev/null")


@pytest.mark.parametrize("link", ["same", "symlink", "hardlink"])
def test_the_input_is_never_overwritten(tmp_path: Path, link: str) -> None:
    source = noise(tmp_path / "in", 100)
    data, target = source.read_bytes(), tmp_path / "in"
    if link == "symlink":
        target = tmp_path / "link"
        target.symlink_to(source)
    elif link == "hardlink":
        target = tmp_path / "link"
        target.hardlink_to(source)
    assert "same file" in run("nlb", "--emulate", "pac-a10", "--input", source, "--output", target, code=2).stderr
    assert source.read_bytes() == data


def test_a_flipped_word_is_found_and_the_old_copy_stays(tmp_path: Path) -> None:
    source, target = noise(tmp_path / "in", 3 * PIECE), tmp_path / "out"
    target.write_text("old")
    with fpgahal.emu.rack("pac-a10") as rack:
        rack.fault(0, "flip", count=1)
        error = json.loads(run("nlb", "--input", source, "--output", target, "--json", code=3).stdout)["error"]
        assert error["type"] == "RunError"
        assert "differs" in error["message"]
        assert target.read_text() == "old"
        run("nlb", "--input", source, "--output", target)
    assert target.read_bytes() == source.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out", "runtime"]


def test_faults_of_the_run_are_reported(tmp_path: Path) -> None:
    source, target = noise(tmp_path / "in", 3 * PIECE), tmp_path / "out"
    with fpgahal.emu.rack("pac-a10") as rack:
        rack.fault(0, "run-error", count=1)
        assert "unexpected response" in run("nlb", "--input", source, "--output", target, code=3).stderr
        rack.fault(0, "vanish")
        run("nlb", "--input", source, "--output", target, code=3)
    assert not target.exists()


@pytest.mark.parametrize("size", [1000, 5 * PIECE])
def test_a_run_that_never_ends(tmp_path: Path, size: int) -> None:
    source, target = noise(tmp_path / "in", size), tmp_path / "out"
    with fpgahal.emu.rack("pac-a10") as rack:
        rack.fault(0, "hang", count=1)
        start = time.monotonic()
        args = ["nlb", "--input", str(source), "--output", str(target)]
        error = json.loads(run(*args, "--timeout", "0.3", "--json", code=3).stdout)["error"]
        assert error["type"] == "RunTimeoutError"
        assert time.monotonic() - start < 5
        rack.fault(0, "hang", count=1)
        with subprocess.Popen([*BENCH, *args], stderr=subprocess.PIPE) as child:  # the timeout is 10 s
            time.sleep(1.0)
            start = time.monotonic()
            child.send_signal(signal.SIGINT)
            assert child.wait(30) == 130
            assert time.monotonic() - start < 1
            assert child.stderr is not None
            assert child.stderr.read() == b"fpgahal-bench: interrupted\n"
        run(*args)
    assert target.read_bytes() == source.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out", "runtime"]


def test_a_file_without_a_size_is_read_to_its_end(tmp_path: Path) -> None:
    run("nlb", "--emulate", "pac-a10", "--input", "/proc/self/limits", "--output", tmp_path / "out")
    assert (tmp_path / "out").read_bytes().startswith(b"Limit")


def test_a_full_disk_is_reported(tmp_path: Path) -> None:
    done = run(
        "nlb", "--emulate", "pac-a10", "--input", noise(tmp_path / "in", 5 * PIECE), "--output", "/dev/full", code=3
    )
    assert "No space left" in done.stderr


def test_a_missing_input_or_folder_is_reported(tmp_path: Path) -> None:
    assert (
        "/no/such"
        in run("nlb", "--emulate", "pac-a10", "--input", "/no/such", "--output", tmp_path / "x", code=3).stderr
    )
    source = noise(tmp_path / "in", 10)
    run("nlb", "--emulate", "pac-a10", "--input", source, "--output", tmp_path / "no/such", code=3)
    run("nlb", "--emulate", "pac-a10", "--input", tmp_path, "--output", tmp_path / "x", code=3)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_copy_leaves_nothing_behind(tmp_path: Path, number: signal.Signals, code: int) -> None:
    target = tmp_path / "out"
    with subprocess.Popen(
        [*BENCH, "nlb", "--emulate", "pac-a10", "--input", "-", "--output", str(target)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        assert child.stdin is not None
        assert child.stderr is not None
        child.stdin.write(bytes(2 * PIECE + 5))
        child.stdin.flush()
        for _ in range(300):
            if any(path.name.endswith(".part") and path.stat().st_size for path in tmp_path.iterdir()):
                break
            time.sleep(0.02)
        start = time.monotonic()
        child.send_signal(number)
        assert child.wait(30) == code
        assert time.monotonic() - start < 2
        assert child.stderr.read() == (b"fpgahal-bench: interrupted\n" if code == 130 else b"")
    assert [path.name for path in tmp_path.iterdir()] == ["runtime"]


def test_memory_is_constant(tmp_path: Path) -> None:
    script = (
        "import resource, sys\nfrom fpgahal.bench import main\ncode = main(sys.argv[1:])\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)\nsys.exit(code)"
    )
    peaks = []
    for size in (1, 200 << 20):
        source = tmp_path / "in"
        with source.open("wb") as file:
            file.truncate(size)
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                script,
                "nlb",
                "--emulate",
                "pac-a10",
                "--input",
                str(source),
                "--output",
                str(tmp_path / "out"),
            ],
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        peaks.append(int(done.stderr))
    assert peaks[1] - peaks[0] < 16 << 10  # KiB


# --- a picture through the board --------------------------------------------------------------------------------------


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    from PIL import Image

    path = tmp_path / "photo.png"
    y, x = np.mgrid[0:90, 0:120]
    Image.fromarray(np.stack([x * 2, y * 2, (x // 20 + y // 20) % 2 * 255], axis=2).astype(np.uint8)).save(path)
    return path


@pytest.mark.parametrize("board", ["pac-a10", "u250"])
def test_edges_of_a_picture(tmp_path: Path, photo: Path, board: str) -> None:
    import cv2

    edges = tmp_path / "edges.png"
    args = ("image", "--emulate", board, "--input", photo, "--output", edges, "--seconds", "0.05")
    lines = run(*args).stdout.splitlines()
    assert len(lines) == 4
    assert all(line.startswith("EMULATED") for line in lines)
    assert "120 x 90" in lines[1]
    assert "Mpixel/s" in lines[2]
    from PIL import Image

    grey = np.asarray(Image.open(photo).convert("L"))
    gx, gy = (cv2.Sobel(grey, cv2.CV_64F, *order) for order in ((1, 0), (0, 1)))
    assert np.array_equal(np.asarray(Image.open(edges)), np.minimum(np.floor(np.hypot(gx, gy) + 0.5), 255))
    document = json.loads(run(*args, "--json").stdout)
    assert (document["emulated"], document["shape"], document["samples"] >= 3) == (True, [90, 120], True)


def test_a_turned_picture(tmp_path: Path, photo: Path) -> None:
    from PIL import Image

    turned = tmp_path / "turned.png"
    args = ("--kernel", "affine", "--angle", "180", "--seconds", "0.05")
    run("image", "--emulate", "pac-a10", "--input", photo, "--output", turned, *args)
    wanted = np.asarray(Image.open(photo))[::-1, ::-1].astype(int)
    inner = np.s_[1:-1, 1:-1]  # 180 degrees are not exact in floating point: at the edge a pixel mixes with the border
    assert np.abs(np.asarray(Image.open(turned)).astype(int) - wanted)[inner].max() <= 1


def test_sixteen_bits_stay_sixteen_bits(tmp_path: Path) -> None:
    from PIL import Image

    deep, edges = tmp_path / "deep.png", tmp_path / "edges.png"
    Image.fromarray(np.arange(2000, dtype=np.uint16).reshape(40, 50) * 30).save(deep)
    document = json.loads(run("image", "--emulate", "pac-a10", "--input", deep, "--output", edges, "--json").stdout)
    assert document["dtype"] == "uint16"
    assert np.asarray(Image.open(edges)).max() > 255


def test_pictures_that_are_none(tmp_path: Path, photo: Path) -> None:
    text, cut, edges = tmp_path / "text.png", tmp_path / "cut.png", tmp_path / "edges.png"
    text.write_text("no picture")
    cut.write_bytes(photo.read_bytes()[: photo.stat().st_size // 2])
    for name, says in ((text, "no picture"), (cut, "no picture"), (tmp_path / "none.png", "No such file")):
        done = run("image", "--emulate", "pac-a10", "--input", name, "--output", edges, code=2 if name.exists() else 3)
        assert says in done.stderr
    for wrong in ("edges", "edges.xyz", "edges.txt"):
        done = run("image", "--emulate", "pac-a10", "--input", photo, "--output", tmp_path / wrong, code=2)
        assert "no format of pictures" in done.stderr
    assert "same file" in run("image", "--emulate", "pac-a10", "--input", photo, "--output", photo, code=2).stderr
    assert "--input and --output" in run("image", "--emulate", "pac-a10", "--input", photo, code=2).stderr
    singular = ("--kernel", "affine", "--scale", "0")
    done = run("image", "--emulate", "pac-a10", "--input", photo, "--output", edges, *singular, code=3)
    assert "singular" in done.stderr
    assert not edges.exists()


def test_without_pillow_it_says_how_to_get_it(tmp_path: Path, photo: Path) -> None:
    (tmp_path / "PIL.py").write_text("raise ImportError('hidden')")
    path = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    args = ("image", "--emulate", "pac-a10", "--input", photo, "--output", tmp_path / "x.png")
    assert "pip install fpgahal[image]" in run(*args, code=3, env={**os.environ, "PYTHONPATH": path}).stderr
