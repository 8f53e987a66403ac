# SPDX-License-Identifier: Apache-2.0
"""gRPC over unix sockets, from protobuf's own descriptions of the services: no generated stubs.

A servant is an object with a coroutine (or an asynchronous generator, where the answer is a stream) for each
method, of the method's name: ``async def Allocate(self, request, context)``.
"""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass

MAX_SOCKET_PATH = 107  # bytes: sockaddr_un's 108 less the final NUL


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


def check_cancelled() -> None:
    """Raise CancelledError if this task was cancelled; call it where a call's error is caught.

    A call that is cancelled while the other side dies ends with its own error, and the cancellation is lost.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
