"""One meaning in the forms that common clients give it: parts of messages, numbers, switches, formats and tools."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from serve_app.contracts import Constraint, ImagePart, TextPart, Thinking, ToolCall
from serve_app.errors import InvalidRequest
from tests.fakes import FakeAnswer
from tests.ingress.client import PICTURE_URL, MakeClient, chat, parse_chat, picture, text

# -- parts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["text", "input_text", "output_text"])
def test_a_text_part_may_be_null_and_have_the_type_of_either_api(kind: str) -> None:
    part = {"type": kind, "text": "Which number?"}
    assert parse_chat(chat([part])) == parse_chat(chat())
    assert parse_chat(chat([picture(), {**part, "text": None}])) == parse_chat(chat([picture(), text("")]))


@pytest.mark.parametrize(
    "part",
    [
        {"type": "input_image", "image_url": PICTURE_URL},
        {"type": "input_image", "image_url": {"url": PICTURE_URL}, "detail": "auto"},
        {"type": "image_url", "image_url": {"url": PICTURE_URL, "detail": "", "MimeType": ""}},
        {"type": "image_url", "image_url": PICTURE_URL, "uuid": "label-1"},
    ],
)
def test_a_picture_has_several_forms(part: dict[str, Any]) -> None:
    assert parse_chat(chat([part])) == parse_chat(chat([picture()]))


@pytest.mark.parametrize(
    "fields",
    [
        {"url": PICTURE_URL},
        {"image": PICTURE_URL},
        {"base64": "iVBORw0KGgo=", "mime_type": "image/png"},
        {"data": "iVBORw0KGgo=", "mimeType": "image/png"},
    ],
)
def test_a_picture_may_have_the_form_of_transformers_langchain_or_mcp(fields: dict[str, Any]) -> None:
    (part,) = parse_chat(chat([{"type": "image", **fields}])).messages[0].parts
    name, source = next(iter(fields.items()))
    assert part == ImagePart(
        source if name in ("url", "image") else f"data:;base64,{source}", f"messages[0].content[0].{name}"
    )


@pytest.mark.parametrize("fields", [{}, {"url": None}, {"url": PICTURE_URL, "data": "iVBORw0KGgo="}])
def test_a_picture_of_no_source_or_two_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=r"has [02] of the fields") as refused:
        parse_chat(chat([{"type": "image", **fields}]))
    assert refused.value.param == "messages[0].content[0]"


async def test_each_api_reads_the_parts_of_the_other(make_client: MakeClient) -> None:
    answer = FakeAnswer("x")
    parts = [{"type": "image_url", "image_url": {"url": PICTURE_URL, "detail": "low"}}, text("Which number?")]
    asked = {"input": [{"role": "user", "content": parts, "name": "Ann"}, {"role": "assistant"}]}
    response = await make_client(answer).post("/v1/responses", json=asked)
    assert response.status_code == 200, response.text
    shown = answer.requests[0].messages[0].parts
    assert shown == (ImagePart(PICTURE_URL, "input[0].content[0].image_url", "low"), TextPart("Which number?"))


# -- numbers and switches --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ({"max_tokens": "24", "seed": "-7", "top_k": "50.0"}, {"max_tokens": 24, "seed": -7, "top_k": 50}),
        ({"temperature": "0.5", "top_p": "9e-1", "min_p": "0"}, {"temperature": 0.5, "top_p": 0.9, "min_p": 0}),
        ({"max_tokens": "-1", "logit_bias": {"7": "-100"}}, {"logit_bias": {"7": -100}}),
        ({"stream": "true", "ignore_eos": 1, "n": "1"}, {"stream": True, "ignore_eos": True, "n": 1}),
        (
            {"stream": 0, "do_sample": "False", "enable_thinking": "false"},
            {"do_sample": False, "enable_thinking": False},
        ),
    ],
)
def test_a_number_or_switch_may_be_written_as_a_text(written: dict[str, Any], meant: dict[str, Any]) -> None:
    assert parse_chat(chat(**written)) == parse_chat(chat(**meant))


@pytest.mark.parametrize(
    "fields",
    [{"stream": "yes"}, {"stream": 2}, {"stream": ""}, {"temperature": "0,5"}, {"temperature": "2.5"}, {"n": True}],
)
def test_a_text_that_is_no_number_and_no_switch_is_refused_by_name(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_chat(chat(**fields))
    assert refused.value.param == next(iter(fields))


@pytest.mark.parametrize("stop", ["", [""], ["", ""], []])
def test_an_empty_stop_text_ends_no_answer(stop: Any) -> None:
    assert parse_chat(chat(stop=stop)) == parse_chat(chat())
    assert parse_chat(chat(stop=["a", ""])).sampling.stop == ("a",)


@pytest.mark.parametrize("options", [{}, {"include_usage": True}, {"include_usage": False}])
@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/v1/chat/completions", chat()),
        ("/v1/completions", {"prompt": "x"}),
    ],
)
async def test_options_of_a_stream_have_no_effect_without_a_stream(
    make_client: MakeClient, path: str, asked: dict[str, Any], options: dict[str, Any]
) -> None:
    """LangChain, LiteLLM and gateways send them with each request; a complete answer always has the usage."""
    response = await make_client().post(path, json={**asked, "stream": False, "stream_options": options})
    assert response.status_code == 200, response.text
    assert response.json()["usage"]["completion_tokens"] == 2


async def test_reasoning_that_is_disabled_may_have_a_budget_of_0(make_client: MakeClient) -> None:
    """LobeChat's form."""
    switch = {"type": "disabled", "budget_tokens": 0}
    assert parse_chat(chat(thinking=switch)).thinking == Thinking(False)
    answer = FakeAnswer("x")
    asked = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 5, "thinking": switch}
    assert (await make_client(answer).post("/v1/messages", json=asked)).status_code == 200
    assert answer.requests[0].thinking == Thinking(False)


