# SPDX-License-Identifier: Apache-2.0
"""A serverless function with an FPGA behind it: a picture comes into a bucket, its edges go back, plain and turned.

    event "object created" -> GET picture -> image.sobel -> image.affine (on a board) -> PUT edges/..., warped/...

An event may come twice, late, or while another replica works on the same picture.  So results are named after the
picture, carry its ETag, and are compared with it before and after: who comes second finds the work done, and nobody
leaves results of a picture that was replaced meanwhile.

The HTTP status tells the sender (a Knative trigger, MinIO, ...) what to do:

    200  done, or nothing to do.  With a CloudEvent that names the results, if there are any.
    4xx  the event or its picture will not get better (400, 405, 410, 413, 422): do not send it again.  Never 404, 408,
         409 or 429, which Knative does send again.
    503  S3, the manager or the boards are not available, or not in time: send it again.
    500  this program has a defect: send it again, maybe to another version of it.

Settings, from the environment: AWS_ENDPOINT_URL_S3, AWS_ACCESS_KEY_ID and what else boto3 knows; FPGAHAL_MANAGER, the
manager's socket; ANGLE and SCALE of the turn; TIMEOUT, seconds for one event; WORKERS, events at a time.
"""

import asyncio
import hashlib
import io
import json
import logging
import os
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from urllib.parse import unquote_plus

import boto3
import numpy as np
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError
from cloudevents.core.bindings.http import HTTPMessage, from_http_event, to_binary_event
from cloudevents.core.exceptions import CloudEventValidationError
from cloudevents.core.v1.event import CloudEvent
from PIL import Image

import fpgahal
from fpgahal import manager
from fpgahal.kernels.image import rotation

MAX_EVENT = 1 << 20  # bytes
MAX_FILE = 64 << 20  # bytes
MAX_PIXELS = 24 << 20  # 16 at a time, in three copies: some 4 GB
RESULTS = ("edges/", "warped/")  # what is below them is ours, and no picture to work on
DONE = "dev.fpgahal.image.warped"  # type of the event that we reply with
GONE = {"NoSuchKey", "NoSuchBucket", "NoSuchVersion", "404"}

log = logging.getLogger("function")


class Refused(Exception):
    """Sending the event again would not help."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


def new() -> "Function":
    """Make the function: Knative's func calls this once in a process."""
    return Function()


