"""OpenAI's Python client at the two routes beside chat: plain completions, and Responses."""

from __future__ import annotations

import json
from typing import Any

from harness import MODEL, TASK, check, data_url
from openai_requests import CLIENT, Finding


@check
def completion() -> Any:
    asked = {"model": MODEL, "prompt": TASK["prompt"], "temperature": 0, "max_tokens": 16}
    whole = CLIENT.completions.create(**asked)
    pieces = [choice.text for chunk in CLIENT.completions.create(stream=True, **asked) for choice in chunk.choices]
    assert whole.usage
    return {
        "text": whole.choices[0].text,
        "pieces": pieces,
        "finish": whole.choices[0].finish_reason,
        "usage": [whole.usage.prompt_tokens, whole.usage.completion_tokens],
    }


def response_input(question: str) -> list[dict[str, Any]]:
    shown = {
        "type": "input_image",
        "image_url": data_url("first"),
        "detail": "auto",
    }
    return [{"role": "user", "content": [shown, {"type": "input_text", "text": question}]}]


RESPONSE = {"model": MODEL, "temperature": 0, "max_output_tokens": 64, "store": False}
LONG_RESPONSE = {**RESPONSE, "max_output_tokens": 400}


@check
def response_text() -> Any:
    reply = CLIENT.responses.create(input="Hello", instructions="Be brief.", **RESPONSE)
    return {"text": reply.output_text, "status": reply.status}


@check
def response_picture() -> Any:
    reply = CLIENT.responses.create(input=response_input(TASK["question"]), **RESPONSE)
    assert reply.usage
    return {
        "text": reply.output_text,
        "status": reply.status,
        "usage": [reply.usage.input_tokens, reply.usage.output_tokens, reply.usage.total_tokens],
    }


@check
def response_streamed() -> Any:
    """Put together by the client's own accumulator, which is strict about the order of events, and wants the end."""
    whole = CLIENT.responses.create(input=response_input(TASK["long_question"]), **LONG_RESPONSE)
    with CLIENT.responses.stream(input=response_input(TASK["long_question"]), **LONG_RESPONSE) as events:
        pieces = [event.delta for event in events if event.type == "response.output_text.delta"]
        final = events.get_final_response()
    return {"whole": whole.output_text, "pieces": pieces, "final": final.output_text}


@check
def response_schema() -> Any:
    reply = CLIENT.responses.parse(input=response_input(TASK["question"]), text_format=Finding, **RESPONSE)
    return {"parsed": reply.output_parsed.model_dump() if reply.output_parsed else None}


@check
def response_tool() -> Any:
    tools = [{"type": "function", "strict": True, **tool} for tool in TASK["tools"]]
    asked = {**RESPONSE, "max_output_tokens": 200, "tools": tools}
    asked_first = response_input(TASK["question"])
    reply = CLIENT.responses.create(input=asked_first, tool_choice="required", parallel_tool_calls=False, **asked)
    called = [item for item in reply.output if item.type == "function_call"]
    told = {"type": "function_call_output", "call_id": called[0].call_id, "output": TASK["tool_result"]}
    final = CLIENT.responses.create(input=[*asked_first, *reply.output, told], **asked)
    return {
        "calls": [{"id": c.call_id, "name": c.name, "arguments": json.loads(c.arguments)} for c in called],
        "text": final.output_text,
    }
