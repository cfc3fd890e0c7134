"""WeCom's long connection: subscribe, ping, acknowledged frames, reconnection.

Document 101463. WeCom keeps one connection of a bot: a new subscription ends the earlier one, which must not connect
again.
"""

from __future__ import annotations

import asyncio
import logging
import random
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

SUBSCRIBE: Final = "aibot_subscribe"
PING: Final = "ping"
MESSAGE: Final = "aibot_msg_callback"
EVENT: Final = "aibot_event_callback"
RESPOND: Final = "aibot_respond_msg"
WELCOME: Final = "aibot_respond_welcome_msg"
SEND: Final = "aibot_send_msg"
DISPLACED: Final = "disconnected_event"

PING_S: Final = 30.0
ACK_S: Final = 10.0
CLOSE_S: Final = 1.0  # a stop of the service does not wait longer for WeCom
MAX_MISSED: Final = 2  # pings without an acknowledgement
MAX_FRAME_BYTES: Final = 2**20
RECONNECT_S: Final = (1.0, 60.0)

_log = logging.getLogger("glm.bots.wecom")

OnFrame = Callable[[dict[str, Any]], Awaitable[None]]


class NotSent(Exception):
    """A frame was not acknowledged: there is no connection, WeCom answered with an error code, or not in time."""

    def __init__(self, message: str, code: int = 0, *, is_unknown: bool = False) -> None:
        super().__init__(message)
        self.code = code  # 0: there was no answer
        self.is_unknown = is_unknown  # the frame was sent and the connection is open: WeCom may have got it


