"""What /v1/chat/completions takes: OpenAI's request as far as it is supported, nothing else.

Three kinds of fields. Most mean what they say. Those that IGNORED describes are accepted and have
no effect. UNSUPPORTED ones are accepted with a value that asks for nothing and refused by name
otherwise. Any other field is refused, so that nothing is silently half-done.
Base64 is not decoded here: a picture goes on as the string that came.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError, to_json

from serve_app.errors import InvalidRequest
from serve_app.ingress.problems import invalid_fields

MAX_STOP_STRINGS: Final = 4  # OpenAI's limit
MAX_STOP_CHARACTERS: Final = 256  # what the engine may have to hold back of a stream
MAX_SEED: Final = 2**63 - 1  # a signed 64-bit number, as OpenAI's

IGNORED: Final = "Accepted and ignored."

# Field -> the values that ask for nothing; common clients send them.
UNSUPPORTED: Final[dict[str, tuple[Any, ...]]] = {
    "audio": (),
    "chat_template_kwargs": ({},),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "ignore_eos": (False,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "min_p": (0, 0.0),
    "min_tokens": (0,),
    "modalities": (["text"],),
    "n": (1,),
    "parallel_tool_calls": (True, False),
    "prediction": (),
    "reasoning_effort": (),
    "response_format": ({"type": "text"},),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "verbosity": (),
    "web_search_options": (),
}


class Wire(BaseModel):
    """A JSON object of the API: no unknown fields, no silent conversions ("0.5" is not a number)."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


# -- messages -----------------------------------------------------------------------------------


class TextPartBody(Wire):
    """A piece of text."""

    type: Literal["text"]
    text: str


class ImageUrl(Wire):
    """Where a picture is, or the picture itself."""

    url: str = Field(description="`data:image/…;base64,…` or an http(s) address.")
    detail: Literal["auto", "low", "high"] | None = Field(
        None, description="low: few tokens, quick; high and auto: as many as the picture needs."
    )


def _as_object(value: Any) -> Any:
    return {"url": value} if isinstance(value, str) else value


class ImagePartBody(Wire):
    """A picture."""

    type: Literal["image_url"]
    image_url: Annotated[ImageUrl, BeforeValidator(_as_object, json_schema_input_type=ImageUrl | str)]


def _as_parts(value: Any) -> Any:
    if isinstance(value, str):
        return [{"type": "text", "text": value}]
    if isinstance(value, list):
        return value
    raise PydanticCustomError("content_type", "must be a string or a list of parts")


PartBody: TypeAlias = Annotated[TextPartBody | ImagePartBody, Field(discriminator="type")]
Content: TypeAlias = Annotated[
    list[PartBody],
    BeforeValidator(_as_parts, json_schema_input_type=str | list[PartBody]),
    Field(min_length=1),
]


class SystemMessage(Wire):
    """What the model should keep to; `developer` is OpenAI's newer word for the same. No pictures."""

    role: Literal["system", "developer"]
    content: Content
    name: str | None = Field(None, description=IGNORED)


class UserMessage(Wire):
    """A question, with or without pictures."""

    role: Literal["user"]
    content: Content
    name: str | None = Field(None, description=IGNORED)


class AssistantMessage(Wire):
    """An earlier answer; takes what clients copy from a reply. No pictures."""

    role: Literal["assistant"]
    content: Content
    name: str | None = Field(None, description=IGNORED)
    refusal: str | None = Field(None, description=IGNORED)
    annotations: list[Any] | None = Field(None, description=IGNORED)
    reasoning: str | None = Field(None, description=IGNORED)
    reasoning_content: str | None = Field(None, description=IGNORED)
    audio: None = Field(None, description="Not supported.")
    function_call: None = Field(None, description="Not supported.")
    tool_calls: Annotated[list[Any], Field(max_length=0)] | None = Field(None, description="Not supported.")


MessageBody: TypeAlias = Annotated[SystemMessage | UserMessage | AssistantMessage, Field(discriminator="role")]


# -- the request --------------------------------------------------------------------------------


class StreamOptions(Wire):
    """What a stream tells besides text."""

    include_usage: bool | None = Field(None, description="A last chunk with the usage and no choices.")
    continuous_usage_stats: bool | None = Field(
        None, description="With include_usage: the usage so far in every chunk."
    )
    include_obfuscation: Literal[False] | None = Field(None, description="Not supported.")


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


StopString: TypeAlias = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]


def _unsupported_documented(schema: dict[str, Any]) -> None:
    for name, harmless in UNSUPPORTED.items():
        schema["properties"][name] = {"enum": [None, *harmless], "description": "Not supported; may say so."}


class ChatBody(Wire):
    """A conversation whose last message is a question of the user."""

    model_config = ConfigDict(json_schema_extra=_unsupported_documented)

    model: str | None = Field(None, description="Left out: the served model.")
    messages: list[MessageBody] = Field(min_length=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1, description="Most tokens of the answer.")
    max_completion_tokens: int | None = Field(None, ge=1, description="OpenAI's newer name of max_tokens.")
    temperature: float | None = Field(None, ge=0, le=2, description="0: always the likeliest token. Left out: 1.")
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, description="0 and -1: off.")
    stop: (
        Annotated[
            list[StopString],
            BeforeValidator(_as_list, json_schema_input_type=StopString | list[StopString]),
            Field(max_length=MAX_STOP_STRINGS),
        ]
        | None
    ) = Field(None, description="The answer ends before the first of these.")
    seed: int | None = Field(None, ge=-MAX_SEED - 1, le=MAX_SEED, description="Same request, same seed: same answer.")
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    repetition_penalty: float | None = Field(None, gt=0, le=2, description="1: off.")
    user: str | None = Field(None, description=IGNORED)
    metadata: dict[str, Any] | None = Field(None, description=IGNORED)
    store: bool | None = Field(None, description=IGNORED)
    service_tier: str | None = Field(None, description=IGNORED)
    safety_identifier: str | None = Field(None, description=IGNORED)
    prompt_cache_key: str | None = Field(None, description=IGNORED)
    prompt_cache_retention: str | None = Field(None, description=IGNORED)


def chat_body(fields: dict[str, Any]) -> ChatBody:
    """The body as a checked request, or InvalidRequest with the field at fault."""
    for name, harmless in UNSUPPORTED.items():
        value = fields.pop(name, None)
        if value is None or any(value == allowed and type(value) is type(allowed) for allowed in harmless):
            continue
        told = f"; it may only be {' or '.join(to_json(value).decode() for value in harmless)}" if harmless else ""
        raise InvalidRequest(f"'{name}' is not supported by this service{told}.", name)
    try:
        return ChatBody.model_validate(fields)
    except ValidationError as error:
        raise invalid_fields(error) from None
