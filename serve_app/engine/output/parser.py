"""Output parser: the token ids of one answer to reasoning, text, boxes and tool calls.

Control tokens (control_tokens.py) drive a state machine; the tokens between them are text.

* Reasoning begins with `<think>` at the start of the answer, or in the prompt, and ends with `</think>` or
  a tool call. White space around it is dropped. If thinking is enabled and the answer begins without
  `<think>`, up to `HELD_TOKENS` tokens are held: they are reasoning if `</think>` comes, else text. Any
  other `</think>` is dropped and changes nothing, since the text before it may have been sent already.
* One newline at the start of the text is dropped, because GLM models write one; after reasoning, all are.
* Tool calls are parsed only if the prompt offers tools; white space before a call is dropped. Without
  tools, the content of a call is text. A call of a tool that was not offered is text: `name({"a":1})`.
* Box tokens are dropped; the text between them stays in the text and is also reported as a box.
* Stop strings are searched for in the text only, not in reasoning or calls.
* If the vocabulary has no tokens for them, `<think>`, `</think>`, `<answer>` and `</answer>` are recognized
  as text where they are allowed: at the start of the answer and of the text, and after those.
* Raw answers are text only; they and answers with a regex or choice constraint keep every newline.

Deltas are never changed after they were taken, so they always add up to the complete answer.
"""

from __future__ import annotations

from dataclasses import replace
from enum import Enum, auto

import numpy as np
from numpy.typing import NDArray

from serve_app.contracts import Boxed, Channel, Delta, Prompt, TokenLogprob, ToolCallDelta
from serve_app.engine.output.boxes import parse_box
from serve_app.engine.output.control_tokens import ControlToken, ControlTokens
from serve_app.engine.output.deltas import AnyDelta, append_delta
from serve_app.engine.output.detokenizer import StopStrings, Utf8Decoder, Vocabulary, overlap
from serve_app.engine.output.tool_calls import ToolCallParser
from serve_app.engine.sampling.logprobs import LogprobBuffer

HELD_TOKENS = 1024  # after this many, an answer that began without `<think>` is text


class _State(Enum):
    START = auto()  # only white space so far
    REASONING = auto()
    HELD = auto()  # thinking is enabled but the answer began without `<think>`: text, or reasoning if `</think>` comes
    ANSWER = auto()  # after reasoning or a call, only white space so far
    TEXT = auto()
    CALL = auto()


