"""The response of /v1/responses: the response object, and the responder that writes it and its events."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from itertools import count
from typing import Any, Literal, NotRequired, TypeAlias

from typing_extensions import TypedDict

from serve_app.answers import Answers
from serve_app.contracts import Started, Usage
from serve_app.errors import ImageRejected, RateLimited, ServiceError
from serve_app.ingress.context import ServingContext
from serve_app.ingress.fields.lane import Tier, service_tier
from serve_app.ingress.fields.strict_model import StrictModel
from serve_app.ingress.fields.usage import BoxedReply, ImageReply, boxes_json, images_json
from serve_app.ingress.respond import Responder, timings_json
from serve_app.ingress.responses.output_items import OutputItem, OutputItems, StreamEvent
from serve_app.ingress.responses.recent_items import RecentItems
from serve_app.ingress.responses.request import ResponseBody
from serve_app.ingress.sse import typed_frame

Status: TypeAlias = Literal["in_progress", "completed", "incomplete", "failed"]


class InputTokensDetails(TypedDict):
    """The prompt's tokens by kind."""

    cached_tokens: int
    cache_write_tokens: int
    image_tokens: int
    text_tokens: int


class OutputTokensDetails(TypedDict):
    """The answer's tokens by kind."""

    reasoning_tokens: int


class ResponseUsage(TypedDict):
    """Counted from token ids."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class ResponseError(TypedDict):
    """Why there is no answer; `code` is one of OpenAI's."""

    code: str
    message: str


class IncompleteDetails(TypedDict):
    """Why the answer is incomplete."""

    reason: Literal["max_output_tokens"]


class ReasoningReply(TypedDict):
    """The request's reasoning settings."""

    effort: str | None
    summary: str | None


class ResponseReply(TypedDict):
    """A response with the settings of its request; `timings`, `images` and `boxes` are ours, the rest OpenAI's."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Status
    background: Literal[False]
    error: ResponseError | None
    incomplete_details: IncompleteDetails | None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: None
    metadata: dict[str, str]
    model: str
    output: list[OutputItem]
    parallel_tool_calls: bool
    previous_response_id: None
    reasoning: ReasoningReply
    service_tier: Tier
    store: Literal[False]
    temperature: float
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float
    truncation: Literal["disabled"]
    usage: ResponseUsage | None
    user: str | None
    timings: NotRequired[dict[str, float]]
    images: NotRequired[list[ImageReply]]
    boxes: NotRequired[list[BoxedReply]]


# -- from events ----------------------------------------------------------------------------------


class ResponsesResponder(Responder):
    """Writes an answer as a response object, or as the events of its output items."""

    frame = staticmethod(typed_frame)

    def __init__(
        self, context: ServingContext, id: str, request: ResponseBody, recent: RecentItems, tenant: str
    ) -> None:
        self._context = context
        self._recent, self._tenant = recent, tenant
        self._id = id
        self._created = int(context.now())
        self._request = request
        self._summary = request.reasoning.summary if request.reasoning else None
        self._output = OutputItems(context.new_id, summary=self._summary is not None)
        self._numbers = count()

    async def body(self, answers: Answers) -> ResponseReply:
        """The response object of the last event."""
        last: StreamEvent = {}
        async with aclosing(self.chunks(answers)) as chunks:
            async for chunk in chunks:
                last = chunk
        response: ResponseReply = last["response"]
        return response

    async def chunks(self, answers: Answers) -> AsyncGenerator[StreamEvent, None]:
        async with aclosing(answers.events()) as events:
            async for _, event in events:
                if isinstance(event, Started):
                    for kind in ("response.created", "response.in_progress"):
                        yield self._numbered({"type": kind, "response": self._response("in_progress", answers)})
                for change in self._output.add(event):
                    yield self._numbered(change)
        if self._request.store is not False:
            self._recent.add(self._tenant, self._output.items)
        response = self._finished(answers)
        yield self._numbered({"type": f"response.{response['status']}", "response": response})

    def error_chunks(self, answers: Answers, error: ServiceError) -> list[StreamEvent]:
        for _ in self._output.end("incomplete"):
            pass  # the item is complete in the response below
        response = self._response("failed", answers)
        response["error"] = {"code": _openai_code(error), "message": error.message}
        error_event = {"type": "error", "code": error.code, "message": error.message, "param": error.param}
        return [self._numbered(error_event), self._numbered({"type": "response.failed", "response": response})]

    def _numbered(self, event: StreamEvent) -> StreamEvent:
        return {"sequence_number": next(self._numbers), **event}

    def _finished(self, answers: Answers) -> ResponseReply:
        assert answers.finished is not None
        incomplete = answers.finished.reason == "length"
        response = self._response("incomplete" if incomplete else "completed", answers)
        response["usage"] = response_usage(answers.usage)
        response["timings"] = timings_json(answers)
        if incomplete:
            response["incomplete_details"] = {"reason": "max_output_tokens"}
        else:
            response["completed_at"] = int(self._context.now())
        if answers.finished.boxed:
            response["boxes"] = boxes_json(answers.finished.boxed)
        return response

    def _response(self, status: Status, answers: Answers) -> ResponseReply:
        request = self._request
        response: ResponseReply = {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "completed_at": None,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": request.instructions,
            "max_output_tokens": request.max_output_tokens,
            "max_tool_calls": None,
            "metadata": request.metadata or {},
            "model": self._context.served,
            "output": list(self._output.items),
            "parallel_tool_calls": request.parallel_tool_calls is not False,
            "previous_response_id": None,
            "reasoning": {"effort": request.reasoning.effort if request.reasoning else None, "summary": self._summary},
            "service_tier": service_tier(request) or "default",
            "store": False,
            "temperature": 1.0 if request.temperature is None else request.temperature,
            "text": {"format": {"type": "text"}, **(_as_sent(request.text) or {})},
            "tool_choice": _as_sent(request.tool_choice) or "auto",
            "tools": [_as_sent(tool) for tool in request.tools or ()],
            "top_logprobs": request.top_logprobs or 0,
            "top_p": 1.0 if request.top_p is None else request.top_p,
            "truncation": "disabled",
            "usage": None,
            "user": request.user if isinstance(request.user, str) else None,
        }
        if answers.pictures:
            response["images"] = images_json(answers.pictures)
        return response


def _as_sent(field: StrictModel | str | None) -> Any:
    """A field of the request as JSON, as its caller sent it."""
    return field.model_dump(by_alias=True, exclude_none=True) if isinstance(field, StrictModel) else field


def _openai_code(error: ServiceError) -> str:
    """The nearest of the error codes that OpenAI's clients know in a response object."""
    match error:
        case ImageRejected():
            return "invalid_image"
        case RateLimited():
            return "rate_limit_exceeded"
        case _:
            return "server_error" if error.status >= 500 else "invalid_prompt"


def response_usage(usage: Usage) -> ResponseUsage:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_tokens,
            "cache_write_tokens": 0,
            "image_tokens": usage.image_tokens,
            "text_tokens": usage.prompt_tokens - usage.image_tokens,
        },
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
