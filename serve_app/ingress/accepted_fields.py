"""Every field that a JSON request may have, with its effect, for docs/fields.md and tests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, get_args

from pydantic_core import to_json

from serve_app.ingress.chat.request import ChatBody
from serve_app.ingress.completions.request import CompletionBody
from serve_app.ingress.feedback.request import FeedbackBody
from serve_app.ingress.fields.strict_model import IGNORED, RequestBody, StrictModel
from serve_app.ingress.messages.request import MessagesBody
from serve_app.ingress.responses.request import ResponseBody
from serve_app.ingress.tokenize.request import ChatTokensBody, TextTokensBody
from serve_app.ingress.widget.request import WidgetTokenBody

BODIES: Final[Mapping[str, type[RequestBody]]] = {
    "POST /v1/chat/completions": ChatBody,
    "POST /v1/responses": ResponseBody,
    "POST /v1/messages and /v1/messages/count_tokens": MessagesBody,
    "POST /v1/completions": CompletionBody,
    "POST /v1/feedback": FeedbackBody,
    "POST /v1/widget/tokens": WidgetTokenBody,
    "POST /tokenize with `messages`": ChatTokensBody,
    "POST /tokenize with `prompt`": TextTokensBody,
}


@dataclass(frozen=True, slots=True)
class AcceptedField:
    """A field and what it does; `effect` is empty for one that is accepted without an effect."""

    name: str
    effect: str
    note: str  # on a field without an effect: the values that it may have, or why it has none


def accepted_fields(model: type[StrictModel]) -> Iterator[AcceptedField]:
    """The fields of an object: those with an effect, those without, and those accepted with some values only."""
    fields = [(field.alias or name, field.description or "") for name, field in model.model_fields.items()]
    for name, description in fields:
        if not description.startswith(IGNORED):
            yield AcceptedField(name, description, "")
    for name, description in fields:
        if description.startswith(IGNORED):
            yield AcceptedField(name, "", description.removeprefix(IGNORED).strip())
    if issubclass(model, RequestBody):
        for name, unsupported in sorted(model.unsupported.items()):
            values = ", ".join(f"`{to_json(value).decode()}`" for value in (None, *unsupported.allowed))
            yield AcceptedField(name, "", f"Only {values}. {unsupported.hint}".rstrip())


def nested_objects() -> list[type[StrictModel]]:
    """The objects in all bodies, in the order of their first use."""
    found: dict[type[StrictModel], None] = {}

    def walk(annotation: Any) -> None:
        if isinstance(annotation, type) and issubclass(annotation, StrictModel):
            if annotation not in found:
                found[annotation] = None
                for field in annotation.model_fields.values():
                    walk(field.annotation)
            return
        for argument in get_args(annotation):
            walk(argument)

    for body in BODIES.values():
        for field in body.model_fields.values():
            walk(field.annotation)
    return list(found)
