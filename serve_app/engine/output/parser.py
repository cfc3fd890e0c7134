"""Token ids of one answer to what they say: reasoning, text, boxes, tool calls.

Marks are tokens (engine/marks.py) and drive a small state machine; what stands between them is text.

* Reasoning begins with `<think>` at the answer's start, or in the prompt, and ends with `</think>`. White
  space around it is dropped. A tool call ends it too. `</think>` alone is dropped and changes nothing:
  text before it may have been told already, and an answer must not depend on how fast it was told.
* One newline that the text begins with is dropped, as GLM models begin with one; after reasoning all are.
* A tool call is looked for only if the prompt offers tools; white space before it is dropped. Otherwise
  what stands in it is text.
* Box marks are dropped; what stands between them stays in the text and is reported apart.
* Stop strings are looked for in the text alone, never in reasoning or calls.
* Where the vocabulary has no tokens for them, `<think>`, `</think>`, `<answer>` and `</answer>` are read as
  text, at the places where they can stand: the start of the answer and of the text, and after those.
* Raw answers are text and nothing else; they and answers held to a pattern keep every newline.

What was told never changes, so pieces always add up to the whole.
"""

from __future__ import annotations

from enum import Enum, auto

import numpy as np
from numpy.typing import NDArray

from serve_app.contracts import Boxed, Channel, Delta, Prompt, TokenLogprob, ToolCallDelta
from serve_app.engine.output.boxes import boxed
from serve_app.engine.output.control_tokens import Mark, Marks
from serve_app.engine.output.deltas import Piece, append
from serve_app.engine.output.detokenizer import Characters, StopStrings, Vocabulary, overlap
from serve_app.engine.output.tool_calls import CallParser, CallPiece
from serve_app.engine.sampling.logprobs import LogprobTrail


class _State(Enum):
    START = auto()  # nothing but white space yet
    REASONING = auto()
    ANSWER = auto()  # behind reasoning or a call, nothing but white space yet
    TEXT = auto()
    CALL = auto()


