"""Turns what the routes took in into the one request that the pipeline knows."""

from __future__ import annotations

from typing import Any

from serve_app.contracts import ChatRequest, ImagePart, Message, Part, Role, Sampling, TextPart
from serve_app.errors import InvalidRequest, UnknownModel
from serve_app.ingress.problems import clipped
from serve_app.ingress.schema import ChatBody, MessageBody, PartBody


def check_model(asked: str | None, served: str) -> None:
    if asked is not None and asked != served:
        raise UnknownModel(f"The model '{clipped(asked)}' is not served here; this service has '{served}'.", "model")


def sampling(**given: Any) -> Sampling:
    """Sampling from what the caller gave; None means the default."""
    return Sampling(**{name: value for name, value in given.items() if value is not None})


def chat_request(body: ChatBody, *, id: str, served: str, deadline_s: float) -> ChatRequest:
    check_model(body.model, served)
    if body.stream_options is not None and not body.stream:
        raise InvalidRequest("'stream_options' is only for a request with 'stream': true.", "stream_options")
    messages = tuple(_message(message, place) for place, message in enumerate(body.messages))
    _check_question(messages)
    return ChatRequest(id, messages, _sampling(body), deadline_s, bool(body.stream))


def _sampling(body: ChatBody) -> Sampling:
    limits = {body.max_tokens, body.max_completion_tokens} - {None}
    if len(limits) > 1:
        raise InvalidRequest(
            "'max_tokens' and 'max_completion_tokens' differ; they mean the same, give one.", "max_completion_tokens"
        )
    return sampling(
        max_tokens=limits.pop() if limits else None,
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=max(body.top_k, 0) if body.top_k is not None else None,
        stop=tuple(body.stop) if body.stop is not None else None,
        seed=body.seed,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        repetition_penalty=body.repetition_penalty,
    )


def _message(message: MessageBody, place: int) -> Message:
    role: Role = "system" if message.role == "developer" else message.role
    parts = tuple(_part(part, f"messages[{place}].content[{index}]") for index, part in enumerate(message.content))
    for part in parts:
        if role != "user" and isinstance(part, ImagePart):
            raise InvalidRequest(f"Pictures belong in the user's messages, not in the {role}'s.", part.param)
    return Message(role, parts)


def _part(part: PartBody, place: str) -> Part:
    if part.type == "text":
        return TextPart(part.text)
    return ImagePart(part.image_url.url, f"{place}.image_url", part.image_url.detail or "auto")


def _check_question(messages: tuple[Message, ...]) -> None:
    """The conversation ends with something to answer: text, or pictures that stand for themselves."""
    place = len(messages) - 1
    last = messages[place]
    if last.role != "user":
        raise InvalidRequest(
            "The last message must be the user's; there is nothing to answer.", f"messages[{place}].role"
        )
    texts = [part.text for part in last.parts if isinstance(part, TextPart)]
    if texts and not any(text.strip() for text in texts):
        raise InvalidRequest("The question is empty; the last message has no text.", f"messages[{place}].content")
