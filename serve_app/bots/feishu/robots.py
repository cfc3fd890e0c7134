"""Builds Feishu's bot from the settings."""

from __future__ import annotations

from collections.abc import Callable

import httpx

from serve_app.bots.conversation.adapter import Robots
from serve_app.bots.conversation.conversation import Conversation
from serve_app.bots.feishu.api import FeishuApi
from serve_app.bots.feishu.bot import INTERVAL_S, FeishuBot
from serve_app.bots.feishu.crypto import Crypto
from serve_app.bots.secret_files import read_secret
from serve_app.metrics import Meter
from serve_app.settings import Settings


def feishu_robots(
    settings: Settings,
    conversation: Conversation,
    *,
    meter: Meter,
    now: Callable[[], float],
    client: httpx.AsyncClient,
    interval_s: float = INTERVAL_S,
) -> Robots:
    """The bot, if it is set. Raises InvalidRequest if a secret can't be read."""
    robots, feishu = Robots(), settings.feishu
    if not feishu.app_id:
        return robots
    secret = read_secret(feishu.app_secret_file, "feishu.app_secret_file")
    bot = FeishuBot(
        conversation,
        Crypto(read_secret(feishu.encrypt_key_file, "feishu.encrypt_key_file")),
        FeishuApi(feishu.api_url, feishu.app_id, secret, client),
        app_id=feishu.app_id,
        token=read_secret(feishu.verification_token_file, "feishu.verification_token_file"),
        bot_open_id=feishu.bot_open_id,
        replay_window_s=feishu.replay_window_s,
        max_bytes=settings.bots.max_file_bytes,
        meter=meter,
        now=now,
        interval_s=interval_s,
    )
    robots.adapters[bot.platform] = bot
    robots.callbacks["feishu/bot"] = bot.respond
    return robots
