# SPDX-License-Identifier: Apache-2.0
"""NLB as an API: modes, sizes, strides, requests of several lines, counters, results, errors."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import fpgahal
from fpgahal.kernels import NLB0, NLB3, NLBCounters, NLBResult

LINE = 64


class Board:
    """A board with NLB3 (or NLB0), and two buffers."""

    def __init__(self, rack: fpgahal.emu.Rack, dev: fpgahal.Device) -> None:
        self.rack, self.dev = rack, dev
        self.src, self.dst = dev.allocate(1 << 20), dev.allocate(1 << 20)
        np.asarray(self.src)[:] = np.random.default_rng(3).integers(0, 256, 1 << 20, np.uint8)
        np.asarray(self.dst)[:] = 0xEE

    def written(self) -> set[int]:
        """Which lines of the destination are no longer what they were."""
        lines = np.asarray(self.dst).reshape(-1, LINE)
        return set(np.flatnonzero((lines != 0xEE).any(axis=1)).tolist())


@pytest.fixture
def nlb0() -> Iterator[tuple[Board, NLB0]]:
    with fpgahal.emu.rack("pac-a10") as rack, fpgahal.open() as dev, NLB0(dev) as nlb:
        yield Board(rack, dev), nlb


@pytest.fixture
def nlb3() -> Iterator[tuple[Board, NLB3]]:
    with fpgahal.emu.rack("pac-a10") as rack, fpgahal.open() as dev:
        dev.program(fpgahal.emu.build_image("nlb3", rack.board(0)))
        with NLB3(dev) as nlb:
            yield Board(rack, dev), nlb


@pytest.mark.parametrize("lines", [1, 2, 63, 1000, 16384])
def test_mode_0_copies(nlb0: tuple[Board, NLB0], lines: int) -> None:
    board, nlb = nlb0
    result = nlb.run(board.src, board.dst, lines)
    size = lines * LINE
    assert np.array_equal(np.asarray(board.src)[:size], np.asarray(board.dst)[:size])
    assert (np.asarray(board.dst)[size:] == 0xEE).all()
    assert (result.cachelines, result.reads, result.writes, result.errors) == (lines, lines, lines, 0)


def test_mode_0_copies_all_of_a_buffer_or_a_part(nlb0: tuple[Board, NLB0]) -> None:
    board, nlb = nlb0
    assert nlb.run(board.src, board.dst, 3, offset=5 * LINE).cachelines == 3
    assert board.written() == {5, 6, 7}
    assert nlb.run(board.src, board.dst).cachelines == 16384
    assert np.array_equal(np.asarray(board.src), np.asarray(board.dst))


@pytest.mark.parametrize("multi_cl", [1, 2, 4])
@pytest.mark.parametrize("stride", [1, 2, 32])
@pytest.mark.parametrize("mode", ["read", "write", "trput"])
def test_mode_3_touches_what_it_should(nlb3: tuple[Board, NLB3], mode: str, stride: int, multi_cl: int) -> None:
    board, nlb = nlb3
    lines = 16
    result = nlb.run(board.src, board.dst, mode=mode, lines=lines, stride=stride, multi_cl=multi_cl)
    assert (result.reads, result.writes) == {"read": (16, 0), "write": (0, 16), "trput": (16, 16)}[mode]
    requests = range(0, lines // multi_cl * stride * multi_cl, stride * multi_cl)
    expected = {first + n for first in requests for n in range(multi_cl)} if mode != "read" else set()
    assert board.written() == expected


def test_mode_3_fills_the_smaller_buffer_by_default(nlb3: tuple[Board, NLB3]) -> None:
    board, nlb = nlb3
    with board.dev.allocate(100 * LINE) as small:
        assert nlb.run(board.src, small).cachelines == 100
        assert nlb.run(small, board.dst, multi_cl=4, stride=3).cachelines == 32


def test_hints_and_channels_are_taken(nlb3: tuple[Board, NLB3]) -> None:
    board, nlb = nlb3
    for options in (
        {"read_hint": "rdline-i"},
        {"write_hint": "wrline-i"},
        {"write_hint": "wrpush-i"},
        {"read_channel": "vl0", "write_channel": "vh1"},
        {"read_channel": "random", "write_channel": "vh0"},
    ):
        assert nlb.run(board.src, board.dst, lines=8, **options).writes == 8


def test_a_continuous_test_and_its_counters(nlb3: tuple[Board, NLB3]) -> None:
    board, nlb = nlb3
    results: list[NLBResult] = []
    thread = threading.Thread(
        target=lambda: results.append(nlb.run(board.src, board.dst, mode="trput", lines=1024, seconds=0.5))
    )
    thread.start()
    time.sleep(0.2)
    first = nlb.counters
    time.sleep(0.1)
    second = nlb.counters
    thread.join()
    assert isinstance(first, NLBCounters)
    assert second.reads > first.reads > 1024
    assert second.reads_pending == second.writes_pending == 1
    (result,) = results
    assert result.continuous
    assert result.reads >= second.reads
    assert 0.3 < result.seconds < 5
    assert nlb.counters.reads_pending == 0


def test_results_are_figures_that_fit_together() -> None:
    result = NLBResult(1000, 1000, 500, 4006, 4, 2, 400_000_000)
    assert result.ticks == 4000
    assert result.seconds == 1e-5
    assert result.read_gbps == pytest.approx(6.4)
    assert result.write_gbps == pytest.approx(3.2)
    both = result + result
    assert (both.cachelines, both.ticks, both.read_gbps) == (2000, 8000, pytest.approx(6.4))
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.reads = 1  # type: ignore[misc]


def test_the_frequency(nlb0: tuple[Board, NLB0]) -> None:
    board, nlb = nlb0
    assert nlb.frequency_hz == 400_000_000
    with NLB0(board.dev, frequency_hz=200_000_000) as slow:
        assert slow.run(board.src, board.dst, 64).frequency_hz == 200_000_000


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"lines": 0}, "1 to 65535"),
        ({"lines": -1}, "1 to 65535"),
        ({"lines": 65536}, "several pieces"),
        ({"lines": 20000}, "the source has 1048576 bytes"),
        ({"lines": 3, "multi_cl": 2}, "do not divide"),
        ({"stride": 0}, "stride is 0"),
        ({"stride": 65}, "stride is 65"),
        ({"lines": 300, "stride": 64}, "with stride 64"),
        ({"lines": 4, "stride": 64, "multi_cl": 4}, "a gap of 252 lines"),
        ({"multi_cl": 3}, "multi_cl is 3; it must be one of 1, 2, 4"),
        ({"mode": "copy"}, "mode is 'copy'"),
        ({"read_hint": "x"}, "read_hint"),
        ({"write_hint": "x"}, "write_hint"),
        ({"read_channel": "x"}, "read_channel"),
        ({"write_channel": "x"}, "write_channel"),
    ],
)
def test_arguments_that_make_no_sense(nlb3: tuple[Board, NLB3], options: dict[str, Any], says: str) -> None:
    board, nlb = nlb3
    with pytest.raises(fpgahal.ArgumentRangeError, match=says):
        nlb.run(board.src, board.dst, **options)
    assert not board.written()


def test_arguments_of_mode_0(nlb0: tuple[Board, NLB0]) -> None:
    board, nlb = nlb0
    with board.dev.allocate(100) as odd:
        with pytest.raises(fpgahal.ArgumentRangeError, match="no multiple of 64"):
            nlb.run(odd, board.dst)
        with pytest.raises(fpgahal.ArgumentRangeError, match="the source has 100 bytes"):
            nlb.run(odd, board.dst, 2)
    for offset in (1, -64):
        with pytest.raises(fpgahal.ArgumentRangeError, match="offset"):
            nlb.run(board.src, board.dst, 1, offset=offset)
    with pytest.raises(TypeError):
        nlb.run(board.src, board.dst, 1.5)  # type: ignore[arg-type]
    assert not board.written()


def test_another_afu_is_refused(nlb0: tuple[Board, NLB0], nlb3: tuple[Board, NLB3]) -> None:
    with pytest.raises(fpgahal.AFUMismatchError, match="f7df405c"):
        NLB3(nlb0[0].dev)
    with pytest.raises(fpgahal.AFUMismatchError, match="d8424dc4"):
        NLB0(nlb3[0].dev)


def test_a_test_that_hangs_is_stopped(nlb0: tuple[Board, NLB0]) -> None:
    board, nlb = nlb0
    board.rack.fault(0, "hang", count=1)
    with pytest.raises(fpgahal.RunTimeoutError, match=r"did not end in 0.1 s: 0 lines read and 0 written, 1 reads"):
        nlb.run(board.src, board.dst, 16, timeout=0.1)
    assert nlb.run(board.src, board.dst, 16).writes == 16


def test_errors_of_the_afu(nlb0: tuple[Board, NLB0]) -> None:
    board, nlb = nlb0
    board.rack.fault(0, "run-error", count=2)
    with pytest.raises(fpgahal.RunError, match="unexpected response") as caught:
        nlb.run(board.src, board.dst, 16)
    assert caught.value.code == 1
    assert nlb.run(board.src, board.dst, 16, check=False).errors == 1
    assert nlb.run(board.src, board.dst, 16).errors == 0
