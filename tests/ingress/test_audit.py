"""The audit log through HTTP: one line a request, what it says, and no answer without it in required mode."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from serve_app.audit.files import audit_files, lines_of
from serve_app.audit.request_audit import AuditLog, RequestAudit
from serve_app.audit.verify import verify
from serve_app.audit.writer import AuditWriter
from serve_app.contracts import Delta, PictureSeen, ToolCallDelta
from serve_app.errors import Overloaded
from serve_app.settings_audit import AuditSettings
from tests.fakes import FakeAnswer, FakeMeter
from tests.ingress.client import PNG, MakeClient, chat, events_of, picture, soon, text

CHAT = "/v1/chat/completions"
PICTURES = (PictureSeen((56, 28), (28, 28), 2, None, "d" * 64),)
MODEL = {"name": "glm-vision-demo", "revision": "", "fingerprint": "fp_1"}

MakeLog = Callable[..., AuditLog]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "audit"


@pytest.fixture
def make_log(folder: Path) -> Iterator[MakeLog]:
    logs: list[AuditLog] = []

    def make(mode: str = "required", **settings: Any) -> AuditLog:
        chosen = AuditSettings(mode=mode, folder=str(folder), **settings)
        logs.append(AuditLog(chosen, AuditWriter(chosen, FakeMeter()), MODEL, now=lambda: 1_700_000_000.5))
        return logs[-1]

    yield make
    for log in logs:
        log.writer.close()


def lines(folder: Path, kind: str = "request") -> list[dict[str, Any]]:
    found = [orjson.loads(data) for file in audit_files(folder) for _, data in lines_of(file)]
    return [line for line in found if line["kind"] == kind]


def block(folder: Path) -> None:
    """No file can be written into the folder any more."""
    folder.write_text("not a folder")


async def test_an_answered_request_has_one_line(make_client: MakeClient, make_log: MakeLog, folder: Path) -> None:
    client = make_client(FakeAnswer("Two ", "cats", pictures=PICTURES), audit=make_log())
    body = chat([picture(), text("Which number?")], temperature=0)
    response = await client.post(CHAT, json=body, headers={"X-Request-ID": "r1", "Authorization": "Bearer secret"})
    (line,) = lines(folder)
    assert {name: line[name] for name in ("time", "request_id", "id", "method", "route", "status", "outcome")} == {
        "time": "2023-11-14T22:13:20.500+00:00",
        "request_id": "r1",
        "id": response.json()["id"],
        "method": "POST",
        "route": CHAT,
        "status": 200,
        "outcome": "answered",
    }
    assert (line["tenant"], line["model"], line["temperature"]) == ("default", MODEL, 0.0)
    assert (line["prompt_tokens"], line["image_tokens"], line["completion_tokens"]) == (40, 30, 2)
    assert line["pictures"] == [{"original_size": [56, 28], "seen_size": [28, 28], "tokens": 2}]
    assert line["personal"]["pictures"] == ["d" * 64]
    assert line["stages_ms"]["prefill"] == 4.0
    assert line["finish_reasons"] == ["stop"]


async def test_by_default_there_is_no_text_no_picture_and_no_secret(
    make_client: MakeClient, make_log: MakeLog, folder: Path
) -> None:
    client = make_client(FakeAnswer("Two cats"), audit=make_log())
    body = chat([picture(), text("Which number?")])
    await client.post(CHAT, json=body, headers={"Authorization": "Bearer sk-secret", "Cookie": "secret"})
    await client.post("/v1/ask", data={"question": "What?"}, files={"image": PNG})
    written = b"".join(file.read_bytes() for file in audit_files(folder))
    for absent in (b"Which", b"cats", b"secret", b"What?", b"iVBOR"):
        assert absent not in written
    assert len({line["personal"]["question_sha256"] for line in lines(folder)}) == 2


async def test_texts_are_written_by_setting(make_client: MakeClient, make_log: MakeLog, folder: Path) -> None:
    answer = FakeAnswer(Delta("Hm.", 2, "reasoning"), "Two ", "cats", ToolCallDelta(0, "weather", '{"a": 1}', 3))
    client = make_client(answer, audit=make_log(texts="full"))
    await client.post(CHAT, json=chat([picture(), text("Which number?")], n=2))
    personal = lines(folder)[0]["personal"]
    assert personal["question"] == [{"role": "user", "parts": ["<picture>", "Which number?"]}]
    said = {
        "text": "Two cats",
        "reasoning": "Hm.",
        "tool_calls": [{"name": "weather", "arguments": '{"a": 1}'}],
    }
    assert personal["answer"] == [said, said]


async def test_all_prompts_of_a_request_are_in_its_line(
    make_client: MakeClient, make_log: MakeLog, folder: Path
) -> None:
    """Only the first one was."""
    client = make_client(FakeAnswer("Two"), audit=make_log(texts="full"))
    body = {"prompt": ["One", "Other"], "n": 2, "max_tokens": 4, "temperature": 0}
    assert (await client.post("/v1/completions", json=body)).status_code == 200
    (line,) = lines(folder)
    assert line["personal"]["question"] == ["One", "Other"]
    assert (line["prompt_tokens"], line["image_tokens"], line["choices"]) == (80, 60, 4)


async def test_a_stream_in_required_mode_has_a_line_before_its_first_event_and_one_before_its_last(
    serving: Callable[..., Any], make_log: MakeLog, folder: Path
) -> None:
    answer = FakeAnswer("Two ", "cats", hold_after=2)
    url = await serving(answer, audit=make_log())
    async with httpx.AsyncClient() as client, client.stream("POST", url + CHAT, json=chat(stream=True)) as response:
        assert response.status_code == 200
        assert (len(lines(folder, "started")), len(lines(folder))) == (1, 0)
        answer.release.set()
        async for line in response.aiter_lines():
            if 'finish_reason":"stop' in line:
                assert len(lines(folder)) == 1
    assert len(lines(folder)) == 1


async def test_no_answer_is_given_when_its_line_can_not_be_written(
    make_client: MakeClient, make_log: MakeLog, folder: Path
) -> None:
    block(folder)
    client = make_client(FakeAnswer("Two ", "cats"), audit=make_log())
    for body in (chat(), chat(stream=True)):
        response = await client.post(CHAT, json=body)
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "audit_unavailable"
        assert response.headers["retry-after"] == "5"
        assert "Two" not in response.text


async def test_a_stream_does_not_end_well_when_its_line_can_not_be_written(
    serving: Callable[..., Any], make_log: MakeLog, folder: Path
) -> None:
    log = make_log(max_file_mib=1)
    answer = FakeAnswer("Two ", "cats", hold_after=2)
    url = await serving(answer, audit=log)
    async with httpx.AsyncClient() as client, client.stream("POST", url + CHAT, json=chat(stream=True)) as response:
        log.writer._size = 2**21  # the next line begins a new file
        shutil.rmtree(folder)
        block(folder)
        answer.release.set()
        received = "\n".join([line async for line in response.aiter_lines()])
    assert "audit_unavailable" in received
    assert '"finish_reason":"stop"' not in received


async def test_an_answer_is_given_in_best_effort_mode_although_its_line_is_lost(
    make_client: MakeClient, make_log: MakeLog, folder: Path
) -> None:
    block(folder)
    client = make_client(FakeAnswer("Two ", "cats"), audit=make_log("best_effort"))
    assert (await client.post(CHAT, json=chat())).status_code == 200


async def test_a_refused_or_failed_request_has_one_line_with_its_error(
    make_client: MakeClient, make_log: MakeLog, folder: Path
) -> None:
    log = make_log("best_effort")
    await make_client(audit=log).post(CHAT, json={"model": "other", "messages": []})
    await make_client(FakeAnswer(error=Overloaded("Full.")), audit=log).post(CHAT, json=chat())
    await make_client(audit=log).get("/healthz")
    await make_client(audit=log).get("/nothing")
    await asyncio.to_thread(log.writer.close)
    assert [(line["status"], line["outcome"]) for line in lines(folder)] == [
        (400, "invalid_request"),
        (503, "overloaded"),
    ]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": [2**70]}),
        (CHAT, chat("half \\ud83d", temperature=0)),
        (CHAT, chat(tools=[{"type": "function", "function": {"name": "f", "parameters": {"maximum": 2**70}}}])),
        (CHAT, chat(seed=2**62, user="a\nb")),
        ("/v1/feedback", {"id": "\\ud83d\n", "rating": "down", "comment": "\\udc00\u2028"}),
    ],
)
async def test_a_request_with_unusual_values_has_one_valid_line(
    make_client: MakeClient, make_log: MakeLog, folder: Path, path: str, body: dict[str, Any]
) -> None:
    client = make_client(FakeAnswer("Two"), audit=make_log(texts="full"))
    content = json.dumps(body).replace("\\\\ud83d", "\\ud83d").replace("\\\\udc00", "\\udc00")
    response = await client.post(path, content=content, headers={"X-Request-ID": '{"a":1}'})
    await soon(lambda: bool(lines(folder)))
    (line,) = lines(folder)
    assert (line["status"], line["request_id"]) == (response.status_code, '{"a":1}')
    assert verify(folder).problems == []


async def test_a_request_whose_client_left_has_one_line(
    serving: Callable[..., Any], make_log: MakeLog, folder: Path
) -> None:
    answer = FakeAnswer("Two ", "cats", hold_after=2)
    url = await serving(answer, audit=make_log("best_effort"))
    async with httpx.AsyncClient() as client, client.stream("POST", url + CHAT, json=chat(stream=True)):
        pass
    await soon(lambda: bool(lines(folder)))
    assert [(line["outcome"], line["completion_tokens"]) for line in lines(folder)] == [("client_closed_request", 0)]


async def test_a_thousand_requests_by_several_replicas_have_one_line_each(
    make_client: MakeClient, make_log: MakeLog, folder: Path
) -> None:
    clients = [make_client(FakeAnswer("Two"), audit=make_log()) for _ in range(3)]
    ids = [f"r{number}" for number in range(1000)]

    async def ask(number: int) -> None:
        body = chat(stream=number % 2 == 0)
        response = await clients[number % 3].post(CHAT, json=body, headers={"X-Request-ID": ids[number]})
        assert response.status_code == 200
        assert json.loads(events_of(response)[0]) if number % 2 == 0 else response.json()

    for start in range(0, 1000, 50):
        await asyncio.gather(*map(ask, range(start, start + 50)))
    assert sorted(line["request_id"] for line in lines(folder)) == sorted(ids)
    found = verify(folder)
    assert (found.problems, found.requests) == ([], 1000)


async def test_feedback_has_a_line_with_the_answers_id(
    make_client: MakeClient, make_log: MakeLog, folder: Path
) -> None:
    log = make_log("best_effort", texts="full")
    body = {"id": "chatcmpl-1", "rating": "down", "comment": "Wrong."}
    await make_client(audit=log).post("/v1/feedback", json=body)
    await asyncio.to_thread(log.writer.close)
    (line,) = lines(folder)
    assert (line["feedback"], line["personal"]["comment"]) == ({"id": "chatcmpl-1", "rating": "down"}, "Wrong.")


async def test_a_line_that_can_not_be_made_is_written_as_the_failure_that_it_caused(
    make_client: MakeClient, make_log: MakeLog, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half an emoji in an answer can't be hashed: the request had no line, also in required mode."""
    personal, failures = RequestAudit._personal, iter([True])

    def fail_once(audit: RequestAudit) -> dict[str, Any]:
        if next(failures, False):
            raise TypeError("surrogates not allowed")
        return personal(audit)

    monkeypatch.setattr(RequestAudit, "_personal", fail_once)
    response = await make_client(FakeAnswer("Two"), audit=make_log()).post(CHAT, json=chat([text("What?")]))
    assert response.status_code == 500
    await soon(lambda: bool(lines(folder)))
    assert [line["status"] for line in lines(folder)] == [500]
