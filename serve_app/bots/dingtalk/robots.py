"""Builds DingTalk's robot from the settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import httpx

from serve_app.bots.conversation.adapter import Robots
from serve_app.bots.conversation.conversation import Conversation
from serve_app.bots.dingtalk.api import DingtalkApi
from serve_app.bots.dingtalk.connection import StreamConnection
from serve_app.bots.dingtalk.robot import NOTICE_S, DingtalkRobot
from serve_app.bots.download import Download
from serve_app.bots.secret_files import read_secret
from serve_app.metrics import Meter
from serve_app.settings import Settings


def dingtalk_robots(
    settings: Settings,
    conversation: Conversation,
    *,
    meter: Meter,
    now: Callable[[], float],
    client: httpx.AsyncClient,
    transport: httpx.AsyncBaseTransport | None = None,
    stream_connection: Mapping[str, Any] | None = None,
    notice_s: float = NOTICE_S,
) -> Robots:
    """The robot, if it is set. `stream_connection` has times that tests shorten.

    Raises InvalidRequest if the secret can't be read.
    """
    robots, dingtalk, bots = Robots(), settings.dingtalk, settings.bots
    if dingtalk.bot == "off":
        return robots
    secret = read_secret(dingtalk.client_secret_file, "dingtalk.client_secret_file")
    robot_code = dingtalk.robot_code or dingtalk.client_id
    api = DingtalkApi(dingtalk.api_url, dingtalk.client_id, secret, robot_code, client)
    robot = DingtalkRobot(
        conversation,
        api,
        Download(
            dingtalk.picture_hosts,
            "dingtalk.picture_hosts",
            max_bytes=bots.max_file_bytes,
            timeout_s=bots.fetch_timeout_s,
            transport=transport,
        ),
        robot_code=robot_code,
        secret=secret,
        reply_url=dingtalk.reply_url,
        picture_hosts=frozenset(dingtalk.picture_hosts),
        replay_window_s=dingtalk.replay_window_s,
        meter=meter,
        now=now,
        client=client,
        notice_s=notice_s,
    )
    robots.adapters[robot.platform] = robot
    if dingtalk.bot == "webhook":
        robots.callbacks["dingtalk/bot"] = robot.respond
    else:
        robots.connections.append(StreamConnection(api, robot.receive, **(stream_connection or {})).run)
    return robots
