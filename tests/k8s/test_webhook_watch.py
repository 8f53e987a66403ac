# SPDX-License-Identifier: Apache-2.0
"""The table follows the API server through whatever happens to the connection, and reports on broken objects."""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import trustme
from fake_api import FakeApi
from webhook_cases import AF_IF10_NLB0, NLB3, admit, af, container, pod, refusal, region

from fpgahal.k8s.api import Api, ApiError
from fpgahal.k8s.backoff import Backoff
from fpgahal.k8s.webhook import crds
from fpgahal.k8s.webhook.resources import Kind
from fpgahal.k8s.webhook.table import Table
from fpgahal.k8s.webhook.watch import Watch

ASKED = pod(container({"nlb": 1}))
IDENTITY = pod(container({AF_IF10_NLB0: 1}))


@contextmanager
def watching(url: str | Api, token: Path | None = None) -> Iterator[Watch]:
    """A Watch that runs in a thread until the end of the block."""
    connection = url if isinstance(url, Api) else Api(url, token)
    started, holder = threading.Event(), []

    async def main() -> None:
        async with connection as api:
            watch = Watch(api, Table(), first_wait=0.02, longest_wait=0.1)
            stop = asyncio.Event()
            holder.extend([watch, asyncio.get_running_loop(), stop])
            task = asyncio.create_task(watch.run())
            started.set()
            await stop.wait()
            assert not task.done(), task
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    thread = threading.Thread(target=lambda: asyncio.run(main()), daemon=True)
    thread.start()
    assert started.wait(10)
    watch, loop, stop = holder
    yield watch
    loop.call_soon_threadsafe(stop.set)
    thread.join(10)
    assert not thread.is_alive()


def until(condition: Callable[[], Any], seconds: float = 10.0) -> Any:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


def names(watch: Watch, namespace: str = "default") -> list[str]:
    return [name.partition("/")[2] for name in watch.table.namespace(namespace).targets]


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with FakeApi() as fake:
        yield fake


def test_F21_the_table_follows_the_api_server(api: FakeApi) -> None:
    api.put(af("nlb"))
    with watching(api.url) as watch:
        until(lambda: watch.synced)
        admit(ASKED, watch.table)
        admit(IDENTITY, watch.table)
        api.put(af("nlb", NLB3))
        until(lambda: not watch.table.namespace("default").offers(AF_IF10_NLB0, "af"))
        refusal(IDENTITY, watch.table)
        api.put(af("alias", NLB3))
        until(lambda: names(watch) == ["alias", "nlb"])
        api.delete(af("nlb"))
        until(lambda: names(watch) == ["alias"])
        refusal(ASKED, watch.table)
        api.put(region("nlb", namespace="b"))
        until(lambda: names(watch, "b") == ["nlb"])
        assert names(watch) == ["alias"]


@pytest.mark.parametrize("in_stream", [False, True])
def test_F21_gone_means_a_new_list(api: FakeApi, in_stream: bool) -> None:
    """410: objects that were deleted while nobody looked must not stay in the table."""
    api.gone_in_stream = in_stream
    api.put(af("old"))
    api.put(af("kept"))
    with watching(api.url) as watch:
        until(lambda: watch.synced and api.asked("WATCH", "") >= 2)
        api.miss(deleted=af("old"), created=af("new"))
        until(lambda: names(watch) == ["kept", "new"])
        assert watch.synced
        assert api.told_gone >= 1


def test_a_busy_server_is_not_asked_for_lists(api: FakeApi) -> None:
    api.put(af("a"))
    with watching(api.url) as watch:
        until(lambda: watch.synced and api.asked("WATCH", "acc") == 1)
        lists = api.asked("GET", "")
        api.refuse["WATCH"] = 503
        api.break_streams()
        until(lambda: watch.restarts[Kind.FUNCTION] > 2)
        api.put(af("b"))
        api.refuse.clear()
        until(lambda: names(watch) == ["a", "b"])
        assert api.asked("GET", "") == lists


