# SPDX-License-Identifier: Apache-2.0
"""examples/serverless: S3's API (moto's server), HTTP, the function and the manager as processes, emulated boards."""

from __future__ import annotations

import importlib
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote_plus

import boto3
import cv2
import numpy as np
import pytest
from manager_daemon import ROOT, Daemon, running, until
from moto.server import ThreadedMotoServer
from PIL import Image

FOLDER = ROOT / "examples" / "serverless"
ANGLE, SCALE = 15.0, 0.9
RIGHT = 16  # OpenCV computes so many columns at the right of a row without fma
BUCKET = "pictures"


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


class Store:
    """S3, which can be down for a while."""

    def __init__(self) -> None:
        self.port = free_port()
        self.up()
        self.client = boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{self.port}",
            aws_access_key_id="nobody",
            aws_secret_access_key="secret",
            region_name="us-east-1",
        )
        self.client.create_bucket(Bucket=BUCKET)
        self.client.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})

    def up(self) -> None:
        self._server = ThreadedMotoServer("127.0.0.1", self.port, verbose=False)
        self._server.start()

    def down(self) -> None:
        self._server.stop()

    def put(self, key: str, pixels: Any) -> Any:
        return self.put_bytes(key, png(pixels)) or pixels

    def put_bytes(self, key: str, data: bytes) -> None:
        self.client.put_object(Bucket=BUCKET, Key=key, Body=data)

    def pixels(self, key: str) -> Any:
        return read(self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read())

    def version(self, key: str) -> str:
        """Another one after each PUT."""
        found: str = self.client.head_object(Bucket=BUCKET, Key=key)["VersionId"]
        return found

    def names(self) -> set[str]:
        return {one["Key"] for one in self.client.list_objects_v2(Bucket=BUCKET).get("Contents", [])}


class Function:
    """The function, as `python -m function` serves it."""

    def __init__(self, store: Store, manager: Path, log: Path, **settings: str) -> None:
        self.port = free_port()
        self.log = log
        with log.open("a") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "function"],
                cwd=FOLDER,
                env=os.environ
                | variables(store, manager)
                | {"LISTEN_ADDRESS": f"127.0.0.1:{self.port}", "ANGLE": str(ANGLE), "SCALE": str(SCALE)}
                | settings,
                stderr=file,
            )

    def ask(self, method: str, path: str = "/", body: bytes = b"", **headers: str) -> Reply:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            return Reply(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def post(self, *keys: str, event: str = "s3:ObjectCreated:Put") -> Reply:
        """A CloudEvent in binary mode, as a Knative trigger sends it."""
        return self.ask("POST", body=notification(*keys, event=event), **cloudevent())

    def ready(self) -> bool:
        try:
            return self.ask("GET", "/health/readiness").status == 200
        except ConnectionError:
            assert self.process.poll() is None, self.log.read_text()
            return False


class World(NamedTuple):
    store: Store
    daemon: Daemon
    function: Function


def variables(store: Store, manager: Path) -> dict[str, str]:
    """What the function finds S3 and the manager by."""
    return {
        "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{store.port}",
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "FPGAHAL_MANAGER": str(manager),
    }


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def cloudevent(number: int = 1) -> dict[str, str]:
    return {
        "ce_id": str(number),
        "ce_specversion": "1.0",
        "ce_type": "dev.knative.connector.event.aws-sqs",
        "ce_source": "test",
        "content_type": "application/json",
    }


def notification(*keys: str, event: str = "s3:ObjectCreated:Put") -> bytes:
    records = [
        {"eventName": event, "s3": {"bucket": {"name": BUCKET}, "object": {"key": quote_plus(key)}}} for key in keys
    ]
    return json.dumps({"EventName": event, "Records": records}).encode()


def png(pixels: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def read(data: bytes) -> Any:
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture)


def noise(seed: int, shape: tuple[int, ...] = (72, 96), dtype: Any = np.uint8) -> Any:
    """A picture with something to see in it: noise, blurred."""
    pixels = np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)
    return cv2.blur(pixels, (5, 5))


