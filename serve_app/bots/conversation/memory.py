"""The remembered turns of each chat: questions, pictures and answers, for follow-up questions."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import dropwhile
from typing import Final

import orjson

from serve_app.bots.conversation.adapter import FetchFailed
from serve_app.bots.conversation.message import Inbound, join_key
from serve_app.bots.conversation.state import State
from serve_app.contracts import ImagePart, Message, Part, TextPart
from serve_app.settings_bots import BotSettings

FILE_TTL_S: Final = 900.0  # at least: a restarted process reads the files of unfinished answers again


@dataclass(slots=True)
class Turn:
    """One question of a chat. Without an answer, its pictures belong to the next question."""

    stream: str  # the id of its stream
    question: str  # empty: pictures without text
    digests: tuple[str, ...] = ()
    documents: tuple[bool, ...] = ()  # of each file: whether it is a document
    answer: str = ""


@dataclass(slots=True)
class Topic:
    """The turns about one set of pictures."""

    turns: list[Turn] = field(default_factory=list)


class Memory:
    """Topics by chat, for `bots.memory_s` after their last change; `max_pictures` of the earlier turns at most."""

    def __init__(self, settings: BotSettings, state: State, max_pictures: int) -> None:
        self._settings = settings
        self._state = state
        self._max_pictures = min(settings.remembered_pictures, max_pictures)
        self._changing = asyncio.Lock()  # of topics: each change reads a topic and writes it

    def chat_key(self, message: Inbound) -> str:
        """Who shares what is remembered: the user, in a group by the settings also the others."""
        user = message.user if not message.chat or self._settings.group_memory == "user" else ""
        return join_key("chat", message.platform, message.bot, message.chat, user)

    async def keep_file(self, data: bytes) -> str:
        """The digest by which the file is found again."""
        digest = hashlib.sha256(data).hexdigest()
        await self._state.set(_file_key(digest), data, self._file_ttl_s)
        return digest

    async def file(self, digest: str) -> bytes | None:
        return await self._state.get(_file_key(digest))

    async def add(self, key: str, turn: Turn, sent_at: float) -> Topic:
        """The topic with a new last turn; what was sent before the last `clear` is not remembered.

        Pictures begin a new topic, unless only pictures without text were sent before: these belong together.
        """
        async with self._changing:
            cleared_at = await self._state.get(_cleared_key(key))
            if cleared_at is not None and sent_at <= float(cleared_at):
                return Topic([turn])
            topic = await self._read(key)
            turns = [each for each in topic.turns if each.stream != turn.stream]
            if turn.digests and any(each.question for each in turns):
                turns = []
            topic = Topic(self._newest([*turns, turn]))
            await self._write(key, topic)
            return topic

    async def begin_with(self, key: str, stream: str) -> None:
        """Removes the turns before that of a stream, if it is still remembered."""
        await self._change(key, lambda turns: [*dropwhile(lambda turn: turn.stream != stream, turns)] or turns)

    async def remove(self, key: str, stream: str) -> None:
        """Removes the turn of a stream, whose question was refused."""
        await self._change(key, lambda turns: [turn for turn in turns if turn.stream != stream])

    async def answer(self, key: str, stream: str, answer: str) -> None:
        """Adds the answer to the turn of a stream, if it is still remembered."""
        async with self._changing:
            topic = await self._read(key)
            for turn in topic.turns:
                if turn.stream == stream:
                    turn.answer = answer
                    await self._write(key, topic)

    async def clear(self, key: str, at: float) -> None:
        """Removes the topic, also for messages that were sent before and are still being read."""
        async with self._changing:
            await self._state.set(_cleared_key(key), repr(at).encode(), FILE_TTL_S)
            await self._state.delete(key)

    async def messages(self, topic: Topic, default_question: str) -> tuple[Message, ...]:
        """The conversation for the model. Raises FetchFailed if a picture is no longer kept."""
        messages: list[Message] = []
        open_parts: list[Part] = []
        for turn in topic.turns:
            is_last = turn is topic.turns[-1]
            for digest, is_document in zip(turn.digests, turn.documents, strict=True):
                if (data := await self.file(digest)) is None:
                    raise FetchFailed("not_kept", "A remembered picture is no longer kept.")
                open_parts.append(ImagePart(data, noun="File" if is_document else "Picture"))
            if turn.question or is_last or turn.answer:
                open_parts.append(TextPart(turn.question or default_question))
            if turn.answer or is_last:
                messages.append(Message("user", tuple(open_parts)))
                open_parts = []
            if turn.answer and not is_last:
                messages.append(Message("assistant", (TextPart(turn.answer),)))
        return tuple(messages)

    def _newest(self, turns: list[Turn]) -> list[Turn]:
        """The newest turns within the limits. Turns with pictures stay: the questions after them are about these."""
        with_pictures = [turn for turn in turns if turn.digests]
        while len(with_pictures) > 1 and sum(len(turn.digests) for turn in with_pictures) > self._max_pictures:
            with_pictures = with_pictures[1:]
        others = [turn for turn in turns if not turn.digests]
        others = others[-max(1, self._settings.remembered_turns - len(with_pictures)) :]
        kept = {turn.stream for turn in (*with_pictures, *others)}
        return [turn for turn in turns if turn.stream in kept]

    async def _change(self, key: str, change: Callable[[list[Turn]], list[Turn]]) -> None:
        async with self._changing:
            topic = await self._read(key)
            await self._write(key, Topic(change(topic.turns)))

    async def _read(self, key: str) -> Topic:
        data = await self._state.get(key)
        if data is None:
            return Topic()
        return Topic(
            [
                Turn(**{**turn, "digests": tuple(turn["digests"]), "documents": tuple(turn["documents"])})
                for turn in orjson.loads(data)
            ]
        )

    async def _write(self, key: str, topic: Topic) -> None:
        """Writes a topic and keeps its files as long as it."""
        await self._state.set(key, orjson.dumps([asdict(turn) for turn in topic.turns]), self._settings.memory_s)
        for digest in {digest for turn in topic.turns for digest in turn.digests}:
            await self._state.renew(_file_key(digest), self._file_ttl_s)

    @property
    def _file_ttl_s(self) -> float:
        return max(FILE_TTL_S, self._settings.memory_s)


def _file_key(digest: str) -> str:
    return f"file:{digest}"


def _cleared_key(key: str) -> str:
    return f"cleared:{key}"
