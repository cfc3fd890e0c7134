"""The requests that Open WebUI 0.12.4 sends with its defaults: fields and order as in its source, texts shortened."""

from __future__ import annotations

from typing import Any, Final

from tests.cluster.questions import EVALUATION, data_url
from tests.conformance.task import FIRST, MODEL, PICTURES

GREEDY: Final = {"temperature": 0, "max_tokens": 64}  # no defaults; set here, so that answers can be compared

# open_webui/config.py, DEFAULT_TITLE_GENERATION_PROMPT_TEMPLATE and its neighbours: their beginnings and forms.
TASKS: Final = {
    "title": (
        "### Task:\nGenerate a concise title summarizing the chat history.\n### Guidelines:\n- Keep it short.\n"
        '### Output:\nJSON format: { "title": "your concise title here" }\n'
    ),
    "tags": (
        "### Task:\nGenerate 1-3 broad tags categorizing the main themes of the chat history.\n\n### Guidelines:\n"
        '- Use the chat\'s primary language.\n\n### Output:\nJSON format: { "tags": ["tag1", "tag2", "tag3"] }\n\n'
    ),
    "follow_ups": (
        "### Task:\nPredict 3-5 useful messages this user might naturally send next.\n### Guidelines:\n- Be brief.\n"
        '### Output:\nJSON format: { "follow_ups": ["Suggested next message 1", "Suggested next message 2"] }\n'
    ),
}


def _tool(number: int) -> dict[str, Any]:
    """One of its tools, such as `search_knowledge_files` or `replace_note_content`; the size is theirs."""
    properties = {
        "query": {"type": "string", "description": "The search query to find matching entries of the user. " * 3},
        "count": {"type": "integer", "description": "Maximum number of results to return.", "default": 5},
        "start_timestamp": {"type": "integer", "description": "Only include entries updated after this time."},
    }
    return {
        "type": "function",
        "function": {
            "name": f"search_knowledge_{number}",
            "description": "Search the entries of the user by their names and contents. Returns matching entries. " * 2,
            "parameters": {"type": "object", "properties": properties, "required": ["query"]},
        },
    }


BUILT_IN_TOOLS: Final = [_tool(number) for number in range(36)]


def _asked() -> dict[str, Any]:
    url = data_url((EVALUATION / PICTURES["first"]).read_bytes())
    text = {"type": "text", "text": FIRST["number"]["question"]}
    return {"role": "user", "content": [text, {"type": "image_url", "image_url": {"url": url}}]}


def _chat(*messages: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "stream": True,
        "model": MODEL,
        "messages": list(messages),
        **GREEDY,
        "stream_options": {"include_usage": True},
        **more,
    }


def question(**more: Any) -> dict[str, Any]:
    """A picture and a question; the text stands before the picture."""
    return _chat(_asked(), **more)


def follow_up(answer: str) -> dict[str, Any]:
    return _chat(
        _asked(), {"role": "assistant", "content": answer}, {"role": "user", "content": FIRST["date"]["question"]}
    )


def continued(begun: str, provider: str) -> dict[str, Any]:
    """The button "Continue Response": the last message is the answer so far."""
    flags = {"continue_final_message": True, "add_generation_prompt": False} if provider == "llama.cpp" else {}
    return _chat(_asked(), {"role": "assistant", "content": begun}, **flags)


def background(task: str, answer: str) -> dict[str, Any]:
    """A task that it sends after an answer; pictures are left out of the history in it."""
    history = f"USER: {FIRST['number']['question']}\nASSISTANT: {answer}"
    prompt = f"{TASKS[task]}### Chat History:\n<chat_history>\n{history}\n</chat_history>"
    return {
        "model": MODEL,
        "messages": [{"role": "user", "content": prompt}],
        "stream": False,
        "max_tokens": 1000,
    }
