"""The default of max_tokens, and the only check of max_tokens and min_tokens against the context."""

from dataclasses import replace

from serve_app.contracts import Sampling
from serve_app.errors import ContextTooLong, InvalidRequest
from serve_app.preprocess.family_processor import ContextLimit


def resolve_max_tokens(
    sampling: Sampling, prompt_tokens: int, limit: ContextLimit, default: int, param: str
) -> Sampling:
    """The sampling with `max_tokens` set, and `min_tokens` equal to it where the answer may not end early.

    `default` is the length of an answer without `max_tokens`, as far as the context allows it; `param` is
    the request's field that holds the prompt. Raises InvalidRequest and ContextTooLong.
    """
    left = limit.tokens - prompt_tokens
    if left < 1:
        raise ContextTooLong(
            f"The prompt is {prompt_tokens} tokens; {limit} and an answer needs at least one. Shorten the prompt.",
            param,
        )
    most = sampling.max_tokens
    if most is None:
        most = min(max(default, sampling.min_tokens), left)
    if most < 1:
        raise InvalidRequest(f"max_tokens is {most}; it must be at least 1.", "max_tokens")
    if most > left:
        raise ContextTooLong(
            f"The prompt is {prompt_tokens} tokens and the answer's limit is {most}, together {prompt_tokens + most};"
            f" {limit}. Shorten the prompt or lower the answer's limit to {left}.",
            param,
        )
    if sampling.min_tokens > most:
        raise InvalidRequest(
            f"min_tokens is {sampling.min_tokens}; this answer may have at most {most} tokens. Lower min_tokens.",
            "min_tokens",
        )
    return replace(sampling, max_tokens=most, min_tokens=most if sampling.ignore_eos else sampling.min_tokens)
