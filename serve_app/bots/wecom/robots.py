"""Builds WeCom's robots from the settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import httpx

from serve_app.bots.conversation.adapter import Adapter
from serve_app.bots.conversation.conversation import Conversation
from serve_app.bots.wecom.callback_check import CallbackCheck
from serve_app.bots.wecom.crypto import Crypto, CryptoError
from serve_app.bots.wecom.media import Media
from serve_app.bots.wecom.secret_files import read_secret
from serve_app.bots.wecom.webhook import WecomWebhook
from serve_app.callbacks import RespondToCallback
from serve_app.errors import InvalidRequest
from serve_app.metrics import Meter
from serve_app.settings import Settings
from serve_app.settings_bots import WecomSettings


@dataclass(slots=True)
class Robots:
    """The robots of one platform: their adapters by name, and their callbacks by path below /bots/."""

    adapters: dict[str, Adapter] = field(default_factory=dict)
    callbacks: dict[str, RespondToCallback] = field(default_factory=dict)


def wecom_robots(
    settings: Settings,
    conversation: Conversation,
    *,
    meter: Meter,
    now: Callable[[], float],
    client: httpx.AsyncClient,
    transport: httpx.AsyncBaseTransport | None = None,
) -> Robots:
    """Raises InvalidRequest if a secret can't be read or has the wrong form."""
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
    return robots


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
