# SPDX-License-Identifier: Apache-2.0
"""The little of the Kubernetes API that is used here, over aiohttp: list, watch, create, replace, patch, delete."""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp

from fpgahal import FpgaError

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TIMEOUT = 30.0  # seconds, for a request that is no watch


class ApiError(FpgaError, OSError):
    """The API server refused a request; `code` is the HTTP status."""


class Api:
    """A connection to an API server; use it in ``async with``.

    Parameters
    ----------
    url : str
        ``https://10.96.0.1:443``; ``http://127.0.0.1:8001`` for ``kubectl proxy``.
    token : path, optional
        File with a bearer token, read for each request, because kubelet replaces it.
    ca : path, optional
        File with the certificates that the server's is checked against.
    """

    def __init__(self, url: str, token: Path | None = None, ca: Path | None = None) -> None:
        self.url = url.rstrip("/")
        self._token = token
        self._tls = ssl.create_default_context(cafile=ca) if ca is not None else True
        self._session: aiohttp.ClientSession | None = None

    @classmethod
    def of_pod(cls, environ: Mapping[str, str] = os.environ, account: Path = SERVICE_ACCOUNT) -> Api:
        """Connect as the pod that this runs in.

        Raises
        ------
        ApiError
            This is no pod, or it has no service account.
        """
        host, port = environ.get("KUBERNETES_SERVICE_HOST"), environ.get("KUBERNETES_SERVICE_PORT", "443")
        if not host:
            raise ApiError(
                "This is no pod: KUBERNETES_SERVICE_HOST is not set.",
                hint="Name the server: --api-server http://127.0.0.1:8001, with `kubectl proxy` running.",
            )
        token, ca = account / "token", account / "ca.crt"
        for path in (token, ca):
            if not path.is_file():
                raise ApiError(f"There is no {path}.", hint="Does the pod have automountServiceAccountToken: true?")
        return cls(f"https://{f'[{host}]' if ':' in host else host}:{port}", token, ca)

    async def __aenter__(self) -> Api:
        self._session = aiohttp.ClientSession()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def get(self, path: str) -> dict[str, Any]:
        """Read an object or a list.

        Raises
        ------
        ApiError
            The server refused, or answered with something else than a JSON object.
        aiohttp.ClientError, TimeoutError
            It did not answer.
        """
        async with self._request("GET", path, timeout=aiohttp.ClientTimeout(TIMEOUT)) as response:
            return await _document(response)

    async def merge(self, path: str, change: Mapping[str, Any]) -> dict[str, Any]:
        """Change an object with a merge patch (RFC 7396); raises as `get` does."""
        headers = {"Content-Type": "application/merge-patch+json"}
        async with self._request(
            "PATCH", path, data=json.dumps(change), headers=headers, timeout=aiohttp.ClientTimeout(TIMEOUT)
        ) as response:
            return await _document(response)

    async def create(self, path: str, document: Mapping[str, Any]) -> dict[str, Any]:
        """Make an object in the list at `path`, and give it as the server has it; raises as `get` does."""
        return await self._send("POST", path, document)

    async def replace(self, path: str, document: Mapping[str, Any]) -> dict[str, Any]:
        """Write a whole object; its metadata.resourceVersion must be the server's.  Raises as `get` does."""
        return await self._send("PUT", path, document)

    async def delete(self, path: str) -> None:
        """Delete an object; raises as `get` does."""
        async with self._request("DELETE", path, timeout=aiohttp.ClientTimeout(TIMEOUT)) as response:
            await _document(response)

    async def _send(self, method: str, path: str, document: Mapping[str, Any]) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        timeout = aiohttp.ClientTimeout(TIMEOUT)
        async with self._request(method, path, data=json.dumps(document), headers=headers, timeout=timeout) as response:
            return await _document(response)

    async def watch(self, path: str, version: str, seconds: int) -> AsyncIterator[dict[str, Any]]:
        """Yield the events of a list after a resource version, until the server ends the stream.

        Parameters
        ----------
        path : str
        version : str
            Where to begin: the list's, or the last event's.
        seconds : int
            After which the server ends the stream.  One that says nothing for longer is given up.

        Raises
        ------
        ApiError
            The server refused, at once or in the stream; `code` 410 means that the version is too old.
        aiohttp.ClientError, TimeoutError
            The connection broke.
        """
        params = {"watch": "1", "resourceVersion": version, "allowWatchBookmarks": "true", "timeoutSeconds": seconds}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=TIMEOUT, sock_read=seconds + TIMEOUT)
        async with self._request("GET", path, params=params, timeout=timeout) as response:
            if response.status != 200:
                await _document(response)
            rest = b""
            try:
                async for chunk in response.content.iter_any():  # by line, but aiohttp bounds a line's length
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        if line.strip():
                            yield _event(line)
            finally:
                if response.connection is not None and response.connection.transport is not None:
                    response.connection.transport.abort()  # left in the middle: nothing to say goodbye to

    def _request(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, **options: Any
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        if self._session is None:
            raise ApiError("This connection is not open.", hint="Use it in `async with`.")
        sent = {"Accept": "application/json", **(headers or {})}
        if self._token is not None:
            sent["Authorization"] = f"Bearer {self._token.read_text().strip()}"
        return self._session.request(method, self.url + path, headers=sent, ssl=self._tls, **options)


async def _document(response: aiohttp.ClientResponse) -> dict[str, Any]:
    body = await response.read()
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    if response.status >= 400:
        reason = document.get("message") if isinstance(document, dict) else None
        raise ApiError(
            f"{response.method} {response.url.path}: {response.status} {reason or response.reason}.",
            code=response.status,
        )
    if not isinstance(document, dict):
        raise ApiError(f"{response.method} {response.url.path}: the answer is no JSON object.", code=response.status)
    return document


def _event(line: bytes) -> dict[str, Any]:
    try:
        event = json.loads(line)
        kind, found = event["type"], event["object"]
        sound = isinstance(found["code" if kind == "ERROR" else "metadata"], int if kind == "ERROR" else dict)
    except (ValueError, TypeError, KeyError):
        sound = False
    if not sound:
        raise ApiError(f"A watch gave what is no event: {line[:80]!r}.")
    if kind == "ERROR":
        raise ApiError(f"The watch ended: {found.get('message') or found['code']}.", code=found["code"])
    return {"type": kind, "object": found}
