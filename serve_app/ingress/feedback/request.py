"""The request of /v1/feedback: the id of a response, a rating and a comment."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from serve_app.ingress.fields.strict_model import RequestBody

MAX_COMMENT = 10_000


class FeedbackBody(RequestBody):
    """What the caller says of an answer."""

    id: str = Field(min_length=1, max_length=200, description="The `id` of the response that had the answer.")
    rating: Literal["up", "down"] = Field(
        description="down: the answer is wrong; it is removed from the answer cache and not kept again for a while."
    )
    comment: str | None = Field(None, max_length=MAX_COMMENT, description="What is wrong or right, in words.")
