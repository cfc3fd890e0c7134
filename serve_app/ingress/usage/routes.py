"""GET /v1/usage: what the caller has used, by day."""

from __future__ import annotations

from dataclasses import asdict
from typing import cast

from fastapi import APIRouter
from starlette.requests import Request

from serve_app.access.usage import UsageRecorder
from serve_app.errors import Overloaded
from serve_app.ingress.openapi import error_responses
from serve_app.ingress.request_log import request_log_of
from serve_app.ingress.usage.response import CallerUsage, UsageOfDay

DESCRIPTION = """Requests that the model worked on, their tokens and pictures, and `device_ms`: the time of the GPU (of
the CPU where the model runs on one), as each request's share of encoding, prefill and decode steps. Answers from the
cache have tokens and no device time. Without `limits.redis_url` it is the use of one ingress replica since its start.
"""


def usage_routes(usage: UsageRecorder) -> APIRouter:
    router = APIRouter(tags=["status"])

    @router.get(
        "/v1/usage", summary="Use of the caller by day", description=DESCRIPTION, responses=error_responses(503)
    )
    async def caller_usage(request: Request) -> CallerUsage:
        caller = request_log_of(request.scope).caller
        try:
            days = await usage.of_caller(caller)
        except (ConnectionError, TimeoutError) as error:
            raise Overloaded("The store of usage does not respond. Retry shortly.") from error
        listed = [cast(UsageOfDay, {"day": day, **asdict(used)}) for day, used in days.items()]
        return {"object": "usage", "caller": caller.id, "tenant": caller.tenant, "days": listed}

    return router
