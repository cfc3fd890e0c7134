"""Output parser: the token ids of one answer to reasoning, text, boxes and tool calls.

Control tokens (control_tokens.py) drive a state machine; the tokens between them are text.

* Reasoning begins with `<think>` at the start of the answer, or in the prompt, and ends with `</think>`, `<answer>` or
  a tool call. White space around it is dropped. What may be reasoning is held, up to `HELD_TOKENS` tokens, and is
  reasoning if `</think>` comes, else text: an answer that begins without `<think>` if thinking is enabled, and what
  follows `<think>` in text, or a call or `<answer>` in reasoning. Any other `</think>` is dropped and changes nothing.
* One newline at the start of the text is dropped, because GLM models write one; after reasoning, all are.
* Tool calls are parsed only if the prompt offers tools, also without `<tool_call>` (unmarked_calls.py); white space
  before a call is dropped. Without tools, the content of a call is text, and so is a call of a tool not offered.
* Box tokens are dropped; the text between them stays in the text and is also reported as a box.
* Stop strings are searched for in the text only, not in reasoning or calls.
* If the vocabulary has no tokens for them, `<think>`, `</think>`, `<answer>` and `</answer>` are recognized
  as text where they are allowed: at the start of the answer and of the text, and after those.
* Raw answers are text only; they and answers with a regex or choice constraint keep every newline.
* Deltas are never changed after they were taken, so they always add up to the complete answer.
"""

from __future__ import annotations

from enum import Enum, auto

from serve_app.contracts import Prompt, TokenLogprob, ToolCallDelta
from serve_app.engine.output.control_tokens import ControlToken, ControlTokens
from serve_app.engine.output.delta_writer import DeltaWriter
from serve_app.engine.output.deltas import AnyDelta
from serve_app.engine.output.detokenizer import Utf8Decoder, Vocabulary, overlap
from serve_app.engine.output.prompt_end import AnswerForm, reasoning_is_open
from serve_app.engine.output.tool_calls import ToolCallParser
from serve_app.engine.output.unmarked_calls import call_begins_at, is_call

HELD_TOKENS = 1024  # after this many, held text is not reasoning


class _State(Enum):
    START = auto()  # only white space so far
    REASONING = auto()
    HELD = auto()  # reasoning if `</think>` comes, else text
    ANSWER = auto()  # after reasoning or a call, only white space so far
    TEXT = auto()
    CALL = auto()