def check(store: Store, key: str, pixels: Any) -> None:
    """What the bucket has is what OpenCV computes; at the right of a warp but for a rounding."""
    gx, gy = (cv2.Sobel(pixels, cv2.CV_64F, *order) for order in ((1, 0), (0, 1)))
    largest = np.iinfo(pixels.dtype).max
    edges = np.minimum(np.floor(np.sqrt(gx**2 + gy**2) + 0.5), largest).astype(pixels.dtype)
    rows, columns = pixels.shape[:2]
    matrix = cv2.getRotationMatrix2D(((columns - 1) / 2, (rows - 1) / 2), ANGLE, SCALE)
    warped = cv2.warpAffine(edges, matrix, (columns, rows))
    found = store.pixels(f"edges/{key}.png")
    assert found.dtype == pixels.dtype
    assert np.array_equal(found, edges), key
    difference = np.abs(store.pixels(f"warped/{key}.png").astype(int) - warped)
    assert difference.max() <= (1 if largest == 255 else 8), key
    assert not difference[:, :-RIGHT].any(), key
    assert warped.any()


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    made = Store()
    yield made
    made.down()


@contextmanager
def serving(store: Store, manager: Path, log: Path, **settings: str) -> Iterator[Function]:
    function = Function(store, manager, log, **settings)
    try:
        yield function
    finally:
        if function.process.poll() is None:
            function.process.kill()
        function.process.wait(20)
    assert "Traceback" not in log.read_text(), log.read_text()


@pytest.fixture(scope="module")
def world(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("serverless")
    with (
        running(folder, "pac-a10:2", launch_us=20_000) as daemon,
        serving(store, daemon.socket, folder / "function.log") as function,
    ):
        until(function.ready, 20)
        yield World(store, daemon, function)


def many(world: World, prefix: str, meanwhile: Callable[[], None] = lambda: None, count: int = 16) -> None:
    """Pictures at the same time; each gets its result, whatever happens meanwhile."""
    pictures = {f"{prefix}/{n}.png": noise(n, (60 + n, 90)) for n in range(count)}
    for key, pixels in pictures.items():
        world.store.put(key, pixels)
    with ThreadPoolExecutor(count) as pool:
        replies = [pool.submit(world.function.post, key) for key in pictures]
        meanwhile()
        assert [one.result(60).status for one in replies] == [200] * count
    for key, pixels in pictures.items():
        check(world.store, key, pixels)


# --- what it does ---------------------------------------------------------------------------------------------------


def test_a_picture_of_each_kind_in_an_event_of_each_kind(world: World) -> None:
    pictures = {
        "grey.png": noise(1),
        "a folder/ä + b.png": noise(2, (80, 70, 3)),
        "deep": noise(3, (50, 200), np.uint16),
        "large.png": noise(4, (700, 800)),  # several tiles
    }
    for key, pixels in pictures.items():
        world.store.put(key, pixels)
    structured = {"specversion": "1.0", "id": "1", "type": "t", "source": "s", "datacontenttype": "application/json"}
    replies = [
        world.function.post("grey.png", "deep"),
        world.function.ask("POST", body=notification("a folder/ä + b.png"), content_type="application/json"),  # MinIO
        world.function.ask(
            "POST",
            body=json.dumps(structured | {"data": json.loads(notification("large.png"))}).encode(),
            content_type="application/cloudevents+json",
        ),
    ]
    for key, pixels in pictures.items():
        check(world.store, key, pixels)
    for reply, keys in zip(replies, (["grey.png", "deep"], ["a folder/ä + b.png"], ["large.png"]), strict=True):
        assert reply.status == 200
        assert reply.headers["ce-type"] == "dev.fpgahal.image.warped"
        assert reply.headers["ce-specversion"] == "1.0"
        assert reply.headers["ce-source"] == f"/{BUCKET}"
        results = json.loads(reply.body)["results"]
        assert [(one["key"], one["edges"], one["warped"]) for one in results] == [
            (key, f"edges/{key}.png", f"warped/{key}.png") for key in keys
        ]


def test_16_pictures_at_the_same_time(world: World) -> None:
    many(world, "many")


def test_a_repeated_event_finds_the_work_done(world: World) -> None:
    world.store.put("twice.png", noise(5))
    with world.daemon.connect() as m:
        first = world.function.post("twice.png")
        ran = m.status()["ended"]["done"]
        written = world.store.version("warped/twice.png.png")
        again = world.function.post("twice.png")
        assert (again.status, again.body, again.headers["ce-id"]) == (200, first.body, first.headers["ce-id"])
        assert m.status()["ended"]["done"] == ran
        assert world.store.version("warped/twice.png.png") == written
        other = world.store.put("twice.png", noise(6))  # another picture of that name
        changed = world.function.post("twice.png")
        assert world.store.version("warped/twice.png.png") != written
        assert changed.headers["ce-id"] != first.headers["ce-id"]
        check(world.store, "twice.png", other)
        world.store.client.delete_object(Bucket=BUCKET, Key="edges/twice.png.png")  # as if it had been killed before
        assert world.function.post("twice.png").body == changed.body
        check(world.store, "twice.png", other)


def test_16_times_the_same_event_at_the_same_time(world: World) -> None:
    pixels = world.store.put("same.png", noise(7))
    with ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(world.function.post, ["same.png"] * 16))
    assert {(one.status, one.body) for one in replies} == {(200, replies[0].body)}
    check(world.store, "same.png", pixels)