class Function:
    """What func-python serves: `start` and `stop`, probes, and `handle` for each request."""

    def __init__(self) -> None:
        """Read the settings: what is wrong with them ends the process here, but in `start` the server would go on."""
        self._timeout = float(os.environ.get("TIMEOUT", "30"))
        self._angle, self._scale = (float(os.environ.get(*one)) for one in (("ANGLE", "15"), ("SCALE", "0.9")))
        workers = int(os.environ.get("WORKERS", "16"))
        self._s3 = boto3.client(
            "s3",
            config=Config(
                connect_timeout=2,
                read_timeout=self._timeout / 2,
                retries={"mode": "standard", "total_max_attempts": 2},  # the sender has more patience
                max_pool_connections=workers,
                s3={"addressing_style": "path"},  # MinIO has no name for each bucket
            ),
        )
        self._pool = ThreadPoolExecutor(workers, "picture")
        self._connector = ThreadPoolExecutor(1, "connector")
        self._guard = threading.Lock()
        self._attempt: Future[manager.Client] | None = None

    def start(self, settings: dict[str, str]) -> None:
        """Begin to connect, before there is an event."""
        self._connection()

    def stop(self) -> None:
        """Finish what was begun.  If its response is too late, the event comes again and finds the work done."""
        self._pool.shutdown(cancel_futures=True)
        self._connector.shutdown(cancel_futures=True)
        if self._attempt is not None and not self._attempt.cancelled() and self._attempt.exception() is None:
            self._attempt.result().close()

    def ready(self) -> tuple[bool, str]:
        """Whether there is a manager; it may come later."""
        attempt = self._connection()
        there = attempt.done() and attempt.exception() is None
        return there, "OK" if there else "no manager yet"

    async def handle(self, scope, receive, send) -> None:
        try:
            message = await read(scope, receive)
            status, reply = await asyncio.get_running_loop().run_in_executor(self._pool, self._answer, message)
        except Refused as refused:
            status, reply = refused.status, plain(str(refused))
        headers = [(name.encode(), value.encode()) for name, value in reply.headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})

    # --- in a thread of the pool ------------------------------------------------------------------------------

    def _answer(self, message: HTTPMessage) -> tuple[int, HTTPMessage]:
        since = time.monotonic()
        try:
            found = [self._picture(bucket, key, since + self._timeout) for bucket, key in created(message)]
            status, reply = 200, done([one for one in found if one is not None])
        except Refused as refused:
            status, reply = refused.status, plain(str(refused))
        except (fpgahal.ArgumentError, fpgahal.ArgumentRangeError, ParamValidationError) as error:
            status, reply = 422, plain(str(error))
        except (BotoCoreError, ClientError, fpgahal.FpgaError, TimeoutError) as error:
            status, reply = 503, plain(f"{type(error).__name__}: {error}")
        except Exception as error:  # a defect of this program: another version of it may do better
            log.exception("failed")
            status, reply = 500, plain(f"{type(error).__name__}: {error}")
        what = reply.body.decode(errors="replace")
        log.info("%d in %.0f ms: %s", status, (time.monotonic() - since) * 1e3, what or "nothing to do")
        return status, reply

    def _picture(self, bucket: str, key: str, until: float) -> dict[str, str] | None:
        if key.startswith(RESULTS):
            return None
        names = {kind: f"{kind}/{key}.png" for kind in ("edges", "warped")}
        while True:
            data, etag = self._get(bucket, key)
            mark = {"source-etag": etag, "recipe": f"sobel affine {self._angle} {self._scale}"}
            if not all(self._mark(bucket, name) == mark for name in names.values()):
                pixels = decode(data)
                height, width = pixels.shape[:2]
                edges = self._run("image.sobel", until, image=pixels)
                turn = rotation(self._angle, ((width - 1) / 2, (height - 1) / 2), self._scale)
                warped = self._run("image.affine", until, image=edges, matrix=turn)
                for name, result in zip(names.values(), (edges, warped), strict=True):
                    self._s3.put_object(
                        Bucket=bucket, Key=name, Body=encode(result), ContentType="image/png", Metadata=mark
                    )
                if self._etag(bucket, key) not in (etag, None):  # replaced: maybe we wrote over its results
                    left(until)
                    continue
            return {"bucket": bucket, "key": key, "etag": etag} | names

    def _run(self, accelerator: str, until: float, **arguments):
        """Have something done on some board.  The manager repeats what a lost board or its own death interrupts."""
        client = self._connection().result(left(until))
        request = client.submit(accelerator, deadline=left(until), **arguments)
        try:
            return request.result(left(until))
        except manager.WaitTimeoutError:
            request.cancel()
            raise

    def _connection(self) -> Future[manager.Client]:
        """The connection to the manager, or an attempt to get one: all who need it wait for the same."""
        with self._guard:
            one = self._attempt
            if one is None or (one.done() and (one.exception() is not None or one.result().closed)):
                self._attempt = one = self._connector.submit(manager.connect, patience=self._timeout / 3)
            return one

    def _get(self, bucket: str, key: str) -> tuple[bytes, str]:
        try:
            found = self._s3.get_object(Bucket=bucket, Key=key)
        except ClientError as error:
            if error.response["Error"]["Code"] in GONE:
                raise Refused(410, f"{bucket}/{key} is gone") from None
            raise
        with found["Body"] as body:
            if found["ContentLength"] > MAX_FILE:
                raise Refused(413, f"{bucket}/{key} has {found['ContentLength']} bytes; {MAX_FILE} are taken")
            return body.read(), found["ETag"]

    def _head(self, bucket: str, key: str):
        try:
            return self._s3.head_object(Bucket=bucket, Key=key)
        except ClientError as error:
            if error.response["Error"]["Code"] in GONE:
                return {"ETag": None, "Metadata": None}
            raise

    def _mark(self, bucket: str, key: str) -> dict[str, str] | None:
        return self._head(bucket, key)["Metadata"]

    def _etag(self, bucket: str, key: str) -> str | None:
        return self._head(bucket, key)["ETag"]


