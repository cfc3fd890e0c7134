"""Chat without streaming."""

from __future__ import annotations

from pydantic import TypeAdapter

from serve_app.contracts import ImagePart, Message, Sampling, TextPart
from serve_app.ingress.chat.response import ChatCompletion
from tests.fakes import FakeAnswer
from tests.ingress.client import MODEL, PICTURE_URL, MakeClient, chat, picture, text

URL = "/v1/chat/completions"


async def test_a_non_streaming_answer_is_openais_chat_completion(make_client: MakeClient) -> None:
    response = await make_client(FakeAnswer("Two ", "cats")).post(URL, json=chat())
    assert response.status_code == 200
    reply = response.json()
    assert reply.pop("system_fingerprint").startswith("fp_")
    timings = reply.pop("timings")
    assert reply == {
        "id": "chatcmpl-id2",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": MODEL,
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "Two cats",
                    "refusal": None,
                    "annotations": [],
                    "reasoning_content": None,
                    "reasoning": None,
                },
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 40,
            "completion_tokens": 2,
            "total_tokens": 42,
            "prompt_tokens_details": {"cached_tokens": 0, "image_tokens": 30, "text_tokens": 10},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
        "prompt_logprobs": None,
    }
    assert timings["prefill_ms"] == 4.0
    assert timings["total_ms"] > 0
    llama_cpp = {name: timings[name] for name in ("prompt_n", "prompt_ms", "predicted_n", "predicted_ms")}
    assert llama_cpp == {"prompt_n": 40, "prompt_ms": 7.0, "predicted_n": 2, "predicted_ms": 8.0}
    TypeAdapter(ChatCompletion).validate_python(response.json(), strict=True)


async def test_stage_timings_travel_in_the_server_timing_header(make_client: MakeClient) -> None:
    response = await make_client().post(URL, json=chat())
    stages = dict(stage.split(";dur=") for stage in response.headers["server-timing"].split(", "))
    assert list(stages) == [
        "fetch", "decode", "resize", "tokenize", "queue", "encode", "prefill", "decode_steps", "total",
    ]  # fmt: skip
    assert float(stages["decode_steps"]) == 8.0


async def test_an_answer_that_reaches_its_limit_has_the_finish_reason_length(make_client: MakeClient) -> None:
    response = await make_client(FakeAnswer("Two", reason="length")).post(URL, json=chat(max_tokens=1))
    assert response.json()["choices"][0]["finish_reason"] == "length"


async def test_the_pipeline_gets_the_conversation_in_the_callers_order(make_client: MakeClient) -> None:
    answer = FakeAnswer("x")
    body = {
        "model": MODEL,
        "messages": [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [picture("https://a/b.png", detail="low"), text("What?"), picture()]},
            {"role": "assistant", "content": "A cat.", "refusal": None, "annotations": [], "tool_calls": None},
            {"role": "user", "content": [{"type": "image_url", "image_url": "https://c/d.png"}, text("And?")]},
        ],
    }
    response = await make_client(answer).post(URL, json=body)
    assert response.status_code == 200
    assert answer.requests[0].messages == (
        Message("system", (TextPart("Be brief."),)),
        Message(
            "user",
            (
                ImagePart("https://a/b.png", "messages[1].content[0].image_url", "low"),
                TextPart("What?"),
                ImagePart(PICTURE_URL, "messages[1].content[2].image_url"),
            ),
        ),
        Message("assistant", (TextPart("A cat."),)),
        Message("user", (ImagePart("https://c/d.png", "messages[3].content[0].image_url"), TextPart("And?"))),
    )


async def test_a_field_that_is_missing_or_null_has_openais_default(make_client: MakeClient) -> None:
    answer = FakeAnswer("x")
    client = make_client(answer)
    await client.post(URL, json=chat())
    await client.post(URL, json=chat(temperature=None, top_k=-1, stop=None, seed=None, tools=None, n=None))
    assert [request.sampling for request in answer.requests] == [Sampling(), Sampling()]


async def test_every_sampling_field_reaches_the_pipeline(make_client: MakeClient) -> None:
    answer = FakeAnswer("x")
    fields = {
        "max_tokens": 7, "max_completion_tokens": 7, "temperature": 0, "top_p": 0.5, "top_k": 3, "stop": "END",
        "seed": -5, "presence_penalty": 1, "frequency_penalty": -2.0, "repetition_penalty": 1.1,
    }  # fmt: skip
    response = await make_client(answer, settings={"request_timeout_s": 17}).post(URL, json=chat(**fields))
    assert response.status_code == 200, response.text
    assert answer.requests[0].sampling == Sampling(7, 0.0, 0.5, 3, ("END",), -5, 1.0, -2.0, 1.1)
    assert answer.requests[0].deadline_s == 17


async def test_two_requests_with_one_request_id_have_different_ids_in_the_engine(make_client: MakeClient) -> None:
    answer = FakeAnswer("x")
    client = make_client(answer)
    for _ in range(2):
        response = await client.post(URL, json=chat(), headers={"X-Request-ID": "same"})
        assert response.headers["x-request-id"] == "same"
    first, second = (request.id for request in answer.requests)
    assert first != second


async def test_the_content_type_header_does_not_matter(make_client: MakeClient) -> None:
    response = await make_client().post(URL, content=b'{"messages":[{"role":"user","content":"hi"}]}')
    assert response.status_code == 200