class Reply:
    """Reads the tokens of one answer; pieces come out as soon as they are certain."""

    def __init__(self, vocabulary: Vocabulary, prompt: Prompt) -> None:
        self._vocabulary = vocabulary
        self._pictures = prompt.pictures
        self._marks = Marks.among({} if prompt.raw else vocabulary.names)
        self._marks_are_text = bool(prompt.thinking.enabled) and not self._marks.reason and not prompt.raw
        self._exact = prompt.raw or (prompt.constraint is not None and prompt.constraint.kind in ("regex", "choice"))
        self._state = _State.TEXT if prompt.raw else _State.START
        if not prompt.raw and reasoning_is_open(prompt, vocabulary):
            self._state = _State.REASONING
        self._characters = Characters()
        self._stop = StopStrings(prompt.sampling.stop)
        self._min_tokens = prompt.sampling.min_tokens
        self._calls = CallParser(prompt.tools) if prompt.tools is not None and not prompt.raw else None
        self._parallel = prompt.tools is None or prompt.tools.parallel
        self._held = ""  # white space that a mark may make meaningless, the beginning of a mark written as text
        self._span: str | None = None  # text since an open box mark
        self._in_answer = False  # behind an `<answer>` written as text
        self._reasoned = False  # some reasoning was told
        self._pieces: list[Piece] = []
        self._tokens = 0
        self._tokens_told = 0
        self._trail = LogprobTrail()
        self.boxed: list[Boxed] = []
        self.reasoning_tokens = 0  # marks included
        self.thought = 0  # of these, behind the opening mark
        self.stopped = False  # by a stop string, or after the only call that was wanted

    @property
    def in_reasoning(self) -> bool:
        return self._state is _State.REASONING

    @property
    def called(self) -> bool:
        """Whether the model called a tool."""
        return self._calls is not None and self._calls.calls > 0

    def push(self, token_id: int, logprob: TokenLogprob | None = None) -> list[Piece]:
        """What became certain with this token."""
        self._tokens += 1
        before = self.in_reasoning
        mark = self._marks.of_id.get(token_id)
        if mark is not None:
            self._characters.reset()
            self._obey(mark)
        elif content := self._vocabulary.token_bytes[token_id]:
            text = self._characters.push(content)
            if logprob is not None and self._state is not _State.CALL:
                self._trail.push(logprob, len(text))
            self._read(text)
        self.reasoning_tokens += before or self.in_reasoning
        self.thought += before and self.in_reasoning
        return self._taken()

    def end(self) -> list[Piece]:
        """What is still held when the model itself ends the answer; an open call or box is closed."""
        if self._calls is not None and self._state is _State.CALL:
            self._tell_calls(self._calls.close())
        self._end_box()
        return self.cut()

    def cut(self) -> list[Piece]:
        """What is still held when the answer is cut off; an open call stays open, as OpenAI leaves it."""
        if self._state is _State.REASONING:
            self._tell("reasoning", self._held.rstrip())
        elif self._state in (_State.START, _State.TEXT) or self._exact or self._held.strip():
            self._begin_text()
            self._show_held()
        self._tell("text", self._stop.flush())
        return self._taken()

    # -- marks

    def _obey(self, mark: Mark) -> None:
        if self._state is _State.CALL or (self._calls is not None and mark is Mark.TOOL_CALL):
            self._obey_in_call(mark)
        elif self._state is _State.REASONING:
            if mark is Mark.END_THINK:
                self._go_on(_State.ANSWER)
        elif mark is Mark.BOX:
            self._begin_text()
            self._show_held()
            self._span = ""
        elif mark is Mark.END_BOX:
            self._end_box()
        elif self._state in (_State.START, _State.ANSWER):
            if mark is Mark.THINK:
                self._go_on(_State.REASONING)
            elif mark in (Mark.END_THINK, Mark.ANSWER):
                self._go_on(_State.ANSWER)

    def _obey_in_call(self, mark: Mark) -> None:
        assert self._calls is not None
        if self._state is not _State.CALL:
            if self._state is _State.TEXT:
                self._show(self._held.rstrip())
                self._tell("text", self._stop.flush())
            self._span = None
            self._go_on(_State.CALL)
        self._tell_calls(self._calls.mark(mark))
        if not self._calls.inside:
            self._go_on(_State.ANSWER)
            self.stopped = self.stopped or (self.called and not self._parallel)

    def _end_box(self) -> None:
        if self._span is not None:
            self._show_held()
            self.boxed.append(boxed(self._span, self._pictures))
            self._span = None

    def _go_on(self, state: _State, unread: str = "") -> None:
        """Enter a state; what was held before meant nothing, `unread` comes behind a mark written as text."""
        self._state, self._held = state, ""
        self._trail.restart(len(unread))
        if unread:
            self._read(unread)

    # -- text

    def _read(self, text: str) -> None:
        """Text between marks, by the state it comes in."""
        if self._calls is not None and self._state is _State.CALL:
            self._tell_calls(self._calls.text(text))
            return
        self._held += text
        if self._state is _State.REASONING:
            self._read_reasoning()
        elif self._state is _State.TEXT:
            self._read_text()
        elif (begun := self._held.lstrip()) and not self._may_be_a_mark(begun):
            self._begin_text()
            self._read_text()

    def _may_be_a_mark(self, begun: str) -> bool:
        """Whether the first text is, or may become, a mark written as text; one that is whole is obeyed."""
        if not self._marks_are_text or self._in_answer:
            return False
        opening = Mark.THINK if self._state is _State.START else Mark.ANSWER
        if not begun.startswith(opening.value):
            return opening.value.startswith(begun)
        unread = begun.removeprefix(opening.value)
        if opening is Mark.THINK:
            self.reasoning_tokens = self._tokens - 1  # and the one that is being read
            self._go_on(_State.REASONING, unread)
        else:
            self._in_answer = True
            self._go_on(_State.ANSWER, unread)
        return True

    def _read_reasoning(self) -> None:
        end = Mark.END_THINK.value
        if not self._reasoned:
            self._skip(len(self._held) - len(self._held.lstrip()))
        if self._marks_are_text and end in self._held:
            reasoning, _, unread = self._held.partition(end)
            self._tell("reasoning", reasoning.rstrip())
            self._go_on(_State.ANSWER, unread)
            return
        certain = len(self._held) - (overlap(self._held, end) if self._marks_are_text else 0)
        certain = len(self._held[:certain].rstrip())
        self._tell("reasoning", self._held[:certain])
        self._held = self._held[certain:]

    def _begin_text(self) -> None:
        """The text begins with what is held, but for the newlines before it."""
        if self._state is not _State.TEXT and not self._exact:
            newlines = len(self._held) - len(self._held.lstrip("\n"))
            self._skip(newlines if self._state is _State.ANSWER else min(newlines, 1))
        self._state = _State.TEXT

    def _read_text(self) -> None:
        end = Mark.END_ANSWER.value
        certain = len(self._held)
        if self._in_answer:
            if (at := self._held.find(end)) >= 0:
                self._held = self._held[:at] + self._held[at + len(end) :]
                self._in_answer = False
            certain = len(self._held) - overlap(self._held, end) * self._in_answer
        if self._calls is not None:
            certain = len(self._held[:certain].rstrip())
        self._show(self._held[:certain])
        self._held = self._held[certain:]

    # -- pieces

    def _skip(self, characters: int) -> None:
        self._held = self._held[characters:]
        self._trail.skip(characters)

    def _show_held(self) -> None:
        held, self._held = self._held, ""
        self._show(held)

    def _show(self, text: str) -> None:
        """Text for the reader, up to a stop string."""
        if self._span is not None:
            self._span += text
        self._tell("text", self._stop.push(text, armed=self._tokens > self._min_tokens))
        self.stopped = self.stopped or self._stop.found

    def _tell(self, channel: Channel, text: str) -> None:
        if text:
            self._reasoned = self._reasoned or channel == "reasoning"
            append(self._pieces, Delta(text, self._tokens_since_last(), channel, self._trail.told(len(text))))

    def _tell_calls(self, pieces: list[CallPiece]) -> None:
        for piece in pieces:
            delta = ToolCallDelta(piece.index, piece.name, piece.arguments, self._tokens_since_last())
            append(self._pieces, delta)

    def _tokens_since_last(self) -> int:
        tokens, self._tokens_told = self._tokens - self._tokens_told, self._tokens
        return tokens

    def _taken(self) -> list[Piece]:
        pieces, self._pieces = self._pieces, []
        return pieces


def reasoning_is_open(prompt: Prompt, vocabulary: Vocabulary) -> bool:
    """Whether a prompt ends inside reasoning: its template wrote `<think>` where the answer begins."""
    token_ids = prompt.token_ids[_last(prompt.token_ids, vocabulary.names.get("<|assistant|>")) + 1 :]
    marks = Marks.among(vocabulary.names)
    if marks.reason:
        return _last(token_ids, marks.ids[Mark.THINK]) > _last(token_ids, marks.ids[Mark.END_THINK])
    if not prompt.thinking.enabled or "<|assistant|>" not in vocabulary.names:
        return False
    text = b"".join(vocabulary.token_bytes[token_id] for token_id in token_ids)
    return text.rstrip().endswith(Mark.THINK.value.encode())


def _last(token_ids: NDArray[np.int32], token_id: int | None) -> int:
    """Index of the last occurrence, -1 if there is none."""
    places = [] if token_id is None else np.flatnonzero(token_ids == token_id).tolist()
    return places[-1] if places else -1
