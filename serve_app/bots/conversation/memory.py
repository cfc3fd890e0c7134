"""The remembered turns of each chat: questions, pictures and answers, for follow-up questions."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field
from typing import Final

import orjson

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
    """Topics by chat, for `bots.memory_s` after their last change."""

    def __init__(self, settings: BotSettings, state: State) -> None:
        self._settings = settings
        self._state = state

    def chat_key(self, message: Inbound) -> str:
        """Who shares what is remembered: the user, in a group by the settings also the others."""
        user = message.user if not message.chat or self._settings.group_memory == "user" else ""
        return join_key("chat", message.platform, message.bot, message.chat, user)

    async def keep_files(self, files: list[bytes]) -> tuple[str, ...]:
        """The digests by which the files are found again."""
        digests = []
        for data in files:
            digest = hashlib.sha256(data).hexdigest()
            await self._state.set(f"file:{digest}", data, max(FILE_TTL_S, self._settings.memory_s))
            digests.append(digest)
        return tuple(digests)

    async def file(self, digest: str) -> bytes | None:
        return await self._state.get(f"file:{digest}")

    async def add(self, key: str, turn: Turn) -> Topic:
        """The topic with a new last turn.

        Pictures begin a new topic, unless only pictures without text were sent before: these belong together.
        """
        topic = await self._read(key)
        turns = [each for each in topic.turns if each.stream != turn.stream]
        if turn.digests and any(each.question for each in turns):
            turns = []
        turns.append(turn)
        topic = Topic(self._newest(turns))
        await self._write(key, topic)
        return topic

    async def answer(self, key: str, stream: str, answer: str) -> None:
        """Adds the answer to the turn of a stream, if it is still remembered."""
        topic = await self._read(key)
        for turn in topic.turns:
            if turn.stream == stream:
                turn.answer = answer
                await self._write(key, topic)

    async def clear(self, key: str) -> None:
        await self._state.delete(key)

    async def messages(self, topic: Topic, default_question: str) -> tuple[Message, ...]:
        """The conversation for the model; files that are no longer kept are left out."""
        messages: list[Message] = []
        open_parts: list[Part] = []
        for turn in topic.turns:
            is_last = turn is topic.turns[-1]
            for digest, is_document in zip(turn.digests, turn.documents, strict=True):
                if (data := await self.file(digest)) is not None:
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
        """The newest turns within the limits, beginning with one that has pictures if any has."""
        turns = turns[-self._settings.remembered_turns :]
        while len(turns) > 1 and sum(len(turn.digests) for turn in turns) > self._settings.remembered_pictures:
            turns = turns[1:]
        return turns

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
        await self._state.set(key, orjson.dumps([asdict(turn) for turn in topic.turns]), self._settings.memory_s)