class Connection:
    """One bot's connection. `on_frame` gets its messages and events, each in a task of its own."""

    def __init__(
        self,
        url: str,
        bot_id: str,
        secret: str,
        on_frame: OnFrame,
        *,
        ping_s: float = PING_S,
        ack_s: float = ACK_S,
        reconnect_s: tuple[float, float] = RECONNECT_S,
    ) -> None:
        self._url = url
        self._bot_id = bot_id
        self._secret = secret
        self._on_frame = on_frame
        self._ping_s, self._ack_s, self._reconnect_s = ping_s, ack_s, reconnect_s
        self._socket: ClientConnection | None = None
        self._acks: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}  # by request id, with their users
        self._tasks: set[asyncio.Task[None]] = set()
        self.subscribed = asyncio.Event()
        self.displaced = False

    async def run(self) -> None:
        """Keeps the connection until it is displaced or this task is cancelled."""
        pause_s = self._reconnect_s[0]
        while not self.displaced:
            try:
                async with connect(
                    self._url,
                    max_size=MAX_FRAME_BYTES,
                    ping_interval=None,
                    proxy=None,
                    open_timeout=self._ack_s,
                    close_timeout=CLOSE_S,
                ) as socket:
                    await self._serve(socket)
                pause_s = self._reconnect_s[0]
            except NotSent as error:
                if error.code:
                    _log.error("WeCom refused the subscription of the bot: %s", error)
                    pause_s = self._reconnect_s[1]  # a wrong secret does not become right by trying
                else:
                    _log.warning("WeCom did not acknowledge the subscription of the bot: %s", error)
                    pause_s = min(self._reconnect_s[1], pause_s * 2)
            except (OSError, WebSocketException, TimeoutError) as error:
                _log.warning("The long connection to WeCom failed: %s.", type(error).__name__)
                pause_s = min(self._reconnect_s[1], pause_s * 2)
            except Exception:
                _log.exception("The long connection to WeCom failed; it is opened again.")
                pause_s = min(self._reconnect_s[1], pause_s * 2)
            finally:
                self._drop()
            if not self.displaced:
                await asyncio.sleep(pause_s * random.uniform(0.8, 1.2))
        _log.error("Another process uses this bot of WeCom: the long connection was displaced and is not opened again.")

    async def try_subscription(self, seconds: float) -> None:
        """Subscribes and closes the connection. Raises NotSent, OSError, WebSocketException or TimeoutError."""
        async with asyncio.timeout(seconds), connect(self._url, ping_interval=None, proxy=None) as socket:
            serving = asyncio.create_task(self._serve(socket))
            subscribed = asyncio.create_task(self.subscribed.wait())
            await asyncio.wait((serving, subscribed), return_when=asyncio.FIRST_COMPLETED)
            subscribed.cancel()
            if not self.subscribed.is_set():
                await serving
            serving.cancel()

    async def send(self, command: str, body: dict[str, Any], request_id: str = "") -> None:
        """Sends a frame and waits for its acknowledgement; frames of one request id are sent one after the other.

        Raises NotSent.
        """
        request_id = request_id or f"{command}_{uuid.uuid4().hex}"
        lock, users = self._locks.get(request_id, (asyncio.Lock(), 0))
        self._locks[request_id] = lock, users + 1
        try:
            async with lock:
                await self._send(command, request_id, body)
        finally:
            lock, users = self._locks.pop(request_id)
            if users > 1:
                self._locks[request_id] = lock, users - 1

    async def _send(self, command: str, request_id: str, body: dict[str, Any] | None) -> None:
        socket = self._socket
        if socket is None:
            raise NotSent("There is no connection to WeCom.")
        frame: dict[str, Any] = {"cmd": command, "headers": {"req_id": request_id}}
        if body is not None:
            frame["body"] = body
        ack = self._acks[request_id] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(self._ack_s):
                await socket.send(orjson.dumps(frame).decode())
                answer = await ack
        except TimeoutError as error:
            raise NotSent("WeCom did not acknowledge a frame in time.", is_unknown=True) from error
        except ConnectionClosed as error:
            raise NotSent("The connection to WeCom was closed.") from error
        finally:
            self._acks.pop(request_id, None)
        if code := answer.get("errcode", 0):
            raise NotSent(f"WeCom refused a frame {command} with error code {code}.", code)

    async def _serve(self, socket: ClientConnection) -> None:
        self._socket = socket
        reading = asyncio.create_task(self._read(socket))
        try:
            await self._send(
                SUBSCRIBE, f"{SUBSCRIBE}_{uuid.uuid4().hex}", {"bot_id": self._bot_id, "secret": self._secret}
            )
            self.subscribed.set()
            _log.info("The long connection to WeCom is subscribed.")
            pinging = asyncio.create_task(self._ping(socket))
            try:
                await reading
            finally:
                pinging.cancel()
        finally:
            reading.cancel()
            with suppress(asyncio.CancelledError, ConnectionClosed):
                await reading

    async def _read(self, socket: ClientConnection) -> None:
        with suppress(ConnectionClosed):
            async for data in socket:
                self._receive(data)
                if self.displaced:
                    return

    def _receive(self, data: str | bytes) -> None:
        try:
            frame = orjson.loads(data)
            command, request_id = frame.get("cmd"), frame["headers"]["req_id"]
            if not isinstance(request_id, str):
                raise TypeError
            is_displaced = command == EVENT and frame["body"]["event"]["eventtype"] == DISPLACED
        except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError):
            _log.warning("WeCom sent a frame of %d characters that is not readable.", len(data))
            return
        if is_displaced:
            self.displaced = True
        elif command in (MESSAGE, EVENT):
            task = asyncio.create_task(self._handle(frame))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif (ack := self._acks.get(request_id)) is not None and not ack.done():
            ack.set_result(frame)

    async def _handle(self, frame: dict[str, Any]) -> None:
        try:
            await self._on_frame(frame)
        except Exception:
            _log.exception("A frame of WeCom could not be handled.")

    async def _ping(self, socket: ClientConnection) -> None:
        missed = 0
        while missed < MAX_MISSED:
            await asyncio.sleep(self._ping_s)
            try:
                await self._send(PING, f"{PING}_{uuid.uuid4().hex}", None)
                missed = 0
            except NotSent:
                missed += 1
        _log.warning("WeCom did not acknowledge %d pings; the connection is opened again.", missed)
        await socket.close()

    def _drop(self) -> None:
        self._socket = None
        self.subscribed.clear()
        for ack in self._acks.values():
            if not ack.done():
                ack.set_exception(NotSent("The connection to WeCom was lost."))
