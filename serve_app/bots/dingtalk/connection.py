"""DingTalk's Stream mode: opens a connection, acknowledges frames, answers pings, connects again.

Source: the official `dingtalk-stream` SDK. A frame is JSON with `type`, `headers` and `data`, which is JSON in a text;
its acknowledgement has the same `messageId`. A frame without one is sent again.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final
from urllib.parse import quote_plus

import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from serve_app.bots.dingtalk.api import TOPIC, DingtalkApi, DingtalkError

OK: Final = 200
UNKNOWN_TOPIC: Final = 404
FAILED: Final = 500
PING_S: Final = 60.0
OPEN_S: Final = 15.0
LAST_ACKS_S: Final = 5.0  # for frames in progress, after DingTalk asked to disconnect
MAX_FRAME_BYTES: Final = 2**20
RECONNECT_S: Final = (1.0, 60.0)

_log = logging.getLogger("glm.bots.dingtalk")


class StreamConnection:
    """One connection of the robot. `on_message` gets the data of each message, in a task of its own."""

    def __init__(
        self,
        api: DingtalkApi,
        on_message: Callable[[Any], Awaitable[None]],
        *,
        ping_s: float = PING_S,
        reconnect_s: tuple[float, float] = RECONNECT_S,
    ) -> None:
        self._api = api
        self._on_message = on_message
        self._ping_s, self._reconnect_s = ping_s, reconnect_s
        self._tasks: set[asyncio.Task[None]] = set()
        self.connected = asyncio.Event()

    async def run(self) -> None:
        """Keeps a connection until this task is cancelled."""
        pause_s = self._reconnect_s[0]
        while True:
            try:
                endpoint, ticket = await self._api.open_connection()
                async with connect(
                    f"{endpoint}?ticket={quote_plus(ticket)}",
                    max_size=MAX_FRAME_BYTES,
                    ping_interval=self._ping_s,
                    ping_timeout=self._ping_s,
                    proxy=None,
                    open_timeout=OPEN_S,
                ) as socket:
                    self.connected.set()
                    pause_s = self._reconnect_s[0]
                    _log.info("The Stream connection to DingTalk is open.")
                    if await self._read(socket):
                        continue  # DingTalk moves the connection to another server
            except DingtalkError as error:
                _log.error("DingTalk did not open a Stream connection: %s", error)
                pause_s = self._reconnect_s[1] if 400 <= error.status < 429 else min(self._reconnect_s[1], pause_s * 2)
            except (OSError, WebSocketException, TimeoutError) as error:
                _log.warning("The Stream connection to DingTalk failed: %s.", type(error).__name__)
                pause_s = min(self._reconnect_s[1], pause_s * 2)
            except Exception:
                _log.exception("The Stream connection to DingTalk failed; it is opened again.")
                pause_s = min(self._reconnect_s[1], pause_s * 2)
            finally:
                self.connected.clear()
            await asyncio.sleep(pause_s * random.uniform(0.8, 1.2))

    async def _read(self, socket: ClientConnection) -> bool:
        """Handles frames until the connection ends; whether DingTalk asked to disconnect."""
        with suppress(ConnectionClosed):
            async for data in socket:
                frame = _frame(data)
                if frame is None:
                    _log.warning("DingTalk sent a frame of %d characters that is not readable.", len(data))
                elif frame["type"] == "SYSTEM" and frame["headers"].get("topic") == "disconnect":
                    if self._tasks:
                        await asyncio.wait(self._tasks, timeout=LAST_ACKS_S)
                    return True
                else:
                    task = asyncio.create_task(self._handle(socket, frame))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
        return False

    async def _handle(self, socket: ClientConnection, frame: dict[str, Any]) -> None:
        headers, code, data = frame["headers"], OK, '{"response":"OK"}'
        if frame["type"] == "SYSTEM":
            data = str(frame.get("data") or "{}")  # a ping is answered with its own data
        elif frame["type"] == "CALLBACK" and headers.get("topic") == TOPIC:
            try:
                await self._on_message(orjson.loads(frame.get("data") or "null"))
            except orjson.JSONDecodeError:
                _log.warning("A message of DingTalk is not JSON.")
            except Exception:
                _log.exception("A frame of DingTalk could not be handled.")
                code = FAILED  # it is sent again
        else:
            code = UNKNOWN_TOPIC
        with suppress(ConnectionClosed):
            await socket.send(orjson.dumps(acknowledgement(headers, code, data)).decode())


def acknowledgement(headers: dict[str, Any], code: int, data: str) -> dict[str, Any]:
    """The frame that answers a frame with these headers."""
    kept = {"messageId": headers.get("messageId", ""), "contentType": "application/json"}
    return {"code": code, "headers": kept, "message": "OK" if code == OK else "failed", "data": data}


def _frame(data: str | bytes) -> dict[str, Any] | None:
    try:
        frame = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(frame, dict) or not isinstance(frame.get("headers"), dict) or "type" not in frame:
        return None
    return frame
