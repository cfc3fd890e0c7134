"""Tool calls without `<tool_call>`: the text that may be the beginning of one, and whether it is.

GLM models sometimes write the name of a tool and `<arg_key>`, or a call as JSON and `</tool_call>`, without the mark
before it. So where tools are offered, text from a line that may begin a call is held until it is clear what it is.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

from serve_app.engine.output.control_tokens import ControlToken
from serve_app.engine.output.json_calls import parse_calls
from serve_app.engine.output.lenient_json import read_valid_json, skip

_OBJECT = re.compile(r"^[ \t]*+\{", re.MULTILINE)
_SPACE = re.compile(r"\s+")
_BETWEEN_CALLS = re.compile(r"[\s,;`]*+")
MOST_HELD: Final = 4000  # characters of a call that is JSON; longer ones are text


def call_begins_at(text: str, begins_line: bool, tools: Collection[str]) -> int:
    """Where a call may begin in text, the length of the text if nowhere; `begins_line`: the text begins a line."""
    for found in _OBJECT.finditer(text):
        if (found.start() or begins_line) and _may_be_json(text, found.start(), tools):
            return found.start()
    bare = text.rstrip()
    start = bare.rfind("\n") + 1
    line = bare[start:].lstrip() if start or begins_line else ""
    return start if line and any(name.startswith(line) for name in tools) else len(text)


def is_call(text: str, token: ControlToken, tools: Collection[str]) -> bool:
    """Whether held text is the beginning of a call, since this token comes after it."""
    if token is ControlToken.ARG_KEY:
        return text.strip() in tools
    return token is ControlToken.END_TOOL_CALL and bool(parse_calls(text, tools))


def _may_be_json(text: str, start: int, tools: Collection[str]) -> bool:
    """Whether the object at `start` may be a call of a tool, which ends the text or goes on after it."""
    if len(text) - start > MOST_HELD:
        return False
    written = _SPACE.sub("", text[start : start + 200])
    openings = [f'{{"name":"{name}"' for name in tools]
    if not any(opening.startswith(written) or written.startswith(opening) for opening in openings):
        return False
    try:
        _, end = read_valid_json(text, start + text[start:].index("{"))
    except (ValueError, RecursionError):
        return True  # not complete
    following = skip(_BETWEEN_CALLS, text, end)
    return following == len(text) or text[following] == "{"
