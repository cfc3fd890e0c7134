"""The token limit of an answer, checked against the context, and the errors of a prompt that is too long."""

from dataclasses import replace

from serve_app.contracts import Sampling
from serve_app.errors import ContextTooLong, InvalidRequest
from serve_app.preprocess.family_processor import ContextLimit


def resolve_max_tokens(
    sampling: Sampling, prompt_tokens: int, limit: ContextLimit, default: int, param: str, *, clip: bool = True
) -> Sampling:
    """The sampling with `max_tokens` set, and `min_tokens` equal to it where the answer may not end early.

    `default` is the length of an answer without `max_tokens`, as far as the context allows it; `param` is
    the request's field that holds the prompt. A `max_tokens` above what is left is lowered to it, or with `clip` false
    refused. Raises InvalidRequest and ContextTooLong.
    """
    left = limit.tokens - prompt_tokens
    if left < 1:
        raise context_too_long(limit, prompt_tokens, param)
    most = sampling.max_tokens
    if most is None:
        most = min(max(default, sampling.min_tokens), left)
    if most < 1:
        raise InvalidRequest(f"max_tokens is {most}; it must be at least 1.", "max_tokens")
    if most > left:
        if not clip:
            raise ContextTooLong(
                f"This model's maximum context length is {limit}. However, you requested"
                f" {prompt_tokens + most} tokens ({prompt_tokens} in the prompt, {most} in the completion)."
                f" Lower the answer's limit to {left}.",
                "max_output_tokens" if param == "input" else "max_tokens",
            )
        most = left
    if sampling.min_tokens > most:
        raise InvalidRequest(
            f"min_tokens is {sampling.min_tokens}; this answer may have at most {most} tokens. Lower min_tokens.",
            "min_tokens",
        )
    return replace(sampling, max_tokens=most, min_tokens=most if sampling.ignore_eos else sampling.min_tokens)


def context_too_long(
    limit: ContextLimit | int, tokens: int, param: str, *, at_least: bool = False, tool_tokens: int = 0
) -> ContextTooLong:
    """A prompt that leaves no room for an answer, in words by which clients recognise it.

    The first sentence is OpenAI's, which LiteLLM looks for; LangChain looks for "prompt is too long".

    `tool_tokens` of its tokens are definitions of tools, where the prompt would fit without them.
    """
    length = f"{limit} tokens" if isinstance(limit, int) else limit
    count = f"{'at least ' if at_least else ''}{tokens} tokens"
    if tool_tokens:
        count = f"{count} ({tokens - tool_tokens} in the messages, {tool_tokens} in the tools)"
        advice = "Please reduce the number or the length of the tools."
        param = "tools"
    else:
        advice = f"Please reduce the length of the {'messages' if param != 'prompt' else 'prompt'}."
    return ContextTooLong(
        f"This model's maximum context length is {length}. However, your messages resulted in {count}:"
        f" the prompt is too long. {advice}",
        param,
    )