def test_results_are_no_pictures_to_work_on(world: World) -> None:
    world.store.put("loop.png", noise(8))
    world.function.post("loop.png")
    before = world.store.names()
    reply = world.function.post("edges/loop.png.png", "warped/loop.png.png")
    assert (reply.status, reply.body) == (200, b"")  # Knative takes no body that is no CloudEvent
    assert "ce-type" not in reply.headers
    assert world.function.post("loop.png", event="s3:ObjectRemoved:Delete").status == 200
    assert world.function.ask("POST", body=b'{"Service": "Amazon S3", "Event": "s3:TestEvent"}').status == 200
    assert world.store.names() == before


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not a picture"),
        (b"no picture", "not a picture"),
        (png(noise(9))[:1000], "not a picture"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "not a picture"),
    ],
)
def test_a_broken_picture_is_not_tried_again(world: World, data: bytes, says: str) -> None:
    world.store.put_bytes("broken.png", data)
    reply = world.function.post("broken.png")
    assert reply.status == 422
    assert says in reply.body.decode()
    assert "edges/broken.png.png" not in world.store.names()


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"", {}, 400),
        (b"{", {}, 400),
        (b"[]", {}, 400),
        (b'{"Records": 1}', {}, 400),
        (b'{"Records": [{"eventName": "s3:ObjectCreated:Put"}]}', {}, 400),
        (notification("grey.png"), cloudevent() | {"ce_specversion": "9"}, 400),
        (b"[]", {"content_type": "application/cloudevents+json"}, 400),
        (notification("not there.png"), {}, 410),  # not 404, which Knative sends again
        (notification("grey.png").replace(b'"pictures"', b'"no-such-bucket"'), {}, 410),
        (notification("grey.png").replace(b'"pictures"', b'"no bucket/at all"'), {}, 422),
        (notification(""), {}, 422),
        (b" " * ((1 << 20) + 1), {}, 413),
    ],
)
def test_what_is_no_event_is_not_sent_again(world: World, body: bytes, headers: dict[str, str], status: int) -> None:
    assert world.function.ask("POST", body=body, **headers).status == status


def test_other_methods_and_probes(world: World) -> None:
    assert world.function.ask("GET").status == 405
    assert world.function.ask("GET", "/health/liveness").status == 200
    assert world.function.ask("GET", "/health/readiness").status == 200


# --- when things go wrong -------------------------------------------------------------------------------------------


def test_s3_is_down_for_a_moment(world: World) -> None:
    pixels = world.store.put("later.png", noise(10))
    world.store.down()
    reply = world.function.post("later.png")
    world.store.up()
    assert reply.status == 503
    assert world.function.post("later.png").status == 200
    check(world.store, "later.png", pixels)


def test_a_board_is_lost_in_the_middle(world: World) -> None:
    def lose() -> None:
        until(lambda: lost.extend(i for i, board in enumerate(boards()) if board["running"]) or lost)
        world.daemon.rack.fault(lost[0], "vanish")

    def boards() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = m.status()["boards"]
        return found

    lost: list[int] = []
    with world.daemon.connect() as m:
        many(world, "lost", lose)
        assert not boards()[lost[0]]["up"]
        world.daemon.rack.clear(lost[0])
        until(lambda: all(board["up"] for board in boards()))