@pytest.mark.parametrize(
    "name", ["logit_bias", "stream_options", "chat_template_kwargs", "structured_outputs", "metadata"]
)
def test_an_empty_object_may_be_an_empty_list(name: str) -> None:
    """PHP writes it so."""
    assert parse_chat(chat(**{name: []})) == parse_chat(chat())


def test_a_function_without_parameters_may_have_an_empty_list_of_them() -> None:
    empty = {"type": "object", "properties": {}}
    for parameters in ([], {"type": "object", "properties": []}):
        (tool,) = parse_chat(chat(tools=[as_tool(parameters)])).tools.tools  # type: ignore[union-attr]
        assert tool.parameters == empty


def as_tool(parameters: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "now", "parameters": parameters, "strict": True}}


SGLANG = {
    "n": 1,
    "top_k": -1,
    "min_p": 0.0,
    "min_tokens": 0,
    "repetition_penalty": 1.0,
    "no_stop_trim": False,
    "separate_reasoning": True,
    "stream_reasoning": True,
    "return_hidden_states": False,
    "return_routed_experts": False,
    "routed_experts_start_len": 0,
    "return_cached_tokens_details": False,
    "return_prompt_token_ids": False,
    "return_meta_info": False,
    "rid": "0f3c",
}
LMDEPLOY = {
    "session_id": -1,
    "do_preprocess": True,
    "skip_special_tokens": True,
    "return_token_ids": False,
    "min_p": 0.0,
}
LLAMA_CPP = {"reasoning_format": "auto", "typ_p": 1, "xtc_threshold": 0.1, "backend_sampling": False, "max_tokens": -1}
QWEN = {
    "enable_search": False,
    "incremental_output": True,
    "result_format": "message",
    "vl_high_resolution_images": False,
}


@pytest.mark.parametrize(
    "defaults", [SGLANG, LMDEPLOY, LLAMA_CPP, QWEN], ids=["sglang", "lmdeploy", "llama.cpp", "qwen"]
)
def test_defaults_of_other_servers_spelled_out_change_nothing(defaults: dict[str, Any]) -> None:
    given, plain = parse_chat(chat(**defaults)), parse_chat(chat())
    assert (given.messages, given.thinking, given.constraint) == (plain.messages, plain.thinking, plain.constraint)
    assert replace(given.sampling, top_k=0, min_p=0.0) == replace(plain.sampling, top_k=0, min_p=0.0)


# -- formats ---------------------------------------------------------------------------------------------

SCHEMA = {"type": "object", "properties": {"waybill": {"type": "string"}}}
WRITTEN = '{"type":"object","properties":{"waybill":{"type":"string"}}}'


