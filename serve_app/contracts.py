"""The frozen data that crosses process borders: request, prompt, events.

A *request* comes from a caller, a *prompt* is the request prepared for the model, *events* go back
to the caller. Doors build requests and consume events; preprocess turns one into the other's input;
the engine turns a prompt into events. Nothing here knows HTTP, Ray, PIL or torch.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Role: TypeAlias = Literal["system", "user", "assistant"]
Detail: TypeAlias = Literal["auto", "low", "high"]
FinishReason: TypeAlias = Literal["stop", "length"]


# -- what a caller asks ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TextPart:
    """A piece of text; never parsed for special tokens."""

    text: str


@dataclass(frozen=True, slots=True)
class ImagePart:
    """A picture as it came: file bytes, a `data:` URL or an `http(s):` URL."""

    source: bytes | str
    param: str = "image"  # where it stood in the request, for error messages
    detail: Detail = "auto"


Part: TypeAlias = TextPart | ImagePart


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of the conversation, its parts in the caller's order."""

    role: Role
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn; defaults are OpenAI's. Temperature 0 is greedy."""

    max_tokens: int | None = None  # None: what is left of the context, up to the service's default
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: off
    stop: tuple[str, ...] = ()
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One question with its conversation, as every door hands it to the pipeline."""

    id: str
    messages: tuple[Message, ...]
    sampling: Sampling = Sampling()
    deadline_s: float | None = None  # seconds from now; None: the service's own limit
    stream: bool = True  # text as it is drawn; otherwise the first piece at once and the rest at the end


# -- what the engine gets ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A decoded picture at the size the model sees, with the name of its content."""

    pixels: NDArray[np.uint8]  # (height, width, 3), RGB
    digest: str  # SHA-256 over size and pixels: key of the feature cache
    tokens: int  # placeholder tokens in the prompt
    original_size: tuple[int, int]  # (width, height) as uploaded, after EXIF rotation


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """A request prepared for the model: ids with image placeholders expanded, and the pictures."""

    id: str
    token_ids: NDArray[np.int32]  # (tokens,)
    pictures: tuple[Picture, ...]  # in the order of their placeholders
    sampling: Sampling  # max_tokens resolved
    deadline_s: float
    stages_ms: dict[str, float] = field(default_factory=dict)  # fetch, decode, resize, tokenize
    stream: bool = True

    @property
    def image_tokens(self) -> int:
        return sum(picture.tokens for picture in self.pictures)


# -- what goes back ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Usage:
    """Counted from token ids, never from text."""

    prompt_tokens: int
    completion_tokens: int
    image_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Started:
    """The prompt was taken in: everything that can be refused early has been."""

    prompt_tokens: int
    image_tokens: int
    stages_ms: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Delta:
    """New text, never empty and always whole characters; `tokens` were drawn since the last delta."""

    text: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Finished:
    """The one terminal event of an answer that did not fail.

    `stages_ms` holds wall milliseconds: fetch, decode, resize, tokenize (preprocess), queue, encode,
    prefill, decode_steps (engine).
    """

    reason: FinishReason
    usage: Usage
    stages_ms: dict[str, float] = field(default_factory=dict)


Event: TypeAlias = Started | Delta | Finished
Events: TypeAlias = AsyncGenerator[Event, None]
Answer: TypeAlias = Callable[[ChatRequest], Events]


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What a ready engine replica says of the model it serves."""

    name: str
    family: str  # model_type of the checkpoint
    context_tokens: int
    quantization: str
    dtype: str
    device: str
    parameters: int
