"""OpenAI's own Python client, versions 2 and 3: every call that the service answers."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import openai_responses  # noqa: F401 - its checks are part of this script
from harness import MODEL, TASK, URL, check, faulty_url, main, refusal, too_large_url
from openai import AsyncOpenAI, OpenAI
from openai_requests import ASKED, CHAT, CLIENT, TOOLS, Finding, calls_of, picture, text, user

# -- chat -----------------------------------------------------------------------------------------


@check
def models() -> Any:
    listed = CLIENT.models.list().data
    return {"ids": [model.id for model in listed], "one": CLIENT.models.retrieve(MODEL).id}


@check
def picture_answer() -> Any:
    reply = CLIENT.chat.completions.create(messages=[ASKED], **CHAT)
    (choice,) = reply.choices
    assert reply.usage
    assert reply.usage.prompt_tokens_details
    return {
        "text": choice.message.content,
        "finish": choice.finish_reason,
        "reasoning": [getattr(choice.message, field, None) for field in ("reasoning_content", "reasoning")],
        "usage": [reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens],
        "request_id": reply._request_id,
    }


@check
def two_pictures() -> Any:
    pictures = (picture("first", "auto"), picture("second", "high"))
    return {
        which: CLIENT.chat.completions.create(messages=[user(*pictures, text(question))], **CHAT)
        .choices[0]
        .message.content
        for which, question in TASK["which_questions"].items()
    }


@check
def detail() -> Any:
    """What each detail costs; version 2 does not know the last one, and sends it all the same."""
    tokens = {}
    for level in ("low", "auto", "high", "original"):
        reply = CLIENT.chat.completions.create(messages=[user(picture("first", level), text("?"))], **CHAT)
        assert reply.usage
        tokens[level] = reply.usage.prompt_tokens
    return tokens


@check
def follow_up() -> Any:
    """The answer goes back as the client's own message object, as people do it."""
    first = CLIENT.chat.completions.create(messages=[ASKED], **CHAT).choices[0].message
    messages = [{"role": "system", "content": "Be brief."}, ASKED, first, user(text(TASK["follow_up"]))]
    return {"text": CLIENT.chat.completions.create(messages=messages, **CHAT).choices[0].message.content}


@check
def minimal() -> Any:
    """The requests of the client's own tests and README: one message, of any role."""
    return {
        role: CLIENT.chat.completions.create(model=MODEL, messages=[{"role": role, "content": "string"}])
        .choices[0]
        .message.role
        for role in ("developer", "system", "user", "assistant")
    }


@check
def stream() -> Any:
    messages = [user(picture("first"), text(TASK["long_question"]))]
    whole = CLIENT.chat.completions.create(messages=messages, **CHAT)
    pieces, usage, finish = [], None, None
    for chunk in CLIENT.chat.completions.create(
        messages=messages, stream=True, stream_options={"include_usage": True}, **CHAT
    ):
        for choice in chunk.choices:
            pieces += [choice.delta.content] if choice.delta.content else []
            finish = choice.finish_reason or finish
        usage = chunk.usage or usage
    assert usage
    assert whole.usage
    return {
        "whole": whole.choices[0].message.content,
        "pieces": pieces,
        "finish": finish,
        "usage": [usage.prompt_tokens, usage.completion_tokens],
        "whole_usage": [whole.usage.prompt_tokens, whole.usage.completion_tokens],
    }


@check
def at_once() -> Any:
    async def ask() -> list[str | None]:
        async with AsyncOpenAI(base_url=URL, api_key="unused", timeout=120) as client:
            replies = await asyncio.gather(
                *(client.chat.completions.create(messages=[ASKED], **CHAT) for _ in range(4))
            )
        return [reply.choices[0].message.content for reply in replies]

    return {"texts": asyncio.run(ask())}


# -- what goes wrong --------------------------------------------------------------------------------


@check
def wrong_model() -> Any:
    return refusal(lambda: CLIENT.chat.completions.create(**{**CHAT, "model": "gpt-9"}, messages=[ASKED]))


@check
def broken_picture() -> Any:
    broken = {"type": "image_url", "image_url": {"url": TASK["broken_url"]}}
    return refusal(lambda: CLIENT.chat.completions.create(messages=[user(broken, text("?"))], **CHAT))


@check
def broken_picture_streamed() -> Any:
    broken = {"type": "image_url", "image_url": {"url": TASK["broken_url"]}}
    return refusal(
        lambda: list(CLIENT.chat.completions.create(messages=[user(broken, text("?"))], stream=True, **CHAT))
    )


@check
def too_large() -> Any:
    large = {"type": "image_url", "image_url": {"url": too_large_url()}}
    return refusal(lambda: CLIENT.chat.completions.create(messages=[user(large, text("?"))], **CHAT))


@check
def rate_limited() -> Any:
    client = OpenAI(base_url=faulty_url("rate_limited"), api_key="unused")
    return {"text": client.chat.completions.create(messages=[ASKED], **CHAT).choices[0].message.content}


@check
def unavailable() -> Any:
    client = OpenAI(base_url=faulty_url("unavailable"), api_key="unused")
    return {"text": client.chat.completions.create(messages=[ASKED], **CHAT).choices[0].message.content}


