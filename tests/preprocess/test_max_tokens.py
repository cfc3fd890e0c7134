"""The token limit of an answer, and what is said of a prompt that is too long."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.contracts import Sampling
from serve_app.errors import ContextTooLong
from serve_app.preprocess.family_processor import ContextLimit
from serve_app.preprocess.max_tokens import context_too_long, resolve_max_tokens

LIMIT = ContextLimit(100)


@given(prompt=st.integers(1, 99), asked=st.none() | st.integers(1, 10**9), default=st.integers(1, 200))
def test_an_answer_never_needs_more_than_the_context(prompt: int, asked: int | None, default: int) -> None:
    most = resolve_max_tokens(Sampling(asked), prompt, LIMIT, default, "messages").max_tokens
    assert most == min(asked or default, 100 - prompt)


@pytest.mark.parametrize(("param", "blamed"), [("messages", "max_tokens"), ("input", "max_output_tokens")])
def test_without_clipping_the_limit_is_at_fault_and_not_the_messages(param: str, blamed: str) -> None:
    with pytest.raises(ContextTooLong) as refused:
        resolve_max_tokens(Sampling(91), 10, LIMIT, 50, param, clip=False)
    assert refused.value.param == blamed
    assert refused.value.message == (
        "This model's maximum context length is 100 tokens. However, you requested 101 tokens (10 in the prompt, 91 in "
        "the completion). Lower the answer's limit to 90."
    )
    assert resolve_max_tokens(Sampling(90), 10, LIMIT, 50, param, clip=False).max_tokens == 90


def test_a_prompt_that_is_too_long_is_refused_in_words_that_clients_know() -> None:
    with pytest.raises(ContextTooLong) as refused:
        resolve_max_tokens(Sampling(), 100, LIMIT, 50, "messages")
    assert (refused.value.param, refused.value.code) == ("messages", "context_length_exceeded")
    assert refused.value.message == (
        "This model's maximum context length is 100 tokens. However, your messages resulted in 100 tokens: the "
        "prompt is too long. Please reduce the length of the messages."
    )


def test_tools_are_named_where_the_prompt_would_fit_without_them() -> None:
    error = context_too_long(LIMIT, 130, "messages", tool_tokens=90)
    assert error.param == "tools"
    assert "resulted in 130 tokens (40 in the messages, 90 in the tools): the prompt is too long." in error.message
