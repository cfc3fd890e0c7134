"""The AI bot by webhook: verification, streams, repeated deliveries, deadlines and refused callbacks."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from typing import Any

import orjson
import pytest

from serve_app.audit.files import audit_files, lines_of
from serve_app.audit.request_audit import AuditLog
from serve_app.audit.writer import AuditWriter
from serve_app.bots.conversation.texts import EN
from serve_app.cache.feedback import Feedback
from serve_app.callbacks import Callback
from serve_app.contracts import Delta
from serve_app.errors import ImageRejected, Overloaded
from serve_app.settings_audit import AuditSettings
from tests.bots.bench import BOT, Bench, bench, pictures_of, question_of
from tests.fakes import FakeAnswer, FakeAnswers, FakeMeter
from tests.ingress.client import PNG, soon


async def test_a_new_callback_address_is_verified_with_the_exact_text(tmp_path: Path):
    async with bench(tmp_path, FakeAnswer("Two")) as one:
        assert len(await one.platform.verify_url()) == 20


async def test_a_picture_and_a_question_are_answered_as_a_growing_stream(tmp_path: Path):
    answer = FakeAnswer("It is ", "4711", hold_after=2)
    async with bench(tmp_path, answer) as one:
        message = one.platform.mixed("ann", "@My Bot  Which number?", one.platform.host(PNG), chat="group")
        started = time.monotonic()
        stream = await one.platform.send(message)
        assert time.monotonic() - started < 1
        assert (stream["finish"], stream["content"]) == (False, EN.reading)
        assert stream["feedback"] == {"id": stream["id"]}
        await answer.held.wait()
        stream = await one.platform.poll(stream["id"])
        assert (stream["finish"], stream["content"]) == (False, "It is ")
        answer.release.set()
        assert await one.platform.follow(stream, interval_s=0.01) == "It is 4711"
        assert (await one.platform.poll(stream["id"])) == {"id": stream["id"], "finish": True, "content": "It is 4711"}
        (request,) = answer.requests
        assert (question_of(request), pictures_of(request)) == ("Which number?", [PNG])
        assert request.caller.id == "wecom_bot:ann"


async def test_the_same_message_delivered_four_times_at_once_runs_the_model_once(tmp_path: Path):
    answer = FakeAnswer("Two")
    async with bench(tmp_path, answer) as one:
        message = one.platform.text("ann", "How many?")
        streams = await asyncio.gather(*(one.platform.send(message) for _ in range(4)))
        assert len({stream["id"] for stream in streams}) == 1
        assert await one.platform.follow(streams[0], interval_s=0.01) == "Two"
        assert (await one.platform.send(message))["content"] == "Two"
        assert len(answer.requests) == 1


async def test_the_same_message_id_of_two_users_is_two_messages(tmp_path: Path):
    answer = FakeAnswers(FakeAnswer("one"), FakeAnswer("two"))
    async with bench(tmp_path, answer) as one:
        texts = [await one.ask(one.platform.text(user, "Hello?", id="same")) for user in ("ann", "bob")]
        assert texts == ["one", "two"]


async def test_a_slow_model_does_not_delay_the_first_reply(tmp_path: Path):
    answer = FakeAnswer("late", hold_after=0)
    async with bench(tmp_path, answer) as one:
        started = time.monotonic()
        stream = await one.platform.send(one.platform.text("ann", "How many?"))
        assert time.monotonic() - started < 1
        assert (stream["finish"], stream["content"]) == (False, EN.thinking)


async def test_an_unknown_stream_is_finished_with_a_sentence(tmp_path: Path):
    async with bench(tmp_path, FakeAnswer("Two")) as one:
        stream = await one.platform.poll("gone")
        assert (stream["finish"], stream["content"]) == (True, EN.unknown_stream)


async def test_after_five_and_a_half_minutes_the_stream_ends_and_the_rest_is_sent(tmp_path: Path):
    answer = FakeAnswer("The beginning", " and the end.", hold_after=2)
    async with bench(tmp_path, answer) as one:
        stream = await one.platform.send(one.platform.text("ann", "Tell me."))
        await answer.held.wait()
        one.clock.added = 331
        stream = await one.platform.poll(stream["id"])
        assert (stream["finish"], stream["content"]) == (True, "The beginning" + EN.continues)
        answer.release.set()
        one.clock.added = 0
        await soon(lambda: bool(one.platform.sent))
        assert one.platform.sent == [{"msgtype": "markdown", "markdown": {"content": " and the end."}}]


async def test_an_answer_that_ends_late_is_sent_once_to_the_address_of_the_message(tmp_path: Path):
    answer = FakeAnswer("The beginning", " and the end.", hold_after=2)
    async with bench(tmp_path, answer) as one:
        one.service.adapters["wecom_bot"].finish_s = 0.05  # type: ignore[attr-defined]
        stream = await one.platform.send(one.platform.text("ann", "Tell me."))
        await answer.held.wait()
        await asyncio.sleep(0.1)
        assert (await one.platform.poll(stream["id"]))["finish"]
        answer.release.set()
        await soon(lambda: bool(one.platform.sent))
        assert one.platform.sent == [{"msgtype": "markdown", "markdown": {"content": " and the end."}}]
        assert (await one.platform.poll(stream["id"]))["content"] == "The beginning" + EN.continues


async def test_an_answer_above_the_longest_content_continues_in_one_more_message(tmp_path: Path):
    text = "图" * 8000
    async with bench(tmp_path, FakeAnswer(text)) as one:
        content = await one.ask(one.platform.text("ann", "Tell me."))
        await soon(lambda: bool(one.platform.sent))
        assert content.endswith(EN.continues)
        assert content.removesuffix(EN.continues) + one.platform.sent[0]["markdown"]["content"] == text


async def test_the_rest_is_never_sent_to_another_host(tmp_path: Path):
    async with bench(tmp_path, FakeAnswer("图" * 8000)) as one:
        message = one.platform.text("ann", "Tell me.") | {"response_url": "http://169.254.169.254/response"}
        await one.ask(message)
        await soon(lambda: one.meter.counts["glm_bot_sends_total", "wecom_bot", "failed"] == 1)
        assert one.platform.sent == []


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (Overloaded("The queue is full."), EN.busy),
        (ImageRejected("Picture 1 is too large."), EN.image_rejected),
        (RuntimeError("secret detail"), EN.failed),
    ],
)
async def test_every_failure_of_the_model_becomes_a_sentence(tmp_path: Path, error: Exception, text: str):
    async with bench(tmp_path, FakeAnswer("Two", error=error)) as one:
        assert await one.ask(one.platform.text("ann", "How many?")) == text


async def test_a_failure_after_the_first_text_is_added_to_it(tmp_path: Path):
    async with bench(tmp_path, FakeAnswer("Two", error=Overloaded("Full."), fail_after=2)) as one:
        assert await one.ask(one.platform.text("ann", "How many?")) == f"Two\n\n{EN.busy}"


async def test_reasoning_is_not_shown_and_an_answer_of_nothing_else_says_so(tmp_path: Path):
    async with bench(tmp_path, FakeAnswer(Delta("Let me see.", 3, "reasoning"))) as one:
        assert await one.ask(one.platform.text("ann", "How many?")) == EN.no_answer


async def test_a_think_tag_in_an_answer_does_not_fold_it_away(tmp_path: Path):
    async with bench(tmp_path, FakeAnswer("Write <think>a</think> so.")) as one:
        assert "<think>" not in await one.ask(one.platform.text("ann", "How?"))


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"status": 403}, EN.expired),
        ({"status": 404}, EN.expired),
        ({"status": 500}, EN.not_downloaded),
        ({"redirect": "https://elsewhere.test/x"}, EN.not_downloaded),
        ({"key": bytes(32)}, EN.wrong_key),
    ],
)
async def test_a_picture_that_can_not_be_had_is_answered_with_the_reason(
    tmp_path: Path, fields: dict[str, Any], text: str
):
    answer = FakeAnswer("Two")
    async with bench(tmp_path, answer) as one:
        content = await one.ask(one.platform.image("ann", one.platform.host(PNG, **fields)))
        assert content == EN.file_failed.format(reason=text)
        assert not answer.requests


async def test_a_picture_above_the_limit_is_refused(tmp_path: Path):
    async with bench(tmp_path, FakeAnswer("Two"), bots={"max_file_bytes": 1024}) as one:
        content = await one.ask(one.platform.image("ann", one.platform.host(bytes(5000))))
        assert content == EN.file_failed.format(reason=EN.too_large.format(limit="0.000977 MiB"))


@pytest.mark.parametrize(
    "url",
    [
        "http://platform.test/files/x",
        "https://platform.test:8443/files/x",
        "https://user@platform.test/files/x",
        "https://platform.test.evil.test/files/x",
        "https://evil.test/platform.test",
        "http://169.254.169.254/latest/meta-data",
        "file:///etc/passwd",
        "https://[::1/x",
    ],
)
async def test_a_picture_at_an_address_that_is_not_listed_is_not_fetched(tmp_path: Path, url: str):
    async with bench(tmp_path, FakeAnswer("Two")) as one:
        content = await one.ask(one.platform.image("ann", url))
        assert content == EN.file_failed.format(reason=EN.refused_host)


async def test_a_picture_with_a_key_of_its_own_is_decrypted_by_it(tmp_path: Path):
    answer, key = FakeAnswer("Two"), "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY"
    async with bench(tmp_path, answer) as one:
        url = one.platform.host(PNG, key=b"0123456789abcdef" * 2)
        message = one.platform.message("ann", msgtype="image", image={"url": url, "aeskey": key})
        assert await one.ask(message) == "Two"
        assert pictures_of(answer.requests[0]) == [PNG]


async def test_an_opened_chat_gets_the_welcome_as_text(tmp_path: Path):
    async with bench(tmp_path, FakeAnswer("Two"), bots={"welcome": "Hi!"}) as one:
        event = {"msgid": "e1", "create_time": 1700000000, "aibotid": BOT, "from": {"userid": "ann"}}
        reply = await one.platform.post(event | {"msgtype": "event", "event": {"eventtype": "enter_chat"}})
        assert reply == {"msgtype": "text", "text": {"content": "Hi!"}}


async def test_a_rating_is_recorded_for_the_answer_as_over_http_and_answered_with_nothing(tmp_path: Path):
    rated: list[Feedback] = []
    answer = FakeAnswer("Two")
    async with bench(tmp_path, answer, feedback=rated) as one:
        stream = await one.platform.send(one.platform.text("ann", "How many?"))
        await one.platform.follow(stream, interval_s=0.01)
        for kind in (2, 3):  # bad, then withdrawn
            event = {"id": stream["feedback"]["id"], "type": kind, "content": "wrong"}
            feedback = {"eventtype": "feedback_event", "feedback_event": event}
            message = {"msgid": "e1", "aibotid": BOT, "from": {"userid": "ann"}, "msgtype": "event", "event": feedback}
            assert await one.platform.post(message) is None
    assert rated == [Feedback(answer.requests[0].id, "down", "wrong", "default")]


async def test_a_question_is_one_line_of_the_audit_log_as_over_http(tmp_path: Path):
    log = AuditLog(
        AuditSettings(mode="required", folder=str(tmp_path / "audit"), texts="full"),
        AuditWriter(AuditSettings(mode="required", folder=str(tmp_path / "audit")), FakeMeter()),
        {"name": "demo"},
    )
    async with bench(tmp_path, FakeAnswer("Two ", "cats"), audit=log) as one:
        assert await one.ask(one.platform.text("ann", "How many?")) == "Two cats"
    log.writer.close()
    (file,) = audit_files(tmp_path / "audit")
    lines = [orjson.loads(line) for _, line in lines_of(file)]
    (request,) = [line for line in lines if line.get("kind") == "request"]
    assert (request["route"], request["method"], request["outcome"]) == ("/bots/wecom_bot", "BOT", "answered")
    personal = orjson.dumps(request).decode()
    assert "wecom_bot:ann" in personal
    assert "Two cats" in personal


async def refused(one: Bench, callback: Callback) -> int:
    reply = await one.service.respond(callback)
    assert reply.body == b"refused"
    return reply.status


async def test_hostile_callbacks_are_refused_counted_and_logged_without_secrets(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    answer = FakeAnswer("Two")
    async with bench(tmp_path, answer, wecom={"bot_id": BOT}) as one:
        platform = one.platform
        plain = orjson.dumps(platform.text("ann", "How many?"))
        encrypted = platform.crypto.encrypt(plain)
        body, query = orjson.dumps({"encrypt": encrypted}), platform.query(encrypted)
        old = platform.query(encrypted, int(one.clock()) - 3600)
        other_bot = platform.crypto.encrypt(orjson.dumps(platform.text("ann", "How many?") | {"aibotid": "other"}))
        not_json, no_message = platform.crypto.encrypt(b"<xml/>"), platform.crypto.encrypt(b'{"msgtype": 1}')
        cases = [
            (query | {"msg_signature": "0" * 40}, body, 403),
            (query | {"nonce": "1"}, body, 403),
            ({}, body, 403),
            (old, body, 403),
            (query, b"{", 400),
            (query, b"[]", 400),
            (query, b'<!DOCTYPE xml [<!ENTITY a "b">]><xml>&a;</xml>', 400),
            (platform.query(other_bot), orjson.dumps({"encrypt": other_bot}), 403),
            (platform.query(not_json), orjson.dumps({"encrypt": not_json}), 400),
            (platform.query(no_message), orjson.dumps({"encrypt": no_message}), 400),
            (platform.query("AAAA"), b'{"encrypt": "AAAA"}', 403),
        ]
        for given, data, status in cases:
            assert await refused(one, Callback("wecom/bot", "POST", given, {}, data)) == status
        assert await refused(one, Callback("wecom/bot", "GET", {"echostr": encrypted})) == 403
        assert not answer.requests
        assert one.meter.counts["glm_bot_callbacks_refused_total", "wecom_bot", "signature"] == 4
        assert (await one.service.respond(Callback("elsewhere", "POST"))).status == 404
    text = caplog.text
    for secret in (TOKEN_IN_LOG, encrypted, "How many?", query["msg_signature"]):
        assert secret not in text


TOKEN_IN_LOG = "QDG6eK"


async def test_logs_of_a_failed_picture_have_no_signed_address_and_no_key(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.DEBUG)
    async with bench(tmp_path, FakeAnswer("Two")) as one:
        message = one.platform.image("ann", one.platform.host(PNG, status=403))
        await one.ask(message)
    logged = "\n".join(record.getMessage() for record in caplog.records)
    assert "status 403" in logged
    for secret in ("sign=", "response_code", "jWmYm7qr5", "QDG6eK"):
        assert secret not in logged
