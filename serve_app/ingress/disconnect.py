"""Stops the work for a caller who went away: at once, streaming or not.

A server tells it in one of two ways: plain ASGI by an `http.disconnect` message, Ray Serve by
cancelling the request's task. Both end in the cancellation of the work, whose generators close on
the way out; that is what frees the engine's slot.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from serve_app.errors import EngineFailed
from serve_app.ingress.request_log import Record

T = TypeVar("T")


async def while_present(receive: Receive, record: Record, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`; raises ClientDisconnect if the caller leaves before.

    The request's body must have been read: what arrives after it can only be the disconnect.
    """
    working = asyncio.create_task(work)
    watching = asyncio.create_task(_disconnect(receive))
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if working.cancelled():  # not by us: what it waited for was stopped
            raise EngineFailed("The work on this answer was stopped.")
        if working.done():
            return working.result()
        raise ClientDisconnect
    except (ClientDisconnect, asyncio.CancelledError):
        record.gone = True
        raise
    finally:
        watching.cancel()
        working.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
