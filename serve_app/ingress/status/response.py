"""The responses of /healthz, /readyz and /v1/models."""

from __future__ import annotations

from typing import Literal

from typing_extensions import TypedDict


class ModelReply(TypedDict):
    """The served model: OpenAI's four fields, then what clients of a vision service need."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    description: str
    max_model_len: int
    context_length: int
    abilities: list[str]
    family: str
    parameters: int
    quantization: str
    dtype: str
    device: str


class ModelList(TypedDict):
    """The one served model, as a list."""

    object: Literal["list"]
    data: list[ModelReply]


class StatusReply(TypedDict):
    """The service is alive, or ready."""

    status: Literal["ok"]
