"""A checkpoint's chat template: how it is rendered, and which features it has.

Features are found at the start by rendering a small conversation, never read from a model's name: whether
the template renders tools and their results, pictures in results, and whether it has a thinking switch.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.utils.chat_template_utils import render_jinja_template

from serve_app.errors import InvalidRequest
from serve_app.preprocess.special_token_escape import replace_surrogates

_QUESTION, _DESCRIPTION, _KEY, _VALUE, _RESULT, _MORE = (
    f"probe {name}" for name in ("question", "description", "key", "value", "result", "more")
)


@dataclass(frozen=True, slots=True)
class TemplateFeatures:
    """What a template can express."""

    tools: bool  # definitions, calls and results
    result_parts: bool  # a result may be a list of texts and pictures
    thinking_switch: bool
    thinks_by_default: bool  # of a template with a switch, if it is not set


class ChatTemplate:
    """The template of one model folder, rendered as transformers renders it."""

    def __init__(self, folder: Path) -> None:
        """Raises InvalidRequest if the folder has no template."""
        config = _read_json(folder / "tokenizer_config.json")
        self._source = _read_source(folder, config)
        self._tokens = {key: _content(value) for key, value in config.items() if key.endswith("_token") and value}
        self.words = frozenset(re.findall(r"\w+", self._source))  # every key that it can look up is one of these

    def render(
        self,
        conversation: list[dict[str, Any]],
        tools: list[dict[str, Any]] | None = None,
        think: bool | None = None,
        param: str = "messages",
    ) -> str:
        """The prompt up to where the answer begins; `think` sets the thinking switch, None leaves its default.

        Raises InvalidRequest, with `param`, if the template refuses the conversation.
        """
        switch = {} if think is None else {"enable_thinking": think}
        try:
            rendered: str = render_jinja_template(
                conversations=[conversation],
                tools=tools or None,
                chat_template=self._source,
                add_generation_prompt=True,
                **switch,
                **self._tokens,
            )[0][0]
        except Exception as error:  # templates are programs and raise any exception type
            reason = replace_surrogates(str(error))
            raise InvalidRequest(f"The model's chat template refuses this conversation: {reason}", param) from error
        return rendered

    def find_features(self, escape: Callable[[Any], Any], picture: str) -> TemplateFeatures:
        """Render conversations escaped like a caller's; `picture` is the rendered form of a picture."""
        question, description, value, result, more = map(escape, (_QUESTION, _DESCRIPTION, _VALUE, _RESULT, _MORE))
        arguments = escape({_KEY: _VALUE})
        tool = {"name": "probe", "description": description, "parameters": {"type": "object", "properties": {}}}
        call = {"id": "1", "type": "function", "function": {"name": "probe", "arguments": arguments}}
        asked = [{"role": "user", "content": question}]
        called = [*asked, {"role": "assistant", "content": "", "reasoning_content": "", "tool_calls": [call]}]
        with_tools = self._try(
            [*called, {"role": "tool", "content": result, "tool_call_id": "1"}],
            [{"type": "function", "function": tool}],
        )
        parts = [{"type": "text", "text": result}, {"type": "image"}, {"type": "text", "text": more}]
        with_parts = self._try([*called, {"role": "tool", "content": parts, "tool_call_id": "1"}])
        between = with_parts.partition(result)[2].partition(more)[0]
        default, on, off = (self._try(asked, think=think) for think in (None, True, False))
        return TemplateFeatures(
            tools=description in with_tools and holds_in_order(with_tools, [question, *arguments, value, result]),
            result_parts="".join(between.split()) == picture,
            thinking_switch=on != off,
            thinks_by_default=on != off and default == on,
        )

    def _try(
        self, conversation: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None, think: bool | None = None
    ) -> str:
        try:
            return self.render(conversation, tools, think)
        except InvalidRequest:
            return ""


def holds_in_order(rendered: str, texts: Sequence[str]) -> bool:
    """Whether a rendered prompt contains all texts one after the other; a template may strip them."""
    start = 0
    for text in texts:
        stripped = text.strip()
        start = rendered.find(stripped, start)
        if start < 0:
            return False
        start += len(stripped)
    return True


def _read_source(folder: Path, config: dict[str, Any]) -> str:
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    found = _read_json(folder / "chat_template.json").get("chat_template") or config.get("chat_template")
    if not isinstance(found, str):
        raise InvalidRequest(f"The model folder {folder} has no chat template.", param="model.path")
    return found


def _read_json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def _content(token: Any) -> str:
    return token["content"] if isinstance(token, dict) else str(token)
