"""Chat requests; an invalid field is refused with its name and a sentence."""

from __future__ import annotations

from typing import Any

import pytest

from serve_app.errors import InvalidRequest
from serve_app.ingress.chat.request import ChatBody
from tests.ingress.client import MODEL, MakeClient, chat, parse_chat, picture, text

URL = "/v1/chat/completions"


def refused(body: dict[str, Any]) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as raised:
        parse_chat(body)
    return raised.value


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({}, "messages", "'messages' is required."),
        ({"messages": []}, "messages", "'messages' must have 1 or more entries, not 0."),
        ({"messages": "hi"}, "messages", "'messages' must be a list."),
        ({"messages": [5]}, "messages[0]", "'messages[0]' must be an object."),
        ({"messages": [{"content": "x"}]}, "messages[0].role", "'messages[0].role' is required."),
        (
            {"messages": [{"role": "function", "content": "x"}]},
            "messages[0].role",
            "'messages[0].role' is 'function'; supported here: 'system', 'developer', 'user', 'assistant', 'tool'.",
        ),
        (
            {"messages": [{"role": "user", "content": 5}]},
            "messages[0].content",
            "'messages[0].content' must be a string or a list of parts, not 5.",
        ),
        (
            {"messages": [{"role": "user", "content": "x", "mood": 1}]},
            "messages[0].mood",
            "'messages[0].mood' is not a field of this request.",
        ),
        (
            chat([text("x"), {"type": "file", "file": {"file_id": "file-1"}}]),
            "messages[0].content[1].file.file_id",
            "'messages[0].content[1].file.file_id' is not supported: this service keeps no files. "
            "Send the file as 'file_data'.",
        ),
        (
            chat([{"type": "input_audio", "input_audio": {}}]),
            "messages[0].content[0].type",
            "'messages[0].content[0].type' is 'input_audio'; supported here: "
            "'text', 'input_text', 'output_text', 'image_url', 'input_image', 'image', 'file', 'file_url'.",
        ),
        (
            chat([{"type": "video_url", "video_url": {"url": "x"}}]),
            "messages[0].content[0].type",
            "'messages[0].content[0].type' is 'video_url'; supported here: "
            "'text', 'input_text', 'output_text', 'image_url', 'input_image', 'image', 'file', 'file_url'.",
        ),
        (chat([{"text": "x"}]), "messages[0].content[0].type", "'messages[0].content[0].type' is required."),
        (chat([{"type": "text"}]), "messages[0].content[0].text", "'messages[0].content[0].text' is required."),
        (
            chat([{"type": "image_url"}]),
            "messages[0].content[0].image_url",
            "'messages[0].content[0].image_url' is required.",
        ),
        (
            chat([text("x"), {"type": "image_url", "image_url": {"detail": "low"}}]),
            "messages[0].content[1].image_url.url",
            "'messages[0].content[1].image_url.url' is required.",
        ),
        (
            chat([picture(detail="fine")]),
            "messages[0].content[0].image_url.detail",
            "'messages[0].content[0].image_url.detail' must be 'auto', 'low', 'high' or 'original', not 'fine'.",
        ),
        (chat(max_tokens=-5), "max_tokens", "'max_tokens' must be greater than or equal to 1, not -5."),
        (chat(max_tokens=0), "max_tokens", "'max_tokens' must be greater than or equal to 1, not 0."),
        (chat(max_tokens="nine"), "max_tokens", "'max_tokens' must be a valid integer."),
        (chat(max_tokens=True), "max_tokens", "'max_tokens' must be a valid integer."),
        (
            chat(max_tokens=1, max_completion_tokens=2),
            "max_completion_tokens",
            "'max_tokens' and 'max_completion_tokens' differ; they mean the same, so give one of them.",
        ),
        (chat(temperature=2.5), "temperature", "'temperature' must be less than or equal to 2, not 2.5."),
        (chat(temperature="warm"), "temperature", "'temperature' must be a valid number."),
        (chat(top_p=-0.1), "top_p", "'top_p' must be greater than or equal to 0, not -0.1."),
        (chat(stream_otpions={}), "stream_otpions", "'stream_otpions' is not a field of this request. "
            "The nearest field is 'stream_options'."),
        (chat(top_p=1.01), "top_p", "'top_p' must be less than or equal to 1, not 1.01."),
        (chat(top_k=-2), "top_k", "'top_k' must be greater than or equal to -1, not -2."),
        (chat(seed=2**63), "seed", f"'seed' must be less than or equal to {2**63 - 1}, not {2**63}."),
        (chat(presence_penalty=3), "presence_penalty", "'presence_penalty' must be less than or equal to 2, not 3."),
        (chat(repetition_penalty=0), "repetition_penalty", "'repetition_penalty' must be greater than 0, not 0."),
        (chat(stop=list("abcde")), "stop", "'stop' may have 4 entries at most."),
        (chat(stop="x" * 300), "stop[0]", "'stop[0]' may have 256 characters at most."),
        (chat(stream="yes"), "stream", "'stream' must be a valid boolean."),
        (
            chat(stream=True, stream_options={"every": 3}),
            "stream_options.every",
            "'stream_options.every' is not a field of this request.",
        ),
        (chat(colour="red"), "colour", "'colour' is not a field of this request."),
        (chat(n=0), "n", "'n' must be greater than or equal to 1, not 0."),
        (chat(n=True), "n", "'n' must be a valid integer."),
        (chat(n=129), "n", "'n' must be less than or equal to 128, not 129."),
        (chat(min_p=1.5), "min_p", "'min_p' must be less than or equal to 1, not 1.5."),
        (chat(min_tokens=-1), "min_tokens", "'min_tokens' must be greater than or equal to 0, not -1."),
        (chat(max_tokens=2**31), "max_tokens", f"'max_tokens' must be less than or equal to {2**31 - 1}, not {2**31}."),
        (chat(ignore_eos=2), "ignore_eos", "'ignore_eos' must be a valid boolean, not 2."),
        (chat(logit_bias={"a": 1}), "logit_bias.a", "'logit_bias.a' must match ^(0|[1-9][0-9]{0,8})$."),
        (chat(logit_bias={"007": 1}), "logit_bias.007", "'logit_bias.007' must match ^(0|[1-9][0-9]{0,8})$."),
        (chat(logit_bias={"7": 101}), "logit_bias.7", "'logit_bias.7' must be less than or equal to 100, not 101."),
        (
            chat(logit_bias={str(token): 1 for token in range(1025)}),
            "logit_bias",
            "'logit_bias' may have 1024 entries at most.",
        ),
        (chat(logprobs=3), "logprobs", "'logprobs' must be a valid boolean, not 3."),
        (chat(top_logprobs=3), "top_logprobs", "'top_logprobs' is only for a request with 'logprobs': true."),
        (
            chat(logprobs=True, top_logprobs=21),
            "top_logprobs",
            "'top_logprobs' must be less than or equal to 20, not 21.",
        ),
        (
            chat(modalities=["text", "audio"]),
            "modalities",
            "'modalities' is not supported by this service; it may only be [\"text\"] or [].",
        ),
        (
            chat(functions=[{"name": "f"}]),
            "functions",
            "'functions' is not supported by this service; it may only be []. Use 'tools'.",
        ),
        (
            chat(function_call={"name": "f"}),
            "function_call",
            "'function_call' is not supported by this service; it may only be \"none\" or \"auto\". Use 'tool_choice'.",
        ),
        (
            chat(verbosity="low"),
            "verbosity",
            "'verbosity' is not supported by this service; it may only be \"medium\".",
        ),
        (chat(prediction={"type": "content"}), "prediction", "'prediction' is not supported by this service."),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named_with_a_sentence(body: dict[str, Any], param: str, message: str) -> None:
    error = refused(body)
    assert (error.param, error.message) == (param, message)


