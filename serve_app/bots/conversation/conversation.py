"""The conversation: from a message to the stream of its answer; no platform is known here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from contextlib import aclosing, suppress
from typing import Any, Final, Literal, Protocol

from serve_app.bots.conversation.adapter import Adapter, FetchFailed
from serve_app.bots.conversation.answer_queue import AnswerQueue
from serve_app.bots.conversation.commands import command_of
from serve_app.bots.conversation.downloads import Downloads
from serve_app.bots.conversation.memory import Memory, Topic, Turn
from serve_app.bots.conversation.mentions import strip_mention
from serve_app.bots.conversation.message import Inbound
from serve_app.bots.conversation.state import State, StateUnavailable
from serve_app.bots.conversation.streams import Stream, Streams
from serve_app.bots.conversation.texts import LANGUAGES
from serve_app.contracts import Message
from serve_app.errors import InvalidRequest, Overloaded, ReplicaLost, ServiceError
from serve_app.metrics import BOT_ANSWER_SECONDS, BOT_MESSAGES, BOT_WAITING, Meter
from serve_app.settings_bots import BotSettings

RECOVER_S: Final = 2.0  # between two tries to read what an earlier process left

_log = logging.getLogger("glm.bots")


class Ask(Protocol):
    """Asks the model; pieces of the answer. Raises ServiceError."""

    def __call__(
        self, platform: str, user: str, stream_id: str, messages: tuple[Message, ...]
    ) -> AsyncGenerator[str, None]: ...


class Rate(Protocol):
    """Records what a user says of an answer."""

    async def __call__(
        self, platform: str, user: str, stream_id: str, rating: Literal["up", "down"], comment: str
    ) -> None: ...


class Conversation:
    """Receives the messages of all bots and keeps the streams of their answers."""

    def __init__(
        self,
        settings: BotSettings,
        ask: Ask,
        rate: Rate,
        state: State,
        *,
        max_files: int,
        kept_s: float,
        meter: Meter,
        now: Callable[[], float],
        new_id: Callable[[], str],
    ) -> None:
        self.settings = settings
        self.texts = LANGUAGES[settings.language]
        self.streams = Streams(state, now, new_id, kept_s)
        self.rate = rate
        self._ask = ask
        self._meter = meter
        self._now = now
        self._max_files = max_files
        self._memory = Memory(settings, state, max_files)
        self._downloads = Downloads(settings, self._memory)
        self._queue = AnswerQueue(settings.max_running, settings.max_waiting)
        self.copies: list[Callable[[Stream], Awaitable[object]]] = []  # get every answered question
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}  # by chat, with those that hold it or wait
        self._tasks: set[asyncio.Task[None]] = set()
        self._recovering: asyncio.Task[None] | None = None

    async def receive(self, message: Inbound, adapter: Adapter) -> Stream:
        """The stream of the answer, at once; work goes on in the background. A repeated message gets the same one."""
        stream, is_new = await self.streams.of_message(message, lambda stream: self._begin(stream, adapter))
        if not is_new:
            self._count(stream, "repeated")
        return stream

    async def _begin(self, stream: Stream, adapter: Adapter) -> None:
        """Replies without the model, or starts the answer."""
        try:
            reply = await self._reply_without_model(stream)
        except Exception:
            _log.exception("A message of %s could not be read.", stream.message.platform)
            reply = self.texts.failed, "failed"
        if reply is not None:
            text, outcome = reply
            self._count(stream, outcome)
            await self._finish(stream, text)
        else:
            stream.status = self.texts.reading if stream.message.all_files else self.texts.thinking
            stream.is_answer = True
            self._start(self._answer(stream, adapter))
        self._start(self._deliver(stream, adapter))

    async def recover(self, adapters: Mapping[str, Adapter]) -> int:
        """Continues what an earlier process left unfinished: answers are generated again, the rest is delivered.

        Returns how many answers these are; 0 if the state does not respond, then they are continued when it does.
        """
        try:
            return await self._recover(adapters)
        except StateUnavailable:
            self._recovering = asyncio.create_task(self._recover_later(adapters))
            return 0

    async def _recover_later(self, adapters: Mapping[str, Adapter]) -> None:
        while True:
            await asyncio.sleep(RECOVER_S)
            with suppress(StateUnavailable):
                number = await self._recover(adapters)
                _log.warning("The state responds; %d answers of an earlier process are continued.", number)
                return

    async def _recover(self, adapters: Mapping[str, Adapter]) -> int:
        streams = await self.streams.unfinished()
        for stream in streams:
            adapter = adapters.get(stream.message.platform)
            if adapter is None:
                await self.streams.close(stream)
                continue
            if not stream.finished:
                stream.is_answer = True
                self._start(self._answer(stream, adapter))
            self._start(self._deliver(stream, adapter))
        return len(streams)

    async def drain(self, seconds: float) -> None:
        """Waits for answers in progress; those that take longer are stopped."""
        if self._recovering is not None:
            self._recovering.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _reply_without_model(self, stream: Stream) -> tuple[str, str] | None:
        """A text of the bot and its kind for the metrics; None if the model is to answer."""
        settings, texts, message = self.settings, self.texts, stream.message
        if settings.allowed_users and message.user not in settings.allowed_users:
            return texts.not_allowed, "not_allowed"
        if message.chat and settings.allowed_chats and message.chat not in settings.allowed_chats:
            return texts.not_allowed, "not_allowed"
        if message.kind == "enter_chat":
            return settings.welcome or texts.welcome, "welcome"
        match command_of(self._question(message)):
            case "clear":
                await self._memory.clear(self._memory.chat_key(message), stream.started_at)
                return texts.cleared, "command"
            case "help":
                return texts.help, "command"
        if message.unsupported:
            return texts.unsupported, "unsupported"
        if not self._question(message) and not message.all_files:
            return texts.empty, "empty"
        if len(message.all_files) > self._max_files:
            return texts.too_many_files.format(limit=self._max_files), "file_failed"
        if (number := self.streams.before(stream)) >= settings.max_per_user:
            return texts.too_many.format(number=number), "too_many"
        return None

    async def _answer(self, stream: Stream, adapter: Adapter) -> None:
        """Generates the answer of a stream; every failure becomes a sentence of the stream."""
        message, outcome = stream.message, "failed"
        key = self._memory.chat_key(message)
        try:
            self._queue.check()
            topic = await self._remember(stream, adapter)
            async with self._queue.place(lambda place: self._show_place(stream, place)):
                self._meter.set(BOT_WAITING, self._queue.waiting)
                stream.status = self.texts.thinking
                await self._generate_about(stream, topic)
            await self._memory.answer(key, stream.id, stream.text)
            outcome = "answered"
            await self._finish(stream, stream.text if stream.text.strip() else self.texts.no_answer)
            for copy in self.copies:
                self._start(self._copy(copy, stream))
        except FetchFailed as error:
            _log.warning("A file of %s could not be fetched: %s", message.platform, error)
            outcome = "file_failed"
            if error.reason == "not_kept":
                await self._memory.clear(key, stream.started_at)
            limit = f"{self.settings.max_file_bytes / 2**20:.3g} MiB"
            reason = getattr(self.texts, error.reason).format(limit=limit)
            await self._finish(stream, self.texts.file_failed.format(reason=reason))
        except ServiceError as error:
            _log.warning("A question of %s was not answered: %s", message.platform, error.code)
            outcome = error.code
            if isinstance(error, InvalidRequest):  # otherwise each later question would be refused too
                await self._memory.remove(key, stream.id)
            await self._fail(stream, self.texts.busy if isinstance(error, Overloaded) else self.texts.error(error))
        except asyncio.CancelledError:  # this process stops; the next one continues
            outcome = "stopped"
            raise
        except Exception:
            _log.exception("A question of %s failed.", message.platform)
            await self._fail(stream, self.texts.failed)
        finally:
            self._count(stream, outcome)

    async def _generate_about(self, stream: Stream, topic: Topic) -> None:
        """Generates the answer. If the model refuses pictures together with earlier ones, it gets the new ones only.

        So a model that accepts one picture in a conversation answers about each picture.
        """
        question, turn = self.settings.default_question or self.texts.question, topic.turns[-1]
        try:
            await self._generate(stream, await self._memory.messages(topic, question))
        except InvalidRequest:
            if not turn.digests or len(topic.turns) == 1 or stream.text:
                raise
            await self._generate(stream, await self._memory.messages(Topic([turn]), question))
            await self._memory.begin_with(self._memory.chat_key(stream.message), turn.stream)

    async def _generate(self, stream: Stream, messages: tuple[Message, ...]) -> None:
        """Appends the model's text; if its replica dies, the answer is generated again, once."""
        for last in (False, True):
            text = ""
            try:
                message = stream.message
                async with aclosing(self._ask(message.platform, message.user, stream.id, messages)) as pieces:
                    async for piece in pieces:
                        text += piece
                        if len(text) > len(stream.text):  # after a restart, what was shown does not become shorter
                            stream.text = text
                        stream.notify()
                        await self.streams.save_sometimes(stream)
                stream.text = text
                return
            except ReplicaLost:
                if last:
                    raise

    async def _remember(self, stream: Stream, adapter: Adapter) -> Topic:
        """Fetches the files at once, since their addresses expire; turns of one chat are added in their order."""
        message = stream.message
        key = self._memory.chat_key(message)
        fetching = asyncio.create_task(self._downloads.fetch_all(stream, adapter))
        lock, users = self._locks.get(key, (asyncio.Lock(), 0))
        self._locks[key] = lock, users + 1
        try:
            async with lock:
                documents = tuple(file.is_document for file in message.all_files)
                stream.digests = await fetching
                turn = Turn(stream.id, self._full_question(message), stream.digests, documents)
                topic = await self._memory.add(key, turn, stream.started_at)
                await self.streams.save(stream)
        finally:
            fetching.cancel()
            lock, users = self._locks.pop(key)
            if users > 1:
                self._locks[key] = lock, users - 1
        return topic

    def _question(self, message: Inbound) -> str:
        return strip_mention(message.text, self.settings.names)

    def _full_question(self, message: Inbound) -> str:
        """The question with the text of the quoted message."""
        question = self._question(message)
        if message.quote is None or not message.quote.text:
            return question
        quoted = self.texts.quoted.format(text=message.quote.text.replace(">>>", "> > >"))
        return f"{quoted}\n\n{question}" if question else quoted

    def _show_place(self, stream: Stream, place: int) -> None:
        self._meter.set(BOT_WAITING, self._queue.waiting)
        stream.status = self.texts.waiting.format(place=place)
        stream.notify()

    async def _finish(self, stream: Stream, text: str) -> None:
        stream.text, stream.finished = text, True
        stream.notify()
        await self.streams.save(stream)

    async def _fail(self, stream: Stream, reason: str) -> None:
        """Ends a stream with a sentence after its text, which may have been shown already."""
        await self._finish(stream, f"{stream.text}\n\n{reason}" if stream.text else reason)

    async def _deliver(self, stream: Stream, adapter: Adapter) -> None:
        try:
            await adapter.deliver(stream)
        except Exception as error:
            _log.error("An answer could not be delivered to %s: %s", stream.message.platform, type(error).__name__)
        await stream.wait_finished()
        await self.streams.close(stream)

    async def _copy(self, copy: Callable[[Stream], Awaitable[object]], stream: Stream) -> None:
        try:
            await copy(stream)
        except Exception as error:
            _log.error("An answer could not be copied: %s", type(error).__name__)

    def _count(self, stream: Stream, outcome: str) -> None:
        platform = stream.message.platform
        self._meter.count(BOT_MESSAGES, platform=platform, outcome=outcome)
        if outcome == "answered":
            self._meter.observe(BOT_ANSWER_SECONDS, self._now() - stream.started_at, platform=platform)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
