"""What every answer tells besides text: tokens, pictures as they were seen, regions pointed at."""

from __future__ import annotations

from collections.abc import Sequence

from typing_extensions import TypedDict

from serve_app.contracts import Boxed, PictureSeen, Usage


class PromptTokensDetails(TypedDict):
    """What the prompt's tokens stand for."""

    cached_tokens: int
    image_tokens: int
    text_tokens: int


class CompletionTokensDetails(TypedDict):
    """What the answer's tokens are."""

    reasoning_tokens: int


class UsageReply(TypedDict):
    """Counted from token ids; with several answers the prompt counts once, the answers are summed."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


class ImageReply(TypedDict):
    """A picture of the request as the model saw it; sizes are [width, height] in pixels, upright."""

    original_size: list[int]
    seen_size: list[int]
    tokens: int
    scaled: bool


class BoxReply(TypedDict):
    """A region: [left, top, right, bottom] in thousandths of the sides and in pixels of the uploaded picture."""

    box_1000: list[int]
    box_pixels: list[int] | None
    image: int | None


class BoxedReply(TypedDict):
    """What the model set off as its answer proper, or regions of a picture with their words."""

    text: str
    boxes: list[BoxReply]


def usage_reply(usage: Usage) -> UsageReply:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {
            "cached_tokens": 0,
            "image_tokens": usage.image_tokens,
            "text_tokens": usage.prompt_tokens - usage.image_tokens,
        },
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def image_replies(pictures: Sequence[PictureSeen]) -> list[ImageReply]:
    return [
        {
            "original_size": list(picture.original_size),
            "seen_size": list(picture.seen_size),
            "tokens": picture.tokens,
            "scaled": picture.original_size != picture.seen_size,
        }
        for picture in pictures
    ]


def boxed_replies(boxed: Sequence[Boxed]) -> list[BoxedReply]:
    return [
        {
            "text": each.text,
            "boxes": [
                {
                    "box_1000": list(box.thousandths),
                    "box_pixels": list(box.pixels) if box.pixels else None,
                    "image": box.picture,
                }
                for box in each.boxes
            ],
        }
        for each in boxed
    ]
