"""Errors in Chinese for callers who prefer it: every route, shape and stream; codes and fields stay."""

from __future__ import annotations

import json

import httpx
import pytest

from serve_app.errors import EngineFailed, InvalidRequest, Overloaded
from tests.fakes import FakeAnswer
from tests.ingress.client import MakeClient, chat, picture

ZH = {"Accept-Language": "zh-CN,zh;q=0.9,en;q=0.8"}


def checked(response: httpx.Response, language: str) -> dict[str, str | None]:
    assert response.headers["content-language"] == language
    assert "Accept-Language" in response.headers["vary"]
    assert int(response.headers["content-length"]) == len(response.content)
    error: dict[str, str | None] = response.json()["error"]
    return error


@pytest.mark.parametrize(
    ("method", "path", "body", "chinese"),
    [
        ("GET", "/v1/nothing", None, "没有 GET /v1/nothing 这个接口；所有接口见 /docs。"),
        ("GET", "/v1/chat/completions", None, "不支持 GET /v1/chat/completions；/v1/chat/completions 接受 POST。"),
        (
            "POST",
            "/v1/chat/completions",
            chat(temprature=1),
            "'temprature' 不是此请求的字段。最接近的字段是 'temperature'。",
        ),
        ("POST", "/v1/chat/completions", {"model": "glm-vision-demo"}, "缺少 'messages'。"),
        ("POST", "/v1/chat/completions", chat(temperature=9), "'temperature' 必须小于或等于 2，不能是 9。"),
        (
            "POST",
            "/v1/chat/completions",
            {"model": "glm-vision-demo", "messages": [], "top_p": 2},
            "'top_p' 必须小于或等于 1，不能是 2。另有 1 个字段无效。",
        ),
        (
            "POST",
            "/v1/chat/completions",
            chat(reasoning_effort="most"),
            "'reasoning_effort' 必须是 'none', 'minimal', 'low', 'medium', 'high', 'xhigh' or 'max'，不能是 'most'。",
        ),
        ("POST", "/v1/chat/completions", chat(model="gpt"), "本服务没有模型 'gpt'，只有 'glm-vision-demo'。"),
        ("POST", "/v1/messages", {"model": "glm-vision-demo", "max_tokens": 8}, "缺少 'messages'。"),
    ],
)
async def test_an_error_differs_by_its_message_only(
    make_client: MakeClient, method: str, path: str, body: dict[str, object] | None, chinese: str
) -> None:
    client = make_client()
    english = await client.request(method, path, json=body)
    translated = await client.request(method, path, json=body, headers=ZH)
    assert translated.status_code == english.status_code
    first, second = checked(english, "en"), checked(translated, "zh")
    assert second.pop("message") == chinese
    assert first.pop("message") != chinese
    assert first == second
    assert {name for name in english.headers if name not in translated.headers} == set()


async def test_an_error_without_a_translation_begins_with_what_its_code_means(make_client: MakeClient) -> None:
    client = make_client(FakeAnswer(error=InvalidRequest("A message of the future.")))
    response = await client.post("/v1/chat/completions", json=chat(), headers=ZH)
    message = checked(response, "zh")["message"]
    assert message == "请求无效，或不受支持；param 是相应的字段。A message of the future."


async def test_errors_of_middlewares_and_of_the_service_are_translated(make_client: MakeClient) -> None:
    foreign = await make_client().get("/v1/models", headers={**ZH, "Host": "evil.example"})
    assert str(checked(foreign, "zh")["message"]).startswith("请求头 Host 是 'evil.example'")
    full = make_client(FakeAnswer(error=Overloaded("The queue of the service is full. Try again shortly.")))
    refused = await full.post("/v1/chat/completions", json=chat([picture()]), headers=ZH)
    assert checked(refused, "zh")["message"] == "服务的队列已满，请稍后重试。"
    assert refused.headers["retry-after"] == "1"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/messages"])
async def test_an_error_in_a_stream_is_translated_in_the_shape_of_its_api(make_client: MakeClient, path: str) -> None:
    failing = FakeAnswer("Two ", "cats", error=EngineFailed("The model failed on this request."), fail_after=2)
    body = {"model": "glm-vision-demo", "stream": True, "max_tokens": 50}
    asked = {"input": "Hello"} if path == "/v1/responses" else {"messages": chat()["messages"]}
    if path == "/v1/responses":
        body.pop("max_tokens")
    for headers, message in (({}, "The model failed on this request."), (ZH, "模型处理此请求时出错。")):
        response = await make_client(failing).post(path, json={**body, **asked}, headers=headers)
        assert response.status_code == 200
        assert message in response.text or json.dumps(message)[1:-1] in response.text
        assert "engine_error" in response.text


async def test_an_answer_has_no_language_and_a_body_of_another_type_is_not_touched(make_client: MakeClient) -> None:
    answered = await make_client().post("/v1/chat/completions", json=chat(), headers=ZH)
    assert "content-language" not in answered.headers
    assert "Accept-Language" not in answered.headers.get("vary", "")


async def test_a_head_request_keeps_the_length_of_its_get(make_client: MakeClient) -> None:
    head = await make_client().head("/v1/models/gpt", headers=ZH)
    assert (head.status_code, head.content) == (404, b"")
    assert head.headers["content-language"] == "zh"