class OutputParser:
    """Parses the tokens of one answer; `take_deltas` returns what is certain so far."""

    def __init__(self, vocabulary: Vocabulary, prompt: Prompt) -> None:
        self._token_bytes = vocabulary.token_bytes
        self._pictures = prompt.pictures
        self._control_tokens = ControlTokens.of({}) if prompt.raw else vocabulary.control_tokens
        self._control_tokens_are_text = (
            bool(prompt.thinking.enabled) and not self._control_tokens.has_reasoning and not prompt.raw
        )
        # A grammar allows no `</think>` without `<think>`.
        self._may_hold = (
            bool(prompt.thinking.enabled)
            and not (prompt.raw or prompt.is_constrained)
            and not _reasoning_is_closed(prompt, vocabulary)
        )
        self._raw = prompt.raw
        self._keep_newlines = (
            prompt.raw
            or prompt.continues
            or (prompt.constraint is not None and prompt.constraint.kind in ("regex", "choice"))
        )
        self._state = _State.TEXT if prompt.raw or prompt.continues else _State.START
        if not prompt.raw and reasoning_is_open(prompt, vocabulary):
            self._state = _State.REASONING
        self._decoder = Utf8Decoder()
        self.stop_strings = StopStrings(prompt.sampling.stop)
        self._min_tokens = prompt.sampling.min_tokens
        self._call_parser = ToolCallParser(prompt.tools) if prompt.tools is not None and not prompt.raw else None
        self._parallel_calls = prompt.tools is None or prompt.tools.parallel
        self._buffer = ""  # white space that may be dropped, or the beginning of a control token in text
        self._box_text: str | None = None  # text since the box began; None outside of boxes
        self._in_answer = False  # after an `<answer>` written as text
        self._has_reasoning = False  # some reasoning was emitted
        self._has_text = False  # some text was emitted
        self._deltas: list[AnyDelta] = []  # not yet taken
        self._tokens = 0
        self._tokens_emitted = 0
        self._logprobs = LogprobBuffer()
        self.boxed: list[Boxed] = []
        self.reasoning_tokens = 0  # control tokens included
        self.thinking_tokens = 0  # of these, after the opening token
        self.stopped = False  # by a stop string, or after the only call that is allowed

    @property
    def in_reasoning(self) -> bool:
        return self._state is _State.REASONING

    @property
    def has_tool_calls(self) -> bool:
        """Whether the model called a tool."""
        return self._call_parser is not None and self._call_parser.calls > 0

    def push(self, token_id: int, logprob: TokenLogprob | None = None) -> None:
        """Parse the next token."""
        self._tokens += 1
        before = self.in_reasoning
        token = self._control_tokens.by_id.get(token_id)
        if token is not None:
            self._decoder.reset()
            self._handle_token(token)
        elif content := self._token_bytes[token_id]:
            text = self._decoder.push(content)
            if logprob is not None and self._state is not _State.CALL:
                self._logprobs.push(logprob, len(text))
            self._read(text)
        elif logprob is not None and self._raw:
            self._logprobs.push(logprob, 0)  # a control token, which has no text
        self.reasoning_tokens += before or self.in_reasoning
        self.thinking_tokens += before and self.in_reasoning

    def finish(self) -> None:
        """The model ended the answer: close an open call or box and emit what is buffered."""
        if self._call_parser is not None and self._state is _State.CALL:
            self._emit_calls(self._call_parser.close())
        self._end_box()
        self.truncate()

    def truncate(self) -> None:
        """The answer is cut off: emit what is buffered; an open call stays incomplete, as with OpenAI."""
        if self._call_parser is not None and self._state is _State.CALL:
            self._emit_calls(self._call_parser.cut())
        self._release()
        if self._state is _State.REASONING:
            self._emit("reasoning", self._buffer.rstrip())
        elif self._state in (_State.START, _State.TEXT) or self._keep_newlines or self._buffer.strip():
            self._begin_text()
            self._emit_buffer()
        self._emit("text", self.stop_strings.flush())
        if self._raw and self._deltas and isinstance(last := self._deltas[-1], Delta):
            self._deltas[-1] = replace(last, logprobs=last.logprobs + self._logprobs.rest())

    def take_deltas(self) -> list[AnyDelta]:
        """The deltas since the last call, joined where possible."""
        deltas, self._deltas = self._deltas, []
        return deltas

    # -- control tokens

    def _handle_token(self, token: ControlToken) -> None:
        if token is ControlToken.END_THINK and self._state is _State.HELD:
            self._held_is_reasoning(self._buffer)
            return
        self._release()
        if self._state is _State.CALL or (self._call_parser is not None and token is ControlToken.TOOL_CALL):
            self._handle_call_token(token)
        elif self._state is _State.REASONING:
            if token is ControlToken.END_THINK:
                self._enter(_State.ANSWER)
        elif token is ControlToken.BOX:
            self._begin_text()
            self._emit_buffer()
            self._box_text = ""
        elif token is ControlToken.END_BOX:
            self._end_box()
        elif self._state in (_State.START, _State.ANSWER):
            if token is ControlToken.THINK:
                self._enter(_State.REASONING)
            elif token in (ControlToken.END_THINK, ControlToken.ANSWER):
                self._enter(_State.ANSWER)

    def _handle_call_token(self, token: ControlToken) -> None:
        assert self._call_parser is not None
        if self._state is not _State.CALL:
            if self._state is _State.TEXT:
                self._emit_text(self._buffer.rstrip())
                self._emit("text", self.stop_strings.flush())
            self._box_text = None
            self._enter(_State.CALL)
        self._emit_calls(self._call_parser.push_token(token))
        if not self._call_parser.inside:
            self._enter(_State.ANSWER)
            self.stopped = self.stopped or (self.has_tool_calls and not self._parallel_calls)

    def _end_box(self) -> None:
        if self._box_text is not None:
            self._emit_buffer()
            self.boxed.append(parse_box(self._box_text, self._pictures))
            self._box_text = None

    def _enter(self, state: _State, unread: str = "") -> None:
        """Change the state and drop the buffer; `unread` is the text after a control token written as text."""
        self._state, self._buffer = state, ""
        self._logprobs.reset(len(unread))
        if unread:
            self._read(unread)

    # -- text

    def _read(self, text: str) -> None:
        """Parse text between control tokens, according to the state."""
        if self._call_parser is not None and self._state is _State.CALL:
            self._emit_calls(self._call_parser.push_text(text))
            return
        self._buffer += text
        if self._state is _State.REASONING:
            self._read_reasoning()
        elif self._state is _State.TEXT:
            self._read_text()
        elif self._state is _State.HELD:
            self._read_held()
        elif (text := self._buffer.lstrip()) and not self._starts_control_token(text):
            if self._state is _State.START and self._may_hold:
                self._state = _State.HELD
                self._read_held()
            else:
                self._begin_text()
                self._read_text()

    def _starts_control_token(self, text: str) -> bool:
        """Whether the first text is, or may become, a control token written as text; a complete one is handled."""
        if not self._control_tokens_are_text or self._in_answer:
            return False
        opening = ControlToken.THINK if self._state is _State.START else ControlToken.ANSWER
        if not text.startswith(opening.value):
            return opening.value.startswith(text)
        unread = text.removeprefix(opening.value)
        if opening is ControlToken.THINK:
            self.reasoning_tokens = self._tokens - 1  # plus the current one, added in `push`
            self._enter(_State.REASONING, unread)
        else:
            self._in_answer = True
            self._enter(_State.ANSWER, unread)
        return True

    def _read_reasoning(self) -> None:
        end = ControlToken.END_THINK.value
        if not self._has_reasoning:
            self._skip(len(self._buffer) - len(self._buffer.lstrip()))
        if self._control_tokens_are_text and end in self._buffer:
            reasoning, _, unread = self._buffer.partition(end)
            self._emit("reasoning", reasoning.rstrip())
            self._enter(_State.ANSWER, unread)
            return
        certain = len(self._buffer) - (overlap(self._buffer, end) if self._control_tokens_are_text else 0)
        certain = len(self._buffer[:certain].rstrip())
        self._emit("reasoning", self._buffer[:certain])
        self._buffer = self._buffer[certain:]

    def _read_held(self) -> None:
        before, end, after = self._buffer, "", ""
        if self._control_tokens_are_text:
            before, end, after = self._buffer.partition(ControlToken.END_THINK.value)
        if end and ControlToken.THINK.value not in before:
            self._held_is_reasoning(before, after)
        elif end or self._tokens > HELD_TOKENS or self.stop_strings.occurs_in(self._buffer):
            self._release()

    def _held_is_reasoning(self, reasoning: str, unread: str = "") -> None:
        self.reasoning_tokens = self._tokens
        self._skip(len(reasoning) - len(reasoning.lstrip()))
        self._emit("reasoning", reasoning.strip())
        self._enter(_State.ANSWER, unread)

    def _release(self) -> None:
        """The held text is the answer, not reasoning: emit it."""
        if self._state is _State.HELD:
            self._state = _State.START
            self._begin_text()
            self._read_text()

    def _begin_text(self) -> None:
        """Start the text with the buffer, without the newlines before it."""
        if self._state is not _State.TEXT and not self._keep_newlines:
            newlines = len(self._buffer) - len(self._buffer.lstrip("\n"))
            self._skip(newlines if self._state is _State.ANSWER else min(newlines, 1))
        self._state = _State.TEXT

    def _read_text(self) -> None:
        end = ControlToken.END_ANSWER.value
        certain = len(self._buffer)
        if self._in_answer:
            if (at := self._buffer.find(end)) >= 0:
                self._buffer = self._buffer[:at] + self._buffer[at + len(end) :]
                self._in_answer = False
            certain = len(self._buffer) - overlap(self._buffer, end) * self._in_answer
        if self._call_parser is not None:
            certain = len(self._buffer[:certain].rstrip())
        self._emit_text(self._buffer[:certain])
        self._buffer = self._buffer[certain:]

    # -- deltas

    def _skip(self, characters: int) -> None:
        self._buffer = self._buffer[characters:]
        self._logprobs.skip(characters)

    def _emit_buffer(self) -> None:
        text, self._buffer = self._buffer, ""
        self._emit_text(text)

    def _emit_text(self, text: str) -> None:
        """Emit text up to a stop string."""
        if self._box_text is not None:
            self._box_text += text
        self._emit("text", self.stop_strings.push(text, active=self._tokens > self._min_tokens))
        self.stopped = self.stopped or self.stop_strings.found is not None

    def _emit(self, channel: Channel, text: str) -> None:
        if text:
            self._has_reasoning = self._has_reasoning or channel == "reasoning"
            self._has_text = self._has_text or channel == "text"
            append_delta(self._deltas, Delta(text, self._tokens_since_last(), channel, self._logprobs.pop(len(text))))

    def _emit_calls(self, deltas: list[ToolCallDelta | str]) -> None:
        for delta in deltas:
            if isinstance(delta, str):  # a call of a tool that was not offered
                self._emit_text("\n" * self._has_text + delta)
            else:
                append_delta(self._deltas, replace(delta, tokens=self._tokens_since_last()))

    def _tokens_since_last(self) -> int:
        tokens, self._tokens_emitted = self._tokens - self._tokens_emitted, self._tokens
        return tokens


