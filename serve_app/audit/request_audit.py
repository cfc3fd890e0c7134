"""What is written of one request: who asked what, what was answered, how long it took, and how it ended.

It gets the events of the answers (`answers.Audit`). In required mode the line is in the file before the last event of
the answer is sent; a stream has a line `started` before its first event too.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from serve_app.audit.writer import AuditWriter
from serve_app.caller import ANONYMOUS, Caller
from serve_app.contracts import ChatRequest, Delta, Event, Finished, Started, ToolCallDelta
from serve_app.errors import AuditUnavailable
from serve_app.fingerprint import system_fingerprint
from serve_app.metrics import Meter
from serve_app.question_json import printable, question_json
from serve_app.request_size import one_of_each_prompt
from serve_app.settings import Settings
from serve_app.settings_audit import AuditSettings

WRITE_TIMEOUT_S: Final = 10.0


class AuditLog:
    """The audit log as requests see it: the writer and what is written."""

    def __init__(
        self,
        settings: AuditSettings,
        writer: AuditWriter,
        model: dict[str, str],
        now: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self.writer = writer
        self.model = model  # name, revision, fingerprint: part of each line
        self.required = settings.mode == "required"
        self._now = now

    def of_request(self, request_id: str, method: str) -> RequestAudit:
        """The audit of a request that came in now."""
        return RequestAudit(self, {"time": iso_time(self._now()), "request_id": request_id, "method": method})


class _Choice:
    """What one choice of the answer says so far."""

    def __init__(self, started: Started) -> None:
        self.started = started
        self.texts: list[str] = []
        self.reasoning: list[str] = []
        self.calls: list[dict[str, str]] = []
        self.finished: Finished | None = None

    def as_object(self) -> dict[str, Any]:
        said: dict[str, Any] = {"text": "".join(self.texts)}
        if self.reasoning:
            said["reasoning"] = "".join(self.reasoning)
        if self.calls:
            said["tool_calls"] = self.calls
        return said


class RequestAudit:
    """The lines of one request; exactly one of kind `request`."""

    def __init__(self, log: AuditLog, fields: dict[str, Any]) -> None:
        self._log = log
        self._caller = ANONYMOUS
        self._fields = fields
        self._requests: Sequence[ChatRequest] = ()
        self._choices: dict[int, _Choice] = {}
        self._started: Started | None = None
        self._comment = ""
        self._is_written = False

    def asked(self, requests: Sequence[ChatRequest], answer_id: str, route: str) -> None:
        """The choices that are about to be generated."""
        self._requests = requests
        self._caller = requests[0].caller
        self._fields |= {"id": answer_id, "route": route}

    def rated(self, answer_id: str, rating: str, comment: str) -> None:
        """The request is feedback on an answer."""
        self._fields["feedback"] = {"id": answer_id, "rating": rating}
        self._comment = comment

    def add(self, index: int, event: Event) -> None:
        """An event of the choice with this index; a repeated `Started` means that it is generated again."""
        match event:
            case Started():
                self._choices[index] = _Choice(event)
                self._started = self._started or event
            case Delta(channel="reasoning"):
                self._choices[index].reasoning.append(event.text)
            case Delta():
                self._choices[index].texts.append(event.text)
            case ToolCallDelta():
                calls = self._choices[index].calls
                if event.name is not None:
                    calls.append({"name": event.name, "arguments": ""})
                calls[event.index]["arguments"] += event.arguments
            case Finished():
                self._choices[index].finished = event

    async def begin(self) -> None:
        """Before the first event is sent; raises AuditUnavailable in required mode."""
        if not self._log.required:
            return
        if self._log.writer.failing:
            raise AuditUnavailable(
                "The audit log can't be written, and no answer is given without it. Try again later."
            )
        if self._requests[0].stream:
            await self._wait(self._log.writer.write("started", self._described(), self._personal()))

    async def end(self, total_ms: float) -> None:
        """Before the last event is sent; raises AuditUnavailable in required mode."""
        written = self.close(self._fields["route"], 200, "answered", total_ms, self._caller)
        if self._log.required and written is not None:
            await self._wait(written)

    def close(self, route: str, status: int, outcome: str, total_ms: float, caller: Caller) -> Future[None] | None:
        """Queues the line of the request, unless it was: how it ended, with HTTP status and error code."""
        if self._is_written:
            return None
        self._caller = caller
        self._fields["route"] = route
        fields = self._described() | {"status": status, "outcome": outcome, "total_ms": round(total_ms, 3)}
        written = self._log.writer.write("request", fields | self._measured(), self._personal())
        self._is_written = True  # not before: what fails above is written by the next call
        return written

    def _described(self) -> dict[str, Any]:
        fields = self._fields | {"tenant": self._caller.tenant, "model": self._log.model}
        if self._requests:
            sampling = self._requests[0].sampling
            fields["temperature"], fields["seed"], fields["choices"] = (
                sampling.temperature,
                sampling.seed,
                len(self._requests),
            )
        return fields

    def _measured(self) -> dict[str, Any]:
        """Tokens, pictures and times, as far as they are known."""
        started = self._started
        if started is None:
            return {}
        prompts = self._started_prompts()
        ends = [choice.finished for choice in self._choices.values() if choice.finished is not None]
        return {
            "prompt_tokens": sum(prompt.prompt_tokens for prompt in prompts),
            "image_tokens": sum(prompt.image_tokens for prompt in prompts),
            "completion_tokens": sum(end.usage.completion_tokens for end in ends),
            "cached_tokens": max((end.usage.cached_tokens for end in ends), default=0),
            "vram_bytes": sum(end.vram_bytes for end in ends),
            "finish_reasons": [end.reason for end in ends],
            "cache": started.cache,
            "pictures": [
                {"original_size": picture.original_size, "seen_size": picture.seen_size, "tokens": picture.tokens}
                for picture in started.pictures
            ],
            "stages_ms": {name: round(spent, 3) for name, spent in (ends[0] if ends else started).stages_ms.items()},
        }

    def _started_prompts(self) -> list[Started]:
        """The beginning of one choice of each prompt."""
        choices = {
            self._requests[index].group or self._requests[index].id: choice for index, choice in self._choices.items()
        }
        return [choice.started for choice in choices.values()]

    def _personal(self) -> dict[str, Any]:
        """What `delete-person` removes: who asked, what was asked and answered, and which pictures."""
        personal: dict[str, Any] = {"caller": self._caller.id}
        if self._started is not None:
            personal["pictures"] = [picture.digest for picture in self._started.pictures]
        if self._requests:
            first, *others = map(question_json, one_of_each_prompt(self._requests))
            personal |= self._text("question", [first, *others] if others else first)
        if self._comment:
            personal |= self._text("comment", printable(self._comment))
        if self._choices:
            personal |= self._text("answer", [self._choices[index].as_object() for index in sorted(self._choices)])
        return personal

    def _text(self, name: str, value: Any) -> dict[str, Any]:
        data = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
        fields = {f"{name}_sha256": hashlib.sha256(data).hexdigest()}
        return fields | ({name: value} if self._log.settings.texts == "full" else {})

    async def _wait(self, written: Future[None]) -> None:
        try:
            async with asyncio.timeout(WRITE_TIMEOUT_S):
                await asyncio.wrap_future(written)
        except TimeoutError as error:
            raise AuditUnavailable("The audit log does not respond, and no answer is given without it.") from error


def iso_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def audit_log(settings: Settings, meter: Meter) -> AuditLog | None:
    """The audit log of the settings; None if it is off."""
    if settings.audit.mode == "off":
        return None
    model, fingerprint = settings.model, system_fingerprint(settings.model)
    identity = {"name": model.served_name, "revision": model.revision or "", "fingerprint": fingerprint}
    return AuditLog(settings.audit, AuditWriter(settings.audit, meter), identity)
