# SPDX-License-Identifier: Apache-2.0
"""Any sequence of requests, cancellations, deaths, faults and time: each request ends exactly once, nobody starves."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from fpgahal.manager.scheduler import (
    NEVER,
    Board,
    End,
    Outcome,
    Refused,
    Request,
    Scheduler,
    Settings,
    Share,
    Trouble,
    Work,
)

ACCELERATORS = "abc"
IMAGES = ({"a": "A", "b": "B"}, {"a": "AC", "b": "B", "c": "AC"}, {"a": "A", "b": "B"})
SHARES = {"u": Share(1.0, 6), "v": Share(3.0, 6), "w": Share(1.0, 6, rate=0.5, burst=2.0)}


class Node(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.scheduler = Scheduler(lambda user: SHARES[str(user)], Settings())
        for number, images in enumerate(IMAGES):
            self.scheduler.add(Board(f"b{number}", images, reload=1.0 + number, lanes=1 + number))
        self.accepted: dict[Any, Request] = {}
        self.ended: set[Any] = set()
        self.begun: dict[Any, int] = {}
        self.running: dict[str, list[Work]] = defaultdict(list)
        self.down: set[str] = set()

    def end(self, *requests: Request) -> None:
        for one in requests:
            assert one.id in self.accepted
            assert one.id not in self.ended, "ended twice"
            self.ended.add(one.id)

    def take(self) -> None:
        """What the daemon does after each event."""
        works, late = self.scheduler.assign(self.now)
        self.end(*late)
        for one in late:
            assert one.deadline is not None
            assert one.deadline <= self.now
        for work in works:
            self.begin(work)

    def begin(self, work: Work) -> None:
        name = work.board.name
        others = self.running[name]
        assert len(others) < work.board.lanes
        assert all(one.image == work.image and not one.reload for one in others)
        assert not (others and work.reload)
        assert not (work.board.trust.trial and (others or len(work.requests) > 1))
        assert name not in self.down
        assert not work.board.cordoned
        assert work.board.loaded == work.image
        others.append(work)
        assert len({(one.accelerator, one.batch) for one in work.requests}) == 1
        for one in work.requests:
            assert one.id not in self.ended
            assert one.deadline is None or one.deadline > self.now
            assert work.image == work.board.images[one.accelerator]
            self.begun[one.id] = self.begun.get(one.id, 0) + 1
        if len(work.requests) > 1:
            assert work.requests[0].batch is not None
            assert sum(one.size for one in work.requests) <= work.requests[0].most
            assert not any(one.once or one.alone for one in work.requests)

    @rule(
        client=st.sampled_from(["u1", "u2", "v1", "w1"]),
        accelerator=st.sampled_from(ACCELERATORS),
        size=st.integers(0, 5),
        batch=st.sampled_from([None, "k"]),
        priority=st.integers(0, 2),
        deadline=st.none() | st.floats(0.0, 20.0),
        once=st.booleans(),
    )
    def submit(self, client: str, **fields: Any) -> None:
        number = len(self.accepted)
        deadline, batch = fields.pop("deadline"), fields.pop("batch")
        request = Request(
            (client, number),
            client,
            client[0],
            batch=batch and (batch, fields["accelerator"]),
            most=8,
            deadline=None if deadline is None else self.now + deadline,
            **fields,
        )
        mine = sum(one.user == client[0] and one.id not in self.ended for one in self.accepted.values())
        try:
            work = self.scheduler.submit(request, self.now)
        except Refused:
            assert mine >= 6
            return
        assert mine < 6
        self.accepted[request.id] = request
        if work is not None:
            self.begin(work)
        self.take()

    @rule(data=st.data())
    def cancel(self, data: Any) -> None:
        if self.accepted:
            request = data.draw(st.sampled_from(list(self.accepted.values())))
            if self.scheduler.cancel(request.id) is not None:
                self.end(request)
            self.take()

    @rule(client=st.sampled_from(["u1", "u2", "v1", "w1"]))
    def die(self, client: str) -> None:
        self.end(*self.scheduler.drop(client))
        self.take()

    @rule(seconds=st.floats(0.0, 30.0))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.take()

    def works(self) -> list[Work]:
        return [work for works in self.running.values() for work in works]

    def finish(self, work: Work, outcome: Outcome, trouble: Trouble | None) -> None:
        self.running[work.board.name].remove(work)
        assert {one.id for one, _ in outcome} <= {one.id for one in work.requests}
        self.end(*(one for one, _ in outcome))
        for _, end in outcome:
            assert (end is End.DONE) == (trouble is None)
        for one in work.requests:
            if one.id not in self.ended:  # it is tried again
                assert trouble is not None
                assert not one.dropped
                assert not (one.once and trouble is not Trouble.PROGRAM), "run twice, and must not be"
                assert one.tries < self.scheduler.settings.tries
        self.take()

    @rule(data=st.data(), seconds=st.floats(0.0, 2.0))
    def done(self, data: Any, seconds: float) -> None:
        if self.works():
            work = data.draw(st.sampled_from(self.works()))
            self.now += seconds
            self.finish(work, self.scheduler.done(work, seconds, self.now, 1.5 if work.reload else None), None)

    @rule(data=st.data(), trouble=st.sampled_from(Trouble), seconds=st.floats(0.0, 2.0))
    def failed(self, data: Any, trouble: Trouble, seconds: float) -> None:
        if self.works():
            work = data.draw(st.sampled_from(self.works()))
            self.now += seconds
            if trouble is Trouble.BOARD:
                self.down.add(work.board.name)
            outcome = self.scheduler.failed(work, trouble, seconds, self.now)
            if not work.board.up:
                self.down.add(work.board.name)
            self.finish(work, outcome, trouble)
            while trouble in (Trouble.BOARD, Trouble.HUNG) and self.running[work.board.name]:  # it was reset
                other = self.running[work.board.name][0]
                self.finish(other, self.scheduler.failed(other, Trouble.STOPPED, 0.0, self.now), Trouble.STOPPED)

    @rule(data=st.data(), loaded=st.booleans())
    def back(self, data: Any, loaded: bool) -> None:
        if self.down:
            name = data.draw(st.sampled_from(sorted(self.down)))
            self.down.remove(name)
            self.scheduler.back(name, "B" if loaded else None, self.now)
            self.take()

    @rule(name=st.sampled_from(["b0", "b1", "b2"]), cordoned=st.booleans())
    def cordon(self, name: str, cordoned: bool) -> None:
        self.scheduler.cordon(name, cordoned)
        self.take()

    @invariant()
    def nothing_is_forgotten(self) -> None:
        open_ = self.accepted.keys() - self.ended
        assert self.scheduler.live == len(open_)
        running = {one.id for work in self.works() for one in work.requests}
        assert running <= open_
        waiting = open_ - running
        idle = [board for board in self.scheduler.boards.values() if board.idle]
        for id in waiting:  # nothing waits without a time when it is looked at again, or a board that will be free
            request = self.accepted[id]
            able = [board for board in idle if request.accelerator in board.images]
            if able and not self.works():
                assert self.scheduler.wake < NEVER, f"{request} waits for ever"

    def teardown(self) -> None:
        """When all boards are there and nothing goes wrong, everything ends, and soon."""
        for name in sorted(self.down):
            self.scheduler.back(name, None, self.now)
        self.down.clear()
        for name in ("b0", "b1", "b2"):
            self.scheduler.cordon(name, False)
        self.take()
        limit = self.now + 300.0
        while self.scheduler.live:
            assert self.now < limit, "somebody starves"
            if self.works():
                work = self.works()[0]
                self.now += 0.5
                self.finish(work, self.scheduler.done(work, 0.5, self.now, 1.5 if work.reload else None), None)
            else:
                assert self.scheduler.wake < NEVER
                self.now = max(self.now + 1e-6, self.scheduler.wake)
                self.take()
        assert self.ended == self.accepted.keys()
        for id, request in self.accepted.items():
            assert self.begun.get(id, 0) == request.tries <= self.scheduler.settings.tries
        for user in self.scheduler.users.values():
            assert user.live == user.waiting == 0
        assert not list(self.scheduler._backlog.accelerators())
        assert not self.scheduler._backlog._batches


TestNode = Node.TestCase
TestNode.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
