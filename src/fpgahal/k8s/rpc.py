# SPDX-License-Identifier: Apache-2.0
"""gRPC over unix sockets, from protobuf's own descriptions of the services: no generated stubs.

A servant is an object with a coroutine (or an asynchronous generator, where the answer is a stream) for each
method, of the method's name: ``async def Allocate(self, request, context)``.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass

from fpgahal import FpgaError

MAX_SOCKET_PATH = 107  # bytes: sockaddr_un's 108 less the final NUL

Identity: TypeAlias = tuple[int, int]  # inode, and ctime in ns, because a new socket may get the old one's inode


class ServerError(FpgaError, RuntimeError):
    """A server can't be started or stopped as it is."""


def handlers(service: ServiceDescriptor, servant: Any) -> grpc.GenericRpcHandler[Any, Any]:
    """Give what ``server.add_generic_rpc_handlers`` takes, so that a servant serves a service."""
    methods = {}
    for method in service.methods:
        make = grpc.unary_stream_rpc_method_handler if method.server_streaming else grpc.unary_unary_rpc_method_handler
        methods[method.name] = make(
            getattr(servant, method.name),
            request_deserializer=GetMessageClass(method.input_type).FromString,
            response_serializer=GetMessageClass(method.output_type).SerializeToString,
        )
    return grpc.method_handlers_generic_handler(service.full_name, methods)


def call(channel: Any, method: MethodDescriptor) -> Any:
    """Give the callable of a method on a channel, asynchronous or not: ``await call(channel, method)(request)``."""
    make = channel.unary_stream if method.server_streaming else channel.unary_unary
    return make(
        f"/{method.containing_service.full_name}/{method.name}",
        request_serializer=GetMessageClass(method.input_type).SerializeToString,
        response_deserializer=GetMessageClass(method.output_type).FromString,
    )


def channel(path: str) -> grpc.aio.Channel:
    """Open a connection to a unix socket; use it in ``async with``.

    gRPC's default authority would be the path, percent-encoded, which strict HTTP/2 servers refuse
    (grpc/grpc#38142).
    """
    return grpc.aio.insecure_channel(f"unix:{path}", options=[("grpc.default_authority", "localhost")])


def identity(path: Path, *, follow_symlinks: bool = False) -> Identity | None:
    """Tell a socket from others that have or had its name; None if there is none."""
    try:
        found = path.stat(follow_symlinks=follow_symlinks)
    except OSError:
        return None
    return found.st_ino, found.st_ctime_ns


async def listen(
    path: Path, aside: Path, servants: Sequence[grpc.GenericRpcHandler[Any, Any]]
) -> tuple[grpc.aio.Server, Identity | None]:
    """Start a server on a unix socket; give it, and what tells its socket from others.

    The socket is made under another name and renamed: gRPC would remove whatever has the name when it binds and again
    when it stops.

    Raises
    ------
    ServerError
        No socket can be made there.
    OSError
        It can't be renamed.
    """
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(servants)
    try:
        server.add_insecure_port(f"unix:{aside}")
    except RuntimeError as error:  # gRPC does not tell why
        raise ServerError(f"No socket can be made in {path.parent}: {error}.") from None
    try:
        await server.start()
        os.chmod(aside, 0o600)
        os.rename(aside, path)
    except BaseException:  # also cancelled: nobody else knows this server
        await server.stop(None)
        raise
    return server, identity(path)


def check_cancelled() -> None:
    """Raise CancelledError if this task was cancelled: a loop around gRPC calls would never end otherwise.

    A cancellation that meets the end of what is awaited may be lost: a call whose other side dies ends with its own
    error, and before Python 3.12 asyncio.wait_for, with which a server stops, returns as if nothing had been.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
