"""The app on a real port in the event loop of the test, for clients that need sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn


@asynccontextmanager
async def serve_app_on_free_port(app: Any, http: str = "auto") -> AsyncIterator[str]:
    """Yields the app's URL, without a slash at the end. Connections that are still open at the end are closed."""
    config = uvicorn.Config(app, port=0, http=http, log_level="warning", lifespan="off")
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.force_exit = True
    async with asyncio.timeout(20):
        await server.shutdown()
