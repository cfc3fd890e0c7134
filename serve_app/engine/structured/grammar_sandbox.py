"""Grammars tried in a process of their own, because some never end and nothing can interrupt llguidance.

Sixteen patterns that one string has to match (`allOf`) take it ten seconds, and each one more doubles that.
Run as a script, this file reads grammars from its standard input, compiles each within limits of CPU time and
memory, and says what is wrong with it; one that exceeds them ends the process, and the next gets another.
"""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llguidance import LLParserLimits

CPU_SECONDS = 1.0
_MEMORY_BYTES = 2 * 2**30


class GrammarSandbox:
    """Says of grammars, one at a time, whether they can be compiled; any thread may ask."""

    def __init__(self, special: Iterable[str]) -> None:
        self._special = list(special)  # names of the special tokens that grammars mention
        self._child: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def check(self, grammar: str) -> str:
        """What is wrong with a grammar, "" if nothing is. Raises OSError if no process can be started."""
        with self._lock:
            child, self._child = self._child or _start(self._special), None
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdin.write(json.dumps(grammar) + "\n")
            child.stdin.flush()
            if answer := child.stdout.readline():
                self._child = child
                return str(json.loads(answer))
            status = child.wait()
        if status == -signal.SIGPROF:
            return "it takes too long to prepare"
        if status == -signal.SIGABRT:  # Rust's end when memory can't be had
            return "it takes too much memory to prepare"
        raise OSError(f"the process that tries grammars ended with status {status}")

    def close(self) -> None:
        """End the process."""
        with self._lock:
            child, self._child = self._child, None
        if child is not None:
            child.communicate()  # the end of its input is its end


def parser_limits() -> LLParserLimits:
    """What a grammar may cost in a step, as everyone in the batch waits for it: about 4 ms."""
    from llguidance import LLParserLimits

    return LLParserLimits(
        step_lexer_fuel=50_000,
        step_max_items=20_000,
        max_lexer_states=20_000,  # 1 to 2 kB each, for every row
        verbose_errors=False,
    )


class GuidanceVocabulary:
    """What llguidance's `TokenizerWrapper` reads of a tokenizer."""

    bos_token_id = None

    def __init__(self, tokens: list[bytes], special_token_ids: list[int], eos_token_id: int) -> None:
        self.tokens = tokens
        self.special_token_ids = special_token_ids
        self.eos_token_id = eos_token_id

    def __call__(self, text: str | bytes) -> list[int]:
        raise NotImplementedError("grammars force no tokens, so nothing is ever tokenized")


def _start(special: list[str]) -> subprocess.Popen[str]:
    # -P and the paths: the child finds the packages that this process found, and nothing else.
    command = [sys.executable, "-P", __file__, json.dumps(sys.path), json.dumps(special)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="ascii")


def main() -> None:
    """Answer each line of standard input, a grammar, with a line, its error; both as JSON."""
    sys.path[:] = json.loads(sys.argv[1])
    from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

    special = [name.encode() for name in json.loads(sys.argv[2])]
    tokens = [*(bytes([index]) for index in range(256)), *special, b"<end>"]
    tokenizer = LLTokenizer(
        TokenizerWrapper(GuidanceVocabulary(tokens, list(range(256, len(tokens))), len(tokens) - 1))
    )
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    for line in sys.stdin:
        # Its signal is left to its default, which ends the process wherever it is.
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        matcher = LLMatcher(tokenizer, json.loads(line), log_level=0, limits=parser_limits())
        matcher.compute_bitmask()  # the first step often costs most
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.write(json.dumps(matcher.get_error()) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
