"""How answers come: how many, whole or as a stream, and what a stream tells besides text."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from serve_app.errors import InvalidRequest
from serve_app.ingress.fields.strict_model import Wire

MOST_CHOICES = 128  # bound of the setting `http.max_choices`, which is what holds


class StreamOptions(Wire):
    """What a stream tells besides text."""

    include_usage: bool | None = Field(None, description="A last chunk with the usage and no choices.")
    continuous_usage_stats: bool | None = Field(
        None, description="With include_usage: the usage so far in every chunk. (vLLM's)"
    )
    include_obfuscation: Literal[False] | None = Field(None, description="Not supported.")


class DeliveryFields(Wire):
    """How many answers there are to be, and how they come."""

    n: int | None = Field(
        None, ge=1, le=MOST_CHOICES, description="Answers to the one question; `http.max_choices` is the most."
    )
    stream: bool | None = Field(None, description="The answer as server-sent events, while it is drawn.")
    stream_options: StreamOptions | None = Field(None, description="Only with `stream`.")


def check_delivery(fields: DeliveryFields) -> None:
    if fields.stream_options is not None and not fields.stream:
        raise InvalidRequest("'stream_options' is only for a request with 'stream': true.", "stream_options")
