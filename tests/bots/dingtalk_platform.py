"""A simulator of DingTalk: its API, session webhooks, pictures, and the server of Stream mode.

It follows the documents and the official SDK, not a live tenant.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from websockets.asyncio.server import ServerConnection

from serve_app.bots.dingtalk.signature import sign
from serve_app.callbacks import Callback

URL = "https://platform.test"
CLIENT_ID, SECRET = "dingclient", "the-client-secret"
TOPIC = "/v1.0/im/bot/messages/get"


class DingtalkPlatform:
    """One app with its robot. `now` is in seconds since 1970; `url` is where `app` is served."""

    def __init__(self, now: Callable[[], float], url: str = URL) -> None:
        self._now = now
        self.replies: list[dict[str, Any]] = []  # by session webhook
        self.sent: list[tuple[str, dict[str, Any]]] = []  # by the API: last part of the path, body
        self.tokens = 0
        self.valid = ""
        self.codes: list[int] = []  # of the next replies to session webhooks
        self.refusals: list[tuple[int, str]] = []  # status and code of the next calls of the API
        self.endpoint = "wss://platform.test/connect"
        self.opened: list[dict[str, Any]] = []
        self.sockets: list[ServerConnection] = []
        self.tickets: list[str] = []
        self.acks: dict[str, dict[str, Any]] = {}
        self._files: dict[str, tuple[bytes, int, str]] = {}
        self.url = self.hosted_at = url
        self.app = Starlette(
            routes=[
                Route("/v1.0/oauth2/accessToken", self._token, methods=["POST"]),
                Route("/v1.0/gateway/connections/open", self._open, methods=["POST"]),
                Route("/v1.0/robot/messageFiles/download", self._download, methods=["POST"]),
                Route("/v1.0/robot/{kind}/{action}", self._send, methods=["POST"]),
                Route("/robot/sendBySession", self._session, methods=["POST"]),
                Route("/media/{code}", self._media),
            ]
        )

    def host(self, data: bytes, *, status: int = 200, redirect: str = "") -> str:
        """The download code of a picture."""
        code = secrets.token_hex(12)
        self._files[code] = (data, status, redirect)
        return code

    def message(self, user: str, msgtype: str, *, chat: str = "", **fields: Any) -> dict[str, Any]:
        return {
            "msgId": f"msg{secrets.token_hex(8)}",
            "msgtype": msgtype,
            "conversationType": "2" if chat else "1",
            "conversationId": chat or f"cid-{user}",
            "senderId": f"$:LWCP_v1:${user}",
            "senderStaffId": user,
            "isInAtList": bool(chat),
            "robotCode": CLIENT_ID,
            "sessionWebhook": f"{self.url}/robot/sendBySession?session={secrets.token_hex(16)}",
            "sessionWebhookExpiredTime": int((self._now() + 5400) * 1000),
            **fields,
        }

    def text(self, user: str, text: str, **more: Any) -> dict[str, Any]:
        return self.message(user, "text", text={"content": text}, **more)

    def picture(self, user: str, code: str, **more: Any) -> dict[str, Any]:
        return self.message(user, "picture", content={"downloadCode": code, "pictureDownloadCode": "other"}, **more)

    def rich(self, user: str, text: str, *codes: str, **more: Any) -> dict[str, Any]:
        items: list[dict[str, Any]] = [{"text": text}, *({"type": "picture", "downloadCode": code} for code in codes)]
        return self.message(user, "richText", content={"richText": items}, **more)

    def callback(self, message: dict[str, Any], **headers: str) -> Callback:
        timestamp = str(int(self._now() * 1000))
        signed = {"timestamp": timestamp, "sign": sign(timestamp, SECRET), **headers}
        return Callback("dingtalk/bot", "POST", {}, signed, orjson.dumps(message))

    async def connection(self, socket: ServerConnection) -> None:
        """The server of Stream mode."""
        assert socket.request is not None
        self.tickets.append(socket.request.path)
        self.sockets.append(socket)
        async for data in socket:
            ack = orjson.loads(data)
            self.acks[ack["headers"]["messageId"]] = ack

    async def push(self, data: Any, *, type: str = "CALLBACK", topic: str = TOPIC) -> str:
        """Sends a frame; its message id."""
        message_id = secrets.token_hex(8)
        headers = {"appId": "app", "connectionId": "c", "messageId": message_id, "topic": topic, "time": "1"}
        frame = {"specVersion": "1.0", "type": type, "headers": headers, "data": orjson.dumps(data).decode()}
        await self.sockets[-1].send(orjson.dumps(frame).decode())
        return message_id

    async def _token(self, request: Request) -> Response:
        if await request.json() != {"appKey": CLIENT_ID, "appSecret": SECRET}:
            return JSONResponse({"code": "invalidClientIdOrSecret", "message": "x"}, 400)
        self.tokens += 1
        await asyncio.sleep(0.01)
        self.valid = f"token-{self.tokens}"
        return JSONResponse({"accessToken": self.valid, "expireIn": 7200})

    async def _open(self, request: Request) -> Response:
        body = await request.json()
        self.opened.append(body)
        if body["clientSecret"] != SECRET:
            return JSONResponse({"code": "authFailed", "message": "x"}, 401)
        return JSONResponse({"endpoint": self.endpoint, "ticket": "a+ticket/="})

    def _refusal(self, request: Request) -> Response | None:
        if self.refusals:
            status, code = self.refusals.pop(0)
            return JSONResponse({"code": code, "message": "x"}, status)
        if request.headers.get("x-acs-dingtalk-access-token") != self.valid:
            return JSONResponse({"code": "InvalidAuthentication", "message": "x"}, 401)
        return None

    async def _download(self, request: Request) -> Response:
        if (refusal := self._refusal(request)) is not None:
            return refusal
        body = await request.json()
        if body["downloadCode"] not in self._files or body["robotCode"] != CLIENT_ID:
            return JSONResponse({"code": "invalidParameter.downloadCode", "message": "x"}, 400)
        return JSONResponse({"downloadUrl": f"{self.hosted_at}/media/{body['downloadCode']}?sign=secret"})

    async def _send(self, request: Request) -> Response:
        if (refusal := self._refusal(request)) is not None:
            return refusal
        self.sent.append((request.path_params["kind"], await request.json()))
        return JSONResponse({"processQueryKey": "x"})

    async def _session(self, request: Request) -> Response:
        if self.codes and (code := self.codes.pop(0)):
            return JSONResponse({"errcode": code, "errmsg": "x"})
        self.replies.append(await request.json())
        return JSONResponse({"errcode": 0, "errmsg": "ok"})

    async def _media(self, request: Request) -> Response:
        data, status, redirect = self._files[request.path_params["code"]]
        if redirect:
            return RedirectResponse(redirect)
        return Response(data if status == 200 else b"", status)
