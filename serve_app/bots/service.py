"""All bots of one process: the conversation, the robots, and the routes of their callbacks."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import httpx

from serve_app.access.identity import Identity, caller_limits
from serve_app.access.rate_limits import RateLimits
from serve_app.access.shared_counters import counters_of
from serve_app.access.usage import usage_recorder
from serve_app.audit.request_audit import AuditLog
from serve_app.bots.conversation.adapter import Adapter
from serve_app.bots.conversation.asking import Asking, GiveFeedback
from serve_app.bots.conversation.conversation import Conversation
from serve_app.bots.conversation.state import State, state_of
from serve_app.bots.conversation.streams import KEPT_S
from serve_app.bots.dingtalk.robots import dingtalk_robots
from serve_app.bots.feishu.robots import feishu_robots
from serve_app.bots.wecom.robots import wecom_robots
from serve_app.cache.feedback import Feedback
from serve_app.callbacks import Callback, CallbackReply, RespondToCallback
from serve_app.contracts import Answer
from serve_app.metrics import Meter
from serve_app.settings import Settings

DRAIN_S = 5.0  # answers in progress may finish in this time; then they are left to the next process


async def _no_cache(feedback: Feedback) -> int:
    return 0


class BotService:
    """All robots that the settings name. Raises InvalidRequest if a secret can't be read.

    `long_connection`, `dingtalk` and `feishu` have times that tests shorten.
    """

    def __init__(
        self,
        settings: Settings,
        answer: Answer,
        *,
        meter: Meter,
        audit: AuditLog | None = None,
        feedback: GiveFeedback = _no_cache,
        state: State | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        new_id: Callable[[], str] = lambda: uuid.uuid4().hex,
        transport: httpx.AsyncBaseTransport | None = None,
        long_connection: Mapping[str, Any] | None = None,
        dingtalk: Mapping[str, Any] | None = None,
        feishu: Mapping[str, Any] | None = None,
    ) -> None:
        identity = Identity(settings, host="127.0.0.1", clock=clock, now=now)
        limits = RateLimits(
            counters_of(settings.limits, meter), identity.tenant_limits, max_request_s=settings.bots.answer_timeout_s
        )
        asking = Asking(
            settings.bots,
            answer,
            limits=limits,
            caller_limits=caller_limits(settings.limits),
            usage=usage_recorder(settings.limits, meter, now),
            audit=audit,
            feedback=feedback,
            meter=meter,
            clock=clock,
            new_id=new_id,
        )
        logging.getLogger("httpx").setLevel(logging.WARNING)  # its other records have addresses with keys and tokens
        self._client = httpx.AsyncClient(trust_env=False, transport=transport)
        state = state or state_of(settings.bots, clock)
        sections = (settings.wecom, settings.dingtalk, settings.feishu)
        longest_replay_s = max(section.replay_window_s for section in sections)
        self.conversation = Conversation(
            settings.bots,
            asking.ask,
            asking.rate,
            state,
            max_files=max(1, settings.preprocess.max_images),
            kept_s=max(KEPT_S, 2 * longest_replay_s),  # a callback may be early or late by as much
            meter=meter,
            now=now,
            new_id=new_id,
        )
        parts: Any = {"meter": meter, "now": now, "client": self._client}
        wecom = wecom_robots(settings, self.conversation, transport=transport, long_connection=long_connection, **parts)
        platforms = (
            wecom,
            dingtalk_robots(settings, self.conversation, transport=transport, **parts, **(dingtalk or {})),
            feishu_robots(settings, self.conversation, **parts, **(feishu or {})),
        )
        self.adapters: dict[str, Adapter] = {}
        self._callbacks: dict[str, RespondToCallback] = {}
        self._connections: list[Callable[[], Awaitable[None]]] = []
        for robots in platforms:
            self.adapters |= robots.adapters
            self._callbacks |= robots.callbacks
            self._connections += robots.connections
            self.conversation.copies += robots.copies
        self._running: list[asyncio.Future[None]] = []

    async def start(self) -> int:
        """Opens connections and continues what an earlier process left; returns how many answers these are."""
        self._running = [asyncio.ensure_future(run()) for run in self._connections]
        return await self.conversation.recover(self.adapters)

    async def respond(self, callback: Callback) -> CallbackReply:
        """The response to a callback; 404 for a path without a robot."""
        respond = self._callbacks.get(callback.path)
        if respond is None:
            return CallbackReply(b"No bot is configured at this path.", status=404)
        return await respond(callback)

    async def stop(self) -> None:
        await self.conversation.drain(DRAIN_S)
        for running in self._running:
            running.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self._client.aclose()
