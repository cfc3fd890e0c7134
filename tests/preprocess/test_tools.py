"""Prompts with tools, calls, results and reasoning, against transformers' own rendering."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from serve_app.contracts import ImagePart, Message, TextPart, Tool, ToolCall, ToolUse
from serve_app.preprocess.chat_tokenizer import ChatTokenizer
from serve_app.settings import DEMO_MODEL

LIMIT = 8192
PICTURE = ImagePart(b"", "messages[3].content[0]")
MARKS = "<|begin_of_image|><|image|><|end_of_image|>"
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": 'The weather, "now" or later.\nIn any 城市 & <place>.',
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "时间": {"type": "array", "items": {"type": "number"}}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
LOOK = {"type": "function", "function": {"name": "look"}}
TOOLS = ToolUse((Tool("get_weather", WEATHER), Tool("look", LOOK)))


def user(*parts: str | ImagePart) -> Message:
    return Message("user", tuple(TextPart(part) if isinstance(part, str) else part for part in parts))


def said(text: str, *calls: ToolCall, reasoning: str = "") -> Message:
    return Message("assistant", (TextPart(text),) if text else (), reasoning, calls)


def result(call_id: str, *parts: str | ImagePart) -> Message:
    return Message("tool", user(*parts).parts, tool_call_id=call_id)


ONE = ToolCall("call_1", "get_weather", {"city": "北京", "时间": [1, 2.5, None, {"a": "b"}], "exact": True, "n": 3})
TWO = ToolCall("call_2", "look", {})
CONVERSATIONS = [
    [user("What is the weather?")],
    [Message("system", (TextPart("Be brief."),)), user(ImagePart(b""), "Q"), said("A"), user("And?")],
    [user("Q"), said("", ONE), result("call_1", "sunny\n25 °C")],
    [user("Q"), said("Let me see.", ONE, TWO, reasoning="\nhm, hm\n"), result("call_1", "sunny"), result("call_2", "")],
    [
        user("Q"),
        said("", TWO, reasoning="first"),
        result("call_2", '{"a": [1]}'),
        said("", ONE, reasoning="second"),
        result("call_1", "x"),
        said("It is sunny.", reasoning="third"),
        user("And now?"),
        said("", ONE, reasoning="fourth"),
        result("call_1", "rain"),
    ],
    [
        user("Q"),
        said("<think>\nold\n</think>\nA"),
        user("Q2"),
        said("<think>\nnew\n</think>\nA2", TWO),
        result("", "R"),
    ],
]


def own(folder: Path) -> ChatTokenizer:
    return ChatTokenizer(folder, json.loads((folder / "config.json").read_text())["image_token_id"])


def reference(folder: Path, messages: list[Message], tools: ToolUse | None, **switch: bool) -> list[int]:
    conversation = []
    for message in messages:
        content: object = "".join(part.text for part in message.parts if isinstance(part, TextPart))
        if any(isinstance(part, ImagePart) for part in message.parts):
            content = [
                {"type": "text", "text": part.text} if isinstance(part, TextPart) else {"type": "image"}
                for part in message.parts
            ]
        told: dict[str, object] = {"role": message.role, "content": content}
        if message.reasoning:
            told["reasoning_content"] = message.reasoning
        if message.tool_calls:
            told["tool_calls"] = [
                {"type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in message.tool_calls
            ]
        conversation.append(told)
    definitions = [tool.definition for tool in tools.tools] if tools else None
    return AutoTokenizer.from_pretrained(folder).apply_chat_template(
        conversation, tools=definitions, add_generation_prompt=True, return_dict=False, **switch
    )


@pytest.mark.parametrize("think", [None, True, False])
@pytest.mark.parametrize("tools", [None, TOOLS], ids=["no tools", "tools"])
@pytest.mark.parametrize("messages", CONVERSATIONS, ids=range(len(CONVERSATIONS)))
def test_ids_equal_the_tokenizers_own(
    tool_checkpoint: Path, messages: list[Message], tools: ToolUse | None, think: bool | None
) -> None:
    switch = {} if think is None else {"enable_thinking": think}
    expected = reference(tool_checkpoint, messages, tools, **switch)
    assert own(tool_checkpoint).encode(messages, LIMIT, tools, think).tolist() == expected


def test_a_typed_switch_is_written_by_the_template(tool_checkpoint: Path) -> None:
    chat = own(tool_checkpoint)
    typed = [user("Q1"), said("A"), user(ImagePart(b""), "Q2/nothink")]
    bare = [user("Q1"), said("A"), user(ImagePart(b""), "Q2")]
    expected = reference(tool_checkpoint, bare, None, enable_thinking=False)
    assert chat.encode(typed, LIMIT, think=False).tolist() == expected
    assert chat.encode(typed, LIMIT, think=True).tolist() != chat.encode(bare, LIMIT, think=True).tolist()


SHOWN = [user("Q"), said("", TWO), result("call_2", "before", PICTURE, "after"), result("call_2", "more")]


def test_pictures_in_results_are_written_as_the_template_does(of_template: Callable[[str], Path]) -> None:
    folder = of_template("glm-4.6v")
    assert own(folder).encode(SHOWN, LIMIT).tolist() == reference(folder, SHOWN, None)


def test_pictures_in_results_are_marked_where_the_template_takes_only_text(of_template: Callable[[str], Path]) -> None:
    folder = of_template("glm-4.5v")
    marked = [*SHOWN[:2], result("call_2", f"before{MARKS}after"), SHOWN[3]]
    assert own(folder).encode(SHOWN, LIMIT).tolist() == reference(folder, marked, None)


def test_a_picture_alone_may_be_a_result(tool_checkpoint: Path) -> None:
    chat, theirs = own(tool_checkpoint), AutoTokenizer.from_pretrained(tool_checkpoint)
    token_ids = chat.encode([user("Q"), said("", TWO), result("call_2", PICTURE)], LIMIT)
    assert f"<|observation|>\n<tool_response>\n{MARKS}\n</tool_response>" in theirs.decode(token_ids)


def test_earlier_reasoning_is_forgotten_and_present_reasoning_kept(tool_checkpoint: Path) -> None:
    text = AutoTokenizer.from_pretrained(tool_checkpoint).decode(own(tool_checkpoint).encode(CONVERSATIONS[4], LIMIT))
    assert not any(earlier in text for earlier in ("first", "second", "third"))
    assert "<think>fourth</think>" in text


def test_the_thinking_models_answer_marks_are_taken_out_of_history(of_template: Callable[[str], Path]) -> None:
    chat = own(of_template("glm-4.1v"))
    told = [user("a"), said("<think>hm</think>\n<answer>yes</answer>"), user("b")]
    np.testing.assert_array_equal(chat.encode(told, LIMIT), chat.encode([user("a"), said("yes"), user("b")], LIMIT))
    np.testing.assert_array_equal(
        chat.encode(told, LIMIT), chat.encode([user("a"), said("yes", reasoning="hm"), user("b")], LIMIT)
    )


def test_the_demo_model_is_told_tools_as_glm_45v_is(of_template: Callable[[str], Path]) -> None:
    """But for reasoning, which is never shown to it again: its history has no <think></think>."""
    glm = AutoTokenizer.from_pretrained(of_template("glm-4.6v"))
    demo = AutoTokenizer.from_pretrained(DEMO_MODEL)
    for messages in (*CONVERSATIONS[:4], SHOWN):
        expected = glm.decode(reference(of_template("glm-4.6v"), messages, TOOLS)).replace("<think></think>\n", "")
        expected = expected.replace("<think>hm, hm</think>\n", "")
        assert demo.decode(own(DEMO_MODEL).encode(messages, LIMIT, TOOLS)) == expected
