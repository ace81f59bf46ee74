"""The control: a server that does nothing but pass time, so that what the machine adds to the tail can be told apart.

``/0`` is the least that Uvicorn can do; ``/250`` computes for 250 us of processor time first, as a lookup does. A
server that is as busy as the service meets the machine's pauses as often; one that answers much faster hides them.

``python -m benchmarks.service_load.control PORT``
"""

from __future__ import annotations

import sys
import time
from typing import Any

import uvicorn

from tuner.service.middleware.one_packet import JoiningProtocol


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Computes for as many microseconds as the path says, and answers."""
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    until = time.thread_time_ns() + 1000 * int(scope["path"].strip("/"))
    while time.thread_time_ns() < until:
        pass
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"3")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok\n"})


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), http=JoiningProtocol, access_log=False, log_level="warning")
