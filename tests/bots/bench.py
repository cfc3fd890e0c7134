"""The bots over a fake model and the simulated platform, in this process, with a clock that tests move."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from serve_app.bots.conversation.state import MemoryState, State
from serve_app.bots.service import BotService
from serve_app.bots.wecom.crypto import Crypto
from serve_app.bots.wecom.simulator import SimulatedPlatform
from serve_app.cache.feedback import Feedback
from serve_app.contracts import Answer, ChatRequest, ImagePart, TextPart
from serve_app.settings import Settings
from tests.fakes import FakeMeter

TOKEN, KEY = "QDG6eK", "jWmYm7qr5nMoAUwZRjGtBxmz3KA1tkAj3ykkR6q2B2C"
PLATFORM_URL = "https://platform.test"
BOT = "simulated-bot"


class Clock:
    """Seconds since 1970 that pass as usual, and as much more as a test adds."""

    def __init__(self) -> None:
        self.added = 0.0

    def __call__(self) -> float:
        return time.time() + self.added


def settings(
    folder: Path,
    *,
    bots: dict[str, Any] | None = None,
    wecom: dict[str, Any] | None = None,
    limits: dict[str, Any] | None = None,
) -> Settings:
    """The AI bot by webhook, with its secrets in files."""
    for name, secret in (("token", TOKEN), ("aes_key", KEY)):
        (folder / name).write_text(f"{secret}\n")
    return Settings.model_validate(
        {
            "bots": {"enabled": True, "names": ["My Bot"], "language": "en"} | (bots or {}),
            "wecom": {
                "bot": "webhook",
                "token_file": str(folder / "token"),
                "aes_key_file": str(folder / "aes_key"),
                "picture_hosts": [PLATFORM_URL],
                "api_url": PLATFORM_URL,
            }
            | (wecom or {}),
            "limits": limits or {},
        }
    )


class Bench:
    """One service of bots and its platform."""

    def __init__(self, service: BotService, platform: SimulatedPlatform, meter: FakeMeter, clock: Clock) -> None:
        self.service = service
        self.platform = platform
        self.meter = meter
        self.clock = clock

    async def ask(self, message: dict[str, Any]) -> str:
        """The complete content of the answer."""
        return await self.platform.follow(await self.platform.send(message), interval_s=0.01)


@asynccontextmanager
async def bench(
    folder: Path,
    answer: Answer,
    *,
    state: State | None = None,
    platform: SimulatedPlatform | None = None,
    clock: Clock | None = None,
    audit: Any = None,
    feedback: list[Feedback] | None = None,
    transport: httpx.AsyncBaseTransport | None = None,
    long_connection: dict[str, Any] | None = None,
    **more: Any,
) -> AsyncIterator[Bench]:
    clock, meter = clock or Clock(), FakeMeter()
    platform = platform or SimulatedPlatform(
        Crypto(TOKEN, KEY), lambda callback: service.respond(callback), url=PLATFORM_URL, now=clock, bot_id=BOT
    )

    async def keep(rating: Feedback) -> int:
        (feedback if feedback is not None else []).append(rating)
        return 1

    service = BotService(
        settings(folder, **more),
        answer,
        meter=meter,
        audit=audit,
        feedback=keep,
        state=state or MemoryState(clock),
        now=clock,
        transport=transport or httpx.ASGITransport(platform.app),
        long_connection=long_connection,
    )
    platform.deliver = service.respond
    await service.start()
    try:
        yield Bench(service, platform, meter, clock)
    finally:
        await service.conversation.drain(0)
        await service.stop()


def question_of(request: ChatRequest) -> str:
    return "\n".join(part.text for part in request.messages[-1].parts if isinstance(part, TextPart))


def pictures_of(request: ChatRequest) -> list[bytes]:
    return [
        part.source
        for message in request.messages
        for part in message.parts
        if isinstance(part, ImagePart) and isinstance(part.source, bytes)
    ]
