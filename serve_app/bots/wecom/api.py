"""WeCom's API for a self-built app: access token, media and messages.

Documents 91039 (token), 90236 (message/send), 96486 (media/get). Error codes decide, never their texts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

import httpx

from serve_app.bots.access_token import AccessToken

TIMEOUT_S: Final = 10.0
INVALID_TOKEN: Final = frozenset({40001, 40014, 42001})
BUSY: Final = -1
BUSY_RETRIES: Final = 3
RATE_LIMITED: Final = frozenset({45009, 45033})
RATE_PAUSE_S: Final = 60.0
LARGE_FILE: Final = 830002
RANGE_BYTES: Final = 20 * 2**20
HINTS: Final = {
    40001: "The secret is wrong (wecom.app_secret_file).",
    40013: "The CorpID is wrong (wecom.corp_id).",
    40056: "The AgentId is wrong (wecom.agent_id).",
    60020: "The address of this machine is not in the app's trusted IPs (企业可信IP).",
    81013: "No receiver is a member who can see the app (可见范围).",
    48002: "The app may not use this API.",
    93000: "The key of the group robot is wrong, or the robot was removed.",
    93004: "The group robot is disabled.",
    93008: "The group robot is not in its group.",
}


class ApiError(Exception):
    """WeCom's API refused a call or did not respond; the message has no token and no key."""

    def __init__(self, code: int, what: str) -> None:
        hint = HINTS.get(code, "")
        super().__init__(f"{what} failed with error code {code}.{' ' if hint else ''}{hint}")
        self.code = code


class WecomApi:
    """The API of one app."""

    def __init__(
        self,
        url: str,
        corp_id: str,
        secret: str,
        client: httpx.AsyncClient,
        *,
        clock: Callable[[], float] = time.monotonic,
        rate_pause_s: float = RATE_PAUSE_S,
        busy_pause_s: float = 1.0,
    ) -> None:
        self._url = url.rstrip("/")
        self._corp_id = corp_id
        self._secret = secret
        self._client = client
        self._rate_pause_s, self._busy_pause_s = rate_pause_s, busy_pause_s
        self.token = AccessToken(self._request_token, clock=clock).get

    async def send_text(self, user: str, agent_id: int, text: str) -> None:
        """Sends a text of at most 2048 bytes to a member. Raises ApiError."""
        body = {"touser": user, "msgtype": "text", "agentid": agent_id, "text": {"content": text}}
        answer = await self._call("POST", "message/send", json=body)
        if answer.get("invaliduser"):
            raise ApiError(81013, "message/send")

    async def media(self, media_id: str, max_bytes: int) -> bytes:
        """A file that a member sent, valid for three days. Raises ApiError, or ValueError if it is too large."""
        data, total = await self._media(media_id, max_bytes, None)
        while total is not None and len(data) < total:
            piece, total = await self._media(media_id, max_bytes, len(data))
            if not piece:
                break
            data += piece
            if len(data) > max_bytes:
                raise ValueError(f"The file has more than {max_bytes} bytes.")
        return data

    async def _media(self, media_id: str, max_bytes: int, start: int | None) -> tuple[bytes, int | None]:
        """The file, or the piece from `start`, and the size of the file if it comes in pieces."""
        for attempt in range(2):
            token = await self.token()
            headers = {} if start is None else {"Range": f"bytes={start}-{start + RANGE_BYTES - 1}"}
            query = {"access_token": token, "media_id": media_id}
            try:
                async with self._client.stream(
                    "GET", f"{self._url}/cgi-bin/media/get", params=query, headers=headers, timeout=TIMEOUT_S
                ) as response:
                    body = bytearray()
                    async for chunk in response.aiter_bytes():
                        body += chunk
                        if len(body) > max_bytes:
                            raise ValueError(f"The file has more than {max_bytes} bytes.")
            except httpx.HTTPError as error:
                raise ApiError(0, f"media/get ({type(error).__name__})") from error
            if "json" not in response.headers.get("content-type", "") and response.status_code in (200, 206):
                return bytes(body), _total(response) if response.status_code == 206 else None
            code = _errcode(response, bytes(body))
            if code == LARGE_FILE and start is None:
                return await self._media(media_id, max_bytes, 0)
            if code not in INVALID_TOKEN or attempt:
                raise ApiError(code, "media/get")
            await self.token(refused=token)
        raise AssertionError

    async def _call(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        """The answer of an API; a refused token is replaced once, a busy server asked three times again."""
        refreshed, busy, paused = False, 0, False
        while True:
            token = await self.token()
            answer = await self._request(method, path, {"access_token": token}, **request)
            code = answer.get("errcode", 0)
            if code == 0:
                return answer
            if code in INVALID_TOKEN and not refreshed:
                refreshed = True
                await self.token(refused=token)
            elif code == BUSY and busy < BUSY_RETRIES:
                busy += 1
                await asyncio.sleep(self._busy_pause_s * busy)
            elif code in RATE_LIMITED and not paused:
                paused = True
                await asyncio.sleep(self._rate_pause_s)
            else:
                raise ApiError(code, path)

    async def _request_token(self) -> tuple[str, float]:
        answer = await self._request("GET", "gettoken", {"corpid": self._corp_id, "corpsecret": self._secret})
        if code := answer.get("errcode", 0):
            raise ApiError(code, "gettoken")
        return str(answer["access_token"]), float(answer.get("expires_in", 7200))

    async def _request(self, method: str, path: str, query: dict[str, str], **request: Any) -> dict[str, Any]:
        try:
            response = await self._client.request(
                method, f"{self._url}/cgi-bin/{path}", params=query, timeout=TIMEOUT_S, **request
            )
            answer = response.json()
        except (httpx.HTTPError, ValueError) as error:
            raise ApiError(0, f"{path} ({type(error).__name__})") from error
        if not isinstance(answer, dict):
            raise ApiError(0, path)
        return answer


def _errcode(response: httpx.Response, body: bytes) -> int:
    try:
        return int(httpx.Response(200, content=body).json().get("errcode", response.status_code))
    except (ValueError, AttributeError, TypeError):
        return response.status_code


def _total(response: httpx.Response) -> int | None:
    """The size of the file, from `Content-Range: bytes 0-99/250`."""
    _, _, total = response.headers.get("content-range", "").rpartition("/")
    return int(total) if total.isdigit() else None
