"""Feedback on answers: the key that an answer had, and the file of questions that were answered wrong."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

from serve_app.cache.store import Store, StoreUnavailable
from serve_app.cache.stored_answer import Codec
from serve_app.contracts import ChatRequest
from serve_app.question_json import question_json

MAX_QUESTION_BYTES: Final = 64 * 2**10  # as JSON; each response has a copy in the store until the answer's time is over
MAX_CHOICES: Final = 128  # of one request; their ids end in a number


@dataclass(frozen=True, slots=True)
class Feedback:
    """What a caller says of an answer; `answer_id` is the response's id."""

    answer_id: str
    rating: Literal["up", "down"]
    comment: str
    tenant: str


@dataclass(frozen=True, slots=True)
class IndexedAnswer:
    """The key of an answer, and its question if candidates are kept and it is at most 64 KiB."""

    key: str
    question: Any


class AnswerIndex:
    """Finds the keys of answers by the ids of responses, for as long as the answers are kept."""

    def __init__(self, store: Store, codec: Codec, ttl_s: float, *, keep_questions: bool) -> None:
        self._store = store
        self._codec = codec
        self._ttl_s = ttl_s
        self._keep_questions = keep_questions

    async def add(self, request: ChatRequest, key: str) -> None:
        name = _name(request.id, request.caller.tenant)
        question = question_json(request) if self._keep_questions else None
        if len(json.dumps(question)) > MAX_QUESTION_BYTES:
            question = None
        entry = {"key": key, "question": question}
        with suppress(StoreUnavailable):  # feedback then finds no answer
            await self._store.set(name, self._codec.sign(name, json.dumps(entry).encode()), self._ttl_s)

    async def find(self, answer_id: str, tenant: str) -> list[IndexedAnswer]:
        """The answers of a response, one for each choice; none if it is not known."""
        if (single := await self._get(answer_id, tenant)) is not None:
            return [single]
        found: list[IndexedAnswer] = []
        for index in range(MAX_CHOICES):
            choice = await self._get(f"{answer_id}-{index}", tenant)
            if choice is None:
                break
            found.append(choice)
        return found

    async def _get(self, id: str, tenant: str) -> IndexedAnswer | None:
        name = _name(id, tenant)
        try:
            data = await self._store.get(name)
            return None if data is None else IndexedAnswer(**json.loads(self._codec.verified(name, data)))
        except (StoreUnavailable, ValueError, TypeError):
            return None


class CandidateFile:
    """A file of JSON lines: questions whose answers were called wrong, as candidates for tests."""

    def __init__(self, path: str, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._path = path
        self._now = now

    async def add(self, feedback: Feedback, questions: list[Any], answers: list[str]) -> None:
        """Raises OSError."""
        line = {
            "time": self._now().isoformat(timespec="seconds"),
            "id": feedback.answer_id,
            "tenant": feedback.tenant,
            "comment": feedback.comment,
            "questions": questions,
            "answers": answers,
        }
        await asyncio.to_thread(self._append, json.dumps(line, ensure_ascii=False) + "\n")

    def _append(self, line: str) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, line.encode("utf-8", "replace"))
        finally:
            os.close(descriptor)


def _name(id: str, tenant: str) -> str:
    return "id:" + hashlib.sha256(json.dumps([tenant, id]).encode()).hexdigest()
