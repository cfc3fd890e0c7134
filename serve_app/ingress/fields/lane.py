"""Fields of the engine's lane: requests that wait for interactive ones, marked or recognised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

from pydantic import Field

from serve_app.caller import Lane
from serve_app.contracts import Message, TextPart
from serve_app.ingress.fields.strict_model import MAX_INT, Integer, StrictModel

Tier: TypeAlias = Literal["default", "flex"]

TASK: Final = "### Task:"
BACKGROUND_TASKS: Final = (
    "Generate a concise title",
    "Generate a concise, 3-5 word title",  # earlier versions
    "Generate 1-3 broad tags",
    "Predict 3-5 useful messages",
    "Suggest 3-5 relevant follow-up questions",  # earlier versions
)
"""How Open WebUI's default prompts begin whose answers nobody waits for (`open_webui/config.py`, 0.12.4 and earlier).

Others with the same heading are part of a question: search queries, answers from documents, completion while typing.
"""


class LaneFields(StrictModel):
    """Whether the request may wait for others (docs/decisions/0021-lanes.md)."""

    service_tier: str | None = Field(
        None, description="flex: interactive requests are answered first. Other values have no effect."
    )
    priority: Integer | None = Field(
        None, ge=0, le=MAX_INT, description="Above 0: as `flex`; the amount has no effect. (vLLM's)"
    )


def lane(fields: LaneFields, messages: Sequence[Message] = ()) -> Lane:
    marked = fields.service_tier == "flex" or bool(fields.priority)
    return "batch" if marked or _is_background_task(messages) else "interactive"


def service_tier(fields: LaneFields) -> Tier | None:
    """The tier that the response names; None if the request names none."""
    if fields.service_tier is None:
        return None
    return "flex" if fields.service_tier == "flex" else "default"


def _is_background_task(messages: Sequence[Message]) -> bool:
    """Whether the question is a task that Open WebUI sends beside the user's own."""
    if not messages or messages[-1].role != "user" or not messages[-1].parts:
        return False
    part = messages[-1].parts[0]
    if not isinstance(part, TextPart) or not part.text.lstrip().startswith(TASK):
        return False
    return part.text.lstrip().removeprefix(TASK).lstrip().startswith(BACKGROUND_TASKS)
