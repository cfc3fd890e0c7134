"""Fields of sampling: OpenAI's and those that vLLM added, as the contract's Sampling.

A new parameter is a field here, a field of `contracts.Sampling`, a line of `sampling()` below, and a step of
`engine/sampling/sampler.py` (with `_is_greedy`).
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import BeforeValidator, Field, StringConstraints

from serve_app.contracts import Sampling
from serve_app.errors import InvalidRequest
from serve_app.ingress.fields.strict_model import (
    MAX_INT,
    Integer,
    Number,
    StrictModel,
    Switch,
    empty_object,
    read_number,
    whole,
)

MAX_STOP_STRINGS: Final = 4  # OpenAI's limit
MAX_STOP_SEQUENCES: Final = 16  # of /v1/messages
MAX_STOP_CHARACTERS: Final = 256  # the text that the engine may have to keep back from a stream
MAX_SEED: Final = 2**63 - 1  # a signed 64-bit number, as in OpenAI's API
MAX_TOP_LOGPROBS: Final = 20  # OpenAI's limit
MAX_BIASED_TOKENS: Final = 1024
MAX_STOP_TOKENS: Final = 64


def _as_list(value: Any) -> Any:
    return _filled([value] if isinstance(value, str) else value)


def _filled(value: Any) -> Any:
    return [each for each in value if each != ""] if isinstance(value, list) else value


def _unlimited(value: Any) -> Any:
    return None if read_number(value) == -1 else value


_UNLIMITED: TypeAlias = Annotated[int, Field(ge=1, le=MAX_INT)] | Literal[-1] | None
StopString: TypeAlias = Annotated[str, Field(max_length=MAX_STOP_CHARACTERS)]
StopSequences: TypeAlias = Annotated[
    list[StopString],
    BeforeValidator(_filled, json_schema_input_type=list[StopString]),
    Field(max_length=MAX_STOP_SEQUENCES),
]
"""Those of /v1/messages. Front ends send an empty text where a user entered none; no answer ends before it."""
TokenCount: TypeAlias = Annotated[Integer, Field(ge=1, le=MAX_INT)]
TokenLimit: TypeAlias = Annotated[TokenCount | None, BeforeValidator(_unlimited, json_schema_input_type=_UNLIMITED)]
"""The maximum number of tokens; null, or -1 of llama.cpp's and LM Studio's clients, is no limit of the request."""
VocabularyId: TypeAlias = Annotated[
    int, Field(ge=0, le=MAX_INT), BeforeValidator(whole, json_schema_input_type=Annotated[int, Field(ge=0, le=MAX_INT)])
]
TopK: TypeAlias = Annotated[Integer, Field(ge=-1, le=MAX_INT)]
TokenId: TypeAlias = Annotated[str, StringConstraints(pattern=r"^(0|[1-9][0-9]{0,8})$")]


_MIN_TEMPERATURE = 1e-5  # below, only the likeliest token is ever sampled; logits divided by less may exceed float32


class SamplingFields(StrictModel):
    """How the answer's tokens are sampled; fields that are not OpenAI's name their origin."""

    temperature: Number | None = Field(None, ge=0, le=2, description="0: always the likeliest token. Default: 1.")
    do_sample: Switch | None = Field(
        None, description="false: always the likeliest token, as with temperature 0. (z.ai's and transformers')"
    )
    top_p: Number | None = Field(
        None,
        ge=0,
        le=1,
        description="Sample of the likeliest tokens that together have this probability. 0: always the likeliest.",
    )
    top_k: TopK | None = Field(None, description="Sample of this many likeliest tokens. 0 and -1: off. (vLLM's)")
    min_p: Number | None = Field(
        None, ge=0, le=1, description="Minimum probability, relative to the likeliest token's. 0: off. (vLLM's)"
    )
    stop: (
        Annotated[
            list[StopString],
            BeforeValidator(_as_list, json_schema_input_type=StopString | list[StopString]),
            Field(max_length=MAX_STOP_STRINGS),
        ]
        | None
    ) = Field(None, description="The answer ends before the first of these; empty texts are left out.")
    seed: Integer | None = Field(
        None,
        ge=-MAX_SEED - 1,
        le=MAX_SEED,
        description="Same request, same seed: same answer. With `n`, each further answer has the next seed.",
    )
    presence_penalty: Number | None = Field(
        None, ge=-2, le=2, description="Subtracted from the logit of each token that the answer has already. 0: off."
    )
    frequency_penalty: Number | None = Field(
        None, ge=-2, le=2, description="The same for each time that the answer has the token. 0: off."
    )
    repetition_penalty: Number | None = Field(
        None, gt=0, le=2, description="Divides logits of tokens that prompt or answer have already. 1: off. (vLLM's)"
    )
    logit_bias: (
        Annotated[
            dict[TokenId, Annotated[Number, Field(ge=-100, le=100)]],
            Field(max_length=MAX_BIASED_TOKENS),
            BeforeValidator(empty_object),
        ]
        | None
    ) = Field(
        None, description="Token id, as a decimal string, to the number added to its logit. /tokenize returns the ids."
    )
    min_tokens: Integer | None = Field(
        None, ge=0, le=MAX_INT, description="The answer does not end before this many tokens. (vLLM's)"
    )
    ignore_eos: Switch | None = Field(
        None, description="The answer ends at its token limit only; for benchmarks. (vLLM's)"
    )
    stop_token_ids: Annotated[list[VocabularyId], Field(max_length=MAX_STOP_TOKENS)] | None = Field(
        None, description="The answer ends before the first of these tokens. (vLLM's)"
    )


def sampling(fields: SamplingFields, *, max_tokens: int | None, logprobs: int | None = None) -> Sampling:
    """The contract's Sampling; a field that is missing or null has the contract's default."""
    greedy = fields.do_sample is False or fields.top_p == 0
    given: dict[str, Any] = {
        "max_tokens": max_tokens,
        "temperature": 0.0 if greedy else None if fields.temperature is None else temperature(fields.temperature),
        "top_p": fields.top_p or None,
        "top_k": None if fields.top_k is None else max(fields.top_k, 0),
        "min_p": fields.min_p,
        "stop": None if fields.stop is None else tuple(fields.stop),
        "seed": fields.seed,
        "presence_penalty": fields.presence_penalty,
        "frequency_penalty": fields.frequency_penalty,
        "repetition_penalty": fields.repetition_penalty,
        "logit_bias": tuple((int(token), bias) for token, bias in (fields.logit_bias or {}).items()),
        "min_tokens": fields.min_tokens,
        "ignore_eos": fields.ignore_eos,
        "stop_token_ids": tuple(fields.stop_token_ids or ()),
        "logprobs": logprobs,
    }
    return Sampling(**{name: value for name, value in given.items() if value is not None})


def temperature(value: float) -> float:
    """A temperature that logits can be divided by; 0, the likeliest token, in place of smaller ones."""
    return value if value >= _MIN_TEMPERATURE else 0.0


def single_max_tokens(max_tokens: int | None, max_completion_tokens: int | None) -> int | None:
    """The token limit of an answer, by OpenAI's older or newer name."""
    limits = {max_tokens, max_completion_tokens} - {None}
    if len(limits) > 1:
        raise InvalidRequest(
            "'max_tokens' and 'max_completion_tokens' differ; they mean the same, so give one of them.",
            "max_completion_tokens",
        )
    return limits.pop() if limits else None
