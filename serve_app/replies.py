"""Replies of the stages that are no events of an answer: a model card, token ids, a request for pixels."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeAlias

from serve_app.contracts import ChatRequest, Event


@dataclass(frozen=True, slots=True)
class PixelsNeeded:
    """The only reply of the engine to a prompt without the pixels of these pictures, which it does not know either.

    The pipeline then sends the prompt with all pixels; no caller sees it.
    """

    digests: tuple[str, ...]


EngineEvent: TypeAlias = Event | PixelsNeeded
EngineEvents: TypeAlias = tuple[EngineEvent, ...]  # of one message to the ingress, at least one


@dataclass(frozen=True, slots=True)
class Tokenized:
    """A request's token ids."""

    token_ids: tuple[int, ...]
    image_tokens: int
    context_tokens: int


Tokenize: TypeAlias = Callable[[ChatRequest], Coroutine[Any, Any, Tokenized]]


@dataclass(frozen=True, slots=True)
class ModelCard:
    """The served model, as a ready engine replica describes it."""

    name: str
    model_type: str  # of the checkpoint's configuration
    context_tokens: int
    quantization: str
    dtype: str
    device: str
    parameters: int
    abilities: tuple[str, ...] = ()  # added by preprocess, which knows the template: vision, thinking, tools, …