class OutputParser:
    """Parses the tokens of one answer; `take_deltas` returns what is certain so far."""

    def __init__(self, vocabulary: Vocabulary, prompt: Prompt) -> None:
        self._token_bytes = vocabulary.token_bytes
        self._control_tokens = ControlTokens.of({}) if prompt.raw else vocabulary.control_tokens
        self._form = AnswerForm.of(prompt, vocabulary)
        self._state = _State.TEXT if prompt.raw or prompt.continues else _State.START
        if not prompt.raw and reasoning_is_open(prompt, vocabulary):
            self._state = _State.REASONING
        self._decoder = Utf8Decoder()
        self._writer = DeltaWriter(prompt)
        self.stop_strings, self.boxed = self._writer.stop_strings, self._writer.boxed
        self._call_parser = ToolCallParser(prompt.tools) if prompt.tools is not None and not prompt.raw else None
        self._buffer = ""  # white space that may be dropped, the beginning of a control token in text, or held text
        self._held_from, self._held_since = _State.START, 0  # the state and the number of tokens before held text
        self._held_boxes: list[tuple[int, ControlToken]] = []  # box tokens by their place in held text
        self._reasoning_may_continue = False  # reasoning, which was open before the last call or `<answer>`
        self._in_answer = False  # after an `<answer>` written as text
        self._begins_block = True  # of reasoning: nothing of it was emitted
        self.reasoning_tokens = 0  # control tokens included
        self.thinking_tokens = 0  # of these, after the opening token

    @property
    def in_reasoning(self) -> bool:
        return self._state is _State.REASONING

    @property
    def stopped(self) -> bool:
        """Whether the answer ends here: by a stop string, or after the only call that is allowed."""
        return self.stop_strings.found is not None or (self._call_parser is not None and self._call_parser.complete)

    @property
    def has_tool_calls(self) -> bool:
        """Whether the model called a tool."""
        return self._call_parser is not None and self._call_parser.calls > 0

    def push(self, token_id: int, logprob: TokenLogprob | None = None) -> None:
        """Parse the next token."""
        self._writer.tokens += 1
        before = self.in_reasoning
        token = self._control_tokens.by_id.get(token_id)
        if token is not None:
            self._decoder.reset()
            self._handle_token(token)
        elif content := self._token_bytes[token_id]:
            text = self._decoder.push(content)
            if logprob is not None and self._state is not _State.CALL:
                self._writer.logprobs.push(logprob, len(text))
            self._read(text)
        elif logprob is not None and self._form.raw:
            self._writer.logprobs.push(logprob, 0)  # a control token, which has no text
        self.reasoning_tokens += before or self.in_reasoning
        self.thinking_tokens += before and self.in_reasoning

    def finish(self) -> None:
        """The model ended the answer: close an open call or box and emit what is buffered."""
        if self._call_parser is not None and self._state is _State.CALL:
            self._emit_calls(self._call_parser.close())
        self._release()
        self._end_box()
        self.truncate()

    def truncate(self) -> None:
        """The answer is cut off: emit what is buffered; an open call stays incomplete, as with OpenAI."""
        if self._call_parser is not None and self._state is _State.CALL:
            self._emit_calls(self._call_parser.cut())
        self._release()
        if self._state is _State.REASONING:
            self._emit_reasoning(self._buffer.rstrip())
        elif self._state in (_State.START, _State.TEXT) or self._form.keep_newlines or self._buffer.strip():
            self._begin_text()
            self._emit_buffer()
        self._writer.end_text()
        if self._form.raw:
            self._writer.rest_of_logprobs()

    def take_deltas(self) -> list[AnyDelta]:
        """The deltas since the last call, joined where possible."""
        return self._writer.take()

    # -- control tokens

    def _handle_token(self, token: ControlToken) -> None:
        if self._state is _State.HELD and self._handle_held(token):
            return
        if self._call_parser is not None and self._state is _State.TEXT:
            self._begin_unmarked_call(self._call_parser, token)
        if self._state is _State.CALL or (self._call_parser is not None and token is ControlToken.TOOL_CALL):
            self._handle_call_token(token)
        elif self._state is _State.REASONING:
            if token in (ControlToken.END_THINK, ControlToken.ANSWER):
                self._enter(_State.ANSWER)
                self._reasoning_may_continue = token is ControlToken.ANSWER
        elif token is ControlToken.BOX:
            self._begin_text()
            self._emit_buffer()
            self._writer.box_text = ""
        elif token is ControlToken.END_BOX:
            self._end_box()
        elif self._state in (_State.START, _State.ANSWER):
            if token is ControlToken.THINK:
                self._enter(_State.REASONING)
            elif token in (ControlToken.END_THINK, ControlToken.ANSWER):
                self._enter(_State.ANSWER)
                self._reasoning_may_continue = False
        elif token is ControlToken.THINK and self._form.may_hold and self._form.thinking:
            self._emit_buffer()
            self._writer.end_text()
            self._hold()

    def _handle_held(self, token: ControlToken) -> bool:
        """Handle a token within held text; False: the text is released, or reasoning, and the token comes next."""
        marked = self._held_from is _State.TEXT  # it began with `<think>`
        if token in (ControlToken.BOX, ControlToken.END_BOX):
            self._held_boxes.append((len(self._buffer), token))
            return True
        if token in (ControlToken.END_THINK, ControlToken.ANSWER):
            self._held_is_reasoning(self._buffer)
            return True
        if marked and token is ControlToken.THINK:
            return True
        if marked and token is ControlToken.TOOL_CALL and self._call_parser is not None:
            self._held_is_reasoning(self._buffer)
        self._release()
        return False

    def _handle_call_token(self, token: ControlToken) -> None:
        assert self._call_parser is not None
        if self._state is not _State.CALL:
            self._reasoning_may_continue = self.in_reasoning or (
                self._reasoning_may_continue and self._state is _State.ANSWER
            )
            if self._state is _State.TEXT:
                self._writer.text(self._buffer.rstrip())
                self._writer.end_text()
            self._writer.box_text = None
            self._enter(_State.CALL)
        if token is ControlToken.END_THINK and self._reasoning_may_continue and not self._call_parser.has_name:
            self._end_reasoning_in_call(self._call_parser)
        else:
            self._emit_calls(self._call_parser.push_token(token))
        if not self._call_parser.inside:
            self._enter(_State.ANSWER)

    def _begin_unmarked_call(self, parser: ToolCallParser, token: ControlToken) -> None:
        """Begin a call without `<tool_call>` if the held text and this token are one."""
        begin = call_begins_at(self._buffer, self._writer.at_line_start, parser.tools)
        if is_call(written := self._buffer[begin:], token, parser.tools):
            self._buffer = self._buffer[:begin]
            self._handle_call_token(ControlToken.TOOL_CALL)
            self._emit_calls(parser.push_text(written))
        elif token is ControlToken.END_TOOL_CALL:  # held text is no call, so it is not looked at again
            self._emit_buffer()

    def _end_reasoning_in_call(self, call: ToolCallParser) -> None:
        """The reasoning ends within a call that began in it: `<tool_call>` may only have been mentioned."""
        deltas = call.close()
        if any(isinstance(delta, ToolCallDelta) for delta in deltas):
            self._emit_calls(deltas)
        else:
            self._emit_reasoning(call.written.strip())
        self._reasoning_may_continue = False

    def _end_box(self) -> None:
        if self._writer.box_text is not None:
            self._emit_buffer()
            self._writer.end_box()

    def _enter(self, state: _State, unread: str = "") -> None:
        """Change the state and drop the buffer; `unread` is the text after a control token written as text."""
        self._state, self._buffer, self._begins_block = state, "", True
        self._writer.logprobs.reset(len(unread))
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
            begins_in_reasoning = self._state is _State.START and self._form.may_begin_in_reasoning
            if self._form.may_hold and (begins_in_reasoning or self._reasoning_may_continue):
                self._hold()
                self._read_held()
            else:
                self._begin_text()
                self._read_text()

    def _starts_control_token(self, text: str) -> bool:
        """Whether the first text is, or may become, a control token written as text; a complete one is handled."""
        if not self._form.control_tokens_are_text or self._in_answer:
            return False
        opening = ControlToken.THINK if self._state is _State.START else ControlToken.ANSWER
        if not text.startswith(opening.value):
            return opening.value.startswith(text)
        unread = text.removeprefix(opening.value)
        if opening is ControlToken.THINK:
            self.reasoning_tokens = self._writer.tokens - 1  # plus the current one, added in `push`
            self._enter(_State.REASONING, unread)
        else:
            self._in_answer = True
            self._enter(_State.ANSWER, unread)
        return True

    def _read_reasoning(self) -> None:
        end = ControlToken.END_THINK.value
        if self._begins_block:
            self._skip(len(self._buffer) - len(self._buffer.lstrip()))
        if self._form.control_tokens_are_text and end in self._buffer:
            reasoning, _, unread = self._buffer.partition(end)
            self._emit_reasoning(reasoning.rstrip())
            self._enter(_State.ANSWER, unread)
            return
        certain = len(self._buffer) - (overlap(self._buffer, end) if self._form.control_tokens_are_text else 0)
        certain = len(self._buffer[:certain].rstrip())
        self._emit_reasoning(self._buffer[:certain])
        self._buffer = self._buffer[certain:]

    def _read_held(self) -> None:
        before, end, after = self._buffer, "", ""
        if self._form.control_tokens_are_text:
            before, end, after = self._buffer.partition(ControlToken.END_THINK.value)
        if end and ControlToken.THINK.value not in before:
            self._held_is_reasoning(before, after)
        elif end or self._writer.tokens - self._held_since > HELD_TOKENS or self.stop_strings.occurs_in(self._buffer):
            self._release()

    def _hold(self) -> None:
        """Hold the text from here on: it is reasoning if `</think>` comes."""
        self._held_since = 0 if self._state is _State.START else self._writer.tokens - 1
        self._held_from, self._state = self._state, _State.HELD

    def _held_is_reasoning(self, reasoning: str, unread: str = "") -> None:
        self.reasoning_tokens += self._writer.tokens - self._held_since
        self._held_boxes, self._reasoning_may_continue, self._begins_block = [], False, True
        self._skip(len(reasoning) - len(reasoning.lstrip()))
        self._emit_reasoning(reasoning.strip())
        self._enter(_State.TEXT if self._held_from is _State.TEXT else _State.ANSWER, unread)

    def _release(self) -> None:
        """The held text is the answer, not reasoning: emit it."""
        if self._state is not _State.HELD:
            return
        text, boxes, begin = self._buffer, self._held_boxes, 0
        self._state, self._buffer, self._held_boxes, self._reasoning_may_continue = self._held_from, "", [], False
        for end, token in [*boxes, (len(text), None)]:
            self._buffer += text[begin:end]
            self._begin_text()
            self._read_text()
            if self.stopped:
                break
            if token is not None:
                self._handle_token(token)
            begin = end

    def _begin_text(self) -> None:
        """Start the text with the buffer, without the newlines before it."""
        if self._state is not _State.TEXT and not self._form.keep_newlines:
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
            if not self.stop_strings.occurs_in(self._buffer):
                certain = call_begins_at(self._buffer[:certain], self._writer.at_line_start, self._call_parser.tools)
            certain = len(self._buffer[:certain].rstrip())
        self._writer.text(self._buffer[:certain])
        self._buffer = self._buffer[certain:]

    def _skip(self, characters: int) -> None:
        self._buffer = self._buffer[characters:]
        self._writer.logprobs.skip(characters)

    def _emit_buffer(self) -> None:
        self._writer.text(self._buffer)
        self._buffer = ""

    def _emit_reasoning(self, text: str) -> None:
        self._writer.reasoning(text, self._begins_block)
        self._begins_block = self._begins_block and not text

    def _emit_calls(self, deltas: list[ToolCallDelta | str]) -> None:
        for delta in deltas:
            if isinstance(delta, str):
                self._writer.call_as_text(delta)
            else:
                self._writer.call(delta)
