"""What OpenAI's Python client offers beyond a question: tools, parsed answers, choices, responses, completions."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from openai import pydantic_function_tool
from pydantic import BaseModel

from serve_app.contracts import Constraint, Delta, ImagePart, TokenLogprob, ToolCallDelta
from serve_app.errors import Overloaded
from tests.fakes import FakeAnswer
from tests.ingress.client import MODEL, PICTURE_URL, Connect

MESSAGES: Any = [{"role": "user", "content": "Describe it."}]


class Label(BaseModel):
    colour: str
    square: bool


class Weather(BaseModel):
    """The weather of a city."""

    city: str


LABEL = FakeAnswer('{"colour": "red",', ' "square": true}')
CALL = FakeAnswer(
    Delta("Rain?", 2, "reasoning"),
    ToolCallDelta(0, "Weather", "", 1),
    ToolCallDelta(0, None, '{"city": ', 1),
    ToolCallDelta(0, None, '"杭州"}', 1),
    reason="tool_calls",
)


# -- chat -------------------------------------------------------------------------------------------


async def test_chat_parses_an_answer_into_a_model(connect: Connect) -> None:
    client = await connect(LABEL)
    completion = await client.chat.completions.parse(model=MODEL, messages=MESSAGES, response_format=Label)
    assert completion.choices[0].message.parsed == Label(colour="red", square=True)
    held = LABEL.requests[-1].constraint
    assert isinstance(held, Constraint)
    assert json.loads(held.value)["required"] == ["colour", "square"]


async def test_chat_parses_a_streamed_answer(connect: Connect) -> None:
    client = await connect(LABEL)
    async with client.chat.completions.stream(model=MODEL, messages=MESSAGES, response_format=Label) as stream:
        kinds = [event.type async for event in stream]
        completion = await stream.get_final_completion()
    assert "content.done" in kinds
    assert completion.choices[0].message.parsed == Label(colour="red", square=True)


@pytest.mark.parametrize("streamed", [True, False])
async def test_chat_parses_the_arguments_of_a_call(connect: Connect, streamed: bool) -> None:
    client = await connect(CALL)
    question: dict[str, Any] = {"model": MODEL, "messages": MESSAGES, "tools": [pydantic_function_tool(Weather)]}
    if streamed:
        async with client.chat.completions.stream(**question) as stream:
            kinds = [event.type async for event in stream]
            completion = await stream.get_final_completion()
        assert "tool_calls.function.arguments.done" in kinds
    else:
        completion = await client.chat.completions.parse(**question)
    (choice,) = completion.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls[0].function.parsed_arguments == Weather(city="杭州")
    assert choice.message.reasoning_content == "Rain?"
    tools = CALL.requests[-1].tools
    assert tools is not None
    assert tools.tools[0].strict


async def test_a_tool_loop_ends_with_the_answer(connect: Connect) -> None:
    client = await connect(CALL)
    tools = [pydantic_function_tool(Weather)]
    first = (await client.chat.completions.create(model=MODEL, messages=MESSAGES, tools=tools)).choices[0].message
    result = {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": "18 °C"}
    for answer in (first, first.model_dump(), first.model_dump(exclude_none=True)):
        again = await client.chat.completions.create(model=MODEL, messages=[*MESSAGES, answer, result], tools=tools)
        assert again.choices
    assert [message.role for message in CALL.requests[-1].messages] == ["user", "assistant", "tool"]


async def test_a_parsed_answer_can_be_sent_back(connect: Connect) -> None:
    """The SDK's own message has `parsed` and its calls `parsed_arguments`; both were refused."""
    client = await connect(CALL)
    tools = [pydantic_function_tool(Weather)]
    called = (await client.chat.completions.parse(model=MODEL, messages=MESSAGES, tools=tools)).choices[0].message
    result = {"role": "tool", "tool_call_id": called.tool_calls[0].id, "content": "18 °C"}
    for answer in (called, called.model_dump(), called.model_dump(exclude_none=True)):
        assert (await client.chat.completions.create(model=MODEL, messages=[*MESSAGES, answer, result])).choices
    client = await connect(LABEL)
    parsed = await client.chat.completions.parse(model=MODEL, messages=MESSAGES, response_format=Label)
    answer = parsed.choices[0].message
    assert (await client.chat.completions.create(model=MODEL, messages=[*MESSAGES, answer, *MESSAGES])).choices


async def test_chat_gives_choices_with_logprobs(connect: Connect) -> None:
    likely = (TokenLogprob(1, "红".encode(), -0.5, ((1, "红".encode(), -0.5),)),)
    client = await connect(FakeAnswer(Delta("红", 1, "text", likely)))
    completion = await client.chat.completions.create(
        model=MODEL, messages=MESSAGES, n=2, logprobs=True, top_logprobs=1, seed=1, logit_bias={"7": -100}
    )
    assert [choice.message.content for choice in completion.choices] == ["红", "红"]
    token = completion.choices[1].logprobs.content[0]
    assert (token.token, bytes(token.bytes), token.top_logprobs[0].logprob) == ("红", "红".encode(), -0.5)
    async with client.chat.completions.stream(model=MODEL, messages=MESSAGES, n=2, logprobs=True) as stream:
        final = await stream.get_final_completion()
    assert [choice.message.content for choice in final.choices] == ["红", "红"]
    assert len(final.choices[0].logprobs.content) == 1