@pytest.mark.parametrize("name", ChatBody.unsupported)
def test_an_unsupported_field_is_refused_by_name(name: str) -> None:
    error = refused(chat(**{name: {"asks": "something"}}))
    assert error.param == name
    assert error.message.startswith(f"'{name}' is not supported by this service")


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, refused in ChatBody.unsupported.items() for value in (None, *refused.allowed)],
)
def test_an_unsupported_field_with_a_value_that_changes_nothing_is_accepted(name: str, value: Any) -> None:
    assert parse_chat(chat(**{name: value})) == parse_chat(chat())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("user", "u1"),
        ("metadata", {"job": "7"}),
        ("store", True),
        ("safety_identifier", "s"),
        ("prompt_cache_key", "k"),
        ("prompt_cache_retention", "24h"),
        ("prompt_cache_options", {"mode": "implicit"}),
    ],
)
def test_an_ignored_field_changes_nothing_and_is_documented(name: str, value: Any) -> None:
    assert parse_chat(chat(**{name: value})) == parse_chat(chat())
    assert ChatBody.model_json_schema()["properties"][name]["description"].startswith("Accepted and ignored.")


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_minus_one_token_means_no_limit(name: str) -> None:
    assert parse_chat(chat(**{name: -1})) == parse_chat(chat())


def test_a_question_of_pictures_only_is_accepted() -> None:
    assert parse_chat(chat([picture()])).messages[0].parts


def test_a_callers_own_text_is_truncated_in_messages() -> None:
    error = refused(chat(**{"x" * 5000: 1}))
    assert len(error.message) < 300
    assert len(error.param or "") < 300


async def test_an_unknown_model_is_a_404_that_names_the_served_one(make_client: MakeClient) -> None:
    response = await make_client().post(URL, json=chat() | {"model": "gpt-4o"})
    assert response.status_code == 404
    assert response.json()["error"] == {
        "message": "The model 'gpt-4o' is not served here; this service has 'glm-vision-demo'.",
        "type": "not_found_error",
        "param": "model",
        "code": "model_not_found",
    }


async def test_a_request_without_a_model_gets_the_served_one(make_client: MakeClient) -> None:
    body = chat()
    del body["model"]
    response = await make_client().post(URL, json=body)
    assert response.json()["model"] == MODEL