def left(until: float) -> float:
    """Seconds that an event has left."""
    seconds = until - time.monotonic()
    if seconds <= 0:
        raise TimeoutError("the event took too long")
    return seconds


# --- pictures ---------------------------------------------------------------------------------------------------------


def decode(data: bytes) -> np.ndarray:
    """Pixels of a picture: 8 or 16 bits of grey, or 8 bits of red, green and blue."""
    try:
        with Image.open(io.BytesIO(data)) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise Refused(413, f"{picture.width} x {picture.height} pixels; {MAX_PIXELS} are taken")
            if picture.mode.startswith("I;16"):
                return np.asarray(picture).astype(np.uint16)
            return np.asarray(picture if picture.mode == "L" else picture.convert("RGB"))
    except Refused:
        raise
    except Exception as error:  # of a broken file, Pillow raises errors of all kinds
        raise Refused(422, f"not a picture that can be read: {error}") from None


def encode(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


# --- events -----------------------------------------------------------------------------------------------------------


def created(message: HTTPMessage) -> list[tuple[str, str]]:
    """Bucket and key of each object that an event says was created.

    Events are S3's notifications, which MinIO sends as they are, and others inside a CloudEvent (binary or structured).
    """
    try:
        structured = message.headers.get("content-type", "").startswith("application/cloudevents+json")
        data = message.body
        if structured or "ce-specversion" in message.headers:
            data = from_http_event(message).get_data()
        if isinstance(data, bytes | str):
            data = json.loads(data)
        if data.get("Event") == "s3:TestEvent":
            return []
        return [
            (record["s3"]["bucket"]["name"], unquote_plus(record["s3"]["object"]["key"]))
            for record in data["Records"]
            if record["eventName"].removeprefix("s3:").startswith("ObjectCreated:")
        ]
    except (ValueError, KeyError, TypeError, AttributeError, CloudEventValidationError) as error:
        raise Refused(400, f"no event of S3: {type(error).__name__}: {error}") from None


def done(results: list[dict[str, str]]) -> HTTPMessage:
    """The event that names the results; the same for the same results, so that it can be told when it comes twice."""
    if not results:
        return HTTPMessage({"content-length": "0"}, b"")
    attributes = {
        "id": hashlib.sha256(json.dumps(results).encode()).hexdigest(),
        "source": f"/{results[0]['bucket']}",
        "type": DONE,
        "specversion": "1.0",
        "datacontenttype": "application/json",
    }
    message = to_binary_event(CloudEvent(attributes, {"results": results}))
    return HTTPMessage(message.headers | {"content-length": str(len(message.body))}, message.body)


def plain(text: str) -> HTTPMessage:
    """Why something failed.  Only then: of a success, Knative takes no reply but a CloudEvent."""
    return HTTPMessage({"content-type": "text/plain", "content-length": str(len(text.encode()))}, text.encode())


async def read(scope, receive) -> HTTPMessage:
    if scope["method"] != "POST":
        raise Refused(405, "events are sent with POST")
    body, more = b"", True
    while more:
        part = await receive()
        body, more = body + part.get("body", b""), part.get("more_body", False)
        if len(body) > MAX_EVENT:
            raise Refused(413, f"an event has {MAX_EVENT} bytes at most")
    return HTTPMessage(
        {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}, body
    )
