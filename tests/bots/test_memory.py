"""What a chat remembers: after refused pictures, after many questions, after /clear, and where files are lost."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from serve_app.bots.conversation.memory import Memory, Turn
from serve_app.bots.conversation.state import MemoryState
from serve_app.bots.conversation.texts import EN
from serve_app.contracts import ChatRequest, Events
from serve_app.errors import ContextTooLong, ImageRejected, InvalidRequest, ServiceError
from serve_app.settings_bots import BotSettings
from tests.bots.bench import bench, pictures_of, question_of
from tests.fakes import FakeAnswer, FakeAnswers
from tests.ingress.client import PNG, soon

OTHER = PNG + b" "


@pytest.mark.parametrize("error", [ImageRejected("Broken."), ContextTooLong("Too long."), InvalidRequest("No.")])
async def test_a_refused_question_is_not_part_of_the_next_ones(tmp_path: Path, error: ServiceError):
    answer = FakeAnswers(FakeAnswer("4711"), FakeAnswer(error=error), FakeAnswer("4711"))
    async with bench(tmp_path, answer) as one:
        await one.ask(one.platform.mixed("ann", "Which number?", one.platform.host(PNG)))
        assert await one.ask(one.platform.text("ann", "Refused?")) == EN.error(error)
        await one.ask(one.platform.text("ann", "And now?"))
        assert pictures_of(answer.requests[2]) == [PNG]
        assert "Refused?" not in str(answer.requests[2].messages)


async def test_a_refused_picture_does_not_refuse_the_pictures_after_it(tmp_path: Path):
    def answer(request: ChatRequest) -> Events:
        broken = b"broken" in pictures_of(request)
        return FakeAnswer("ok", error=ImageRejected("Picture 1 is broken.") if broken else None)(request)

    async with bench(tmp_path, answer) as one:
        assert await one.ask(one.platform.image("ann", one.platform.host(b"broken"))) == EN.image_rejected
        assert await one.ask(one.platform.image("ann", one.platform.host(PNG))) == "ok"
        assert await one.ask(one.platform.text("ann", "Which number?")) == "ok"


async def test_two_pictures_are_answered_by_a_model_that_accepts_one(tmp_path: Path):
    seen: list[list[bytes]] = []

    def answer(request: ChatRequest) -> Events:
        pictures = pictures_of(request)
        if len(pictures) > 1:
            return FakeAnswer(error=InvalidRequest("The served model accepts at most 1 in a conversation."))(request)
        seen.append(pictures)
        return FakeAnswer("ok")(request)

    async with bench(tmp_path, answer) as one:
        for data in (PNG, OTHER):
            assert await one.ask(one.platform.image("ann", one.platform.host(data))) == "ok"
        assert await one.ask(one.platform.text("ann", "Which number?")) == "ok"
    assert seen == [[PNG], [OTHER], [OTHER]]


async def test_the_picture_stays_when_more_questions_come_than_are_remembered(tmp_path: Path):
    answer = FakeAnswers(*(FakeAnswer("ok") for _ in range(9)))
    async with bench(tmp_path, answer, bots={"remembered_turns": 3}) as one:
        await one.ask(one.platform.mixed("ann", "Which number?", one.platform.host(PNG)))
        for number in range(8):
            await one.ask(one.platform.text("ann", f"Question {number}?"))
        last = answer.requests[-1]
        assert pictures_of(last) == [PNG]
        questions = [message for message in last.messages if message.role == "user"]
        assert (len(questions), question_of(last)) == (3, "Question 7?")


async def test_a_message_has_all_its_pictures_and_earlier_ones_only_up_to_the_limit(tmp_path: Path):
    answer = FakeAnswers(*(FakeAnswer("ok") for _ in range(3)))
    async with bench(tmp_path, answer, bots={"remembered_pictures": 2}) as one:
        await one.ask(one.platform.image("ann", one.platform.host(PNG)))
        urls = [one.platform.host(data) for data in (PNG, OTHER, PNG)]
        await one.ask(one.platform.mixed("ann", "What differs?", *urls))
        assert len(pictures_of(answer.requests[1])) == 3
        await one.ask(one.platform.text("ann", "And?"))
        assert len(pictures_of(answer.requests[2])) == 3


async def test_a_picture_is_kept_as_long_as_questions_about_it_come(tmp_path: Path):
    answer = FakeAnswers(*(FakeAnswer("ok") for _ in range(6)))
    async with bench(tmp_path, answer) as one:
        await one.ask(one.platform.mixed("ann", "Which number?", one.platform.host(PNG)))
        for number in range(5):
            one.clock.added += 500
            await one.ask(one.platform.text("ann", f"Question {number}?"))
        assert pictures_of(answer.requests[-1]) == [PNG]


async def test_a_picture_that_is_no_longer_kept_is_asked_for_and_not_left_out(tmp_path: Path):
    answer = FakeAnswers(FakeAnswer("4711"), FakeAnswer("Hello."))
    state = MemoryState(lambda: 0.0)
    async with bench(tmp_path, answer, state=state) as one:
        await one.ask(one.platform.mixed("ann", "Which number?", one.platform.host(PNG)))
        for key in [key for key in state._entries if key.startswith("file:")]:
            await state.delete(key)
        content = await one.ask(one.platform.text("ann", "Which colour?"))
        assert content == EN.file_failed.format(reason=EN.not_kept)
        assert len(answer.requests) == 1
        assert await one.ask(one.platform.text("ann", "Hello?")) == "Hello."


class SlowFiles(httpx.AsyncBaseTransport):
    """The platform's files, which come when `release` is set."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.running = self.most = 0
        self.app: httpx.ASGITransport | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.running += 1
        self.most = max(self.most, self.running)
        await self.release.wait()
        self.running -= 1
        assert self.app is not None
        return await self.app.handle_async_request(request)