async def test_a_completion_goes_on_with_a_text(connect: Connect) -> None:
    client = await connect(FakeAnswer(" Par", "is"))
    completion = await client.completions.create(model=MODEL, prompt="The capital is", logprobs=0)
    assert completion.choices[0].text == " Paris"
    stream = await client.completions.create(model=MODEL, prompt="The capital is", stream=True)
    assert "".join([chunk.choices[0].text async for chunk in stream]) == " Paris"


# -- responses --------------------------------------------------------------------------------------


async def test_a_response_about_a_picture_has_its_text(connect: Connect) -> None:
    answer = FakeAnswer("Deep ", "red.")
    client = await connect(answer)
    picture = {"type": "input_image", "image_url": PICTURE_URL, "detail": "high"}
    response = await client.responses.create(
        model=MODEL,
        instructions="Be brief.",
        input=[{"role": "user", "content": [picture, {"type": "input_text", "text": "What colour?"}]}],
        max_output_tokens=16,
    )
    assert (response.output_text, response.status) == ("Deep red.", "completed")
    assert response.usage.input_tokens_details.cached_tokens == 0
    assert isinstance(answer.requests[0].messages[1].parts[0], ImagePart)


async def test_a_response_is_parsed_into_a_model(connect: Connect) -> None:
    client = await connect(LABEL)
    response = await client.responses.parse(model=MODEL, input="Describe it.", text_format=Label)
    assert response.output_parsed == Label(colour="red", square=True)


async def test_a_parsed_response_can_be_sent_back(connect: Connect) -> None:
    client = await connect(LABEL)
    response = await client.responses.parse(model=MODEL, input="?", text_format=Label)
    question = {"role": "user", "content": "Sure?"}
    for items in (response.output, [item.model_dump() for item in response.output]):
        assert (await client.responses.create(model=MODEL, input=[question, *items, question])).output


async def test_a_streamed_response_ends_with_the_complete_one(connect: Connect) -> None:
    client = await connect(LABEL)
    async with client.responses.stream(model=MODEL, input="Describe it.", text_format=Label) as stream:
        kinds = [event.type async for event in stream]
        final = await stream.get_final_response()
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    assert kinds.count("response.output_text.delta") == 2
    assert final.output_parsed == Label(colour="red", square=True)
    assert final.usage.output_tokens == 2


async def test_a_response_calls_functions_and_goes_on(connect: Connect) -> None:
    client = await connect(CALL)
    tools: Any = [openai.pydantic_function_tool(Weather)["function"] | {"type": "function"}]
    question: list[Any] = [{"role": "user", "content": "Weather in Hangzhou?"}]
    async with client.responses.stream(model=MODEL, input=question, tools=tools) as stream:
        kinds = [event.type async for event in stream]
        final = await stream.get_final_response()
    assert "response.function_call_arguments.done" in kinds
    assert "response.reasoning_text.delta" in kinds
    complete = await client.responses.create(model=MODEL, input=question, tools=tools)
    for response in (final, complete):
        call = response.output[-1]
        assert (call.type, json.loads(call.arguments)) == ("function_call", {"city": "杭州"})
        result = {"type": "function_call_output", "call_id": call.call_id, "output": "18 °C"}
        await client.responses.create(model=MODEL, input=[*question, *response.output, result], tools=tools)
        again = CALL.requests[-1].messages
        assert [message.role for message in again] == ["user", "assistant", "tool"]
        assert again[1].reasoning == "Rain?"


async def test_a_raw_response_stream_has_a_late_error(connect: Connect) -> None:
    client = await connect(FakeAnswer("Two ", "cats", error=Overloaded("No memory left."), fail_after=2))
    stream = await client.responses.create(model=MODEL, input="?", stream=True)
    *_, error, failed = [event async for event in stream]
    assert (error.type, error.message) == ("error", "No memory left.")
    assert (failed.type, failed.response.error.code) == ("response.failed", "server_error")


async def test_what_responses_refuse_is_a_bad_request_with_its_param(connect: Connect) -> None:
    client = await connect(FakeAnswer("x"))
    with pytest.raises(openai.BadRequestError) as caught:
        await client.responses.create(model=MODEL, input="?", previous_response_id="resp_1")
    assert caught.value.param == "previous_response_id"
    with pytest.raises(openai.BadRequestError) as caught:
        await client.responses.create(model=MODEL, input="?", tools=[{"type": "web_search"}])
    assert caught.value.param == "tools[0].type"
