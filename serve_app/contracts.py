"""The frozen data that crosses process borders: request, prompt, events.

A *request* comes from a caller, a *prompt* is the request prepared for the model, *events* go back to the caller.
Ingress makes requests and reads events; preprocess turns a request into a prompt, the engine a prompt into events.
Nothing here knows HTTP, Ray, PIL or torch.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from serve_app.caller import ANONYMOUS, DEFAULT_TENANT, Caller, Lane

Role: TypeAlias = Literal["system", "user", "assistant", "tool"]
Detail: TypeAlias = Literal["auto", "low", "high", "original"]
FinishReason: TypeAlias = Literal["stop", "length", "tool_calls"]
Channel: TypeAlias = Literal["text", "reasoning"]
CacheUse: TypeAlias = Literal["use", "refresh", "off"]  # refresh: generate the answer again and keep that one

DEFAULT_DEADLINE_S: Final = 300.0


@dataclass(frozen=True, slots=True)
class TextPart:
    """A piece of text; never parsed for special tokens."""

    text: str


@dataclass(frozen=True, slots=True)
class Pages:
    """Pages of a document, from 1, as ranges (first, last) in their order; without a last one: to the end."""

    ranges: tuple[tuple[int, int | None], ...]
    param: str = "pages"  # the request field, for error messages


@dataclass(frozen=True, slots=True)
class ImagePart:
    """A picture, or a document whose pages become pictures: file bytes, base64, a `data:` or an `http(s):` URL."""

    source: bytes | str
    param: str = "image"  # the request field it came from, for error messages
    detail: Detail = "auto"
    pages: Pages | None = None  # of a document; None: all
    noun: Literal["Picture", "File"] = "Picture"  # in error messages
    digest: bytes = field(default=b"", compare=False)  # of the source (upload_digests.py); empty: unknown


Part: TypeAlias = TextPart | ImagePart


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool call in an earlier assistant message."""

    id: str
    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the conversation, its parts in the caller's order."""

    role: Role
    parts: tuple[Part, ...]
    reasoning: str = ""  # assistant: its reasoning; the chat template decides whether the model reads it again
    tool_calls: tuple[ToolCall, ...] = ()  # assistant
    tool_call_id: str = ""  # tool: the call whose result this is
    param: str = field(default="messages", compare=False)  # the request field it came from, for error messages


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are sampled; defaults are OpenAI's. Temperature 0 is greedy."""

    max_tokens: int | None = None  # None: what is left of the context, up to the service's default
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: off
    stop: tuple[str, ...] = ()
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    min_p: float = 0.0  # least probability, relative to the likeliest token's; 0: off
    min_tokens: int = 0  # the answer does not end before this many tokens
    ignore_eos: bool = False  # the answer ends at max_tokens only; for benchmarks
    stop_token_ids: tuple[int, ...] = ()  # the answer ends before any of these, also with ignore_eos
    logit_bias: tuple[tuple[int, float], ...] = ()  # (token id, number added to its logit)
    logprobs: int | None = None  # likeliest tokens reported beside each one; None: report nothing


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call, as the caller describes it."""

    name: str
    definition: dict[str, Any]  # {"type": "function", "function": {"name", "description", "parameters"}}
    strict: bool = False  # arguments are generated so that they match the schema

    @property
    def parameters(self) -> dict[str, Any]:
        """JSON Schema of the arguments object."""
        schema: dict[str, Any] = self.definition["function"].get("parameters") or {"type": "object", "properties": {}}
        return schema


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The tools, and whether one must be called."""

    tools: tuple[Tool, ...]
    required: bool = False
    only: str | None = None  # with `required`: the name of the one tool that must be called
    parallel: bool = True  # several calls in one answer


@dataclass(frozen=True, slots=True)
class Constraint:
    """What the text of an answer must match; it is generated so that it does."""

    kind: Literal["json_object", "json_schema", "regex", "choice"]
    value: str = ""  # the schema or the list of choices as JSON; the pattern
    param: str = "response_format"  # the request field, for error messages


