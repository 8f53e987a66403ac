# SPDX-License-Identifier: Apache-2.0
"""A model behind gRPC: what one would write who has no manager.  The arrays go in the messages, as bytes.

``python grpc_peer.py SOCKET BOARD MODEL`` serves until its standard input ends.
"""

from __future__ import annotations

import struct
import sys
from concurrent import futures
from pathlib import Path

import grpc
import numpy as np

import fpgahal
from fpgahal.kernels import xgboost

METHOD = "/fpgahal.Peer/Predict"
_OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def serve(socket: str, board: str, model: bytes) -> None:
    """Keep the model on a board, and predict."""
    with fpgahal.open(fpgahal.find(board)) as dev, xgboost.load(dev, model) as loaded:

        def predict(request: bytes, context: grpc.ServicerContext) -> bytes:
            rows, features = struct.unpack_from("<II", request)
            x = np.frombuffer(request, np.float32, rows * features, 8).reshape(rows, features)
            return loaded.predict(x).tobytes()

        method = grpc.unary_unary_rpc_method_handler(predict)
        server = grpc.server(futures.ThreadPoolExecutor(1), options=_OPTIONS)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("fpgahal.Peer", {"Predict": method}),))
        server.add_insecure_port(f"unix:{socket}")
        server.start()
        print("ready", flush=True)
        sys.stdin.read()
        server.stop(None).wait()


class Peer:
    """The client's side; the channel stays open."""

    def __init__(self, socket: str) -> None:
        self._channel = grpc.insecure_channel(f"unix:{socket}", options=_OPTIONS)
        self._predict = self._channel.unary_unary(METHOD)

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Send rows, get predictions."""
        return np.frombuffer(self._predict(struct.pack("<II", *x.shape) + x.tobytes(), timeout=20), np.float32)

    def close(self) -> None:
        """Hang up."""
        self._channel.close()


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], Path(sys.argv[3]).read_bytes())
