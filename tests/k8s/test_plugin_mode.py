# SPDX-License-Identifier: Apache-2.0
"""The node's annotation chooses the mode, when the plugin starts and while it runs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from fake_nodes import FakeNodes
from fake_work import until

from fpgahal.k8s.api import Api
from fpgahal.k8s.plugin.mode import ANNOTATIONS, ModeWatch, mode_of

OWN, INTELS = ANNOTATIONS


@pytest.mark.parametrize(
    ("annotations", "mode"),
    [
        ({}, "af"),
        ({INTELS: "region"}, "region"),
        ({INTELS: "regiondevel", "other": "x"}, "regiondevel"),
        ({INTELS: "region", OWN: "regiondevel"}, "regiondevel"),
        ({INTELS: "af"}, "af"),
    ],
)
def test_E1_annotation_goes_before_the_flag(annotations: dict[str, str], mode: str) -> None:
    assert mode_of(annotations, "af") == mode


@pytest.mark.parametrize("asked", ["", "Region", "af ", "regiondevelx", "unparsable"])
def test_E1_an_annotation_that_is_no_mode(asked: str, caplog: pytest.LogCaptureFixture) -> None:
    assert mode_of({INTELS: asked}, "region") == "region"
    assert f"{INTELS}={asked} is no mode: keeping region" in caplog.text


@contextmanager
def watching(url: str, node: str = "n1") -> Iterator[tuple[ModeWatch, list[str]]]:
    """A ModeWatch that runs in a thread until the end of the block, and the changes that it told."""
    started, holder = threading.Event(), []
    changes: list[str] = []

    async def main() -> None:
        async with Api(url) as api:
            watch, stop = ModeWatch(api, node, "af", changes.append), asyncio.Event()
            holder.extend([watch, asyncio.get_running_loop(), stop])
            task = asyncio.create_task(watch.run(first_wait=0.02, longest_wait=0.1))
            started.set()
            await stop.wait()
            assert not task.done(), task
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    thread = threading.Thread(target=lambda: asyncio.run(main()), daemon=True)
    thread.start()
    assert started.wait(10)
    watch, loop, stop = holder
    yield watch, changes
    loop.call_soon_threadsafe(stop.set)
    thread.join(10)
    assert not thread.is_alive()


def test_E1_the_mode_follows_the_annotation() -> None:
    with FakeNodes(n1={INTELS: "region"}, n2={INTELS: "regiondevel"}) as api, watching(api.url) as (watch, changes):
        until(watch.told.is_set)
        assert changes == ["region"]
        until(lambda: api.watches)
        api.annotate("n2", {})  # not ours
        api.annotate("n1", {OWN: "regiondevel", INTELS: "region"})
        until(lambda: watch.mode == "regiondevel")
        api.annotate("n1", {"unrelated": "x"})
        until(lambda: watch.mode == "af")
        assert changes == ["region", "regiondevel", "af"]
        assert api.lists == 1


def test_E1_an_absent_annotation_leaves_the_flag() -> None:
    with FakeNodes(n1={}) as api, watching(api.url) as (watch, changes):
        until(watch.told.is_set)
        assert (watch.mode, changes) == ("af", [])


def test_E1_a_wrong_annotation_while_it_runs(caplog: pytest.LogCaptureFixture) -> None:
    with FakeNodes(n1={INTELS: "region"}) as api, watching(api.url) as (watch, _):
        until(lambda: api.watches)
        api.annotate("n1", {INTELS: "nonsense"})
        until(lambda: "nonsense is no mode" in caplog.text)
        until(lambda: watch.mode == "af")


@pytest.mark.parametrize("refuse", [403, 500, 503])
def test_E1_an_api_server_that_refuses(refuse: int, caplog: pytest.LogCaptureFixture) -> None:
    with FakeNodes(n1={INTELS: "region"}) as api:
        api.refuse = refuse
        with watching(api.url) as (watch, changes):
            until(watch.told.is_set)
            assert (watch.mode, changes) == ("af", [])
            assert "keeping mode af" in caplog.text
            api.refuse = 0
            until(lambda: changes == ["region"])


def test_E1_no_api_server(caplog: pytest.LogCaptureFixture) -> None:
    with watching("http://127.0.0.1:9") as (watch, changes):
        until(watch.told.is_set)
        assert (watch.mode, changes) == ("af", [])
        assert "The node's annotations can't be read: keeping mode af" in caplog.text


def test_a_history_that_is_gone_is_listed_anew() -> None:
    with FakeNodes(n1={INTELS: "region"}) as api:
        api.gone = 1
        with watching(api.url) as (_, changes):
            until(lambda: api.watches == 2)
            assert api.lists == 2
            api.annotate("n1", {})
            until(lambda: changes == ["region", "af"])


def test_a_node_that_is_not_there(caplog: pytest.LogCaptureFixture) -> None:
    with FakeNodes() as api, watching(api.url) as (watch, changes):
        until(watch.told.is_set)
        assert (watch.mode, changes) == ("af", [])
        assert "There is no node n1" in caplog.text