@dataclass(frozen=True, slots=True)
class Thinking:
    """Whether and how long the model reasons before it answers."""

    enabled: bool | None = None  # None: the chat template's default
    budget_tokens: int | None = None  # the answer begins after this many tokens of reasoning; None: no limit
    param: str = field(default="chat_template_kwargs", compare=False)  # the request field, for error messages


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A conversation or a text to answer: what every API passes to the pipeline."""

    id: str
    messages: tuple[Message, ...]  # empty if `text` is given
    sampling: Sampling = Sampling()
    deadline_s: float = DEFAULT_DEADLINE_S  # seconds from now
    stream: bool = True  # text as it is generated; otherwise one event with the first text and one with the rest
    tools: ToolUse | None = None
    constraint: Constraint | None = None
    thinking: Thinking = Thinking()
    text: str | tuple[int, ...] | None = None  # to continue, without the chat template; a text or its token ids
    special_tokens: bool = True  # a text begins with the special tokens that begin every prompt
    continue_last: bool = False  # the answer continues the last message, which is the assistant's
    param: str = field(default="messages", compare=False)  # the request field of the conversation or text
    caller: Caller = ANONYMOUS
    lane: Lane = "interactive"  # or that of the caller
    cache: CacheUse = "use"  # the answer cache; from the header Cache-Control
    group: str = ""  # requests of one group differ in id and seed only, so they share one prompt; empty: none

    @property
    def uploads(self) -> list[bytes | str]:
        """Its pictures and files as they were sent."""
        return [part.source for message in self.messages for part in message.parts if isinstance(part, ImagePart)]


@dataclass(frozen=True, slots=True)
class PictureSource:
    """Which upload of the request a picture comes from, from 0, and which page of a document, from 1."""

    upload: int
    page: int | None = None


@dataclass(frozen=True, slots=True)
class UnsentPixels:
    """In place of pixels that are not sent, because the engine probably has the picture's features or pages."""

    shape: tuple[int, ...]  # (height, width, 3)


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A decoded picture at the size that the model sees, with its digest."""

    pixels: NDArray[np.uint8] | UnsentPixels  # (height, width, 3), RGB
    digest: str  # SHA-256 over size and pixels: key of the feature cache
    tokens: int  # placeholder tokens in the prompt
    original_size: tuple[int, int]  # (width, height) as uploaded, after EXIF rotation; of a page: as rendered
    source: PictureSource | None = None
    file_format: str = ""  # of the upload, for metrics: jpeg, png, …

    @property
    def is_sent(self) -> bool:
        """Whether its pixels are here."""
        return not isinstance(self.pixels, UnsentPixels)

    def sent_pixels(self) -> NDArray[np.uint8]:
        """Its pixels (height, width, 3); raises ValueError if they were not sent."""
        if isinstance(self.pixels, UnsentPixels):
            raise ValueError(f"The pixels of the picture {self.digest} were not sent.")
        return self.pixels

    @property
    def seen_size(self) -> tuple[int, int]:
        """(width, height) as the model sees it."""
        return self.pixels.shape[1], self.pixels.shape[0]


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
    tools: ToolUse | None = None
    constraint: Constraint | None = None
    thinking: Thinking = Thinking(enabled=False)  # resolved: never None, and False where the model does not support it
    raw: bool = False  # the answer is text only: it is not parsed for reasoning, tool calls and boxes
    lane: Lane = "interactive"  # of the engine's queue
    tenant: str = DEFAULT_TENANT  # prompts of one tenant share pages of the KV cache
    continues: bool = False  # the answer continues a text, so no white space at its beginning is dropped
    ignored_fields: tuple[str, ...] = ()  # request fields that had no effect
    clipped_max_tokens: int | None = None  # the limit in force, where the request's did not fit the context
    checkpoint: str = ""  # digest of the checkpoint's files

    @property
    def image_tokens(self) -> int:
        return sum(picture.tokens for picture in self.pictures)

    @property
    def has_all_pixels(self) -> bool:
        return all(picture.is_sent for picture in self.pictures)

    @property
    def is_constrained(self) -> bool:
        """Whether the answer is generated by a grammar: by a constraint, a required tool call or a strict tool."""
        tools = self.tools
        return self.constraint is not None or (
            tools is not None and (tools.required or any(tool.strict for tool in tools.tools))
        )


@dataclass(frozen=True, slots=True)
class Usage:
    """Counted from token ids, never from text."""

    prompt_tokens: int
    completion_tokens: int
    image_tokens: int = 0
    reasoning_tokens: int = 0  # of the completion tokens
    cached_tokens: int = 0  # of the prompt tokens: those that were not computed, because the answer was cached


@dataclass(frozen=True, slots=True)
class PictureSeen:
    """The sizes of a picture as uploaded and as the model sees it: (width, height), upright."""

    original_size: tuple[int, int]
    seen_size: tuple[int, int]
    tokens: int
    source: PictureSource | None = None
    digest: str = ""  # as in Picture


@dataclass(frozen=True, slots=True)
class Started:
    """The engine accepted the prompt: the request can no longer be refused."""

    prompt_tokens: int
    image_tokens: int
    stages_ms: dict[str, float] = field(default_factory=dict)
    pictures: tuple[PictureSeen, ...] = ()
    ignored_fields: tuple[str, ...] = ()  # as in Prompt
    clipped_max_tokens: int | None = None  # as in Prompt
    cache: Literal["", "hit", "miss"] = ""  # of the answer cache; empty: it was not asked


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """The log probability of a generated token, by the model's logits before any sampling rule."""

    token_id: int
    token: bytes  # empty for special tokens
    logprob: float  # natural logarithm
    top: tuple[tuple[int, bytes, float], ...] = ()  # likeliest first: (token id, bytes, logprob)


