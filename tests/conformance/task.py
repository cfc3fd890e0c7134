"""What every client is asked to do, and the right answers, which only the tests have."""

from __future__ import annotations

import json
from typing import Any

from tests.cluster.questions import EVALUATION

PICTURES = {"first": "documents-000.jpg", "second": "documents-004.jpg"}
MODEL = "glm-vision-demo"
MAX_BODY_BYTES = 64 * 2**20  # the service's default


def _facts(picture: str) -> dict[str, dict[str, str]]:
    """The evaluation set's questions about a picture, by kind."""
    lines = (EVALUATION / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    return {line["kind"]: line for line in map(json.loads, lines) if line["picture"] == picture}


FIRST, SECOND = (_facts(picture) for picture in PICTURES.values())
ANSWER = FIRST["number"]["answer"]
FOLLOW_UP_ANSWER = FIRST["date"]["answer"]
WHICH_ANSWERS = {"first": ANSWER, "second": SECOND["number"]["answer"]}

# Bounded in every field, so that a model that has never seen this tool ends its call.
TOOLS: list[dict[str, Any]] = [
    {
        "name": "look_up",
        "description": "Looks an order up by its number.",
        "parameters": {
            "type": "object",
            "properties": {
                "number": {"type": "string", "pattern": "^[A-Z]{2}[0-9]{6}$"},
                "urgency": {"type": "string", "enum": ["low", "high"]},
            },
            "required": ["number", "urgency"],
            "additionalProperties": False,
        },
    },
    {
        "name": "hand_over",
        "description": "Hands the customer over to a desk.",
        "parameters": {
            "type": "object",
            "properties": {"desk": {"type": "string", "enum": ["returns", "billing"]}},
            "required": ["desk"],
            "additionalProperties": False,
        },
    },
]


def task(
    client: str, base_url: str, fault_proxy: str, *, only: tuple[str, ...] = (), without: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The task of one client's script, as harness.py and harness.mjs read it."""
    return {
        "client": client,
        "base_url": base_url,
        "fault_proxy": fault_proxy,
        "only": only,
        "without": without,
        "model": MODEL,
        "pictures": {name: str(EVALUATION / file) for name, file in PICTURES.items()},
        "question": FIRST["number"]["question"],
        "follow_up": FIRST["date"]["question"],
        "which_questions": {"first": "第一张图的单号是多少?", "second": "第二张图的单号是多少?"},
        "long_question": "请读出图中所有文字。",
        "json_question": "请用JSON格式输出。",
        "prompt": "Hello",
        "broken_url": "data:image/png;base64,bm90IGEgcGljdHVyZQ==",
        "too_large_bytes": MAX_BODY_BYTES,
        "too_long_question": "And then? " * 20_000,  # for the context
        "tools": TOOLS,
        "tool_result": json.dumps({"number": ANSWER, "state": "shipped"}),
    }
