"""The bare ASGI server: uvicorn with uvloop and httptools, one process per worker, no framework."""

from __future__ import annotations

import sys
from typing import Any

import msgpack
import uvicorn
from work import echo


async def app(scope: Any, receive: Any, send: Any) -> None:
    """MessagePack in, MessagePack out."""
    parts = []
    more = True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    body = msgpack.packb(echo(msgpack.unpackb(b"".join(parts))))
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


if __name__ == "__main__":
    uvicorn.run(
        app,
        uds=sys.argv[1],
        loop="uvloop",
        http="httptools",
        lifespan="off",
        access_log=False,
        log_level="error",
        server_header=False,
        date_header=False,
    )