def reasoning_is_open(prompt: Prompt, vocabulary: Vocabulary) -> bool:
    """Whether a prompt ends inside reasoning, because its template writes `<think>` where the answer begins."""
    token_ids = prompt.token_ids[_last(prompt.token_ids, vocabulary.names.get("<|assistant|>")) + 1 :]
    control_tokens = vocabulary.control_tokens
    if control_tokens.has_reasoning:
        begin, end = (control_tokens.ids[token] for token in (ControlToken.THINK, ControlToken.END_THINK))
        return _last(token_ids, begin) > _last(token_ids, end)
    if not prompt.thinking.enabled or "<|assistant|>" not in vocabulary.names:
        return False
    text = b"".join(vocabulary.token_bytes[token_id] for token_id in token_ids)
    return text.rstrip().endswith(ControlToken.THINK.value.encode())


def _reasoning_is_closed(prompt: Prompt, vocabulary: Vocabulary) -> bool:
    """Whether the template wrote `</think>` where the answer begins."""
    token_ids = prompt.token_ids[_last(prompt.token_ids, vocabulary.names.get("<|assistant|>")) + 1 :]
    return _last(token_ids, vocabulary.control_tokens.ids.get(ControlToken.END_THINK)) >= 0


def _last(token_ids: NDArray[np.int32], token_id: int | None) -> int:
    """Index of the last occurrence, -1 if there is none."""
    places = [] if token_id is None else np.flatnonzero(token_ids == token_id).tolist()
    return places[-1] if places else -1