@dataclass(frozen=True, slots=True)
class Delta:
    """New text, never empty and of complete characters; `tokens` were generated since the last delta."""

    text: str
    tokens: int
    channel: Channel = "text"
    logprobs: tuple[TokenLogprob, ...] = ()  # of the tokens of `text`, if requested


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of a tool call: first its name, then its arguments, which together are a JSON object."""

    index: int  # of the call in this answer, from 0
    name: str | None  # in a call's first delta only
    arguments: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Box:
    """A region of a picture: (left, top, right, bottom), in thousandths of its sides and in its own pixels."""

    thousandths: tuple[int, int, int, int]
    pixels: tuple[int, int, int, int] | None  # of the upright picture as uploaded; None if the picture is not known
    picture: int | None  # index in the request, from 0


@dataclass(frozen=True, slots=True)
class Boxed:
    """The text between the model's box tokens: its final answer, or regions of the picture."""

    text: str
    boxes: tuple[Box, ...] = ()


@dataclass(frozen=True, slots=True)
class Finished:
    """The one terminal event of an answer that did not fail."""

    reason: FinishReason
    usage: Usage
    # Wall milliseconds: fetch, decode, resize, tokenize (preprocess), queue, encode, prefill, decode_steps (engine).
    stages_ms: dict[str, float] = field(default_factory=dict)
    boxed: tuple[Boxed, ...] = ()
    stop: str | None = None  # the stop string that ended it
    vram_bytes: int = 0  # device memory of this request at its peak: cache, features, estimated workspace; 0 on a CPU
    device_ms: float = 0.0  # time of the GPU or CPU: its share of encode, prefill and decode steps


Event: TypeAlias = Started | Delta | ToolCallDelta | Finished
Events: TypeAlias = AsyncGenerator[Event, None]
Answer: TypeAlias = Callable[[ChatRequest], Events]
