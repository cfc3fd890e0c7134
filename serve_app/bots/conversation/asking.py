"""Asks the model for a bot: the same limits, usage and audit log as a request over HTTP."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Final, Literal, TypeAlias

from serve_app.access.rate_limits import Admission, RateLimits
from serve_app.access.usage import UsageRecorder, Used
from serve_app.answers import Answers, Clock
from serve_app.audit.request_audit import AuditLog
from serve_app.cache.feedback import Feedback
from serve_app.caller import Caller, CallerLimits
from serve_app.contracts import Answer, ChatRequest, Delta, Message, Sampling, TextPart
from serve_app.errors import ServiceError
from serve_app.metrics import REJECTIONS, Meter
from serve_app.request_size import text_characters
from serve_app.settings_bots import BotSettings

CHARACTERS_PER_TOKEN: Final = 2  # an estimate on the high side for Chinese and English together
MAX_NAME: Final = 128  # characters of a caller's id

GiveFeedback: TypeAlias = Callable[[Feedback], Awaitable[int]]

_log = logging.getLogger("glm.bots")


class Asking:
    """Gets the text of one answer; one object for all bots of the process."""

    def __init__(
        self,
        settings: BotSettings,
        answer: Answer,
        *,
        limits: RateLimits,
        caller_limits: CallerLimits,
        usage: UsageRecorder,
        audit: AuditLog | None,
        feedback: GiveFeedback,
        meter: Meter,
        clock: Clock,
        new_id: Callable[[], str],
    ) -> None:
        self._settings = settings
        self._answer = answer
        self._limits = limits
        self._caller_limits = caller_limits
        self._usage = usage
        self._audit = audit
        self._feedback = feedback
        self._meter = meter
        self._clock = clock
        self._new_id = new_id

    async def ask(
        self, platform: str, user: str, stream_id: str, messages: tuple[Message, ...]
    ) -> AsyncGenerator[str, None]:
        """Pieces of the answer as they are generated. Raises ServiceError."""
        request = self._request(platform, user, stream_id, messages)
        admission = self._limits.open(request.caller)
        audit = self._audit.of_request(request.id, "BOT") if self._audit is not None else None
        started_at, route = self._clock(), f"/bots/{platform}"
        answers = Answers(self._answer, [request], audit=audit, clock=self._clock, received_at=started_at)
        status, outcome = ServiceError.status, ServiceError.code
        try:
            await self._admit(admission, request)
            if audit is not None:
                audit.asked([request], request.id, route)
            async with aclosing(answers.events()) as events:
                async for _, event in events:
                    if isinstance(event, Delta) and event.channel == "text":
                        yield event.text
            status, outcome = 200, "ok"
        except ServiceError as error:
            status, outcome = error.status, error.code
            self._meter.count(REJECTIONS, code=error.code)
            raise
        except (asyncio.CancelledError, GeneratorExit):
            status, outcome = 499, "stopped"
            raise
        finally:
            total_ms = (self._clock() - started_at) * 1000
            if audit is not None:
                audit.close(route, status, outcome, total_ms, request.caller)
            self._record(request, answers)
            await admission.close(tokens=answers.usage.prompt_tokens + answers.usage.completion_tokens)
            _log.info(
                "Answer of %s: %s in %.0f ms",
                platform,
                outcome,
                total_ms,
                extra={
                    "request_id": request.id,
                    "caller": request.caller.id,
                    "tenant": request.caller.tenant,
                    "prompt_tokens": answers.usage.prompt_tokens,
                    "completion_tokens": answers.usage.completion_tokens,
                    "stages_ms": answers.stages_ms,
                },
            )

    async def rate(self, platform: str, user: str, stream_id: str, rating: Literal["up", "down"], comment: str) -> None:
        """Records a rating as POST /v1/feedback does: a wrong answer leaves the answer cache."""
        caller, answer_id = self._caller(platform, user), _request_id(stream_id)
        removed = await self._feedback(Feedback(answer_id, rating, comment, caller.tenant))
        if self._audit is not None:
            audit = self._audit.of_request(self._new_id(), "BOT")
            audit.rated(answer_id, rating, comment)
            audit.close(f"/bots/{platform}", 200, "ok", 0.0, caller)
        _log.info("An answer was rated", extra={"answer_id": answer_id, "rating": rating, "removed": removed})

    def _request(self, platform: str, user: str, stream_id: str, messages: tuple[Message, ...]) -> ChatRequest:
        settings = self._settings
        if settings.system_prompt:
            messages = (Message("system", (TextPart(settings.system_prompt),)), *messages)
        return ChatRequest(
            _request_id(stream_id),
            messages,
            Sampling(max_tokens=settings.max_tokens, temperature=settings.temperature),
            deadline_s=settings.answer_timeout_s,
            caller=self._caller(platform, user),
        )

    def _caller(self, platform: str, user: str) -> Caller:
        name = "".join(character for character in f"{platform}:{user}" if character.isprintable())
        return Caller(
            id=name[:MAX_NAME],
            tenant=self._settings.tenant,
            scopes=frozenset({"inference"}),
            metric_class="other",
            limits=self._caller_limits,
        )

    async def _admit(self, admission: Admission, request: ChatRequest) -> None:
        await admission.enter()
        tokens = self._settings.max_tokens + text_characters(request) // CHARACTERS_PER_TOKEN
        await admission.reserve(tokens=tokens, pictures=len(request.uploads))

    def _record(self, request: ChatRequest, answers: Answers) -> None:
        if answers.started is None:
            return
        usage, finished = answers.usage, answers.finished
        device_ms = finished.device_ms if finished else 0.0
        used = Used(1, usage.prompt_tokens, usage.completion_tokens, len(answers.pictures), device_ms)
        self._usage.record(request.caller, used)


def _request_id(stream_id: str) -> str:
    return f"bot-{stream_id}"
