"""Whether and how long the model reasons, in all fields of it."""

from __future__ import annotations

from typing import Any

import pytest

from serve_app.contracts import Thinking
from serve_app.errors import InvalidRequest
from tests.ingress.client import chat, parse_chat


@pytest.mark.parametrize(
    ("fields", "thinking"),
    [
        ({}, Thinking()),
        ({"chat_template_kwargs": {}, "thinking": None}, Thinking()),
        ({"chat_template_kwargs": {"enable_thinking": True}}, Thinking(True)),
        ({"chat_template_kwargs": {"enable_thinking": False}}, Thinking(False)),
        ({"thinking": {"type": "enabled"}}, Thinking(True)),
        ({"thinking": {"type": "disabled"}}, Thinking(False)),
        ({"thinking": {"type": "enabled", "budget_tokens": 300}}, Thinking(True, 300)),
        ({"thinking_token_budget": 300}, Thinking(True, 300)),
        ({"reasoning_effort": "none"}, Thinking(False)),
        ({"reasoning_effort": "minimal"}, Thinking(True, 512)),
        ({"reasoning_effort": "low"}, Thinking(True, 1024)),
        ({"reasoning_effort": "medium"}, Thinking(True, 4096)),
        ({"reasoning_effort": "high"}, Thinking(True)),
        ({"reasoning_effort": "xhigh"}, Thinking(True)),
        ({"reasoning_effort": "max"}, Thinking(True)),
        ({"reasoning_effort": "high", "thinking_token_budget": 300}, Thinking(True, 300)),
        ({"chat_template_kwargs": {"enable_thinking": True}, "thinking_token_budget": 300}, Thinking(True, 300)),
    ],
)
def test_every_field_for_it_reaches_the_pipeline(fields: dict[str, Any], thinking: Thinking) -> None:
    assert parse_chat(chat(**fields)).thinking == thinking


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"chat_template_kwargs": {"enable_thinking": True}}, "chat_template_kwargs.enable_thinking"),
        ({"thinking": {"type": "disabled"}}, "thinking.type"),
        ({"thinking_token_budget": 300}, "thinking_token_budget"),
        ({"reasoning_effort": "low"}, "reasoning_effort"),
    ],
)
def test_errors_can_name_the_field_that_was_sent(fields: dict[str, Any], param: str) -> None:
    assert parse_chat(chat(**fields)).thinking.param == param


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        (
            {"thinking": {"type": "disabled", "budget_tokens": 300}},
            "thinking.budget_tokens",
            "'thinking.budget_tokens' contradicts 'thinking.type'; give one of them.",
        ),
        (
            {"chat_template_kwargs": {"enable_thinking": False}, "reasoning_effort": "low"},
            "reasoning_effort",
            "'reasoning_effort' contradicts 'chat_template_kwargs.enable_thinking'; give one of them.",
        ),
        (
            {"reasoning_effort": "low", "thinking_token_budget": 300},
            "reasoning_effort",
            "'reasoning_effort' contradicts 'thinking_token_budget'; give one of them.",
        ),
        (
            {"chat_template_kwargs": {"add_vision_id": True}},
            "chat_template_kwargs.add_vision_id",
            "'chat_template_kwargs.add_vision_id' is not a field of this request.",
        ),
        (
            {"thinking": {"type": "sometimes"}},
            "thinking.type",
            "'thinking.type' must be 'enabled', 'disabled', 'adaptive' or 'auto', not 'sometimes'.",
        ),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 0}},
            "thinking.budget_tokens",
            "'thinking.budget_tokens' must be greater than or equal to 1, not 0.",
        ),
        (
            {"reasoning_effort": "huge"},
            "reasoning_effort",
            "'reasoning_effort' must be 'none', 'minimal', 'low', 'medium', 'high', 'xhigh' or 'max', not 'huge'.",
        ),
    ],
)
def test_a_contradiction_is_named_with_a_sentence(fields: dict[str, Any], param: str, message: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        parse_chat(chat(**fields))
    assert (raised.value.param, raised.value.message) == (param, message)
