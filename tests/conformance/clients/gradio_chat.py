"""Gradio's `load_chat`: its function and its component for the history, without the page around them."""

from __future__ import annotations

from typing import Any

import gradio
from harness import MODEL, TASK, URL, check, main


def answers(*, streaming: bool) -> list[str]:
    """The answers to a question about a picture and to a second question of the same conversation."""
    page = gradio.load_chat(URL, MODEL, token="unused", file_types=["image"], streaming=streaming)

    def answer(message: dict[str, Any], history: list[Any]) -> str:
        got = page.fn(message, history)
        return list(got)[-1] if streaming else got

    picture = TASK["pictures"]["first"]
    first = answer({"text": TASK["question"], "files": [picture]}, [])
    shown = [("user", {"path": picture}), ("user", TASK["question"]), ("assistant", first)]
    messages = [{"role": role, "content": content} for role, content in shown]
    history = page.chatbot.preprocess(page.chatbot.postprocess(messages))  # with its notes, most of them null
    return [first, answer({"text": TASK["follow_up"], "files": []}, history)]


@check
def conversation() -> Any:
    return {"texts": answers(streaming=True)}


@check
def conversation_without_streaming() -> Any:
    return {"texts": answers(streaming=False)}


main()
