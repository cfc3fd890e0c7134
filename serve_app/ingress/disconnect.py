"""Cancels the work for a client that closed its connection, and all work when the service has to stop.

Plain ASGI servers send an `http.disconnect` message; Ray Serve cancels the request's task. In both cases the work is
cancelled and its generators are closed, down to the engine, which frees the slot. docs/architecture.md ("Cancellation")
lists the files of this chain.

A stop waits for running answers first; `stop_running_work` is called shortly before Ray Serve kills the process, so
that clients get an error and not a connection that breaks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar
from weakref import WeakSet

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from serve_app.errors import EngineFailed
from serve_app.ingress.request_log import RequestLog

T = TypeVar("T")

_running: set[asyncio.Task[Any]] = set()  # of this process
_stopped: WeakSet[asyncio.Task[Any]] = WeakSet()


def stop_running_work() -> None:
    """Cancels what runs in `run_until_disconnect`; may be called from any thread."""
    for task in list(_running):
        _stopped.add(task)
        task.get_loop().call_soon_threadsafe(task.cancel)


def is_stopped() -> bool:
    """Whether the current task was cancelled by `stop_running_work`."""
    return asyncio.current_task() in _stopped


async def run_until_disconnect(receive: Receive, request_log: RequestLog, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`; raises ClientDisconnect if the client closes its connection first.

    The request's body must have been read: the only message after it can be the disconnect.
    """
    working = asyncio.create_task(work)
    _running.add(working)
    working.add_done_callback(_running.discard)
    watching = asyncio.create_task(_disconnect(receive))
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if working.cancelled():  # not by us: the replica's work was stopped
            raise EngineFailed("The work on this answer was stopped.")
        if working.done():
            return working.result()
        raise ClientDisconnect
    except (ClientDisconnect, asyncio.CancelledError):
        request_log.disconnected = True
        raise
    finally:
        watching.cancel()
        working.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