@pytest.mark.parametrize("name", [{}, {"name": None}, {"name": ""}, {"name": "运单"}, {"name": "Page[Label]"}])
def test_a_schema_may_have_any_name(name: dict[str, Any]) -> None:
    form = {"type": "json_schema", "json_schema": {**name, "schema": SCHEMA, "strict": "true"}}
    constraint = parse_chat(chat(response_format=form)).constraint
    assert constraint == Constraint("json_schema", WRITTEN, "response_format.json_schema.schema")


def test_a_json_object_may_have_a_schema() -> None:
    """As llama.cpp, Fireworks and Together take it."""
    constraint = parse_chat(chat(response_format={"type": "json_object", "schema": SCHEMA})).constraint
    assert constraint == Constraint("json_schema", WRITTEN, "response_format.schema")
    assert parse_chat(chat(response_format={"type": "json_object", "schema": None})).constraint == Constraint(
        "json_object"
    )


def test_vllms_constraints_may_have_all_their_fields() -> None:
    defaults = {"grammar": None, "disable_fallback": False, "disable_any_whitespace": False, "whitespace_pattern": None}
    given = parse_chat(chat(structured_outputs={**defaults, "choice": ["a"], "json_object": None}))
    assert given.constraint == Constraint("choice", '["a"]', "structured_outputs.choice")
    assert parse_chat(chat(structured_outputs={"json_object": True})).constraint == Constraint(
        "json_object", param="structured_outputs.json_object"
    )


# -- tools -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", ["", "{}", [], None])
async def test_empty_arguments_of_an_earlier_call_have_several_forms_in_each_api(
    make_client: MakeClient, arguments: Any
) -> None:
    used = {"type": "tool_use", "id": "t", "name": "f", "input": arguments}
    result = {"type": "tool_result", "tool_use_id": "t", "content": "x"}
    called = {"type": "function_call", "call_id": "t", "name": "f", "arguments": arguments}
    output = {"type": "function_call_output", "call_id": "t"}
    answer = FakeAnswer("x")
    client = make_client(answer)
    for path, asked in {
        "/v1/messages": {"messages": [{"role": "assistant", "content": [used]}, {"role": "user", "content": [result]}]},
        "/v1/responses": {"input": [called, output]},
    }.items():
        response = await client.post(path, json=asked)
        assert response.status_code == 200, response.text
        assert answer.requests[-1].messages[0].tool_calls == (ToolCall("t", "f", {}),)


async def test_what_claude_code_sends_beside_its_question_is_accepted(make_client: MakeClient) -> None:
    tool = {
        "name": "mcp__" + "n" * 100,
        "input_schema": {"type": "object"},
        "defer_loading": True,
        "input_examples": [],
    }
    asked = {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}],
        "max_tokens": 5,
        "tools": [tool],
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    }
    client = make_client()
    response = await client.post("/v1/messages", json=asked)
    assert response.status_code == 200, response.text
    asked["context_management"] = {"edits": [{"type": "clear_tool_uses_20250919"}]}
    refused = await client.post("/v1/messages", json=asked)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "context_management.edits[0].type")


async def test_what_codex_sends_beside_its_question_is_accepted(make_client: MakeClient) -> None:
    asked = {
        "input": "x",
        "include": ["reasoning.encrypted_content", "web_search_call.action.sources"],
        "client_metadata": {"x-codex-installation-id": "1"},
        "previous_response_id": "",
    }
    response = await make_client().post("/v1/responses", json=asked)
    assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    ("schema", "meant"),
    [
        ({}, Constraint("json_object")),
        ({"required": ["a"]}, Constraint("json_schema", '{"type":"object","required":["a"]}')),
    ],
)
def test_a_json_object_of_any_schema_is_an_object(schema: dict[str, Any], meant: Constraint) -> None:
    constraint = parse_chat(chat(response_format={"type": "json_object", "schema": schema})).constraint
    assert constraint is not None
    assert (constraint.kind, constraint.value) == (meant.kind, meant.value)


def test_a_json_object_of_the_schema_of_a_list_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"'response_format\.schema' must be the schema of an object"):
        parse_chat(chat(response_format={"type": "json_object", "schema": {"type": "array"}}))


def test_logprobs_may_be_the_text_of_a_switch_and_no_number() -> None:
    assert parse_chat(chat(logprobs="true")) == parse_chat(chat(logprobs=True))
    with pytest.raises(InvalidRequest):
        parse_chat(chat(logprobs=1))
