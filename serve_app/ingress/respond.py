"""From a request to its HTTP response: a JSON body or a stream; every answering route ends here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from serve_app.answers import Answers
from serve_app.contracts import ChatRequest
from serve_app.errors import ServiceError
from serve_app.ingress.context import ServingContext
from serve_app.ingress.disconnect import run_until_disconnect
from serve_app.ingress.errors import error_json
from serve_app.ingress.request_log import request_log_of
from serve_app.ingress.sse import EventStream, data_frame


class Responder(ABC):
    """Writes the answers to one request in the shape of one API."""

    frame = staticmethod(data_frame)  # a chunk as a server-sent event

    @abstractmethod
    async def body(self, answers: Answers) -> Any:
        """The JSON body of a non-streaming response, once the answers are complete."""

    @abstractmethod
    def chunks(self, answers: Answers) -> AsyncGenerator[Any, None]:
        """The chunks of a streaming response; raises what the answers raise."""

    def error_chunks(self, answers: Answers, error: ServiceError) -> Sequence[Any]:
        """The last chunks of a stream that fails after its first chunk."""
        return [error_json(error)]


async def respond(
    request: Request, context: ServingContext, requests: Sequence[ChatRequest], responder: Responder, *, id: str
) -> Response:
    """The response to `requests`, which are the choices of one HTTP request; `id` is the response id."""
    request_log = request_log_of(request.scope)
    request_log.answer_id = id
    answers = Answers(
        context.answer,
        requests,
        observers=(request_log,),
        clock=request_log.clock,
        received_at=request_log.received_at,
    )
    if requests[0].stream:
        return EventStream(
            responder.chunks(answers),
            request_log,
            headers=lambda: timing_headers(answers),
            frame=responder.frame,
            error_chunks=lambda error: responder.error_chunks(answers, error),
        )
    body = await run_until_disconnect(request.receive, request_log, responder.body(answers))
    return Response(orjson.dumps(body), headers=timing_headers(answers), media_type="application/json")


def timings_json(answers: Answers) -> dict[str, float]:
    """Milliseconds by stage as `<stage>_ms`, and in total since the request came in."""
    stages = {f"{stage}_ms": round(duration, 3) for stage, duration in answers.stages_ms.items()}
    return {**stages, "total_ms": round(answers.total_ms, 3)}


def timing_headers(answers: Answers) -> dict[str, str]:
    """The stages as a `Server-Timing` header; the browser's developer tools show it."""
    stages = {**answers.stages_ms, "total": answers.total_ms}
    return {"Server-Timing": ", ".join(f"{stage};dur={duration:.3f}" for stage, duration in stages.items())}
