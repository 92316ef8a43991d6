"""The `grpcio` server: synchronous, ten threads (its documentation's own number), no generated code."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import msgpack
from work import echo


def call(body: bytes, context: Any) -> bytes:
    """MessagePack in, MessagePack out."""
    return msgpack.packb(echo(msgpack.unpackb(body)))


def main() -> None:
    """Serves until it is told to end."""
    unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    server = grpc.server(ThreadPoolExecutor(10), options=unlimited)
    handler = grpc.unary_unary_rpc_method_handler(call)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("p", {"Echo": handler}),))
    server.add_insecure_port(f"unix:{sys.argv[1]}")
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main()
