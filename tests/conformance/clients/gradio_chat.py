"""Gradio's `load_chat`: a page for any OpenAI-compatible service, used by its own client as a browser uses it."""

from __future__ import annotations

from typing import Any

import gradio
from gradio_client import Client, handle_file
from harness import MODEL, TASK, URL, check, main


def answers(*, streaming: bool) -> list[str]:
    """The answers to a question about a picture and to a second question of the same conversation."""
    page = gradio.load_chat(URL, MODEL, token="unused", file_types=["image"], streaming=streaming)
    page.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    try:
        client = Client(page.local_url, verbose=False)
        files = [handle_file(TASK["pictures"]["first"])]
        first = client.predict({"text": TASK["question"], "files": files}, api_name="/chat")
        second = client.predict({"text": TASK["follow_up"], "files": []}, api_name="/chat")
    finally:
        page.close()
    return [first, second]


@check
def conversation() -> Any:
    return {"texts": answers(streaming=True)}


@check
def conversation_without_streaming() -> Any:
    return {"texts": answers(streaming=False)}


main()
