"""/v1/completions, streaming or not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import TypeAdapter

from serve_app.contracts import ChatRequest, Delta, Sampling, TokenLogprob
from serve_app.errors import ImageRejected, Overloaded
from serve_app.ingress.completions.response import Completion
from tests.fakes import FakeAnswer
from tests.ingress.client import MODEL, MakeClient, events_of

URL = "/v1/completions"
LIKELY = (
    TokenLogprob(5, b" Par", -0.25, ((5, b" Par", -0.25), (6, b" the", -2.0))),
    TokenLogprob(9, b"is", -0.5, ((9, b"is", -0.5),)),
)


async def test_a_non_streaming_completion_is_openais(make_client: MakeClient) -> None:
    answer = FakeAnswer(" Par", "is")
    response = await make_client(answer).post(URL, json={"model": MODEL, "prompt": "The capital of France is"})
    assert response.status_code == 200
    assert "prefill;dur=4.000" in response.headers["server-timing"]
    reply = response.json()
    TypeAdapter(Completion).validate_python(reply, strict=True)
    assert reply.pop("timings")["prefill_ms"] == 4.0
    assert reply.pop("system_fingerprint").startswith("fp_")
    assert reply == {
        "id": "cmpl-id2",
        "object": "text_completion",
        "created": 1_700_000_000,
        "model": MODEL,
        "choices": [{"index": 0, "text": " Paris", "logprobs": None, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": 40,
            "completion_tokens": 2,
            "total_tokens": 42,
            "prompt_tokens_details": {"cached_tokens": 0, "image_tokens": 30, "text_tokens": 10},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
    }


async def test_the_pipeline_gets_the_text_without_a_conversation(make_client: MakeClient) -> None:
    answer = FakeAnswer("x")
    await make_client(answer).post(URL, json={"prompt": " a <|user|> b\n"})
    await make_client(answer).post(
        URL, json={"prompt": ["one"], "max_tokens": 3, "stop": ["."], "seed": 4, "ignore_eos": True}
    )
    assert answer.requests == [
        ChatRequest("cmpl-id2", (), Sampling(16), 300.0, False, text=" a <|user|> b\n"),
        ChatRequest(
            "cmpl-id2", (), Sampling(3, stop=(".",), seed=4, ignore_eos=True), 300.0, False, text="one"
        ),
    ]  # fmt: skip


async def test_a_stream_has_one_shape_from_the_first_to_the_usage(make_client: MakeClient) -> None:
    body = {"prompt": "x", "stream": True, "stream_options": {"include_usage": True}}
    *lines, done = events_of(await make_client(FakeAnswer(" Par", "is")).post(URL, json=body))
    assert done == "[DONE]"
    chunks = [json.loads(line) for line in lines]
    for chunk in chunks:
        TypeAdapter(Completion).validate_python(chunk, strict=True)
    *pieces, last = chunks
    assert [chunk["choices"][0]["text"] for chunk in pieces] == [" Par", "is", ""]
    assert [chunk["choices"][0]["finish_reason"] for chunk in pieces] == [None, None, "stop"]
    assert [chunk["usage"] for chunk in pieces] == [None] * 3
    assert (last["choices"], last["usage"]["completion_tokens"]) == ([], 2)
    assert last["timings"]["total_ms"] > 0


async def test_logprobs_have_the_older_shape_with_offsets(make_client: MakeClient) -> None:
    answer = FakeAnswer(Delta(" Paris", 2, "text", LIKELY), Delta("!", 1, "text", (TokenLogprob(3, b"!", -1.0),)))
    reply = (await make_client(answer).post(URL, json={"prompt": "x", "logprobs": 2})).json()
    assert reply["choices"][0]["logprobs"] == {
        "tokens": [" Par", "is", "!"],
        "token_logprobs": [-0.25, -0.5, -1.0],
        "top_logprobs": [{" Par": -0.25, " the": -2.0}, {"is": -0.5}, {}],
        "text_offset": [0, 4, 6],
    }
    assert answer.requests[0].sampling.logprobs == 2
    lines = events_of(await make_client(answer).post(URL, json={"prompt": "x", "logprobs": 0, "stream": True}))[:-1]
    offsets = [json.loads(line)["choices"][0]["logprobs"] for line in lines]
    assert [each and each["text_offset"] for each in offsets] == [[0, 4], [6], None]
    assert answer.requests[1].sampling.logprobs == 0


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({}, "prompt", "'prompt' is required."),
        ({"prompt": ""}, "prompt[0]", "'prompt[0]' must have 1 or more characters."),
        ({"prompt": []}, "prompt", "'prompt' must have 1 or more entries, not 0."),
        ({"prompt": ["a"] * 33}, "prompt", "'prompt' may have 32 entries at most."),
        ({"prompt": 5}, "prompt", "'prompt' must be a text, token ids, or a list of texts or of token ids"),
        ({"prompt": [1, "a"]}, "prompt[0][1]", "'prompt[0][1]' must be a valid integer"),
        ({"prompt": [[]]}, "prompt[0]", "'prompt[0]' must have 1 or more entries, not 0."),
        ({"prompt": [-1]}, "prompt[0][0]", "'prompt[0][0]' must be greater than or equal to 0"),
        ({"prompt": "x", "echo": True, "logprobs": 1}, "echo", "'echo' is not supported together with 'logprobs'"),
        ({"prompt": [1], "echo": True}, "echo", "'echo' is only for a prompt that is a text."),
        ({"prompt": "x", "suffix": "y"}, "suffix", "'suffix' is not supported by this service; it may only be \"\"."),
        ({"prompt": "x", "best_of": 2}, "best_of", "'best_of' is not supported by this service; it may only be 1."),
        ({"prompt": "x", "logprobs": True}, "logprobs", "'logprobs' must be a valid integer."),
        ({"prompt": "x", "logprobs": 21}, "logprobs", "'logprobs' must be less than or equal to 20, not 21."),
        ({"prompt": "x", "messages": []}, "messages", "'messages' is not a field of this request."),
        (
            {"prompt": "x", "stream_options": {"every": 3}},
            "stream_options.every",
            "'stream_options.every' is not a field of this request.",
        ),
    ],
)  # fmt: skip
async def test_a_wrong_field_is_named_with_a_sentence(
    make_client: MakeClient, body: dict[str, Any], param: str, message: str
) -> None:
    response = await make_client().post(URL, json=body)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == param
    assert error["message"].startswith(message)


async def test_values_that_change_nothing_are_accepted(make_client: MakeClient) -> None:
    body = {"prompt": "x", "echo": False, "suffix": None, "best_of": 1, "n": 1, "user": "u"}
    assert (await make_client().post(URL, json=body)).status_code == 200


async def test_another_model_is_a_404(make_client: MakeClient) -> None:
    response = await make_client().post(URL, json={"prompt": "x", "model": "gpt-4o"})
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")


async def test_errors_keep_their_status_or_are_sent_in_the_stream(make_client: MakeClient) -> None:
    early = FakeAnswer(error=ImageRejected("No."))
    assert (await make_client(early).post(URL, json={"prompt": "x", "stream": True})).status_code == 400
    late = FakeAnswer("a", error=Overloaded("No memory left."), fail_after=2)
    lines = events_of(await make_client(late).post(URL, json={"prompt": "x", "stream": True}))
    assert json.loads(lines[-2])["error"]["code"] == "overloaded"