async def test_clear_holds_for_a_picture_that_is_still_being_downloaded(tmp_path: Path):
    answer, files = FakeAnswers(FakeAnswer("a label"), FakeAnswer("ok")), SlowFiles()
    async with bench(tmp_path, answer, transport=files) as one:
        files.app = httpx.ASGITransport(one.platform.app)
        stream = await one.platform.send(one.platform.image("ann", one.platform.host(PNG)))
        await soon(lambda: files.running == 1)
        assert await one.ask(one.platform.text("ann", "/clear")) == EN.cleared
        files.release.set()
        assert await one.platform.follow(stream, interval_s=0.01) == "a label"
        await one.ask(one.platform.text("ann", "Which number?"))
        assert pictures_of(answer.requests[1]) == []


async def test_a_message_with_too_many_pictures_is_refused_before_a_download(tmp_path: Path):
    answer, files = FakeAnswer("Two"), SlowFiles()
    async with bench(tmp_path, answer, transport=files) as one:
        urls = [one.platform.host(PNG) for _ in range(17)]
        content = await one.ask(one.platform.mixed("ann", "What?", *urls))
        assert content == EN.too_many_files.format(limit=16)
        assert files.most == 0


async def test_few_files_are_downloaded_at_once_and_none_for_a_full_queue(tmp_path: Path):
    files, answer = SlowFiles(), FakeAnswer("Two", hold_after=0)
    async with bench(tmp_path, answer, transport=files, bots={"max_running": 1, "max_waiting": 0}) as one:
        files.app = httpx.ASGITransport(one.platform.app)
        urls = [one.platform.host(PNG) for _ in range(16)]
        stream = await one.platform.send(one.platform.mixed("ann", "What?", *urls))
        await soon(lambda: files.running == 8)
        files.release.set()
        await answer.held.wait()
        assert files.most == 8
        files.most = 0
        assert await one.ask(one.platform.image("bob", one.platform.host(PNG))) == EN.busy
        assert files.most == 0
        answer.release.set()
        assert await one.platform.follow(stream, interval_s=0.01) == "Two"


async def test_an_answer_and_a_new_question_at_the_same_time_are_both_remembered():
    class SlowState(MemoryState):
        async def get(self, key: str) -> bytes | None:
            value = await super().get(key)
            await asyncio.sleep(0)
            return value

    memory = Memory(BotSettings(), SlowState(lambda: 0.0), 16)
    await memory.add("chat", Turn("1", "one"), 1.0)
    await asyncio.gather(memory.answer("chat", "1", "answer"), memory.add("chat", Turn("2", "two"), 2.0))
    topic = await memory.add("chat", Turn("3", "three"), 3.0)
    assert [(turn.question, turn.answer) for turn in topic.turns] == [("one", "answer"), ("two", ""), ("three", "")]
