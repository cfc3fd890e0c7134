"""Feishu's API: tenant access token, files and content of messages, replies and updates of cards.

Source: open.feishu.cn, server API, and the official `lark-oapi` SDK. Error codes decide, never their texts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import httpx
import orjson

from serve_app.bots.access_token import AccessToken, PlatformError
from serve_app.bots.conversation.adapter import FetchFailed
from serve_app.bots.conversation.message import FileRef
from serve_app.bots.download import read_limited

TIMEOUT_S: Final = 10.0
INVALID_TOKEN: Final = frozenset({99991661, 99991663, 99991664, 99991668, 99991671})
RATE_LIMITED: Final = frozenset({230020, 99991400})
PAUSE_S: Final = 1.0  # before a call is made again, longer each time
RETRIES: Final = 4
GONE: Final = frozenset({230011, 230110, 234003, 234004, 234005})  # the message was recalled or its file is not there
HINTS: Final = {
    10003: "feishu.app_id or the secret of feishu.app_secret_file is wrong.",
    10014: "The secret of feishu.app_secret_file is wrong.",
    99991672: "The app lacks a permission, such as im:message or im:resource; add it and publish a version.",
    230002: "The bot is not in the chat.",
    230006: "The bot ability of the app is not switched on.",
    230027: "The app lacks the permission im:message:send_as_bot.",
}


class FeishuError(PlatformError):
    """Feishu refused a call or did not respond; the message has no token and no secret."""

    def __init__(self, code: int, what: str) -> None:
        hint = HINTS.get(code, "")
        super().__init__(f"{what} failed with error code {code}.{' ' if hint else ''}{hint}")
        self.code = code  # 0: there was no answer; an HTTP status: it had no code
        self.is_token_refused = code in INVALID_TOKEN
        self.is_temporary = code in RATE_LIMITED or code == 0 or 500 <= code < 600


class FeishuApi:
    """The API for one app."""

    def __init__(
        self,
        url: str,
        app_id: str,
        secret: str,
        client: httpx.AsyncClient,
        *,
        clock: Callable[[], float] = time.monotonic,
        pause_s: float = PAUSE_S,
    ) -> None:
        self._url = f"{url.rstrip('/')}/open-apis"
        self._app_id = app_id
        self._secret = secret
        self._client = client
        self._pause_s = pause_s
        self.access_token = AccessToken(self._request_token, clock=clock)

    async def reply(self, message_id: str, card: str, uuid: str) -> str:
        """Replies with a card, once for each `uuid` within an hour; the id of the new message. Raises FeishuError."""
        body = {"msg_type": "interactive", "content": card, "uuid": uuid}
        data = (await self._call("POST", f"im/v1/messages/{message_id}/reply", body)).get("data")
        new_id = data.get("message_id") if isinstance(data, dict) else None
        if not isinstance(new_id, str):
            raise FeishuError(0, "messages/reply")
        return new_id

    async def update(self, message_id: str, card: str) -> None:
        """Replaces the card of a message. Raises FeishuError."""
        await self._call("PATCH", f"im/v1/messages/{message_id}", {"content": card})

    async def message(self, message_id: str) -> dict[str, Any]:
        """A message with its content. Raises FeishuError."""
        data = (await self._call("GET", f"im/v1/messages/{message_id}")).get("data")
        items = data.get("items") if isinstance(data, dict) else None
        if not isinstance(items, list) or not items or not isinstance(items[0], dict):
            raise FeishuError(0, "messages/get")
        return items[0]

    async def file(self, file: FileRef, max_bytes: int) -> bytes:
        """A picture or file of a message. Raises FeishuError or FetchFailed."""
        path = f"{self._url}/im/v1/messages/{file.place}/resources/{file.key}"
        query = {"type": "file" if file.is_document else "image"}
        for attempt in range(2):
            token = await self.access_token.get()
            headers = {"Authorization": f"Bearer {token}", "Accept-Encoding": "identity"}
            try:
                async with self._client.stream(
                    "GET", path, params=query, headers=headers, timeout=TIMEOUT_S
                ) as response:
                    body = await read_limited(response, max_bytes)
            except httpx.HTTPError as error:
                raise FeishuError(0, f"messages/resources ({type(error).__name__})") from error
            if response.status_code == httpx.codes.OK and "json" not in response.headers.get("content-type", ""):
                return body
            code = _code(body, response.status_code)
            if code not in INVALID_TOKEN or attempt:
                raise FeishuError(code, "messages/resources")
            await self.access_token.get(refused=token)
        raise AssertionError

    async def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """The answer of an API; a refused token is replaced once, a call that is too fast or fails is made again."""
        return await self.access_token.call(
            lambda token: self._request(method, path, body, {"Authorization": f"Bearer {token}"}),
            retries=RETRIES,
            pause_s=self._pause_s,
        )

    async def _request_token(self) -> tuple[str, float]:
        body = {"app_id": self._app_id, "app_secret": self._secret}
        answer = await self._request("POST", "auth/v3/tenant_access_token/internal", body, {})
        token = answer.get("tenant_access_token")
        if not isinstance(token, str):
            raise FeishuError(0, "tenant_access_token")
        return token, float(answer.get("expire", 7200))

    async def _request(
        self, method: str, path: str, body: dict[str, Any] | None, headers: dict[str, str]
    ) -> dict[str, Any]:
        what = path.removeprefix("im/v1/").split("/")[0]  # without the ids
        try:
            response = await self._client.request(
                method, f"{self._url}/{path}", json=body, headers=headers, timeout=TIMEOUT_S
            )
        except httpx.HTTPError as error:
            raise FeishuError(0, f"{method} {what} ({type(error).__name__})") from error
        if response.status_code == httpx.codes.TOO_MANY_REQUESTS:
            raise FeishuError(99991400, f"{method} {what}")
        if code := _code(response.content, response.status_code):
            raise FeishuError(code, f"{method} {what}")
        answer: dict[str, Any] = orjson.loads(response.content)
        return answer


def _code(body: bytes, status: int) -> int:
    """The error code of an answer; 0: none. An answer without one counts by its status."""
    try:
        code = orjson.loads(body).get("code")
    except (orjson.JSONDecodeError, AttributeError):
        return status
    return code if isinstance(code, int) else status


def fetch_failed(error: FeishuError) -> FetchFailed:
    """The failure of a file as the conversation reports it."""
    return FetchFailed("expired" if error.code in GONE else "not_downloaded", str(error))
