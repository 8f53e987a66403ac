# SPDX-License-Identifier: Apache-2.0
"""What the scheduler decides, in simulated time."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import defaultdict
from collections.abc import Callable

import pytest

from fpgahal.manager.scheduler import (
    Board,
    End,
    Refusal,
    Refused,
    Request,
    Scheduler,
    Settings,
    Share,
    Trouble,
    Work,
)

ids = itertools.count()


def request(accelerator: str = "a", user: str = "u", **options: object) -> Request:
    return Request(next(ids), user, user, accelerator, **options)  # type: ignore[arg-type]


def node(
    boards: int = 1, accelerators: str = "abcd", reload: float = 2.0, share: Callable[[object], Share] | None = None
) -> Scheduler:
    scheduler = Scheduler(share or (lambda user: Share(requests=100_000)), Settings())
    for number in range(boards):
        scheduler.add(Board(f"b{number}", {name: f"image {name}" for name in accelerators}, reload=reload))
    return scheduler


class Simulation:
    """Boards that take `reload` seconds for an image and `seconds` for a unit of size."""

    def __init__(self, scheduler: Scheduler, seconds: float = 0.01) -> None:
        self.scheduler = scheduler
        self.seconds = seconds
        self.now = 0.0
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.count = itertools.count()
        self.waits: dict[object, list[float]] = defaultdict(list)
        self.finished: list[Request] = []
        self.on_done: Callable[[Request], None] = lambda request: None

    def at(self, time: float, what: Callable[[], None]) -> None:
        heapq.heappush(self.events, (time, next(self.count), what))

    def submit(self, request: Request) -> None:
        work = self.scheduler.submit(request, self.now)
        if work is not None:
            self.begin(work)
        self.assign()

    def assign(self) -> None:
        works, late = self.scheduler.assign(self.now)
        assert not late
        for work in works:
            self.begin(work)
        if self.scheduler.wake < float("inf"):
            self.at(max(self.scheduler.wake, self.now), self.assign)

    def begin(self, work: Work) -> None:
        seconds = sum(one.size for one in work.requests) * self.seconds
        end = self.now + seconds + (work.board.reload if work.reload else 0)
        self.at(end, lambda: self.done(work, seconds))

    def done(self, work: Work, seconds: float) -> None:
        reload = work.board.reload if work.reload else None
        for one, end in self.scheduler.done(work, seconds, self.now, reload):
            assert end is End.DONE
            self.waits[one.user].append(self.now - one.arrived)
            self.finished.append(one)
            self.on_done(one)
        self.assign()

    def run(self, until: float = float("inf")) -> None:
        seen = -1.0, 0
        while self.events and self.events[0][0] <= until:
            self.now, _, what = heapq.heappop(self.events)
            seen = (self.now, seen[1] + 1 if seen[0] == self.now else 0)
            assert seen[1] < 10_000, "time stands still"
            what()
        self.now = min(until, self.now) if until == float("inf") else until


def first_come_first_served(arrivals: list[tuple[float, str]], boards: int, reload: float, seconds: float) -> float:
    """When the last request would be done if boards took requests in order, wherever they have to reload."""
    free: list[tuple[float, int]] = [(0.0, number) for number in range(boards)]
    loaded: dict[int, str] = {}
    for time, accelerator in arrivals:
        at, board = heapq.heappop(free)
        end = max(at, time) + seconds + (reload if loaded.get(board) != accelerator else 0)
        loaded[board] = accelerator
        heapq.heappush(free, (end, board))
    return max(free)[0]


@pytest.mark.parametrize("load", [0.5, 0.9])
def test_four_images_on_two_boards(load: float) -> None:
    """8,000 requests: at least 20 times the throughput of first come, first served, and nobody waits for ever."""
    source = random.Random(7)
    arrivals, time = [], 0.0
    for _ in range(8000):
        time += source.expovariate(load * 2 / 0.01)
        arrivals.append((time, source.choices("abcd", (12, 6, 4, 3))[0]))
    scheduler = node(boards=2)
    simulation = Simulation(scheduler)
    for at, accelerator in arrivals:
        simulation.at(at, lambda name=accelerator: simulation.submit(request(name)))  # type: ignore[misc]
    simulation.run()
    assert len(simulation.finished) == 8000
    plain = first_come_first_served(arrivals, 2, 2.0, 0.01)
    assert plain / simulation.now >= 20
    assert scheduler.reloads <= 60
    assert max(simulation.waits["u"]) < 60  # 4 images on 2 boards: two turns of 12 s, and what was in the queue


def flood(simulation: Simulation, user: str, accelerator: str, depth: int = 4, **options: object) -> None:
    for _ in range(depth):
        simulation.submit(request(accelerator, user, **options))


def keep_flooding(simulation: Simulation, **options: object) -> None:
    def again(done: Request) -> None:
        if simulation.now < 200:
            simulation.submit(request(done.accelerator, str(done.user), size=done.size, **options))

    simulation.on_done = again


@pytest.mark.parametrize(("weight", "images"), [(1.0, "aa"), (3.0, "aa"), (1.0, "ab"), (3.0, "ab")])
def test_board_seconds_go_by_weight(weight: float, images: str) -> None:
    """Also where one user sends 10 times as much, in pieces 5 times as large, and for another image."""
    scheduler = node(share=lambda user: Share(weight if user == "small" else 1.0, 1000), reload=0.5)
    simulation = Simulation(scheduler)
    keep_flooding(simulation)
    flood(simulation, "large", images[0], depth=40, size=5)
    flood(simulation, "small", images[1], depth=4)
    simulation.run(200)
    used = {name: user.used for name, user in scheduler.users.items()}
    assert used["small"] / used["large"] == pytest.approx(weight, rel=0.15)


def test_a_small_user_is_not_behind_a_flood() -> None:
    simulation = Simulation(node())
    flood(simulation, "large", "a", depth=1000)
    simulation.run(3)
    simulation.submit(request("a", "small"))
    simulation.run()
    assert simulation.waits["small"][0] <= 0.031  # the one that runs, one that had as much, and itself


def test_who_was_away_has_no_savings() -> None:
    scheduler = node(reload=0.0)
    simulation = Simulation(scheduler)
    simulation.submit(request("a", "rare"))
    keep_flooding(simulation)
    flood(simulation, "busy", "a")
    simulation.run(50)
    before = scheduler.users["busy"].used, scheduler.users["rare"].used
    flood(simulation, "rare", "a")
    simulation.run(60)
    gained = scheduler.users["busy"].used - before[0], scheduler.users["rare"].used - before[1]
    assert gained[0] == pytest.approx(gained[1], rel=0.05)


def test_clients_that_wait_for_each_answer_do_not_make_the_board_reload_each_time() -> None:
    scheduler = node(reload=1.0)
    simulation = Simulation(scheduler)
    keep_flooding(simulation)
    flood(simulation, "one", "a", depth=1)
    flood(simulation, "two", "b", depth=1)
    simulation.run(200)
    assert scheduler.reloads < 40
    assert len(simulation.finished) > 12_000  # of 20,000 without any reload
    assert max(max(waits) for waits in simulation.waits.values()) < 8.5


def test_priorities_are_among_a_users_own() -> None:
    simulation = Simulation(node(reload=0.0))
    order: list[str] = []
    simulation.on_done = lambda done: order.append(f"{done.user}{done.priority}")
    simulation.submit(request("a", "x"))  # so that the others wait
    for user, priority in (("x", 2), ("x", 1), ("x", 0), ("y", 2), ("y", 2)):
        simulation.submit(request("a", user, priority=priority))
    simulation.run()
    assert [name for name in order[1:] if name[0] == "x"] == ["x0", "x1", "x2"]
    assert order.index("y2") <= 2  # before the urgent ones of somebody who has had more


def test_waiting_raises_a_priority() -> None:
    simulation = Simulation(node(reload=0.0))
    keep_flooding(simulation, priority=0)
    flood(simulation, "u", "a", depth=4, priority=0)
    late = request("a", "u", priority=2)
    simulation.submit(late)
    simulation.run(10)
    assert late in simulation.finished
    assert simulation.scheduler.settings.age * 2 - 0.1 <= late.began <= simulation.scheduler.settings.age * 2 + 0.2


def test_an_idle_board_with_the_image_gets_it() -> None:
    simulation = Simulation(node(boards=2))
    simulation.submit(request("a"))
    simulation.submit(request("b"))
    simulation.run()
    for name in "abab":
        simulation.submit(request(name))
        simulation.run()
    assert simulation.scheduler.reloads == 2


def test_the_board_whose_image_was_not_used_for_longest_gets_another_one() -> None:
    simulation = Simulation(node(boards=2))
    for name in "aba":
        simulation.submit(request(name))
        simulation.run()
        simulation.now += 10
    simulation.submit(request("c"))
    simulation.run()
    assert {board.loaded for board in simulation.scheduler.boards.values()} == {"image a", "image c"}


def test_a_second_board_helps_when_that_is_worth_the_reload() -> None:
    for depth, reloads in ((100, 1), (1000, 2)):
        simulation = Simulation(node(boards=2))
        simulation.submit(request("a"))
        simulation.run()
        flood(simulation, "u", "a", depth=depth)
        simulation.run()
        assert simulation.scheduler.reloads == reloads


def test_batches() -> None:
    scheduler = node()
    for size in (3, 4, 5, 6):
        scheduler.submit(request("a", f"user {size}", size=size, batch="k", most=12), 0)
    scheduler.submit(request("a", size=1, batch="other", most=12), 0)
    scheduler.submit(request("a", size=1, batch="k", most=12, once=True), 0)
    (work,), _ = scheduler.assign(0)
    assert [one.size for one in work.requests] == [3, 4, 5]
    assert len(scheduler.done(work, 1.2, 2.0, 0.8)) == 3
    assert scheduler.users["user 5"].used == pytest.approx(0.5)
    assert scheduler.users["user 3"].used == pytest.approx(0.3 + 0.8)  # who made it reload


def test_a_batch_that_fails_is_tried_one_by_one() -> None:
    scheduler = node()
    bad, good = request("a", batch="k", most=9), request("a", batch="k", most=9)
    for one in (bad, good):
        scheduler.submit(one, 0)
    (work,), _ = scheduler.assign(0)
    assert scheduler.failed(work, Trouble.ERROR, 0.1, 1) == []
    (work,), _ = scheduler.assign(1)
    assert work.requests == (bad,)
    assert scheduler.failed(work, Trouble.ERROR, 0.1, 2) == [(bad, End.ERROR)]
    (work,), _ = scheduler.assign(2)
    assert scheduler.done(work, 0.1, 3) == [(good, End.DONE)]


def test_a_lost_board_and_its_return() -> None:
    scheduler = node(boards=2)
    once, often = request("a", once=True), request("b")
    for one in (once, often):
        scheduler.submit(one, 0)
    first, second = scheduler.assign(0)[0]
    assert scheduler.failed(first, Trouble.BOARD, 0.1, 1) == [(once, End.LOST)]
    assert scheduler.failed(second, Trouble.BOARD, 0.1, 1) == []
    assert scheduler.assign(2) == ([], [])
    scheduler.back("b1", None, 3)
    (work,), _ = scheduler.assign(3)
    assert (work.requests, work.board.name, work.reload) == ((often,), "b1", True)


def test_an_image_that_cannot_be_loaded() -> None:
    scheduler = node(boards=2)
    one = request("a", once=True)  # it has not run, so it may be tried again
    scheduler.submit(one, 0)
    (work,), _ = scheduler.assign(0)
    assert scheduler.failed(work, Trouble.PROGRAM, 0, 1) == []
    (again,), _ = scheduler.assign(1)
    assert again.board is not work.board
    assert scheduler.failed(again, Trouble.PROGRAM, 0, 2) == []
    assert scheduler.assign(2) == ([], [])
    assert scheduler.wake == 1 + scheduler.settings.backoff
    (last,), _ = scheduler.assign(scheduler.wake)
    assert scheduler.failed(last, Trouble.PROGRAM, 0, 7) == [(one, End.PROGRAM)]


def test_deadlines_and_cancelling() -> None:
    scheduler = node()
    running, late, unwanted = request("a"), request("a", deadline=1.0), request("a")
    for one in (running, late, unwanted):
        scheduler.submit(one, 0)
    (work,), _ = scheduler.assign(0)
    assert scheduler.wake == 1.0
    assert scheduler.cancel(running.id) is None
    assert scheduler.cancel(unwanted.id) is unwanted
    assert scheduler.cancel(unwanted.id) is None
    assert scheduler.assign(1.0) == ([], [late])
    assert scheduler.done(work, 0.1, 2) == [(running, End.DONE)]
    assert scheduler.live == 0


def test_deadlines_of_what_has_ended_are_forgotten() -> None:
    """Also where somebody always waits, with an earlier one."""
    scheduler = node()
    for number in range(10_000):
        scheduler.submit(request("a", deadline=1e6), number)
        scheduler.submit(request("b", deadline=number + 5.0), number)
        for work in scheduler.assign(number)[0]:
            scheduler.done(work, 0.1, number)
    assert scheduler.waiting
    assert len(scheduler._deadlines) <= 4 * scheduler.live + 1001


def test_a_client_that_dies() -> None:
    scheduler = node()
    mine = [request("a", "me") for _ in range(3)]
    other = request("a", "other")
    for one in (*mine, other):
        scheduler.submit(one, 0)
    (work,), _ = scheduler.assign(0)
    assert scheduler.drop("me") == mine[1:]
    assert scheduler.failed(work, Trouble.BOARD, 1.0, 1) == [(mine[0], End.LOST)]  # nobody wants it: not again
    scheduler.back("b0", None, 1)
    (work,), _ = scheduler.assign(1)
    assert work.requests == (other,)


def test_quotas() -> None:
    scheduler = node(share=lambda user: Share(requests=2, rate=0.1, burst=1.0), reload=0.0)
    simulation = Simulation(scheduler, seconds=1.0)
    for _ in range(2):
        simulation.submit(request("a"))
    with pytest.raises(Refused) as refusal:
        simulation.submit(request("a"))
    assert refusal.value.args == (Refusal.QUOTA,)
    keep_flooding(simulation)
    simulation.run(200)
    assert scheduler.users["u"].used == pytest.approx(0.1 * 200, abs=2.5)


def test_what_no_board_has_is_refused() -> None:
    scheduler = node()
    with pytest.raises(Refused) as refusal:
        scheduler.submit(request("z"), 0)
    assert refusal.value.args == (Refusal.UNAVAILABLE,)
    scheduler.submit(one := request("a"), 0)
    with pytest.raises(Refused):
        scheduler.submit(one, 0)


def test_a_cordoned_board() -> None:
    scheduler = node()
    scheduler.cordon("b0")
    scheduler.submit(request("a"), 0)
    assert scheduler.assign(0) == ([], [])
    scheduler.cordon("b0", False)
    assert len(scheduler.assign(1)[0]) == 1


# --- more than one thing at a time --------------------------------------------------------------------------------


class Together:
    """What came together, as the node has it."""

    def __init__(self, *sizes: int) -> None:
        self.sizes = sizes

    def parts(self) -> list[tuple[object, int, object]]:
        return [((self, number), size, None) for number, size in enumerate(self.sizes)]


def test_the_next_is_brought_while_a_long_one_runs() -> None:
    scheduler = node(boards=2)
    for board in scheduler.boards.values():
        board.lanes = 2
    for name in "ab":
        scheduler.submit(request(name), 0)
    first, _ = scheduler.assign(0)[0]
    scheduler.done(first, 0.01, 1, 1.0)
    for _ in range(4):
        scheduler.submit(request("a", once=True), 2)
    works = scheduler.assign(2)[0]
    assert [work.board.name for work in (*first.board.works, *works)].count(first.board.name) == 2 + len(works)
    assert not any(work.reload for work in first.board.works)
    assert scheduler.cancel(first.board.works[0].requests[0].id) is None
    running = list(first.board.works)
    assert scheduler.failed(running[0], Trouble.HUNG, 1.0, 3) == [(running[0].requests[0], End.HUNG)]
    stopped = running[1].requests[0]
    assert scheduler.failed(running[1], Trouble.STOPPED, 0.0, 3) == [(stopped, End.LOST)]  # once, and perhaps begun
    assert [work.board for work in scheduler.assign(3)[0]] == [first.board] * 2


def test_short_ones_are_put_together_rather_than_brought_meanwhile() -> None:
    scheduler = node()
    scheduler.boards["b0"].lanes = 2
    scheduler.submit(request("a", batch="k", most=10), 0)
    (work,), _ = scheduler.assign(0)
    scheduler.done(work, 1e-5, 1, 0.5)
    for _ in range(3):
        scheduler.submit(request("a", batch="k", most=10), 2)
    assert len(scheduler.boards["b0"].works) == 1
    assert scheduler.assign(2) == ([], [])
    scheduler.done(scheduler.boards["b0"].works[0], 1e-5, 3)
    (work,), _ = scheduler.assign(3)
    assert len(work.requests) == 2


def test_what_came_together_counts_as_many_and_fails_one_by_one() -> None:
    scheduler = node(share=lambda user: Share(requests=5))
    many = request("a", size=9, count=3, batch="k", most=20, job=Together(2, 3, 4))
    scheduler.submit(many, 0)
    assert (scheduler.live, scheduler.users["u"].live, scheduler.users["u"].waiting) == (3, 3, 3)
    with pytest.raises(Refused):
        scheduler.submit(request("a", size=9, count=3, job=Together(2, 3, 4)), 0)
    (work,), _ = scheduler.assign(0)
    assert scheduler.failed(work, Trouble.ERROR, 1.0, 1) == []
    ended = []
    for now in (2, 3, 4):
        (work,), _ = scheduler.assign(now)
        ended += scheduler.done(work, 0.1, now)
    assert [(one.size, one.count, end) for one, end in ended] == [(size, 1, End.DONE) for size in (2, 3, 4)]
    assert (scheduler.live, scheduler.users["u"].live, scheduler.users["u"].waiting) == (0, 0, 0)


def test_what_is_run_at_once_is_charged() -> None:
    scheduler = node(share=lambda user: Share(requests=2, rate=1.0 if user == "slow" else None))
    for user in ("v", "slow"):
        scheduler.submit(one := request("a", user), 0)
        assert scheduler.cancel(one.id) is one
    scheduler.submit(request("a"), 0)
    (work,), _ = scheduler.assign(0)
    assert scheduler.take("a", "u", 1) is None  # it is busy
    scheduler.done(work, 0.1, 1, 1.0)
    assert scheduler.take("b", "u", 1) is None  # another image
    assert scheduler.take("a", "u", 3) is None  # more than this user may have
    assert scheduler.take("a", "slow", 1) is None  # who has a rate to keep to
    assert scheduler.take("a", "new", 1) is None  # whose first request has to enter them
    board = scheduler.take("a", "v", 1)
    assert board is work.board
    assert scheduler.take("a", "v", 1) is None
    assert scheduler.assign(1) == ([], [])
    scheduler.give(board, "a", "v", 1, 0.5, 2)
    assert (scheduler.users["v"].used, board.busy_seconds, board.idle) == (0.5, pytest.approx(0.6), True)
    board = scheduler.take("a", "v", 1)
    assert board is not None
    adopted = scheduler.adopt(board, one := request("a", "v"), 3)
    assert scheduler.failed(adopted, Trouble.ERROR, 0.1, 4) == [(one, End.ERROR)]
    assert scheduler.live == 0
