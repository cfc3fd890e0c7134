"""The request of /v1/completions: a text to continue, without the chat template."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final, TypeAlias

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from serve_app.contracts import ChatRequest
from serve_app.ingress.fields.sampling import MAX_TOP_LOGPROBS, SamplingFields, TokenCount, sampling
from serve_app.ingress.fields.stream_options import StreamFields, check_stream_options
from serve_app.ingress.fields.strict_model import IgnoredFields, RequestBody, UnsupportedField

DEFAULT_TOKENS: Final = 16  # OpenAI's

Text: TypeAlias = Annotated[str, Field(min_length=1)]
OneText: TypeAlias = Annotated[list[Text], Field(min_length=1, max_length=1)]


def _one_text(value: Any) -> Any:
    """The one text of a prompt; OpenAI takes lists of texts and of token ids too."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        return value[0]
    if not isinstance(value, str):
        raise PydanticCustomError("prompt_type", "must be one text; lists of texts or of token ids are not supported")
    return value


class CompletionBody(RequestBody, StreamFields, SamplingFields, IgnoredFields):
    """A text and how to continue it."""

    unsupported: ClassVar[dict[str, UnsupportedField]] = {
        "best_of": UnsupportedField((1,), "Use 'n'."),
        "echo": UnsupportedField((False,)),
        "suffix": UnsupportedField(("",)),
    }

    prompt: Annotated[Text, BeforeValidator(_one_text, json_schema_input_type=Text | OneText)]
    max_tokens: TokenCount | None = Field(None, description=f"Maximum number of new tokens. Default: {DEFAULT_TOKENS}.")
    logprobs: int | None = Field(
        None,
        ge=0,
        le=MAX_TOP_LOGPROBS,
        description="Returns each token's log probability, and this many of the likeliest tokens.",
    )


def completion_request(body: CompletionBody, *, id: str, deadline_s: float) -> ChatRequest:
    """The request for the pipeline."""
    check_stream_options(body.stream, body.stream_options)
    return ChatRequest(
        id,
        (),
        sampling(body, max_tokens=body.max_tokens or DEFAULT_TOKENS, logprobs=body.logprobs),
        deadline_s,
        bool(body.stream),
        text=body.prompt,
        param="prompt",
    )
