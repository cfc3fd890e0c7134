"""A simulator of WeCom: sends signed callbacks, polls streams, hosts encrypted pictures.

It follows the documents, not a live tenant: what these leave open may differ. Tests and `glm-serve wecom simulate`
use it.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from serve_app.bots.wecom.crypto import Crypto, encrypt_file
from serve_app.callbacks import Callback, CallbackReply

RECEIVES: Final = "wecom/bot"


@dataclass(frozen=True, slots=True)
class HostedFile:
    """A file of a message, encrypted."""

    data: bytes
    status: int = 200
    redirect: str = ""


class UnexpectedReply(Exception):
    """The service's reply is not one that WeCom accepts."""


class SimulatedPlatform:
    """One AI bot of the platform. `deliver` sends a callback to the service; `url` is where `app` is served."""

    def __init__(
        self,
        crypto: Crypto,
        deliver: Callable[[Callback], Awaitable[CallbackReply]],
        *,
        url: str,
        now: Callable[[], float],
        bot_id: str = "simulated-bot",
    ) -> None:
        self.crypto = crypto
        self.url = url
        self.bot_id = bot_id
        self.sent: list[dict[str, Any]] = []  # bodies that came to a response_url
        self.deliver = deliver
        self._now = now
        self._files: dict[str, HostedFile] = {}
        self._used: set[str] = set()  # response codes
        self.app = Starlette(
            routes=[
                Route("/files/{name}", self._file),
                Route("/cgi-bin/aibot/response", self._response, methods=["POST"]),
            ]
        )

    def host(self, data: bytes, *, key: bytes | None = None, status: int = 200, redirect: str = "") -> str:
        """The address of a picture that is encrypted with this key, or the callback's."""
        name = secrets.token_hex(8)
        self._files[name] = HostedFile(encrypt_file(data, key or self.crypto.key), status, redirect)
        return f"{self.url}/files/{name}?sign={secrets.token_hex(8)}"

    def message(self, user: str, *, chat: str = "", id: str = "", **fields: Any) -> dict[str, Any]:
        """A message without its content: `msgtype` and the field of that name are in `fields`."""
        place = {"chattype": "group", "chatid": chat} if chat else {"chattype": "single"}
        return {
            "msgid": id or secrets.token_hex(12),
            "aibotid": self.bot_id,
            **place,
            "from": {"userid": user},
            "response_url": f"{self.url}/cgi-bin/aibot/response?response_code={secrets.token_hex(16)}",
            **fields,
        }

    def text(self, user: str, text: str, **more: Any) -> dict[str, Any]:
        return self.message(user, msgtype="text", text={"content": text}, **more)

    def image(self, user: str, url: str, **more: Any) -> dict[str, Any]:
        return self.message(user, msgtype="image", image={"url": url}, **more)

    def mixed(self, user: str, text: str, *urls: str, **more: Any) -> dict[str, Any]:
        items: list[dict[str, Any]] = [{"msgtype": "text", "text": {"content": text}}]
        items += [{"msgtype": "image", "image": {"url": url}} for url in urls]
        return self.message(user, msgtype="mixed", mixed={"msg_item": items}, **more)

    async def verify_url(self) -> bytes:
        """What the service answers to the GET of a new callback address."""
        encrypted = self.crypto.encrypt(secrets.token_hex(10).encode())
        reply = await self.deliver(Callback(RECEIVES, "GET", {**self.query(encrypted), "echostr": encrypted}))
        _require(reply.status == 200, f"URL verification got status {reply.status}.")
        _require(reply.body == self.crypto.decrypt(encrypted), "URL verification got another text.")
        return reply.body

    async def post(self, plain: dict[str, Any], *, timestamp: int | None = None) -> dict[str, Any] | None:
        """The decrypted reply to a callback; None if it is empty. Raises UnexpectedReply."""
        encrypted = self.crypto.encrypt(orjson.dumps(plain))
        query = self.query(encrypted, timestamp)
        reply = await self.deliver(Callback(RECEIVES, "POST", query, {}, orjson.dumps({"encrypt": encrypted})))
        _require(reply.status == 200, f"The callback got status {reply.status}.")
        if not reply.body:
            return None
        envelope = orjson.loads(reply.body)
        _require(envelope["nonce"] == query["nonce"], "The reply has another nonce.")
        signed = str(envelope["timestamp"]), envelope["nonce"], envelope["encrypt"]
        self.crypto.verify(envelope["msgsignature"], *signed)
        plain_reply: dict[str, Any] = orjson.loads(self.crypto.decrypt(envelope["encrypt"]))
        return plain_reply

    async def send(self, message: dict[str, Any]) -> dict[str, Any]:
        """The stream of the first reply: id, content, finish."""
        reply = await self.post(message)
        _require(reply is not None, "The message got no reply, so WeCom would show nothing.")
        assert reply is not None
        _require(reply["msgtype"] == "stream", f"The reply is of type {reply['msgtype']}.")
        return _checked_stream(reply["stream"])

    async def poll(self, stream_id: str, user: str = "user") -> dict[str, Any]:
        """The stream now."""
        return await self.send(self.message(user, msgtype="stream", stream={"id": stream_id}))

    async def follow(self, stream: dict[str, Any], *, interval_s: float = 0.5, limit_s: float = 360.0) -> str:
        """Polls until the stream is finished; its content."""
        ends_at = self._now() + limit_s
        while not stream["finish"]:
            _require(self._now() < ends_at, f"The stream is not finished after {limit_s:g} seconds.")
            await asyncio.sleep(interval_s)
            stream = await self.poll(stream["id"])
        content: str = stream["content"]
        return content

    def query(self, encrypted: str, timestamp: int | None = None) -> dict[str, str]:
        at, nonce = str(int(self._now()) if timestamp is None else timestamp), str(secrets.randbelow(10**10))
        return {"msg_signature": self.crypto.signature(at, nonce, encrypted), "timestamp": at, "nonce": nonce}

    async def _file(self, request: Request) -> Response:
        file = self._files.get(request.path_params["name"])
        if file is None:
            return Response(status_code=404)
        if file.redirect:
            return RedirectResponse(file.redirect)
        return Response(file.data if file.status == 200 else b"", file.status, media_type="application/octet-stream")

    async def _response(self, request: Request) -> Response:
        code = request.query_params.get("response_code", "")
        if code in self._used:
            return JSONResponse({"errcode": 60140, "errmsg": "response code was used"})
        self._used.add(code)
        self.sent.append(orjson.loads(await request.body()))
        return JSONResponse({"errcode": 0, "errmsg": "ok"})


def _checked_stream(stream: dict[str, Any]) -> dict[str, Any]:
    _require(bool(stream["id"]), "The stream has no id.")
    _require(len(stream["content"].encode()) <= 20_480, "The content has more than 20480 bytes.")
    _require(bool(stream["content"].strip()), "The content is empty, so WeCom would show a spinning bubble.")
    return stream


def _require(fact: bool, message: str) -> None:
    if not fact:
        raise UnexpectedReply(message)