def test_the_manager_is_killed_in_the_middle_and_comes_back(world: World) -> None:
    def replace() -> None:
        with world.daemon.connect() as m:
            until(lambda: any(board["running"] for board in m.status()["boards"]))
            world.daemon.kill()
        assert world.function.ready()  # it waits
        world.daemon.start()

    many(world, "killed", replace)


def test_no_manager_is_no_reason_to_give_up(store: Store, tmp_path: Path) -> None:
    pixels = store.put("patient.png", noise(11))
    with (
        running(tmp_path, launch_us=0) as daemon,
        serving(store, daemon.socket, tmp_path / "function.log", TIMEOUT="1") as function,
    ):
        until(function.ready, 20)
        until(lambda: function.post("patient.png").status == 200)
        daemon.rack.fault(0, "vanish")  # there is a manager, but no board
        store.put("patient.png", noise(12))
        since = time.monotonic()
        assert function.post("patient.png").status == 503
        assert 0.9 < time.monotonic() - since < 10
        daemon.rack.clear(0)
        until(lambda: function.post("patient.png").status == 200)
        daemon.kill()
        store.put("patient.png", pixels)
        assert function.post("patient.png").status == 503
        until(lambda: not function.ready())
        assert function.ask("GET", "/health/liveness").status == 200
        daemon.start()
        until(function.ready)
        until(lambda: function.post("patient.png").status == 200)
        check(store, "patient.png", pixels)


def test_sigterm_lets_what_was_begun_end(store: Store, tmp_path: Path) -> None:
    pixels = store.put("last.png", noise(13))
    with (
        running(tmp_path, launch_us=150_000) as daemon,
        serving(store, daemon.socket, tmp_path / "function.log") as function,
        daemon.connect() as m,
        ThreadPoolExecutor(1) as pool,
    ):
        until(function.ready, 20)
        reply = pool.submit(function.post, "last.png")
        until(lambda: m.status()["boards"][0]["running"])
        function.process.send_signal(signal.SIGTERM)
        assert reply.result(20).status == 200
        assert function.process.wait(20) == 0
        check(store, "last.png", pixels)


def test_a_picture_that_is_replaced_meanwhile(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever writes results of the old one finds it out, and writes those of the new one."""
    for name, value in variables(store, Path("/nowhere")).items():
        monkeypatch.setenv(name, value)
    monkeypatch.syspath_prepend(str(FOLDER))
    function: Any = importlib.import_module("function")
    func = function.new()
    seen = []

    def run(accelerator: str, until: float, **arguments: Any) -> Any:
        if accelerator == "image.sobel":
            seen.append(arguments["image"])
            if len(seen) < 3:
                store.put("replaced.png", noise(20 + len(seen)))
        return arguments["image"]

    monkeypatch.setattr(func, "_run", run)
    store.put("replaced.png", noise(20))
    func._picture(BUCKET, "replaced.png", time.monotonic() + 10)
    func.stop()
    assert [np.array_equal(one, noise(20 + n)) for n, one in enumerate(seen)] == [True] * 3
    assert np.array_equal(store.pixels("warped/replaced.png.png"), noise(22))
    monkeypatch.setenv("TIMEOUT", "soon")
    with pytest.raises(ValueError, match="soon"):  # at once, and not with the first event
        function.new()


# --- what is written about it ---------------------------------------------------------------------------------------


def test_readme(tmp_path: Path) -> None:
    """From nothing to a picture."""
    block = re.search(r"^```sh\n(.*?)^```", (FOLDER / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert block
    script = block[1]
    for written, here in {
        "python ": f"{sys.executable} ",
        "fpgahal-manager": f"{sys.executable} -m fpgahal.manager.app",
        ":9000": f":{(s3 := free_port())}",
        "-p 9000": f"-p {s3}",
        ":8080": f":{free_port()}",
    }.items():
        assert written in script
        script = script.replace(written, here)
    search = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": search, "PYTHONPATH": f"{FOLDER}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(
        ["sh", "-ec", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    photo, edges, warped = (read((tmp_path / name).read_bytes()) for name in ("photo.png", "edges.png", "warped.png"))
    gx, gy = (cv2.Sobel(photo, cv2.CV_64F, *order) for order in ((1, 0), (0, 1)))
    assert np.array_equal(edges, np.minimum(np.floor(np.sqrt(gx**2 + gy**2) + 0.5), 255))
    assert warped.shape == (480, 640)
