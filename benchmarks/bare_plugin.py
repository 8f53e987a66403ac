# SPDX-License-Identifier: Apache-2.0
"""A device plugin that says a list and nothing else: what Python, asyncio, gRPC and protobuf take by themselves.

``python bare_plugin.py KUBELET_FOLDER DEVICEPLUGIN_PB2_FILE RESOURCE``
"""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
from grpc import aio

folder, messages, resource = Path(sys.argv[1], "device-plugins"), sys.argv[2], sys.argv[3]
spec = importlib.util.spec_from_file_location("deviceplugin_pb2", messages)  # its package would be imported with it
assert spec is not None
assert spec.loader is not None
pb: Any = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pb)


async def options(_request: Any, _context: Any) -> Any:
    """Answer GetDevicePluginOptions."""
    return pb.DevicePluginOptions()


async def watch(_request: Any, _context: Any) -> AsyncIterator[Any]:
    """Answer ListAndWatch."""
    yield pb.ListAndWatchResponse(devices=[pb.Device(ID=str(n), health="Healthy") for n in range(2)])
    await asyncio.Event().wait()


async def main() -> None:
    """Serve, register, and wait to be killed."""
    server = aio.server()
    parse = pb.Empty.FromString
    handlers = {
        "GetDevicePluginOptions": grpc.unary_unary_rpc_method_handler(
            options, parse, pb.DevicePluginOptions.SerializeToString
        ),
        "ListAndWatch": grpc.unary_stream_rpc_method_handler(watch, parse, pb.ListAndWatchResponse.SerializeToString),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("v1beta1.DevicePlugin", handlers),))
    server.add_insecure_port(f"unix:{folder}/bare.sock")
    await server.start()
    async with aio.insecure_channel(f"unix:{folder}/kubelet.sock") as channel:
        register = channel.unary_unary("/v1beta1.Registration/Register", pb.RegisterRequest.SerializeToString, parse)
        await register(pb.RegisterRequest(version="v1beta1", endpoint="bare.sock", resource_name=resource))
        await server.wait_for_termination()


asyncio.run(main())
