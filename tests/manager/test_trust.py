# SPDX-License-Identifier: Apache-2.0
"""A board on which everything fails rests, and is tried again: what the scheduler decides, then the real thing."""

from __future__ import annotations

import time
from collections.abc import Hashable
from pathlib import Path

import numpy as np
import pytest
from manager_daemon import running, until
from test_scheduler import node, request

import fpgahal
from fpgahal import FpgaError, manager
from fpgahal.manager.accelerators import catalogue
from fpgahal.manager.board import Result, Worker
from fpgahal.manager.scheduler import End, Request, Scheduler, Trouble, Work
from fpgahal.manager.trust import LONGEST, REST, STRIKES


def begun(scheduler: Scheduler, one: Request, now: float) -> Work:
    """What a request begins, that nobody else is in the way of."""
    work = scheduler.submit(one, now)
    return work if work is not None else scheduler.assign(now)[0][0]


def fail(scheduler: Scheduler, now: float, trouble: Trouble = Trouble.ERROR) -> list[End]:
    """A request comes, goes to the first board, and fails there."""
    for name in scheduler.boards:
        scheduler.cordon(name, name != "b0")
    work = begun(scheduler, request("a"), now)
    assert work.board.name == "b0"
    ended = [end for _, end in scheduler.failed(work, trouble, 0.001, now)]
    for name in scheduler.boards:
        scheduler.cordon(name, False)
    return ended


@pytest.mark.parametrize("trouble", [Trouble.ERROR, Trouble.HUNG, Trouble.BOARD])
def test_a_board_on_which_everything_fails_rests(trouble: Trouble) -> None:
    scheduler = node(boards=2, reload=0.0)
    board = scheduler.boards["b0"]
    now = 0.0
    for strike in range(STRIKES):
        assert scheduler.rests("b0", now) == 0
        board.up = True
        fail(scheduler, now, trouble)
        for waiting in list(scheduler.of("u")):
            scheduler.cancel(waiting.id)
        assert (not board.up) == (strike == STRIKES - 1 or trouble is Trouble.BOARD)
    for rest in (REST, 2 * REST, 4 * REST):
        assert scheduler.rests("b0", now) == rest
        work = begun(scheduler, one := request("a"), now)
        assert work.board.name == "b1"
        assert scheduler.done(work, 0.001, now) == [(one, End.DONE)]
        now += rest
        assert scheduler.rests("b0", now) == 0
        scheduler.back("b0", None, now)
        assert fail(scheduler, now, trouble) == []  # one try more is enough; its request is tried again, elsewhere
        (again,) = scheduler.of("u")
        (work,), _ = scheduler.assign(now)
        assert (work.board.name, work.requests) == ("b1", (again,))
        scheduler.done(work, 0.001, now)
    for _ in range(10):
        now += LONGEST
        scheduler.back("b0", None, now)
        fail(scheduler, now, trouble)
        scheduler.cancel(scheduler.of("u")[0].id)
    assert scheduler.rests("b0", now) == LONGEST


def test_a_board_that_has_rested_is_tried_with_one_request_and_then_trusted() -> None:
    scheduler = node(reload=0.0)
    board = scheduler.boards["b0"]
    board.lanes = 2
    for _ in range(STRIKES):
        fail(scheduler, 0.0)
    many = [request("a", batch="k", most=3, size=1) for _ in range(9)]
    for one in many:
        scheduler.submit(one, 0.1)
    assert scheduler.assign(0.1) == ([], [])
    scheduler.back("b0", None, REST)
    (trial,), _ = scheduler.assign(REST)
    assert trial.requests == (many[0],)
    assert scheduler.assign(REST) == ([], [])
    scheduler.done(trial, 1.0, REST + 1)
    first, second = scheduler.assign(REST + 1)[0]
    assert (len(first.requests), len(second.requests)) == (3, 3)
    for work in (first, second):  # what is lost now is counted from the beginning
        scheduler.failed(work, Trouble.ERROR, 0.1, REST + 2)
    assert board.up


def test_what_is_not_the_boards_fault_does_not_count() -> None:
    scheduler = node(reload=0.0)
    for _ in range(STRIKES):
        assert fail(scheduler, 0.0, Trouble.ARGUMENT) == [End.ERROR]
    again = request("a")  # one that fails again and again says nothing of the others
    for _ in range(STRIKES):
        work = begun(scheduler, again, 0.0)
        assert scheduler.failed(work, Trouble.ERROR, 0.001, 0.0) == [(again, End.ERROR)]
        again.ended, again.tries = False, 0
    fail(scheduler, 0.0)
    scheduler.done(begun(scheduler, request("a"), 0.0), 0.001, 0.0)
    for _ in range(STRIKES - 1):
        fail(scheduler, 0.0)
    assert scheduler.boards["b0"].up
    assert fail(scheduler, 0.0) == [End.ERROR]
    assert not scheduler.boards["b0"].up


