"""Writer of the deltas of an answer: text up to a stop string, reasoning and tool calls, with logprobs."""

from __future__ import annotations

import re
from dataclasses import replace

from serve_app.contracts import Boxed, Channel, Delta, Prompt, ToolCallDelta
from serve_app.engine.output.boxes import parse_box
from serve_app.engine.output.deltas import AnyDelta, append_delta
from serve_app.engine.output.detokenizer import StopStrings
from serve_app.engine.sampling.logprobs import LogprobBuffer

_CALL = re.compile(r"\S+\(")


class DeltaWriter:
    """Collects the deltas of one answer; `tokens` is set by who reads the tokens."""

    def __init__(self, prompt: Prompt) -> None:
        self.tokens = 0  # of the answer so far
        self.logprobs = LogprobBuffer()  # of text that was not written yet
        self.stop_strings = StopStrings(prompt.sampling.stop)
        self.has_text = False
        self.has_reasoning = False
        self.at_line_start = True  # of the text
        self._min_tokens = prompt.sampling.min_tokens
        self.box_text: str | None = None  # text since the box began; None outside of boxes
        self.boxed: list[Boxed] = []
        self._pictures = prompt.pictures
        self._tokens_written = 0
        self._deltas: list[AnyDelta] = []  # not yet taken

    def take(self) -> list[AnyDelta]:
        """The deltas since the last call, joined where possible."""
        deltas, self._deltas = self._deltas, []
        return deltas

    def text(self, text: str) -> None:
        """Write text up to a stop string."""
        if self.stop_strings.found is not None:
            return
        if self.box_text is not None:
            self.box_text += text
        self.at_line_start = text.endswith("\n") if text else self.at_line_start
        self._write("text", self.stop_strings.push(text, active=self.tokens > self._min_tokens))

    def call_as_text(self, text: str) -> None:
        """Write a call of a tool that was not offered, on a line of its own, or what is no call."""
        self.text("\n" * bool(self.has_text and _CALL.match(text)) + text)

    def end_box(self) -> None:
        """The text since the box began is what is in it."""
        self.boxed.append(parse_box(self.box_text or "", self._pictures))
        self.box_text = None

    def end_text(self) -> None:
        """Write the text that might have become a stop string."""
        self._write("text", self.stop_strings.flush())

    def reasoning(self, text: str, new_block: bool = False) -> None:
        """Write reasoning; a newline is between two blocks of it."""
        if text and new_block and self.has_reasoning:
            append_delta(self._deltas, Delta("\n", self._tokens_since_last(), "reasoning"))
        self._write("reasoning", text)

    def call(self, delta: ToolCallDelta) -> None:
        self.at_line_start = True  # white space between a call and the text after it is dropped
        append_delta(self._deltas, replace(delta, tokens=self._tokens_since_last()))

    def rest_of_logprobs(self) -> None:
        """Add the logprobs of tokens without text to the last delta."""
        if self._deltas and isinstance(last := self._deltas[-1], Delta):
            self._deltas[-1] = replace(last, logprobs=last.logprobs + self.logprobs.rest())

    def _write(self, channel: Channel, text: str) -> None:
        if text:
            self.has_reasoning = self.has_reasoning or channel == "reasoning"
            self.has_text = self.has_text or channel == "text"
            append_delta(self._deltas, Delta(text, self._tokens_since_last(), channel, self.logprobs.pop(len(text))))

    def _tokens_since_last(self) -> int:
        tokens, self._tokens_written = self.tokens - self._tokens_written, self.tokens
        return tokens