@check
def overloaded() -> Any:
    client = OpenAI(base_url=faulty_url("overloaded"), api_key="unused")
    return {"text": client.chat.completions.create(messages=[ASKED], **CHAT).choices[0].message.content}


@check
def timed_out() -> Any:
    client = OpenAI(base_url=faulty_url("slow"), api_key="unused", timeout=0.5, max_retries=0)
    return refusal(lambda: client.chat.completions.create(messages=[ASKED], **CHAT))


# -- tools ------------------------------------------------------------------------------------------


@check
def tool_required() -> Any:
    reply = CLIENT.chat.completions.create(
        messages=[ASKED], tools=TOOLS, tool_choice="required", parallel_tool_calls=False, **{**CHAT, "max_tokens": 200}
    )
    return {"calls": calls_of(reply.choices[0].message), "finish": reply.choices[0].finish_reason}


@check
def tool_named() -> Any:
    name = TASK["tools"][1]["name"]
    reply = CLIENT.chat.completions.create(
        messages=[ASKED],
        tools=TOOLS,
        tool_choice={"type": "function", "function": {"name": name}},
        **{**CHAT, "max_tokens": 200},
    )
    return {"calls": calls_of(reply.choices[0].message), "finish": reply.choices[0].finish_reason}


@check
def tool_forbidden() -> Any:
    reply = CLIENT.chat.completions.create(messages=[ASKED], tools=TOOLS, tool_choice="none", **CHAT)
    return {"calls": calls_of(reply.choices[0].message), "text": reply.choices[0].message.content}


@check
def tool_streamed() -> Any:
    """Put together by the client's own accumulator, which is strict about index, id and name."""
    with CLIENT.chat.completions.stream(
        messages=[ASKED], tools=TOOLS, tool_choice="required", **{**CHAT, "max_tokens": 200}
    ) as events:
        pieces = [event.arguments_delta for event in events if event.type == "tool_calls.function.arguments.delta"]
        (choice,) = events.get_final_completion().choices
    return {"calls": calls_of(choice.message), "pieces": pieces, "finish": choice.finish_reason}


def after_a_call(result: Any) -> Any:
    asked = {**CHAT, "max_tokens": 200, "tools": TOOLS}
    first = CLIENT.chat.completions.create(messages=[ASKED], tool_choice="required", parallel_tool_calls=False, **asked)
    called = first.choices[0].message
    assert called.tool_calls
    told = {"role": "tool", "tool_call_id": called.tool_calls[0].id, "content": result}
    reply = CLIENT.chat.completions.create(messages=[ASKED, called, told], **asked)
    assert reply.usage
    return {"finish": reply.choices[0].finish_reason, "prompt_tokens": reply.usage.prompt_tokens}


@check
def tool_result() -> Any:
    return after_a_call(TASK["tool_result"])


@check
def tool_result_with_picture() -> Any:
    return after_a_call([text(TASK["tool_result"]), picture("second")])


# -- form -------------------------------------------------------------------------------------------


@check
def schema() -> Any:
    reply = CLIENT.chat.completions.parse(messages=[ASKED], response_format=Finding, **CHAT)
    parsed = reply.choices[0].message.parsed
    return {"parsed": parsed.model_dump() if parsed else None, "finish": reply.choices[0].finish_reason}


@check
def schema_streamed() -> Any:
    with CLIENT.chat.completions.stream(messages=[ASKED], response_format=Finding, **CHAT) as events:
        pieces = [event.delta for event in events if event.type == "content.delta"]
        (choice,) = events.get_final_completion().choices
    return {"parsed": choice.message.parsed.model_dump(), "pieces": pieces, "finish": choice.finish_reason}


@check
def json_object() -> Any:
    reply = CLIENT.chat.completions.create(
        messages=[user(picture("first"), text(TASK["json_question"]))],
        response_format={"type": "json_object"},
        **{**CHAT, "max_tokens": 400},
    )
    return {"parsed": json.loads(reply.choices[0].message.content), "finish": reply.choices[0].finish_reason}


# -- several answers, likelihoods -------------------------------------------------------------------


@check
def several() -> Any:
    reply = CLIENT.chat.completions.create(
        messages=[ASKED], n=2, seed=7, **{**CHAT, "temperature": 1, "max_tokens": 16}
    )
    assert reply.usage
    return {
        "indexes": [choice.index for choice in reply.choices],
        "texts": [choice.message.content for choice in reply.choices],
        "completion_tokens": reply.usage.completion_tokens,
    }


@check
def several_streamed() -> Any:
    texts = {0: "", 1: ""}
    for chunk in CLIENT.chat.completions.create(messages=[ASKED], n=2, stream=True, **{**CHAT, "max_tokens": 16}):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    return {"indexes": list(texts), "texts": list(texts.values())}


@check
def logprobs() -> Any:
    (choice,) = CLIENT.chat.completions.create(messages=[ASKED], logprobs=True, top_logprobs=3, **CHAT).choices
    assert choice.logprobs
    assert choice.logprobs.content
    return {
        "text": choice.message.content,
        "bytes": [token.bytes for token in choice.logprobs.content],
        "logprobs": [token.logprob for token in choice.logprobs.content],
        "tops": [[top.logprob for top in token.top_logprobs] for token in choice.logprobs.content],
    }


main()