def test_a_board_that_is_needed_does_not_rest_for_long() -> None:
    scheduler = node(boards=2, reload=0.0)
    now = 0.0
    for _ in range(STRIKES):
        fail(scheduler, now)
    for _ in range(4):
        now += LONGEST
        scheduler.back("b0", None, now)
        fail(scheduler, now)
        scheduler.cancel(scheduler.of("u")[0].id)
    assert scheduler.rests("b0", now) == 16 * REST
    scheduler.lose("b1")
    assert scheduler.rests("b0", now) == REST
    scheduler.back("b1", None, now)
    assert scheduler.rests("b0", now) == 16 * REST
    scheduler.cordon("b1")
    assert scheduler.rests("b0", now) == REST


def test_once_is_once_on_a_board_that_is_tried_again() -> None:
    scheduler = node(reload=0.0)
    for _ in range(STRIKES):
        fail(scheduler, 0.0)
    scheduler.back("b0", None, REST)
    work = begun(scheduler, one := request("a", once=True), REST)
    assert scheduler.failed(work, Trouble.ERROR, 0.001, REST) == [(one, End.ERROR)]


# --- boards ---------------------------------------------------------------------------------------------------------

ONES = np.ones(4, np.uint32)


def add(m: manager.Client) -> str:
    """What becomes of a request."""
    try:
        return "right" if (m.submit("vadd", a=ONES, b=ONES).result(20) == 2).all() else "wrong"
    except FpgaError as error:
        return type(error).__name__


def test_a_bad_board_gets_no_more_than_it_can_spoil(tmp_path: Path) -> None:
    with running(tmp_path, "u250:2") as daemon, daemon.connect() as m:
        assert add(m) == "right"
        bad = next(at for at, board in enumerate(m.status()["boards"]) if board["loaded"])
        daemon.rack.fault(bad, "run-error")
        since = time.monotonic()
        ends = [add(m) for _ in range(300)]
        assert ends.count("RunError") == STRIKES
        assert ends[STRIKES:] == ["right"] * (300 - STRIKES)
        shown = m.status()["boards"][bad]
        assert shown["state"] == "resting" or time.monotonic() - since > REST
        until(lambda: [line for line in daemon.messages() if line["message"] == "board is tried again"])
        assert m.status()["boards"][bad]["state"] == "trial"
        while time.monotonic() - since < 3 * REST:  # it is tried, and rests again; nobody else sees that
            assert add(m) == "right"
        rests = [line for line in daemon.messages() if line["message"] == "board rests"]
        assert [round(line["seconds"] / REST) for line in rests[:2]] == [1, 2]
        assert {line["board"] for line in rests} == {shown["address"]}
        daemon.rack.clear(bad)
        until(lambda: m.status()["boards"][bad]["up"])


def test_a_board_that_is_the_only_one_comes_back_soon(tmp_path: Path) -> None:
    with running(tmp_path, "pac-a10") as daemon, daemon.connect() as m:
        assert add(m) == "right"
        daemon.rack.fault(0, "run-error", count=STRIKES)
        assert [add(m) for _ in range(STRIKES)] == ["RunError"] * STRIKES
        assert m.status()["boards"][0]["state"] == "resting"
        since = time.monotonic()
        assert add(m) == "right"
        assert time.monotonic() - since < 3 * REST
        assert m.status()["boards"][0]["resting_seconds"] == 0
        programmed = [line["board"] for line in daemon.messages() if line["message"] == "programmed"]
        assert len(programmed) == 2  # its image was written anew, although it said that it had it


class Late:
    """An owner that hears of a loss when the board is open again."""

    def __init__(self) -> None:
        self.found_times = 0

    def finished(self, worker: Worker, work: Work, result: Result) -> Work | None:
        raise AssertionError("there was none")

    def found(self, worker: Worker, loaded: Hashable) -> None:
        self.found_times += 1
        worker.board.up = True

    def lost(self, worker: Worker) -> None:
        raise AssertionError("it was not")

    def rests(self, worker: Worker) -> float:
        return 0.0


def test_a_board_that_is_open_does_not_stay_down() -> None:
    """One thread may open it before the scheduler is told of what another's run lost: then it is found once more."""
    owner = Late()
    with fpgahal.emu.rack("u250", program_ms=1):
        worker = Worker(fpgahal.devices()[0], catalogue(), owner)
        worker.start()
        try:
            until(lambda: owner.found_times == 1)
            worker.board.up = False
            until(lambda: worker.board.up, 5.0)
            assert owner.found_times == 2
        finally:
            worker.stop()
