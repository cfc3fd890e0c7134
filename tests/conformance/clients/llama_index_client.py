"""LlamaIndex's OpenAILike: blocks of its own, function calling, structured prediction."""

from __future__ import annotations

import json
from typing import Any, Literal

from harness import MODEL, TASK, URL, check, faulty_url, main, picture_bytes, refusal, too_large_url
from llama_index.core.llms import ChatMessage, ImageBlock, MessageRole, TextBlock
from llama_index.core.tools import FunctionTool, ToolMetadata
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel, Field, create_model


class Finding(BaseModel):
    """What a paper says."""

    verdict: Literal["pass", "fail"] = Field(description="Whether it passed.")
    number: str = Field(pattern=r"^[A-Z]{2}[0-9]{6}$")
    stamped: bool


def chat_model(url: str = URL, **settings: Any) -> OpenAILike:
    fixed = {
        "model": MODEL,
        "api_base": url,
        "api_key": "unused",
        "is_chat_model": True,
        "is_function_calling_model": True,
        "should_use_structured_outputs": True,
        "temperature": 0,
        "max_tokens": 64,
        "context_window": 8192,
        "strict": True,
    }
    return OpenAILike(**{**fixed, **settings})


def picture(name: str, detail: str = "auto") -> ImageBlock:
    return ImageBlock(image=picture_bytes(name), image_mimetype="image/jpeg", detail=detail)


def user(*blocks: Any) -> ChatMessage:
    return ChatMessage(role=MessageRole.USER, blocks=list(blocks))


MODEL_64 = chat_model()
ASKED = user(picture("first"), TextBlock(text=TASK["question"]))
BROKEN = user(ImageBlock(url=TASK["broken_url"]), TextBlock(text="?"))


def arguments_model(tool: dict[str, Any]) -> type[BaseModel]:
    """A tool's arguments as the class that LlamaIndex wants."""
    fields: dict[str, Any] = {}
    for name, schema in tool["parameters"]["properties"].items():
        if "enum" in schema:
            fields[name] = (Literal[tuple(schema["enum"])], ...)
        else:
            fields[name] = (str, Field(pattern=schema["pattern"]))
    return create_model(tool["name"], **fields)


def function_tool(tool: dict[str, Any]) -> FunctionTool:
    metadata = ToolMetadata(description=tool["description"], name=tool["name"], fn_schema=arguments_model(tool))
    return FunctionTool(lambda **_: TASK["tool_result"], metadata)


TOOLS = [function_tool(tool) for tool in TASK["tools"]]


def calls_of(model: OpenAILike, response: Any) -> list[dict[str, Any]]:
    calls = model.get_tool_calls_from_response(response, error_on_no_tool_call=False)
    return [{"id": call.tool_id, "name": call.tool_name, "arguments": call.tool_kwargs} for call in calls]


def finish(response: Any) -> Any:
    return response.raw.choices[0].finish_reason


@check
def picture_answer() -> Any:
    reply = MODEL_64.chat([ASKED])
    usage = reply.raw.usage
    return {
        "text": reply.message.content,
        "finish": finish(reply),
        "reasoning": [block.block_type for block in reply.message.blocks if block.block_type == "thinking"],
        "usage": [usage.prompt_tokens, usage.completion_tokens, usage.total_tokens],
    }


@check
def two_pictures() -> Any:
    pictures = (picture("first", "auto"), picture("second", "high"))
    return {
        which: MODEL_64.chat([user(*pictures, TextBlock(text=question))]).message.content
        for which, question in TASK["which_questions"].items()
    }


@check
def follow_up() -> Any:
    first = MODEL_64.chat([ASKED]).message
    system = ChatMessage(role=MessageRole.SYSTEM, content="Be brief.")
    return {"text": MODEL_64.chat([system, ASKED, first, user(TextBlock(text=TASK["follow_up"]))]).message.content}


@check
def stream() -> Any:
    asked = [user(picture("first"), TextBlock(text=TASK["long_question"]))]
    whole = MODEL_64.chat(asked)
    replies = list(MODEL_64.stream_chat(asked, stream_options={"include_usage": True}))
    usage = next(reply.raw.usage for reply in reversed(replies) if reply.raw.usage)
    finishes = [choice.finish_reason for reply in replies for choice in reply.raw.choices]
    return {
        "whole": whole.message.content,
        "pieces": [reply.delta for reply in replies if reply.delta],
        "finish": next(filter(None, reversed(finishes))),
        "usage": [usage.prompt_tokens, usage.completion_tokens],
        "whole_usage": [whole.raw.usage.prompt_tokens, whole.raw.usage.completion_tokens],
    }


