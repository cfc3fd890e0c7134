"""Builds WeCom's robots from the settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import httpx

from serve_app.bots.conversation.adapter import Robots
from serve_app.bots.conversation.conversation import Conversation
from serve_app.bots.secret_files import read_secret
from serve_app.bots.wecom.api import WecomApi
from serve_app.bots.wecom.app import WecomApp
from serve_app.bots.wecom.callback_check import CallbackCheck
from serve_app.bots.wecom.crypto import Crypto, CryptoError
from serve_app.bots.wecom.long_connection import WecomLongConnection
from serve_app.bots.wecom.media import Media
from serve_app.bots.wecom.push import GroupPush
from serve_app.bots.wecom.webhook import WecomWebhook
from serve_app.errors import InvalidRequest
from serve_app.metrics import Meter
from serve_app.settings import Settings
from serve_app.settings_bots import WecomSettings


def wecom_robots(
    settings: Settings,
    conversation: Conversation,
    *,
    meter: Meter,
    now: Callable[[], float],
    client: httpx.AsyncClient,
    transport: httpx.AsyncBaseTransport | None = None,
    long_connection: Mapping[str, Any] | None = None,
) -> Robots:
    """The robots that are set. `long_connection` has times that tests shorten.

    Raises InvalidRequest if a secret can't be read or has the wrong form.
    """
    robots, wecom = Robots(), settings.wecom
    if wecom.bot == "webhook":
        crypto = ai_bot_crypto(wecom)
        media = media_of(settings, crypto.key, transport)
        check = CallbackCheck(crypto, now=now, window_s=wecom.replay_window_s)
        webhook = WecomWebhook(
            conversation,
            check,
            media,
            bot_id=wecom.bot_id,
            api_url=wecom.api_url,
            meter=meter,
            now=now,
            client=client,
        )
        robots.adapters[webhook.platform] = webhook
        robots.callbacks["wecom/bot"] = webhook.respond
    if wecom.bot == "long_connection":
        bot = WecomLongConnection(
            conversation,
            media_of(settings, None, transport),
            url=wecom.socket_url,
            bot_id=wecom.bot_id,
            secret=read_secret(wecom.bot_secret_file, "wecom.bot_secret_file"),
            meter=meter,
            now=now,
            **(long_connection or {}),
        )
        robots.adapters[bot.platform] = bot
        robots.connections.append(bot.run)
    if wecom.corp_id:
        app = _app(settings, conversation, meter=meter, now=now, client=client)
        robots.adapters[app.platform] = app
        robots.callbacks["wecom/app"] = app.respond
    if wecom.push_key_file:
        key = read_secret(wecom.push_key_file, "wecom.push_key_file")
        robots.copies.append(GroupPush(wecom.api_url, key, client, meter).copy)
    return robots


def _app(
    settings: Settings,
    conversation: Conversation,
    *,
    meter: Meter,
    now: Callable[[], float],
    client: httpx.AsyncClient,
) -> WecomApp:
    wecom = settings.wecom
    token = read_secret(wecom.app_token_file, "wecom.app_token_file")
    crypto = _crypto(token, wecom.app_aes_key_file, "wecom.app_aes_key_file", wecom.corp_id)
    secret = read_secret(wecom.app_secret_file, "wecom.app_secret_file")
    return WecomApp(
        conversation,
        CallbackCheck(crypto, now=now, window_s=wecom.replay_window_s),
        WecomApi(wecom.api_url, wecom.corp_id, secret, client),
        corp_id=wecom.corp_id,
        agent_id=wecom.agent_id,
        max_bytes=settings.bots.max_file_bytes,
        meter=meter,
        now=now,
    )


def ai_bot_crypto(wecom: WecomSettings) -> Crypto:
    token = read_secret(wecom.token_file, "wecom.token_file")
    return _crypto(token, wecom.aes_key_file, "wecom.aes_key_file", "")


def media_of(settings: Settings, key: bytes | None, transport: httpx.AsyncBaseTransport | None) -> Media:
    bots = settings.bots
    return Media(
        settings.wecom.picture_hosts,
        key,
        max_bytes=bots.max_file_bytes,
        timeout_s=bots.fetch_timeout_s,
        transport=transport,
    )


def _crypto(token: str, key_file: str, setting: str, receiver: str) -> Crypto:
    try:
        return Crypto(token, read_secret(key_file, setting), receiver)
    except CryptoError as error:
        raise InvalidRequest(f"The file of {setting} is wrong. {error}", setting) from error
