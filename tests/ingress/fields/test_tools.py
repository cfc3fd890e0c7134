"""Which functions a model may call, and whether it has to."""

from __future__ import annotations

from typing import Any

import pytest

from serve_app.contracts import Tool, ToolUse
from serve_app.errors import InvalidRequest
from tests.ingress.client import chat, parse_chat

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER = {"type": "function", "function": {"name": "weather", "description": "Of a city.", "parameters": SCHEMA}}
TIME = {"type": "function", "function": {"name": "time"}}
NAMED = {"type": "function", "function": {"name": "time"}}


def parsed(**fields: Any) -> ToolUse | None:
    return parse_chat(chat(**fields)).tools


def refused(**fields: Any) -> tuple[str | None, str]:
    with pytest.raises(InvalidRequest) as raised:
        parsed(**fields)
    return raised.value.param, raised.value.message


def test_tools_reach_the_pipeline_as_their_caller_described_them() -> None:
    strict = {"type": "function", "function": {**WEATHER["function"], "strict": True}}  # type: ignore[dict-item]
    used = parsed(tools=[strict, TIME])
    assert used == ToolUse((Tool("weather", WEATHER, strict=True), Tool("time", TIME)))
    assert used.tools[1].parameters == {"type": "object", "properties": {}}


@pytest.mark.parametrize(
    ("choice", "required", "only"),
    [(None, False, None), ("auto", False, None), ("required", True, None), (NAMED, True, "time")],
)
def test_tool_choice_decides_whether_a_tool_must_be_called(choice: Any, required: bool, only: str | None) -> None:
    used = parsed(tools=[WEATHER, TIME], tool_choice=choice)
    assert used is not None
    assert (used.required, used.only, used.parallel) == (required, only, True)


def test_tools_that_may_not_be_called_are_left_out() -> None:
    assert parsed(tools=[WEATHER], tool_choice="none") is None


@pytest.mark.parametrize("fields", [{"tools": []}, {"tool_choice": "auto"}, {"tool_choice": "none", "tools": None}])
def test_no_tools_are_no_tools(fields: dict[str, Any]) -> None:
    assert parsed(**fields) is None


def test_a_request_for_one_call_at_a_time_reaches_the_pipeline() -> None:
    used = parsed(tools=[WEATHER], parallel_tool_calls=False)
    assert used is not None
    assert not used.parallel


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        (
            {"tool_choice": "required"},
            "tool_choice",
            "'tool_choice' requires a call, but there are no 'tools'.",
        ),
        (
            {"tools": [], "tool_choice": NAMED},
            "tool_choice",
            "'tool_choice' requires a call, but there are no 'tools'.",
        ),
        (
            {"tools": [WEATHER], "tool_choice": NAMED},
            "tool_choice.function.name",
            "'tool_choice.function.name' names a function that is not in 'tools'.",
        ),
        (
            {"tools": [WEATHER, TIME, WEATHER]},
            "tools[2].function.name",
            "'tools[2].function.name' is 'weather' for the second time; names must differ.",
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "two words"}}]},
            "tools[0].function.name",
            "'tools[0].function.name' must match ^[a-zA-Z0-9_-]{1,128}$.",
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "f" * 129}}]},
            "tools[0].function.name",
            "'tools[0].function.name' must match ^[a-zA-Z0-9_-]{1,128}$.",
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": "object"}}]},
            "tools[0].function.parameters",
            "'tools[0].function.parameters' must be an object.",
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"maximum": 10**30}}}]},
            "tools[0].function.parameters",
            "'tools[0].function.parameters' must have numbers within the range of 64 bits only.",
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}}]},
            "tools[0].function.parameters",
            "'tools[0].function.parameters' must be the schema of an object.",
        ),
        ({"tools": [{"type": "custom"}]}, "tools[0].type", "'tools[0].type' must be 'function', not 'custom'. 1 more"),
        ({"tools": [TIME] * 129}, "tools", "'tools' may have 128 entries at most."),
        (
            {"tools": [TIME], "tool_choice": "any"},
            "tool_choice",
            "'tool_choice' must be 'none', 'auto' or 'required', not 'any'.",
        ),
        (
            {"tools": [TIME], "tool_choice": {"type": "function", "function": {}}},
            "tool_choice.function.name",
            "'tool_choice.function.name' is required.",
        ),
    ],
)  # fmt: skip
def test_wrong_tools_are_named_with_a_sentence(fields: dict[str, Any], param: str, message: str) -> None:
    error_param, error_message = refused(**fields)
    assert error_param == param
    assert error_message.startswith(message)


@pytest.mark.parametrize("choice", ["auto", "none", "required"])
def test_a_constraint_and_tools_may_be_combined(choice: str) -> None:
    request = parse_chat(chat(tools=[TIME], tool_choice=choice, response_format={"type": "json_object"}))
    assert request.constraint is not None
