"""`glm-serve wecom check`: finds mistakes in the settings of WeCom's robots before WeCom does."""

from __future__ import annotations

import argparse
import asyncio
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TextIO
from urllib.parse import urlsplit

import httpx
from websockets.exceptions import WebSocketException

from serve_app.bots.secret_files import read_secret
from serve_app.bots.wecom.api import ApiError, WecomApi
from serve_app.bots.wecom.connection import Connection, NotSent
from serve_app.bots.wecom.crypto import CryptoError, decode_key
from serve_app.errors import InvalidRequest
from serve_app.settings import Settings

CONNECT_S = 15.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One checked fact."""

    kind: Literal["ok", "warning", "problem"]
    text: str


def run(options: argparse.Namespace, settings: Settings, output: TextIO) -> int:
    """Writes all findings; returns 1 if there is a problem."""
    findings = list(check_files(settings))
    if not options.offline and not any(each.kind == "problem" for each in findings):
        findings += asyncio.run(check_connections(settings, subscribe=options.subscribe))
    for finding in findings:
        output.write(f"{finding.kind:<8} {finding.text}\n")
    return 1 if any(finding.kind == "problem" for finding in findings) else 0


def check_files(settings: Settings) -> Iterator[Finding]:
    """What can be said without a connection."""
    wecom = settings.wecom
    if not settings.bots.enabled:
        yield Finding("problem", "bots.enabled is false, so no bot is started.")
    if wecom.bot == "off" and not wecom.corp_id:
        yield Finding("problem", "No robot is set: wecom.bot is off and wecom.corp_id is empty.")
    for name in ("token_file", "bot_secret_file", "app_secret_file", "app_token_file", "push_key_file"):
        if path := getattr(wecom, name):
            yield from _secret(path, f"wecom.{name}")
    for name in ("aes_key_file", "app_aes_key_file"):
        if path := getattr(wecom, name):
            yield from _secret(path, f"wecom.{name}", is_key=True)
    if wecom.bot == "webhook" and not wecom.bot_id:
        yield Finding("warning", "wecom.bot_id is empty, so callbacks of any bot with this token and key are accepted.")
    if settings.bots.state == "memory":
        yield Finding("warning", "bots.state is memory: answers in progress are lost when the bots restart.")
    if not settings.bots.names:
        yield Finding("warning", "bots.names is empty, so '@name' stays in questions from groups.")
    if wecom.bot == "webhook":
        yield Finding("ok", "Callback address of the AI bot: https://YOUR-HOST/bots/wecom/bot")
    if wecom.corp_id:
        yield Finding("ok", "Callback address of the app: https://YOUR-HOST/bots/wecom/app")


async def check_connections(settings: Settings, *, subscribe: bool) -> list[Finding]:
    """Hosts, secret of the app and long connection."""
    wecom, findings = settings.wecom, []
    for host in wecom.picture_hosts if wecom.bot != "off" else ():
        findings.append(await _host(urlsplit(host if "://" in host else f"https://{host}").hostname or host))
    if wecom.corp_id:
        async with httpx.AsyncClient(trust_env=False) as client:
            secret = read_secret(wecom.app_secret_file, "wecom.app_secret_file")
            try:
                await WecomApi(wecom.api_url, wecom.corp_id, secret, client).token()
                findings.append(Finding("ok", "WeCom accepts the CorpID and the secret of the app."))
            except ApiError as error:
                findings.append(Finding("problem", str(error)))
    if wecom.bot == "long_connection" and subscribe:
        findings.append(await _subscription(settings))
    return findings


def _secret(path: str, setting: str, *, is_key: bool = False) -> Iterator[Finding]:
    try:
        secret = read_secret(path, setting)
        if is_key:
            decode_key(secret)
    except (InvalidRequest, CryptoError) as error:
        yield Finding("problem", f"{setting}: {error}")
    else:
        yield Finding("ok", f"{setting} is readable.")


async def _host(host: str) -> Finding:
    try:
        await asyncio.get_running_loop().getaddrinfo(host, 443, type=socket.SOCK_STREAM)
    except OSError as error:
        return Finding("problem", f"The host of pictures {host} is not found: {error}.")
    return Finding("ok", f"The host of pictures {host} is found.")


async def _subscription(settings: Settings) -> Finding:
    """Subscribes once, which ends the connection of a service that runs with the same bot."""
    wecom = settings.wecom

    async def ignore(frame: object) -> None:
        pass

    secret = read_secret(wecom.bot_secret_file, "wecom.bot_secret_file")
    connection = Connection(wecom.socket_url, wecom.bot_id, secret, ignore)
    try:
        await connection.try_subscription(CONNECT_S)
    except (NotSent, OSError, TimeoutError, WebSocketException, ValueError) as error:  # ValueError: not a URL
        return Finding("problem", f"The long connection to {wecom.socket_url} failed: {error or type(error).__name__}")
    return Finding("ok", "WeCom accepts the id and the secret of the bot.")
