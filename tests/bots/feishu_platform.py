"""A simulator of Feishu: signed and encrypted events, its API of messages, cards and files.

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

from serve_app.bots.feishu.crypto import Crypto
from serve_app.callbacks import Callback

URL = "https://platform.test"
APP_ID, SECRET, ENCRYPT_KEY, TOKEN = "cli_app", "the-app-secret", "the-encrypt-key", "the-verification-token"
BOT = "ou_bot"


class FeishuPlatform:
    """One app with its bot. `now` is in seconds since 1970."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.crypto = Crypto(ENCRYPT_KEY)
        self.cards: dict[str, list[str]] = {}  # all texts of each message of the bot
        self.replied_to: list[str] = []
        self.uuids: list[str] = []
        self.tokens = 0
        self.valid = ""
        self.refusals: list[tuple[int, int]] = []  # status and code of the next calls
        self.messages: dict[str, dict[str, Any]] = {}
        self._files: dict[str, tuple[bytes, int, str]] = {}
        self.app = Starlette(
            routes=[
                Route("/open-apis/auth/v3/tenant_access_token/internal", self._token, methods=["POST"]),
                Route("/open-apis/im/v1/messages/{id}/reply", self._reply, methods=["POST"]),
                Route("/open-apis/im/v1/messages/{id}/resources/{key}", self._resource),
                Route("/open-apis/im/v1/messages/{id}", self._message, methods=["GET", "PATCH"]),
            ]
        )

    @property
    def answers(self) -> list[str]:
        """The last text of each message of the bot."""
        return [texts[-1] for texts in self.cards.values()]

    def host(self, data: bytes, *, status: int = 200, redirect: str = "") -> str:
        """The key of a picture or file."""
        key = f"img_v3_{secrets.token_hex(12)}"
        self._files[key] = (data, status, redirect)
        return key

    def event(
        self, user: str, kind: str, content: dict[str, Any], *, chat: str = "", age_s: float = 0, **message: Any
    ) -> dict[str, Any]:
        return {
            "schema": "2.0",
            "header": {
                "event_id": secrets.token_hex(12),
                "event_type": "im.message.receive_v1",
                "token": TOKEN,
                "app_id": APP_ID,
                "tenant_key": "tenant",
            },
            "event": {
                "sender": {"sender_id": {"open_id": f"ou_{user}"}, "sender_type": "user"},
                "message": {
                    "message_id": f"om_{secrets.token_hex(8)}",
                    "create_time": str(int((self._now() - age_s) * 1000)),
                    "chat_id": chat or f"oc_{user}",
                    "chat_type": "group" if chat else "p2p",
                    "message_type": kind,
                    "content": orjson.dumps(content).decode(),
                    **message,
                },
            },
        }

    def text(self, user: str, text: str, **more: Any) -> dict[str, Any]:
        return self.event(user, "text", {"text": text}, **more)

    def image(self, user: str, key: str, **more: Any) -> dict[str, Any]:
        return self.event(user, "image", {"image_key": key}, **more)

    def post(self, user: str, text: str, *keys: str, **more: Any) -> dict[str, Any]:
        lines: list[list[dict[str, Any]]] = [[{"tag": "text", "text": text, "style": []}]]
        lines += [[{"tag": "img", "image_key": key}] for key in keys]
        return self.event(user, "post", {"title": "", "content": lines}, **more)

    @staticmethod
    def mention(number: int, name: str, open_id: str) -> dict[str, Any]:
        return {"key": f"@_user_{number}", "id": {"open_id": open_id}, "name": name}

    def callback(self, event: Any, *, at: float | None = None, **headers: str) -> Callback:
        body = orjson.dumps({"encrypt": self.crypto.encrypt(orjson.dumps(event))})
        timestamp, nonce = str(int(self._now() if at is None else at)), secrets.token_hex(8)
        signed = {
            "x-lark-request-timestamp": timestamp,
            "x-lark-request-nonce": nonce,
            "x-lark-signature": self.crypto.signature(timestamp, nonce, body),
        }
        return Callback("feishu/bot", "POST", {}, {**signed, **headers}, body)

    async def _token(self, request: Request) -> Response:
        if await request.json() != {"app_id": APP_ID, "app_secret": SECRET}:
            return JSONResponse({"code": 10014, "msg": "x"})
        self.tokens += 1
        await asyncio.sleep(0.01)
        self.valid = f"t-{self.tokens}"
        return JSONResponse({"code": 0, "msg": "ok", "tenant_access_token": self.valid, "expire": 7200})

    def _refusal(self, request: Request) -> Response | None:
        if self.refusals:
            status, code = self.refusals.pop(0)
            return JSONResponse({"code": code, "msg": "x"}, status)
        if request.headers.get("authorization") != f"Bearer {self.valid}":
            return JSONResponse({"code": 99991663, "msg": "x"}, 400)
        return None

    async def _reply(self, request: Request) -> Response:
        if (refusal := self._refusal(request)) is not None:
            return refusal
        body = await request.json()
        new_id = f"om_{secrets.token_hex(8)}"
        self.replied_to.append(request.path_params["id"])
        self.uuids.append(body["uuid"])
        self.cards[new_id] = [card_text(body["content"])]
        return JSONResponse({"code": 0, "data": {"message_id": new_id}})

    async def _message(self, request: Request) -> Response:
        if (refusal := self._refusal(request)) is not None:
            return refusal
        if request.method == "PATCH":
            self.cards[request.path_params["id"]].append(card_text((await request.json())["content"]))
            return JSONResponse({"code": 0, "data": {}})
        message = self.messages.get(request.path_params["id"])
        if message is None:
            return JSONResponse({"code": 230110, "msg": "x"}, 400)
        return JSONResponse({"code": 0, "data": {"items": [message]}})

    async def _resource(self, request: Request) -> Response:
        if (refusal := self._refusal(request)) is not None:
            return refusal
        data, status, redirect = self._files.get(request.path_params["key"], (b"", 400, ""))
        if redirect:
            return RedirectResponse(redirect)
        if status != 200:
            return JSONResponse({"code": 234003, "msg": "x"}, status)
        return Response(data, media_type="image/png")


def card_text(content: str) -> str:
    """The Markdown of a card that may be updated and is below Feishu's limit."""
    assert len(content.encode()) <= 30_000
    card = orjson.loads(content)
    assert card["config"]["update_multi"] is True
    (element,) = card["body"]["elements"]
    assert element["tag"] == "markdown"
    text: str = element["content"]
    assert text
    return text
