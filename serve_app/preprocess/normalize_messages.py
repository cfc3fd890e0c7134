"""Messages in the form that every family renders: texts joined, reasoning of earlier answers removed."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

from serve_app.contracts import ImagePart, Message, Part, TextPart


def normalize_messages(messages: Sequence[Message], answer_tags: bool = False) -> list[Message]:
    """The conversation with neighbouring texts joined and each answer split into reasoning and text.

    `<think>…</think>` that a caller left in an earlier answer is taken out of its text, and so is
    `<answer>…</answer>` of models that write it (`answer_tags`). Reasoning is kept only after the user's last
    question; the template decides whether the model reads it again.
    """
    last_question = max((index for index, message in enumerate(messages) if message.role == "user"), default=-1)
    normalized = []
    for index, message in enumerate(messages):
        parts, reasoning = join_texts(message.parts), ""
        if message.role == "assistant":
            text, reasoning = _split_reasoning(text_of(message), message.reasoning, answer_tags)
            parts = (TextPart(text),) if text else ()
        normalized.append(replace(message, parts=parts, reasoning=reasoning if index > last_question else ""))
    return normalized


def join_texts(parts: Sequence[Part]) -> tuple[Part, ...]:
    """The parts with neighbouring texts joined, since templates put nothing between them, and without empty ones."""
    joined: list[Part] = []
    filled = [part for part in parts if not isinstance(part, TextPart) or part.text]
    for is_picture, run in groupby(filled, lambda part: isinstance(part, ImagePart)):
        found = list(run)
        joined += (
            found if is_picture else [TextPart("".join(part.text for part in found if isinstance(part, TextPart)))]
        )
    return tuple(joined)


def text_of(message: Message) -> str:
    """All texts of a message, joined."""
    return "".join(part.text for part in message.parts if isinstance(part, TextPart))


def _split_reasoning(text: str, reasoning: str, answer_tags: bool) -> tuple[str, str]:
    """(text, reasoning) of an earlier answer, split as in GLM-4.5V's chat template."""
    if not reasoning and "</think>" in text:
        reasoning = text.split("</think>")[0].rstrip("\n").split("<think>")[-1].lstrip("\n")
        text = text.split("</think>")[-1].lstrip("\n")
    if answer_tags and text.lstrip().startswith("<answer>"):
        text = text.strip().removeprefix("<answer>").removesuffix("</answer>").strip()
    return text, reasoning
