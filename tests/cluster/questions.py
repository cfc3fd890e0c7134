"""Bodies of chat requests: questions of the evaluation set, and short and long ones of a fixed length."""

import base64
import io
import json
from pathlib import Path
from typing import Any

from PIL import Image

EVALUATION = Path(__file__).parent.parent.parent / "benchmarks" / "evaluation"
JOBS = ("labels", "boards", "documents")


def questions(per_job: int) -> list[dict[str, Any]]:
    """The first questions of each job, one for each picture, jobs in turn."""
    lines = (EVALUATION / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    first: dict[str, dict[str, Any]] = {}
    for line in lines:
        question = json.loads(line)
        first.setdefault(question["picture"], question)
    by_job = [[q for q in first.values() if q["job"] == job][:per_job] for job in JOBS]
    return [question for row in zip(*by_job, strict=True) for question in row]


def data_url(content: bytes, media_type: str = "image/jpeg") -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def chat_body(question: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A greedy request for at most 48 tokens, unless `fields` say otherwise."""
    url = data_url((EVALUATION / question["picture"]).read_bytes())
    return picture_body(url, question["question"], **{"max_tokens": 48, **fields})


def fixed_length_body(tokens: int, **fields: Any) -> dict[str, Any]:
    """A question about a waybill of 112 x 112 pixels, answered with exactly so many tokens.

    With four tokens two cores answer a thousand of them a minute; one alone gets a hundred tokens a second.
    """
    picture = io.BytesIO()
    Image.open(EVALUATION / "labels-002.jpg").resize((112, 112)).save(picture, "PNG")
    url = data_url(picture.getvalue(), "image/png")
    return picture_body(url, "What is this?", max_tokens=tokens, ignore_eos=True, **fields)


def picture_body(url: str, question: str, **fields: Any) -> dict[str, Any]:
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question}]
    return {"messages": [{"role": "user", "content": content}], "temperature": 0, **fields}
