"""LangChain's ChatOpenAI: messages of its own, tools and structured output bound to the model."""

from __future__ import annotations

import json
from typing import Any, Literal

from harness import MODEL, TASK, URL, check, data_url, faulty_url, main, picture_base64, refusal, too_large_url
from langchain_core.exceptions import ContextOverflowError
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel, Field


class Finding(BaseModel):
    """What a paper says."""

    verdict: Literal["pass", "fail"] = Field(description="Whether it passed.")
    number: str = Field(pattern=r"^[A-Z]{2}[0-9]{6}$")
    stamped: bool


def chat_model(url: str = URL, **settings: Any) -> ChatOpenAI:
    fixed = {"model": MODEL, "base_url": url, "api_key": "unused", "temperature": 0, "max_tokens": 64, "timeout": 120}
    return ChatOpenAI(**{**fixed, **settings})


def text(content: str) -> dict[str, Any]:
    return {"type": "text", "text": content}


def picture(name: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": data_url(name)}}


def standard_picture(name: str) -> dict[str, Any]:
    """LangChain's own part, which it turns into OpenAI's."""
    return {"type": "image", "base64": picture_base64(name), "mime_type": "image/jpeg"}


MODEL_64 = chat_model()
ASKED = HumanMessage([picture("first"), text(TASK["question"])])
BROKEN = HumanMessage([{"type": "image_url", "image_url": {"url": TASK["broken_url"]}}, text("?")])
TOOLS = [{"type": "function", "function": tool} for tool in TASK["tools"]]


def finish(message: BaseMessage) -> Any:
    return message.response_metadata.get("finish_reason")


def calls_of(message: Any) -> list[dict[str, Any]]:
    return [{"id": call["id"], "name": call["name"], "arguments": call["args"]} for call in message.tool_calls]


@check
def picture_answer() -> Any:
    reply = MODEL_64.invoke([HumanMessage([standard_picture("first"), text(TASK["question"])])])
    usage = reply.usage_metadata
    assert usage
    return {
        "text": reply.content,
        "finish": finish(reply),
        "reasoning": [reply.additional_kwargs.get("reasoning_content")],
        "usage": [usage["input_tokens"], usage["output_tokens"], usage["total_tokens"]],
    }


@check
def two_pictures() -> Any:
    pictures = [standard_picture("first"), picture("second")]
    return {
        which: MODEL_64.invoke([HumanMessage([*pictures, text(question)])]).content
        for which, question in TASK["which_questions"].items()
    }


@check
def follow_up() -> Any:
    first = MODEL_64.invoke([ASKED])
    told: list[BaseMessage] = [SystemMessage("Be brief."), ASKED, first, HumanMessage(TASK["follow_up"])]
    return {"text": MODEL_64.invoke(told).content}


@check
def stream() -> Any:
    messages = [HumanMessage([picture("first"), text(TASK["long_question"])])]
    whole = MODEL_64.invoke(messages)
    chunks = list(chat_model(stream_usage=True).stream(messages))
    total = chunks[0]
    for chunk in chunks[1:]:
        total += chunk
    assert total.usage_metadata
    assert whole.usage_metadata
    return {
        "whole": whole.content,
        "pieces": [chunk.content for chunk in chunks if chunk.content],
        "finish": finish(total),
        "usage": [total.usage_metadata["input_tokens"], total.usage_metadata["output_tokens"]],
        "whole_usage": [whole.usage_metadata["input_tokens"], whole.usage_metadata["output_tokens"]],
    }


@check
def at_once() -> Any:
    return {"texts": [reply.content for reply in MODEL_64.batch([[ASKED]] * 4)]}


@check
def context_fallback() -> Any:
    """Another model is asked where a prompt is too long for the first."""
    other = FakeListChatModel(responses=["from the other one"])
    asked = MODEL_64.with_fallbacks([other], exceptions_to_handle=(ContextOverflowError,))
    raised = refusal(lambda: MODEL_64.invoke(TASK["too_long_question"]))
    return {"error": raised["error"], "text": asked.invoke(TASK["too_long_question"]).content}


@check
def wrong_model() -> Any:
    return refusal(lambda: chat_model(model="gpt-9").invoke([ASKED]))


@check
def broken_picture() -> Any:
    return refusal(lambda: MODEL_64.invoke([BROKEN]))


@check
def broken_picture_streamed() -> Any:
    return refusal(lambda: list(MODEL_64.stream([BROKEN])))


@check
def too_large() -> Any:
    large = {"type": "image_url", "image_url": {"url": too_large_url()}}
    return refusal(lambda: MODEL_64.invoke([HumanMessage([large, text("?")])]))


@check
def unsupported_file() -> Any:
    """LangChain's part for documents, which it sends as OpenAI's `file`."""
    paper = {"type": "file", "base64": "JVBERi0xLjc=", "mime_type": "application/pdf", "filename": "paper.pdf"}
    return refusal(lambda: MODEL_64.invoke([HumanMessage([paper, text("?")])]))


@check
def rate_limited() -> Any:
    return {"text": chat_model(faulty_url("rate_limited")).invoke([ASKED]).content}


@check
def unavailable() -> Any:
    return {"text": chat_model(faulty_url("unavailable")).invoke([ASKED]).content}


@check
def timed_out() -> Any:
    return refusal(lambda: chat_model(faulty_url("slow"), timeout=0.5, max_retries=0).invoke([ASKED]))


def with_tools(**settings: Any) -> Any:
    return chat_model(max_tokens=200).bind_tools(TOOLS, strict=True, **settings)


@check
def tool_required() -> Any:
    reply = with_tools(tool_choice="required", parallel_tool_calls=False).invoke([ASKED])
    return {"calls": calls_of(reply), "finish": finish(reply)}


@check
def tool_named() -> Any:
    reply = with_tools(tool_choice=TASK["tools"][1]["name"]).invoke([ASKED])
    return {"calls": calls_of(reply), "finish": finish(reply)}


@check
def tool_forbidden() -> Any:
    reply = with_tools(tool_choice="none").invoke([ASKED])
    return {"calls": calls_of(reply), "text": reply.content}


@check
def tool_streamed() -> Any:
    """Put together by LangChain's own merging of chunks."""
    chunks = list(with_tools(tool_choice="required").stream([ASKED]))
    total = chunks[0]
    for chunk in chunks[1:]:
        total += chunk
    pieces = [piece["args"] for chunk in chunks for piece in chunk.tool_call_chunks if piece["args"]]
    return {"calls": calls_of(total), "pieces": pieces, "finish": finish(total)}


def after_a_call(result: Any) -> Any:
    called: AIMessage = with_tools(tool_choice="required", parallel_tool_calls=False).invoke([ASKED])
    told = ToolMessage(result, tool_call_id=called.tool_calls[0]["id"])
    reply = with_tools().invoke([ASKED, called, told])
    return {"finish": finish(reply), "prompt_tokens": reply.usage_metadata["input_tokens"]}


@check
def tool_result() -> Any:
    return after_a_call(TASK["tool_result"])


@check
def tool_result_with_picture() -> Any:
    return after_a_call([text(TASK["tool_result"]), picture("second")])


@check
def schema() -> Any:
    held = MODEL_64.with_structured_output(Finding, method="json_schema", strict=True)
    return {"parsed": held.invoke([ASKED]).model_dump()}


@check
def schema_by_a_call() -> Any:
    held = chat_model(max_tokens=200).with_structured_output(Finding, method="function_calling", strict=True)
    return {"parsed": held.invoke([ASKED]).model_dump()}


@check
def schema_streamed() -> Any:
    held = MODEL_64.with_structured_output(Finding.model_json_schema(), method="json_schema", strict=True)
    pieces = list(held.stream([ASKED]))
    return {"parsed": pieces[-1], "pieces": [json.dumps(piece) for piece in pieces]}


@check
def json_object() -> Any:
    held = chat_model(max_tokens=400).with_structured_output(method="json_mode")
    return {"parsed": held.invoke([HumanMessage([picture("first"), text(TASK["json_question"])])])}


@check
def several() -> Any:
    (generations,) = chat_model(n=2, temperature=1, seed=7, max_tokens=16).generate([[ASKED]]).generations
    return {
        "indexes": list(range(len(generations))),
        "texts": [generation.text for generation in generations],
        "completion_tokens": generations[0].message.usage_metadata["output_tokens"],
    }


@check
def logprobs() -> Any:
    reply = chat_model(logprobs=True, top_logprobs=3).invoke([ASKED])
    content = reply.response_metadata["logprobs"]["content"]
    return {
        "text": reply.content,
        "bytes": [token["bytes"] for token in content],
        "logprobs": [token["logprob"] for token in content],
        "tops": [[top["logprob"] for top in token["top_logprobs"]] for token in content],
    }


@check
def completion() -> Any:
    asked = OpenAI(model=MODEL, base_url=URL, api_key="unused", temperature=0, max_tokens=16)
    generation = asked.generate([TASK["prompt"]])
    usage = (generation.llm_output or {})["token_usage"]
    return {
        "text": generation.generations[0][0].text,
        "pieces": list(asked.stream(TASK["prompt"])),
        "finish": (generation.generations[0][0].generation_info or {})["finish_reason"],
        "usage": [usage["prompt_tokens"], usage["completion_tokens"]],
    }


@check
def response_picture() -> Any:
    reply = chat_model(use_responses_api=True).invoke([ASKED])
    assert reply.usage_metadata
    return {
        "text": reply.text,
        "status": reply.response_metadata["status"],
        "usage": [reply.usage_metadata[key] for key in ("input_tokens", "output_tokens", "total_tokens")],
    }


@check
def response_streamed() -> Any:
    asked = [HumanMessage([picture("first"), text(TASK["long_question"])])]
    over_responses = chat_model(use_responses_api=True, max_tokens=400)
    whole = over_responses.invoke(asked)
    chunks = list(over_responses.stream(asked))
    total = chunks[0]
    for chunk in chunks[1:]:
        total += chunk
    return {
        "whole": whole.text,
        "pieces": [chunk.text for chunk in chunks if chunk.text],
        "final": total.text,
    }


main()
