"""DingTalk's API: access token, addresses of pictures, messages of the robot, Stream connections.

Source: open.dingtalk.com and the official `dingtalk-stream` SDK. Errors are HTTP statuses with a text code.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import httpx
import orjson

from serve_app.bots.access_token import AccessToken, PlatformError

TIMEOUT_S: Final = 10.0
TOPIC: Final = "/v1.0/im/bot/messages/get"
PAUSE_S: Final = 2.0  # before a call is made again, longer each time
RETRIES: Final = 3
HINTS: Final = {
    "InvalidAuthentication": "The access token is not valid.",
    "invalidClientIdOrSecret": "dingtalk.client_id or the secret of dingtalk.client_secret_file is wrong.",
    "authFailed": "dingtalk.client_id or the secret of dingtalk.client_secret_file is wrong.",
    "Forbidden.AccessDenied.AccessTokenPermissionDenied": "The app lacks the permission qyapi_robot_sendmsg.",
    "robot.notExist": "dingtalk.robot_code is wrong, or the robot is not published.",
}


class DingtalkError(PlatformError):
    """DingTalk refused a call or did not respond; the message has no token and no secret."""

    def __init__(self, code: str, status: int, what: str) -> None:
        hint = next((text for name, text in HINTS.items() if name.lower() == code.lower()), "")
        super().__init__(f"{what} failed with status {status} and code {code!r}.{' ' if hint else ''}{hint}")
        self.code = code
        self.status = status  # 0: there was no answer
        self.is_token_refused = status == 401 or code == "InvalidAuthentication"
        self.is_temporary = status in {0, 429} or status >= 500 or "QpsLimit" in code


class DingtalkApi:
    """The API for one app."""

    def __init__(
        self,
        url: str,
        client_id: str,
        secret: str,
        robot_code: str,
        client: httpx.AsyncClient,
        *,
        clock: Callable[[], float] = time.monotonic,
        pause_s: float = PAUSE_S,
    ) -> None:
        self._url = url.rstrip("/")
        self._client_id = client_id
        self._secret = secret
        self._robot_code = robot_code
        self._client = client
        self._pause_s = pause_s
        self.access_token = AccessToken(self._request_token, clock=clock)

    async def open_connection(self) -> tuple[str, str]:
        """Endpoint and ticket of a new Stream connection. Raises DingtalkError."""
        body = {
            "clientId": self._client_id,
            "clientSecret": self._secret,
            "subscriptions": [{"type": "CALLBACK", "topic": TOPIC}],
            "ua": "glm-vision-serve",
        }
        answer = await self._request("gateway/connections/open", body, {})
        endpoint, ticket = answer.get("endpoint"), answer.get("ticket")
        schemes = ("wss://", "ws://") if self._url.startswith("http://") else ("wss://",)
        if not isinstance(endpoint, str) or not endpoint.startswith(schemes) or not isinstance(ticket, str):
            raise DingtalkError("noEndpoint", 200, "gateway/connections/open")
        return endpoint, ticket

    async def download_url(self, code: str) -> str:
        """The address of a picture or file. Raises DingtalkError."""
        answer = await self._call("robot/messageFiles/download", {"downloadCode": code})
        url = answer.get("downloadUrl")
        if not isinstance(url, str):
            raise DingtalkError("noDownloadUrl", 200, "robot/messageFiles/download")
        return url

    async def send(self, user: str, chat: str, title: str, text: str) -> None:
        """Sends Markdown to a group, or to a user if `chat` is empty. Raises DingtalkError."""
        body: dict[str, Any] = {
            "msgKey": "sampleMarkdown",
            "msgParam": orjson.dumps({"title": title, "text": text}).decode(),
        }
        if chat:
            await self._call("robot/groupMessages/send", {**body, "openConversationId": chat})
        else:
            await self._call("robot/oToMessages/batchSend", {**body, "userIds": [user]})

    async def _call(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer of an API; a refused token is replaced once, a call that is too fast or fails is made again."""
        body = {**body, "robotCode": self._robot_code}
        return await self.access_token.call(
            lambda token: self._request(path, body, {"x-acs-dingtalk-access-token": token}),
            retries=RETRIES,
            pause_s=self._pause_s,
        )

    async def _request_token(self) -> tuple[str, float]:
        body = {"appKey": self._client_id, "appSecret": self._secret}
        answer = await self._request("oauth2/accessToken", body, {})
        token = answer.get("accessToken")
        if not isinstance(token, str):
            raise DingtalkError("noAccessToken", 200, "oauth2/accessToken")
        return token, float(answer.get("expireIn", 7200))

    async def _request(self, path: str, body: dict[str, Any], headers: dict[str, str]) -> dict[str, Any]:
        try:
            response = await self._client.post(
                f"{self._url}/v1.0/{path}", json=body, headers=headers, timeout=TIMEOUT_S
            )
            answer = response.json()
        except (httpx.HTTPError, ValueError) as error:
            raise DingtalkError(type(error).__name__, 0, path) from error
        if not isinstance(answer, dict):
            raise DingtalkError("noObject", response.status_code, path)
        if response.status_code != httpx.codes.OK:
            raise DingtalkError(str(answer.get("code", ""))[:100], response.status_code, path)
        return answer
