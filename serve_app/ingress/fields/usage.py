"""JSON of token usage, of pictures as the model saw them, and of boxes that the model marked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NotRequired

from typing_extensions import TypedDict

from serve_app.contracts import Boxed, PictureSeen, Usage


class PromptTokensDetails(TypedDict):
    """The prompt's tokens by kind."""

    cached_tokens: int
    image_tokens: int
    text_tokens: int


class CompletionTokensDetails(TypedDict):
    """The answer's tokens by kind."""

    reasoning_tokens: int


class UsageReply(TypedDict):
    """Counted from token ids; with several answers the prompt counts once, the answers are added up."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


class ImageReply(TypedDict):
    """A picture of the request as the model saw it; sizes are [width, height] in pixels, upright.

    Of a document it is a page, from 1; `upload` is the document's place among pictures and files, from 0.
    """

    original_size: list[int]
    seen_size: list[int]
    tokens: int
    scaled: bool
    upload: NotRequired[int]
    page: NotRequired[int]


class BoxReply(TypedDict):
    """A region: [left, top, right, bottom] in thousandths of the sides and in pixels of the uploaded picture."""

    box_1000: list[int]
    box_pixels: list[int] | None
    image: int | None


class BoxedReply(TypedDict):
    """A text that the model put in a box: its final answer, or regions of a picture."""

    text: str
    boxes: list[BoxReply]


def usage_json(usage: Usage) -> UsageReply:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.cached_tokens,
            "image_tokens": usage.image_tokens,
            "text_tokens": usage.prompt_tokens - usage.image_tokens,
        },
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def images_json(pictures: Sequence[PictureSeen]) -> list[ImageReply]:
    return [_image_json(picture) for picture in pictures]


def _image_json(picture: PictureSeen) -> ImageReply:
    reply: ImageReply = {
        "original_size": list(picture.original_size),
        "seen_size": list(picture.seen_size),
        "tokens": picture.tokens,
        "scaled": picture.original_size != picture.seen_size,
    }
    if picture.source is not None and picture.source.page is not None:
        reply["upload"], reply["page"] = picture.source.upload, picture.source.page
    return reply


def boxes_json(boxed: Sequence[Boxed]) -> list[BoxedReply]:
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
