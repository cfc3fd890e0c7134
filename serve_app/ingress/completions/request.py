"""The request of /v1/completions: texts or token ids to continue, without the chat template."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final, TypeAlias

from pydantic import BeforeValidator, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from serve_app.contracts import ChatRequest
from serve_app.errors import InvalidRequest
from serve_app.ingress.fields.lane import LaneFields, lane
from serve_app.ingress.fields.other_servers import UNSUPPORTED_ELSEWHERE, IgnoredFields
from serve_app.ingress.fields.sampling import (
    MAX_TOP_LOGPROBS,
    SamplingFields,
    TokenCount,
    VocabularyId,
    sampling,
)
from serve_app.ingress.fields.stream_options import StreamFields
from serve_app.ingress.fields.strict_model import IGNORED, Integer, RequestBody, Switch, UnsupportedField

DEFAULT_TOKENS: Final = 16  # OpenAI's
MAX_PROMPTS: Final = 32
SPECIAL_TOKENS: Final = (
    "Whether a text begins with the special tokens that begin every prompt of the model. Default: true. (vLLM's)"
)

Text: TypeAlias = Annotated[str, Field(min_length=1)]
TokenIds: TypeAlias = Annotated[list[VocabularyId], Field(min_length=1)]
Texts: TypeAlias = Annotated[list[Text], Field(min_length=1, max_length=MAX_PROMPTS)]
ManyTokenIds: TypeAlias = Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_PROMPTS)]


def _as_list(value: Any) -> Any:
    """The prompts as a list: of texts, or of lists of token ids."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise PydanticCustomError("prompt_type", "must be a text, token ids, or a list of texts or of token ids")
    return [value] if value and isinstance(value[0], int | float) else value


def _kind(value: list[Any]) -> str:
    return "ids" if value and isinstance(value[0], list) else "texts"


Prompts: TypeAlias = Annotated[
    Annotated[Texts, Tag("texts")] | Annotated[ManyTokenIds, Tag("ids")],
    Discriminator(_kind),
    BeforeValidator(_as_list, json_schema_input_type=Text | TokenIds | Texts | ManyTokenIds),
]


class CompletionBody(RequestBody, StreamFields, SamplingFields, LaneFields, IgnoredFields):
    """A text and how to continue it."""

    unsupported: ClassVar[dict[str, UnsupportedField]] = {
        **UNSUPPORTED_ELSEWHERE,
        "suffix": UnsupportedField(("",)),
    }

    prompt: Prompts = Field(
        description=f"A text, its token ids, or a list of up to {MAX_PROMPTS} texts or lists of token ids. Each prompt "
        "has its own choices: those of the first one, then those of the second."
    )
    max_tokens: TokenCount | None = Field(None, description=f"Maximum number of new tokens. Default: {DEFAULT_TOKENS}.")
    logprobs: Integer | None = Field(
        None,
        ge=0,
        le=MAX_TOP_LOGPROBS,
        description="Returns each token's log probability, and this many of the likeliest tokens.",
    )
    echo: Switch | None = Field(None, description="Whether the text begins with the prompt; not with `logprobs`.")
    add_special_tokens: Switch | None = Field(None, description=SPECIAL_TOKENS)
    metadata: Any = Field(None, description=IGNORED)

    def texts(self) -> list[str]:
        """The prompts that are repeated before their choices; empty texts without `echo`."""
        return [prompt if self.echo and isinstance(prompt, str) else "" for prompt in self.prompt]


def completion_requests(body: CompletionBody, *, id: str, deadline_s: float) -> list[ChatRequest]:
    """One request for the pipeline for each prompt."""
    if body.echo and body.logprobs is not None:
        raise InvalidRequest("'echo' is not supported together with 'logprobs': a prompt has none.", "echo")
    if body.echo and not isinstance(body.prompt[0], str):
        raise InvalidRequest("'echo' is only for a prompt that is a text.", "echo")
    prompts: list[str | tuple[int, ...]] = []
    for prompt in body.prompt:
        prompts.append(prompt if isinstance(prompt, str) else tuple(prompt))
    one = len(prompts) == 1
    return [
        ChatRequest(
            id if one else f"{id}-{index}",
            (),
            sampling(body, max_tokens=body.max_tokens or DEFAULT_TOKENS, logprobs=body.logprobs),
            deadline_s,
            bool(body.stream),
            text=prompt,
            special_tokens=body.add_special_tokens is not False,
            param="prompt" if one else f"prompt[{index}]",
            lane=lane(body),
        )
        for index, prompt in enumerate(prompts)
    ]
