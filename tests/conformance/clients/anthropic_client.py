"""Anthropic's own Python client at /v1/messages: pictures, streams, tools, tokens and refusals."""

from __future__ import annotations

from typing import Any

from anthropic import Anthropic
from harness import MODEL, TASK, check, main, picture_base64, refusal

CLIENT = Anthropic(base_url=TASK["base_url"], api_key="unused", timeout=120, max_retries=0)
ASKED: dict[str, Any] = {"model": MODEL, "max_tokens": 64, "extra_body": {"temperature": 0}}  # no parameter of its own
TOOLS = [
    {"name": tool["name"], "description": tool["description"], "input_schema": tool["parameters"], "strict": True}
    for tool in TASK["tools"]
]


def user(question: str) -> dict[str, Any]:
    source = {"type": "base64", "media_type": "image/jpeg", "data": picture_base64("first")}
    return {"role": "user", "content": [{"type": "image", "source": source}, {"type": "text", "text": question}]}


def text_of(message: Any) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


@check
def message() -> Any:
    reply = CLIENT.messages.create(messages=[user(TASK["question"])], system="Be brief.", **ASKED)
    return {
        "text": text_of(reply),
        "kinds": [block.type for block in reply.content],
        "stop": reply.stop_reason,
        "usage": [reply.usage.input_tokens, reply.usage.output_tokens],
        "id": reply.id,
    }


@check
def streamed() -> Any:
    """Put together by the client's own accumulator, which is strict about the order of events."""
    asked = {**ASKED, "messages": [user(TASK["long_question"])]}
    whole = CLIENT.messages.create(**asked)
    with CLIENT.messages.stream(**asked) as stream:
        pieces = list(stream.text_stream)
        final = stream.get_final_message()
    return {
        "whole": text_of(whole),
        "pieces": pieces,
        "final": text_of(final),
        "stop": final.stop_reason,
        "usage": [final.usage.input_tokens, final.usage.output_tokens],
        "whole_usage": [whole.usage.input_tokens, whole.usage.output_tokens],
    }


@check
def follow_up() -> Any:
    """The client's own blocks of the first answer are sent back with it."""
    first = CLIENT.messages.create(messages=[user(TASK["question"])], **ASKED)
    turns = [
        user(TASK["question"]),
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": TASK["follow_up"]},
    ]
    return {"text": text_of(CLIENT.messages.create(messages=turns, **ASKED))}


@check
def tool() -> Any:
    asked = {**ASKED, "max_tokens": 200, "tools": TOOLS}
    choice = {"type": "any", "disable_parallel_tool_use": True}
    reply = CLIENT.messages.create(messages=[user(TASK["question"])], tool_choice=choice, **asked)
    (call,) = [block for block in reply.content if block.type == "tool_use"]
    with CLIENT.messages.stream(messages=[user(TASK["question"])], tool_choice=choice, **asked) as stream:
        (streamed_call,) = [block for block in stream.get_final_message().content if block.type == "tool_use"]
    result = {"type": "tool_result", "tool_use_id": call.id, "content": TASK["tool_result"]}
    turns = [user(TASK["question"]), {"role": "assistant", "content": reply.content}]
    final = CLIENT.messages.create(messages=[*turns, {"role": "user", "content": [result]}], **asked)
    return {
        "name": call.name,
        "input": call.input,
        "streamed_input": streamed_call.input,
        "stop": reply.stop_reason,
        "final_kinds": [block.type for block in final.content],
    }


@check
def stop_sequence() -> Any:
    whole = text_of(CLIENT.messages.create(messages=[user(TASK["question"])], **ASKED))
    reply = CLIENT.messages.create(messages=[user(TASK["question"])], stop_sequences=[whole[2:4]], **ASKED)
    return {"whole": whole, "text": text_of(reply), "stop": reply.stop_reason, "sequence": reply.stop_sequence}


@check
def tokens() -> Any:
    counted = CLIENT.messages.count_tokens(messages=[user(TASK["question"])], model=MODEL)
    reply = CLIENT.messages.create(messages=[user(TASK["question"])], **ASKED)
    return {"counted": counted.input_tokens, "used": reply.usage.input_tokens}


@check
def broken_picture() -> Any:
    source = {"type": "base64", "media_type": "image/png", "data": TASK["broken_url"].partition(",")[2]}
    asked = [{"role": "user", "content": [{"type": "image", "source": source}]}]
    return refusal(lambda: CLIENT.messages.create(messages=asked, **ASKED))


@check
def unknown_model() -> Any:
    return refusal(lambda: CLIENT.messages.create(messages=[user("?")], **{**ASKED, "model": "claude"}))


main()