@check
def wrong_model() -> Any:
    return refusal(lambda: chat_model(model="gpt-9").chat([ASKED]))


@check
def broken_picture() -> Any:
    return refusal(lambda: MODEL_64.chat([BROKEN]))


@check
def broken_picture_streamed() -> Any:
    return refusal(lambda: list(MODEL_64.stream_chat([BROKEN])))


@check
def too_large() -> Any:
    return refusal(lambda: MODEL_64.chat([user(ImageBlock(url=too_large_url()), TextBlock(text="?"))]))


@check
def rate_limited() -> Any:
    return {"text": chat_model(faulty_url("rate_limited")).chat([ASKED]).message.content}


@check
def unavailable() -> Any:
    return {"text": chat_model(faulty_url("unavailable")).chat([ASKED]).message.content}


@check
def timed_out() -> Any:
    return refusal(lambda: chat_model(faulty_url("slow"), timeout=0.5, max_retries=0).chat([ASKED]))


@check
def tool_required() -> Any:
    model = chat_model(max_tokens=200)
    reply = model.chat_with_tools(TOOLS, chat_history=[ASKED], tool_required=True, allow_parallel_tool_calls=False)
    return {"calls": calls_of(model, reply), "finish": finish(reply)}


@check
def tool_named() -> Any:
    model = chat_model(max_tokens=200)
    reply = model.chat_with_tools(TOOLS, chat_history=[ASKED], tool_choice=TASK["tools"][1]["name"])
    return {"calls": calls_of(model, reply), "finish": finish(reply)}


@check
def tool_forbidden() -> Any:
    reply = MODEL_64.chat_with_tools(TOOLS, chat_history=[ASKED], tool_choice="none")
    return {"calls": calls_of(MODEL_64, reply), "text": reply.message.content}


@check
def tool_streamed() -> Any:
    """Put together by LlamaIndex's own merging of chunks."""
    model = chat_model(max_tokens=200)
    replies = list(model.stream_chat_with_tools(TOOLS, chat_history=[ASKED], tool_required=True))
    deltas = [call for reply in replies for choice in reply.raw.choices for call in choice.delta.tool_calls or []]
    finishes = [choice.finish_reason for reply in replies for choice in reply.raw.choices if choice.finish_reason]
    return {
        "calls": calls_of(model, replies[-1]),
        "pieces": [delta.function.arguments for delta in deltas if delta.function.arguments],
        "finish": finishes[-1],
    }


def after_a_call(*blocks: Any) -> Any:
    model = chat_model(max_tokens=200)
    called = model.chat_with_tools(TOOLS, chat_history=[ASKED], tool_required=True, allow_parallel_tool_calls=False)
    (call,) = model.get_tool_calls_from_response(called)
    told = ChatMessage(role=MessageRole.TOOL, blocks=list(blocks), additional_kwargs={"tool_call_id": call.tool_id})
    reply = model.chat_with_tools(TOOLS, chat_history=[ASKED, called.message, told])
    return {"finish": finish(reply), "prompt_tokens": reply.raw.usage.prompt_tokens}


@check
def tool_result() -> Any:
    return after_a_call(TextBlock(text=TASK["tool_result"]))


@check
def schema() -> Any:
    reply = MODEL_64.as_structured_llm(Finding).chat([ASKED])
    return {"parsed": json.loads(reply.message.content or "")}


@check
def schema_by_a_call() -> Any:
    held = chat_model(max_tokens=200, should_use_structured_outputs=False).as_structured_llm(Finding)
    return {"parsed": json.loads(held.chat([ASKED]).message.content or "")}


@check
def logprobs() -> Any:
    reply = chat_model(logprobs=True, top_logprobs=3).chat([ASKED])
    content = reply.raw.choices[0].logprobs.content
    return {
        "text": reply.message.content,
        "bytes": [token.bytes for token in content],
        "logprobs": [token.logprob for token in content],
        "tops": [[top.logprob for top in token.top_logprobs] for token in content],
    }


@check
def completion() -> Any:
    model = chat_model(is_chat_model=False, max_tokens=16)
    reply = model.complete(TASK["prompt"])
    return {
        "text": reply.text,
        "pieces": [piece.delta for piece in model.stream_complete(TASK["prompt"]) if piece.delta],
        "finish": reply.raw.choices[0].finish_reason,
        "usage": [reply.raw.usage.prompt_tokens, reply.raw.usage.completion_tokens],
    }


main()
