"""LiteLLM: one call for every provider, here as an OpenAI-compatible and as a vLLM service."""

from __future__ import annotations

import json
from typing import Any, Literal

import litellm
from harness import MODEL, TASK, URL, check, data_url, faulty_url, main, refusal, too_large_url
from pydantic import BaseModel, Field

CHAT = {"model": f"openai/{MODEL}", "api_base": URL, "api_key": "unused", "temperature": 0, "max_tokens": 64}
CALL = {**CHAT, "max_tokens": 200}


class Finding(BaseModel):
    """What a paper says."""

    verdict: Literal["pass", "fail"]
    number: str = Field(pattern=r"^[A-Z]{2}[0-9]{6}$")
    stamped: bool


def text(content: str) -> dict[str, Any]:
    return {"type": "text", "text": content}


def picture(name: str) -> dict[str, Any]:
    """With the address as a bare string, as LiteLLM lets people write it."""
    return {"type": "image_url", "image_url": data_url(name)}


def user(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


def asked() -> dict[str, Any]:
    """Made anew each time: LiteLLM changes the messages it is given."""
    return user(picture("first"), text(TASK["question"]))


def broken() -> dict[str, Any]:
    return user({"type": "image_url", "image_url": {"url": TASK["broken_url"]}}, text("?"))


TOOLS = [{"type": "function", "function": {**tool, "strict": True}} for tool in TASK["tools"]]


def calls_of(message: Any) -> list[dict[str, Any]]:
    return [
        {"id": call.id, "name": call.function.name, "arguments": json.loads(call.function.arguments)}
        for call in message.tool_calls or []
    ]


@check
def picture_answer() -> Any:
    reply = litellm.completion(messages=[asked()], **{**CHAT, "model": f"hosted_vllm/{MODEL}"})
    (choice,) = reply.choices
    return {
        "text": choice.message.content,
        "finish": choice.finish_reason,
        "reasoning": [getattr(choice.message, "reasoning_content", None)],
        "usage": [reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens],
    }


@check
def two_pictures() -> Any:
    pictures = (picture("first"), picture("second"))
    return {
        which: litellm.completion(messages=[user(*pictures, text(question))], **CHAT).choices[0].message.content
        for which, question in TASK["which_questions"].items()
    }


@check
def follow_up() -> Any:
    first = litellm.completion(messages=[asked()], **CHAT).choices[0].message
    messages = [{"role": "system", "content": "Be brief."}, asked(), first, user(text(TASK["follow_up"]))]
    return {"text": litellm.completion(messages=messages, **CHAT).choices[0].message.content}


@check
def stream() -> Any:
    def messages() -> list[dict[str, Any]]:
        return [user(picture("first"), text(TASK["long_question"]))]

    whole = litellm.completion(messages=messages(), **CHAT)
    pieces, usage, finish = [], None, None
    for chunk in litellm.completion(messages=messages(), stream=True, stream_options={"include_usage": True}, **CHAT):
        for choice in chunk.choices:
            pieces += [choice.delta.content] if choice.delta.content else []
            finish = choice.finish_reason or finish
        usage = getattr(chunk, "usage", None) or usage
    assert usage
    return {
        "whole": whole.choices[0].message.content,
        "pieces": pieces,
        "finish": finish,
        "usage": [usage.prompt_tokens, usage.completion_tokens],
        "whole_usage": [whole.usage.prompt_tokens, whole.usage.completion_tokens],
    }


@check
def context_fallback() -> Any:
    """The router asks another deployment where a prompt is too long for the first."""
    messages = [user(text(TASK["too_long_question"]))]
    router = litellm.Router(
        model_list=[
            {"model_name": "short", "litellm_params": {**CHAT, "max_retries": 0}},
            {"model_name": "long", "litellm_params": {**CHAT, "mock_response": "from the other one"}},
        ],
        context_window_fallbacks=[{"short": ["long"]}],
        num_retries=0,
    )
    raised = refusal(lambda: litellm.completion(messages=messages, **CHAT))
    return {"error": raised["error"], "text": router.completion("short", messages).choices[0].message.content}


@check
def wrong_model() -> Any:
    return refusal(lambda: litellm.completion(messages=[asked()], **{**CHAT, "model": "openai/gpt-9"}))


@check
def broken_picture() -> Any:
    return refusal(lambda: litellm.completion(messages=[broken()], **CHAT))


@check
def broken_picture_streamed() -> Any:
    return refusal(lambda: list(litellm.completion(messages=[broken()], stream=True, **CHAT)))


@check
def too_large() -> Any:
    large = {"type": "image_url", "image_url": {"url": too_large_url()}}
    return refusal(lambda: litellm.completion(messages=[user(large, text("?"))], **CHAT))


def answer_with_fault(fault: str) -> Any:
    reply = litellm.completion(messages=[asked()], **{**CHAT, "api_base": faulty_url(fault), "max_retries": 2})
    return {"text": reply.choices[0].message.content}


@check
def rate_limited() -> Any:
    return answer_with_fault("rate_limited")


@check
def unavailable() -> Any:
    return answer_with_fault("unavailable")


@check
def timed_out() -> Any:
    slow = {**CHAT, "api_base": faulty_url("slow"), "timeout": 0.5, "max_retries": 0}
    return refusal(lambda: litellm.completion(messages=[asked()], **slow))


@check
def tool_required() -> Any:
    reply = litellm.completion(
        messages=[asked()], tools=TOOLS, tool_choice="required", parallel_tool_calls=False, **CALL
    )
    return {"calls": calls_of(reply.choices[0].message), "finish": reply.choices[0].finish_reason}


@check
def tool_named() -> Any:
    choice = {"type": "function", "function": {"name": TASK["tools"][1]["name"]}}
    reply = litellm.completion(messages=[asked()], tools=TOOLS, tool_choice=choice, **CALL)
    return {"calls": calls_of(reply.choices[0].message), "finish": reply.choices[0].finish_reason}


@check
def tool_forbidden() -> Any:
    message = litellm.completion(messages=[asked()], tools=TOOLS, tool_choice="none", **CHAT).choices[0].message
    return {"calls": calls_of(message), "text": message.content}


@check
def tool_streamed() -> Any:
    """Put together by LiteLLM's own builder."""
    messages = [asked()]
    chunks = list(litellm.completion(messages=messages, tools=TOOLS, tool_choice="required", stream=True, **CALL))
    (choice,) = litellm.stream_chunk_builder(chunks, messages=messages).choices
    deltas = [call for chunk in chunks for one in chunk.choices for call in one.delta.tool_calls or []]
    return {
        "calls": calls_of(choice.message),
        "pieces": [delta.function.arguments for delta in deltas if delta.function.arguments],
        "finish": choice.finish_reason,
    }


def after_a_call(result: Any) -> Any:
    called = (
        litellm.completion(messages=[asked()], tools=TOOLS, tool_choice="required", parallel_tool_calls=False, **CALL)
        .choices[0]
        .message
    )
    told = {"role": "tool", "tool_call_id": called.tool_calls[0].id, "content": result}
    reply = litellm.completion(messages=[asked(), called, told], tools=TOOLS, **CALL)
    return {"finish": reply.choices[0].finish_reason, "prompt_tokens": reply.usage.prompt_tokens}


@check
def tool_result() -> Any:
    return after_a_call(TASK["tool_result"])


@check
def tool_result_with_picture() -> Any:
    return after_a_call([text(TASK["tool_result"]), {"type": "image_url", "image_url": {"url": data_url("second")}}])


@check
def schema() -> Any:
    reply = litellm.completion(messages=[asked()], response_format=Finding, **CHAT)
    (choice,) = reply.choices
    return {"parsed": Finding.model_validate_json(choice.message.content).model_dump(), "finish": choice.finish_reason}


@check
def json_object() -> Any:
    messages = [user(picture("first"), text(TASK["json_question"]))]
    reply = litellm.completion(
        messages=messages, response_format={"type": "json_object"}, **{**CHAT, "max_tokens": 400}
    )
    return {"parsed": json.loads(reply.choices[0].message.content), "finish": reply.choices[0].finish_reason}


@check
def several() -> Any:
    reply = litellm.completion(messages=[asked()], n=2, seed=7, **{**CHAT, "temperature": 1, "max_tokens": 16})
    return {
        "indexes": [choice.index for choice in reply.choices],
        "texts": [choice.message.content for choice in reply.choices],
        "completion_tokens": reply.usage.completion_tokens,
    }


@check
def logprobs() -> Any:
    (choice,) = litellm.completion(messages=[asked()], logprobs=True, top_logprobs=3, **CHAT).choices
    content = choice.logprobs.content
    return {
        "text": choice.message.content,
        "bytes": [token.bytes for token in content],
        "logprobs": [token.logprob for token in content],
        "tops": [[top.logprob for top in token.top_logprobs] for token in content],
    }


@check
def completion() -> Any:
    settings = {**CHAT, "model": f"text-completion-openai/{MODEL}", "max_tokens": 16}
    reply = litellm.text_completion(prompt=TASK["prompt"], **settings)
    pieces = [
        choice.text
        for chunk in litellm.text_completion(prompt=TASK["prompt"], stream=True, **settings)
        for choice in chunk.choices
        if choice.text
    ]
    return {
        "text": reply.choices[0].text,
        "pieces": pieces,
        "finish": reply.choices[0].finish_reason,
        "usage": [reply.usage.prompt_tokens, reply.usage.completion_tokens],
    }


@check
def response_picture() -> Any:
    shown = {"type": "input_image", "image_url": data_url("first"), "detail": "auto"}
    reply = litellm.responses(
        model=f"openai/{MODEL}",
        api_base=URL,
        api_key="unused",
        temperature=0,
        max_output_tokens=64,
        input=[{"role": "user", "content": [shown, {"type": "input_text", "text": TASK["question"]}]}],
    )
    return {
        "text": reply.output[0].content[0].text,
        "status": reply.status,
        "usage": [reply.usage.input_tokens, reply.usage.output_tokens, reply.usage.total_tokens],
    }


main()