@pytest.mark.parametrize("in_order", [False, True])
def test_F21_a_broken_stream_is_taken_up_again(api: FakeApi, in_order: bool) -> None:
    """From the last version that was seen, without a new list."""
    api.put(af("a"))
    with watching(api.url) as watch:
        until(lambda: watch.synced and api.asked("WATCH", "acc") == 1)
        lists = api.asked("GET", "")
        for number in range(5):
            api.break_streams(in_order=in_order)
            api.put(af(f"b{number}"))
            until(lambda number=number: f"b{number}" in names(watch))
        assert api.asked("GET", "") == lists
        api.delete(af("a"))
        until(lambda: "a" not in names(watch))


def test_F21_bookmarks_move_the_version(api: FakeApi) -> None:
    api.put(af("a"))
    with watching(api.url) as watch:
        until(lambda: watch.synced and api.condition(af("a")))
        api.bookmark()
        again = f"acceleratorfunctions?watch=1&resourceVersion={api.version}"

        def taken_up() -> int:
            api.break_streams(in_order=True)
            return api.asked("WATCH", again)

        until(taken_up)
        assert api.asked("GET", "acceleratorfunctions") == 1


@pytest.mark.parametrize(
    "garbage", [b"no json\n", b"[]\n", b'{"type": "ADDED"}\n', b'{"type": "ERROR", "object": 1}\n']
)
def test_garbage_in_a_stream_means_a_new_list(api: FakeApi, garbage: bytes) -> None:
    api.garbage = garbage
    api.put(af("a"))
    with watching(api.url) as watch:
        until(lambda: names(watch) == ["a"])
        until(lambda: sum(watch.restarts.values()) == 1)
        api.put(af("b"))
        until(lambda: names(watch) == ["a", "b"])


@pytest.mark.parametrize("status", [403, 404, 500])
def test_not_synced_until_both_kinds_are_listed(api: FakeApi, status: int, caplog: pytest.LogCaptureFixture) -> None:
    api.refuse["GET"] = status
    with watching(api.url) as watch:
        until(lambda: watch.restarts[Kind.FUNCTION] > 2)
        assert not watch.synced
        api.refuse.clear()
        until(lambda: watch.synced)
    hints = {getattr(record, "hint", "") for record in caplog.records}
    assert any({403: "service account", 404: "fpgahal-webhook crds", 500: ""}[status] in hint for hint in hints)


def test_no_api_server_at_all() -> None:
    with watching("http://127.0.0.1:9") as watch:
        until(lambda: watch.restarts[Kind.REGION] > 2)
        assert not watch.synced


def test_a_large_object_comes_through(api: FakeApi) -> None:
    """aiohttp's own way to read lines ends at 64 KiB."""
    with watching(api.url) as watch:
        until(lambda: watch.synced and api.asked("WATCH", "") >= 2)
        large = af("large")
        large["metadata"]["annotations"] = {"note": "x" * 500_000}
        api.put(large)
        until(lambda: names(watch) == ["large"])


def test_F23_conditions(api: FakeApi, caplog: pytest.LogCaptureFixture) -> None:
    broken, good = af("broken", "wrong string"), af("good")
    api.put(broken)
    api.put(good)
    with watching(api.url) as watch:
        told = until(lambda: api.condition(broken))
        assert (told["type"], told["status"], told["reason"]) == ("Accepted", "False", "InvalidAfuId")
        assert "wrong string" in told["message"]
        assert told["observedGeneration"] == 1
        assert "AcceleratorFunction default/broken: spec.afuId is 'wrong string'" in caplog.text
        assert until(lambda: api.condition(good))["status"] == "True"
        for document in (broken, good):
            held = api.objects["acceleratorfunctions", "default", document["metadata"]["name"]]
            jsonschema.validate(held["status"], crds.schema(Kind.FUNCTION)["properties"]["status"])
        admit(pod(container({"good": 1})), watch.table)
        api.put(af("broken"))  # mended
        mended = until(lambda: (api.condition(broken)["status"] == "True") and api.condition(broken))
        assert mended["observedGeneration"] == 2
        both = region("good")
        api.put(both)  # now the name means two things
        until(lambda: api.condition(both) and api.condition(good)["reason"] == "AmbiguousName")
        assert api.condition(both)["reason"] == "AmbiguousName"
        api.delete(both)
        until(lambda: api.condition(good)["status"] == "True")


