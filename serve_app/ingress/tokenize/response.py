"""The response of /tokenize: vLLM's, with the picture's tokens counted."""

from __future__ import annotations

from typing_extensions import TypedDict


class TokensReply(TypedDict):
    """The prompt's token ids, placeholders of pictures included, and their number."""

    count: int
    max_model_len: int
    tokens: list[int]
    image_tokens: int
