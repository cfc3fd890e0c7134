"""Log probabilities of tokens, in the shapes of chat, of completions and of responses.

A token that is a part of a character is shown as OpenAI shows it, `\\xe4\\xbd`, with its exact bytes; a
special token, which has no text, as vLLM shows it, `token_id:151336`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from typing_extensions import TypedDict

from serve_app.contracts import TokenLogprob

MIN_LOGPROB: Final = -9999.0  # OpenAI's number for a very unlikely token; JSON has no infinity


class TopLogprob(TypedDict):
    """An alternative token."""

    token: str
    logprob: float
    bytes: list[int] | None


class ContentLogprob(TopLogprob):
    """A token of the answer and its likeliest alternatives."""

    top_logprobs: list[TopLogprob]


class ChoiceLogprobs(TypedDict):
    """The logprobs of an answer's text, or of a piece of it."""

    content: list[ContentLogprob]
    refusal: None


class CompletionLogprobs(TypedDict):
    """The logprobs of a completion, in OpenAI's older shape."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class OutputTopLogprob(TypedDict):
    """An alternative token."""

    token: str
    logprob: float
    bytes: list[int]


class OutputLogprob(OutputTopLogprob):
    """A token of the answer and its likeliest alternatives."""

    top_logprobs: list[OutputTopLogprob]


def token_text(token_id: int, token: bytes) -> str:
    return token.decode("utf-8", "backslashreplace") if token else f"token_id:{token_id}"


def _finite(logprob: float) -> float:
    return logprob if logprob > MIN_LOGPROB else MIN_LOGPROB  # NaN too


def _top(token_id: int, token: bytes, logprob: float) -> TopLogprob:
    return {"token": token_text(token_id, token), "logprob": _finite(logprob), "bytes": list(token) or None}


def chat_logprobs(logprobs: Sequence[TokenLogprob]) -> ChoiceLogprobs:
    return {
        "content": [
            {**_top(each.token_id, each.token, each.logprob), "top_logprobs": [_top(*top) for top in each.top]}
            for each in logprobs
        ],
        "refusal": None,
    }


def completion_logprobs(logprobs: Sequence[TokenLogprob], offset: int) -> CompletionLogprobs:
    """`offset`: characters of the answer before the first of these tokens."""
    offsets = []
    for each in logprobs:
        offsets.append(offset)
        offset += len(each.token.decode("utf-8", "ignore"))
    return {
        "tokens": [token_text(each.token_id, each.token) for each in logprobs],
        "token_logprobs": [_finite(each.logprob) for each in logprobs],
        "top_logprobs": [
            {token_text(token_id, token): _finite(logprob) for token_id, token, logprob in each.top}
            for each in logprobs
        ],
        "text_offset": offsets,
    }


def _output_top(token_id: int, token: bytes, logprob: float) -> OutputTopLogprob:
    return {"token": token_text(token_id, token), "logprob": _finite(logprob), "bytes": list(token)}


def output_logprobs(logprobs: Sequence[TokenLogprob]) -> list[OutputLogprob]:
    return [
        {
            **_output_top(each.token_id, each.token, each.logprob),
            "top_logprobs": [_output_top(*top) for top in each.top],
        }
        for each in logprobs
    ]