def test_conditions_are_written_once(api: FakeApi) -> None:
    """Two replicas write the same, and no write causes another one."""
    for number in range(5):
        api.put(af(f"a{number}", "wrong"))
    with watching(api.url) as first, watching(api.url) as second:
        until(lambda: first.synced and second.synced)
        until(lambda: all(api.condition(af(f"a{number}")) for number in range(5)))
        time.sleep(0.3)
        written = api.asked("PATCH", "/status")
        assert 5 <= written <= 20
        time.sleep(0.3)
        assert api.asked("PATCH", "/status") == written


def test_conditions_that_can_not_be_written_are_tried_again(api: FakeApi) -> None:
    api.refuse["PATCH"] = 403
    api.put(af("broken", "wrong"))
    with watching(api.url) as watch:
        until(lambda: api.asked("PATCH", "/status") > 2)
        refusal(pod(container({"broken": 1})), watch.table)
        api.put(af("more"))
        until(lambda: "more" in names(watch))  # the table does not wait for it
        api.refuse.clear()
        until(lambda: api.condition(af("broken")))


def test_a_condition_that_is_refused_holds_up_no_other(api: FakeApi, caplog: pytest.LogCaptureFixture) -> None:
    """Before 1.30, an API server takes no status for an object whose spec its schema refuses by now."""
    api.refuse["bad"] = 422
    api.put(af("bad", "wrong"))
    api.put(af("good"))
    with watching(api.url) as watch:
        until(lambda: watch.synced and api.condition(af("good")))
        time.sleep(0.2)
        assert api.asked("PATCH", "/bad/status") <= 2
        assert "default/bad has no condition" in caplog.text


def test_the_token_is_read_again(api: FakeApi, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("one\n")
    with watching(api.url, token) as watch:
        until(lambda: watch.synced and len(api.tokens) >= 4)
        token.write_text("two\n")
        api.break_streams()
        until(lambda: "Bearer two" in api.tokens)
        assert api.tokens[0] == "Bearer one"


def test_where_the_api_server_is(tmp_path: Path) -> None:
    with pytest.raises(ApiError, match="kubectl proxy"):
        Api.of_pod({}, tmp_path)
    with pytest.raises(ApiError, match="token"):
        Api.of_pod({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, tmp_path)
    (tmp_path / "token").write_text("t")
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca.crt"))
    environ = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "6443"}
    assert Api.of_pod(environ, tmp_path).url == "https://[fd00::1]:6443"


@pytest.mark.parametrize("trusted", [True, False])
def test_the_api_server_as_a_pod_sees_it(tmp_path: Path, trusted: bool) -> None:
    """TLS with the cluster's own authority, and the service account's token."""
    authority, other = trustme.CA(), trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    (authority if trusted else other).cert_pem.write_to_path(str(tmp_path / "ca.crt"))
    (tmp_path / "token").write_text("secret")
    with FakeApi(tls) as api:
        api.put(af("nlb"))
        environ = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(api.port)}
        with watching(Api.of_pod(environ, tmp_path)) as watch:
            if trusted:
                until(lambda: watch.synced and api.condition(af("nlb")))
                assert set(api.tokens) == {"Bearer secret"}
            else:
                until(lambda: watch.restarts[Kind.FUNCTION] > 1)
                assert not api.tokens


def test_backoff_doubles_up_to_its_bound() -> None:
    backoff = Backoff(0.5, 30.0)
    waits = [backoff.next() for _ in range(40)]
    for number, wait in enumerate(waits):
        bound = min(30.0, 0.5 * 2**number)
        assert bound / 2 <= wait <= bound
    backoff.reset()
    assert backoff.next() <= 0.5
