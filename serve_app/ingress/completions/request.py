"""What /v1/completions takes: a text to go on with, as it stands, without the chat template."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final, TypeAlias

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from serve_app.contracts import ChatRequest
from serve_app.ingress.fields.sampling import MAX_TOP_LOGPROBS, SamplingFields, TokenCount, sampling
from serve_app.ingress.fields.stream_options import DeliveryFields, check_delivery
from serve_app.ingress.fields.strict_model import Body, Hints, Refused

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


class CompletionBody(Body, DeliveryFields, SamplingFields, Hints):
    """A text and how to go on with it."""

    refused: ClassVar[dict[str, Refused]] = {
        "best_of": Refused((1,), "Use 'n'."),
        "echo": Refused((False,)),
        "suffix": Refused(("",)),
    }

    prompt: Annotated[Text, BeforeValidator(_one_text, json_schema_input_type=Text | OneText)]
    max_tokens: TokenCount | None = Field(None, description=f"Most new tokens. Left out: {DEFAULT_TOKENS}.")
    logprobs: int | None = Field(
        None, ge=0, le=MAX_TOP_LOGPROBS, description="Tells each token's logprob, and so many likelier ones."
    )


def completion_request(body: CompletionBody, *, id: str, deadline_s: float) -> ChatRequest:
    """The request for the pipeline."""
    check_delivery(body)
    return ChatRequest(
        id,
        (),
        sampling(body, max_tokens=body.max_tokens or DEFAULT_TOKENS, logprobs=body.logprobs),
        deadline_s,
        bool(body.stream),
        text=body.prompt,
        param="prompt",
    )
