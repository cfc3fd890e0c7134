"""z.ai's own SDK, which users of GLM have: `zai-sdk`, and `zhipuai`, which came before it."""

from __future__ import annotations

import json
from typing import Any

from harness import MODEL, TASK, URL, check, data_url, main, picture_base64, refusal

try:
    from zai import ZaiClient as Client
except ImportError:
    from zhipuai import ZhipuAI as Client

CLIENT = Client(base_url=URL, api_key="unused.unused", timeout=120)
CHAT = {"model": MODEL, "temperature": 0, "max_tokens": 64}
CALL_LIMIT = {"max_tokens": 200, "extra_body": {"parallel_tool_calls": False}}
TOOLS = [{"type": "function", "function": tool} for tool in TASK["tools"]]


def text(content: str) -> dict[str, Any]:
    return {"type": "text", "text": content}


def picture(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def user(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


def asked() -> dict[str, Any]:
    """Made anew each time: the SDK changes the messages it is given."""
    return user(picture(data_url("first")), text(TASK["question"]))


def ask(messages: list[dict[str, Any]], **fields: Any) -> Any:
    return CLIENT.chat.completions.create(messages=messages, **{**CHAT, **fields})


def calls_of(calls: Any) -> list[dict[str, Any]]:
    return [
        {"id": call.id, "name": call.function.name, "arguments": json.loads(call.function.arguments)}
        for call in calls or []
    ]


@check
def picture_answer() -> Any:
    """As a data URL, which the SDK cuts to its base64, and as base64."""
    found = {}
    for way, url in (("data_url", data_url("first")), ("base64", picture_base64("first"))):
        reply = ask([user(picture(url), text(TASK["question"]))])
        found[way] = {"text": reply.choices[0].message.content, "finish": reply.choices[0].finish_reason}
    usage = reply.usage
    return {**found, "usage": [usage.prompt_tokens, usage.completion_tokens, usage.total_tokens]}


@check
def hints() -> Any:
    """What the SDK's users send to z.ai's platform."""
    fields = {
        "request_id": "request-20260101-0001",
        "user_id": "customer-000017",
        "do_sample": True,
        "sensitive_word_check": {"type": "ALL", "status": "DISABLE"},
        "thinking": {"type": "disabled"},
        "extra_body": {"watermark_enabled": False, "tool_stream": True},
    }
    return {"text": ask([asked()], **fields).choices[0].message.content}


@check
def follow_up() -> Any:
    first = ask([asked()]).choices[0].message.model_dump()
    messages = [{"role": "system", "content": "Be brief."}, asked(), first, user(text(TASK["follow_up"]))]
    return {"text": ask(messages).choices[0].message.content}


@check
def stream() -> Any:
    pieces, finish, usage = [], None, None
    whole = ask([user(picture(data_url("first")), text(TASK["long_question"]))])
    for chunk in ask([user(picture(data_url("first")), text(TASK["long_question"]))], stream=True):
        for choice in chunk.choices:
            pieces += [choice.delta.content] if choice.delta.content else []
            finish = choice.finish_reason or finish
        usage = chunk.usage or usage
    return {"whole": whole.choices[0].message.content, "pieces": pieces, "finish": finish}


@check
def thinking() -> Any:
    enabled = {"extra_body": {"thinking": {"type": "enabled", "clear_thinking": True}}, "max_tokens": 200}
    message = ask([user(text(TASK["prompt"]))], **enabled).choices[0].message
    reasoning, content = [], []
    for chunk in ask([user(text(TASK["prompt"]))], stream=True, **enabled):
        delta = chunk.choices[0].delta
        reasoning += [delta.reasoning_content] if getattr(delta, "reasoning_content", None) else []
        content += [delta.content] if delta.content else []
    whole = {"reasoning": getattr(message, "reasoning_content", None), "text": message.content}
    return {"whole": whole, "streamed": {"reasoning": "".join(reasoning), "text": "".join(content)}}


@check
def tool_required() -> Any:
    (choice,) = ask([asked()], tools=TOOLS, tool_choice="required", **CALL_LIMIT).choices
    return {"calls": calls_of(choice.message.tool_calls), "finish": choice.finish_reason}


@check
def tool_streamed() -> Any:
    pieces: list[str] = []
    names: list[str] = []
    finish = None
    for chunk in ask([asked()], tools=TOOLS, tool_choice="required", stream=True, **CALL_LIMIT):
        for choice in chunk.choices:
            for call in choice.delta.tool_calls or []:
                names += [call.function.name] if call.function.name else []
                pieces += [call.function.arguments] if call.function.arguments else []
            finish = choice.finish_reason or finish
    return {"names": names, "arguments": "".join(pieces), "pieces": len(pieces), "finish": finish}


@check
def tool_result() -> Any:
    called = ask([asked()], tools=TOOLS, tool_choice="required", **CALL_LIMIT).choices[0].message
    results = [{"role": "tool", "tool_call_id": call.id, "content": TASK["tool_result"]} for call in called.tool_calls]
    reply = ask([asked(), called.model_dump(), *results], tools=TOOLS, **CALL_LIMIT)
    return {"finish": reply.choices[0].finish_reason}


@check
def broken_picture() -> Any:
    return refusal(lambda: ask([user(picture(TASK["broken_url"]), text("?"))]))


main()
