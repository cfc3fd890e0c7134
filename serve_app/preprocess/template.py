"""A checkpoint's chat template: rendering it, and finding out at the start what it can express.

What a template can do is probed with a small conversation, never read from a model's name: whether it
writes tools and their results, whether it takes pictures in results, whether it has a thinking switch.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.utils.chat_template_utils import render_jinja_template

from serve_app.errors import InvalidRequest
from serve_app.preprocess.special_token_escape import valid

_QUESTION, _DESCRIPTION, _KEY, _VALUE, _RESULT, _MORE = (
    f"probe {name}" for name in ("question", "description", "key", "value", "result", "more")
)


@dataclass(frozen=True, slots=True)
class Traits:
    """What a template can express."""

    tools: bool  # definitions, calls and results
    result_parts: bool  # a result may be a list of texts and pictures
    thinking_switch: bool
    thinks_by_default: bool  # of a template with a switch, if nothing is said


class ChatTemplate:
    """The template of one model folder, rendered as transformers renders it."""

    def __init__(self, folder: Path) -> None:
        """Raises InvalidRequest if the folder has no template."""
        config = _json(folder / "tokenizer_config.json")
        self._source = _source(folder, config)
        self._names = {key: _text(value) for key, value in config.items() if key.endswith("_token") and value}
        self.words = frozenset(re.findall(r"\w+", self._source))  # every key it can look up is one of these

    def render(
        self, conversation: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None, think: bool | None = None
    ) -> str:
        """The prompt up to where the answer begins; `think` None leaves the switch to the template.

        Raises InvalidRequest if the template refuses the conversation.
        """
        switch = {} if think is None else {"enable_thinking": think}
        try:
            rendered: str = render_jinja_template(
                conversations=[conversation],
                tools=tools or None,
                chat_template=self._source,
                add_generation_prompt=True,
                **switch,
                **self._names,
            )[0][0]
        except Exception as error:  # a template is a program of its own, and raises what it likes
            reason = valid(str(error))
            raise InvalidRequest(f"the model's chat template refuses this: {reason}", param="messages") from error
        return rendered

    def probe(self, cover: Callable[[Any], Any], picture: str) -> Traits:
        """Try what it writes of data that is covered like a caller's; `picture` is how a picture is written."""
        question, description, value, result, more = map(cover, (_QUESTION, _DESCRIPTION, _VALUE, _RESULT, _MORE))
        arguments = cover({_KEY: _VALUE})
        tool = {"name": "probe", "description": description, "parameters": {"type": "object", "properties": {}}}
        call = {"id": "1", "type": "function", "function": {"name": "probe", "arguments": arguments}}
        asked = [{"role": "user", "content": question}]
        called = [*asked, {"role": "assistant", "content": "", "reasoning_content": "", "tool_calls": [call]}]
        told = self._try(
            [*called, {"role": "tool", "content": result, "tool_call_id": "1"}],
            [{"type": "function", "function": tool}],
        )
        parts = [{"type": "text", "text": result}, {"type": "image"}, {"type": "text", "text": more}]
        shown = self._try([*called, {"role": "tool", "content": parts, "tool_call_id": "1"}])
        between = shown.partition(result)[2].partition(more)[0]
        unsaid, on, off = (self._try(asked, think=think) for think in (None, True, False))
        return Traits(
            tools=description in told and holds_in_order(told, [question, *arguments, value, result]),
            result_parts="".join(between.split()) == picture,
            thinking_switch=on != off,
            thinks_by_default=on != off and unsaid == on,
        )

    def _try(
        self, conversation: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None, think: bool | None = None
    ) -> str:
        try:
            return self.render(conversation, tools, think)
        except InvalidRequest:
            return ""


def holds_in_order(rendered: str, texts: Sequence[str]) -> bool:
    """Whether all texts stand in a rendered prompt, one after the other; a template may strip them."""
    cursor = 0
    for text in texts:
        kept = text.strip()
        cursor = rendered.find(kept, cursor)
        if cursor < 0:
            return False
        cursor += len(kept)
    return True


def _source(folder: Path, config: dict[str, Any]) -> str:
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    found = _json(folder / "chat_template.json").get("chat_template") or config.get("chat_template")
    if not isinstance(found, str):
        raise InvalidRequest(f"the model folder {folder} has no chat template", param="model.path")
    return found


def _json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def _text(token: Any) -> str:
    return token["content"] if isinstance(token, dict) else str(token)
