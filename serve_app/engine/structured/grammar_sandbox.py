"""Grammar sandbox: test compilation in a child process, since llguidance cannot be interrupted.

A string with sixteen patterns (`allOf`) takes llguidance ten seconds, and each further pattern doubles that.
Run as a script, this file reads grammars from standard input, compiles each within limits of CPU time and
memory, and writes the error of each. A grammar that exceeds a limit ends the process; the next one starts another.
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
    """Checks grammars, one at a time; any thread may call it."""

    def __init__(self, special: Iterable[str]) -> None:
        self._special = list(special)  # names of the special tokens in grammars
        self._child: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def check(self, grammar: str) -> str:
        """The error of a grammar, "" if it compiles. Raises OSError if no process can be started."""
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
            return "it takes too long to compile"
        if status == -signal.SIGABRT:  # Rust aborts when an allocation fails
            return "it takes too much memory to compile"
        raise OSError(f"The process of the grammar sandbox ended with status {status}.")

    def close(self) -> None:
        """End the child process."""
        with self._lock:
            child, self._child = self._child, None
        if child is not None:
            child.communicate()  # it ends at the end of its input


def parser_limits() -> LLParserLimits:
    """Limits of a grammar: about 4 ms a step, because the whole batch waits for it."""
    from llguidance import LLParserLimits

    return LLParserLimits(
        step_lexer_fuel=50_000,
        step_max_items=20_000,
        max_lexer_states=20_000,  # 1 to 2 kB each, for every row
        verbose_errors=False,
    )


class GuidanceVocabulary:
    """The attributes of a tokenizer that llguidance's `TokenizerWrapper` reads."""

    bos_token_id = None

    def __init__(self, tokens: list[bytes], special_token_ids: list[int], eos_token_id: int) -> None:
        self.tokens = tokens
        self.special_token_ids = special_token_ids
        self.eos_token_id = eos_token_id

    def __call__(self, text: str | bytes) -> list[int]:
        raise NotImplementedError("Grammars force no tokens, so nothing is tokenized.")


def _start(special: list[str]) -> subprocess.Popen[str]:
    # -P and the paths: the child finds the packages that this process found, and nothing else.
    command = [sys.executable, "-P", __file__, json.dumps(sys.path), json.dumps(special)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="ascii")


def main() -> None:
    """For each line of standard input, a grammar, write a line with its error; both as JSON."""
    sys.path[:] = json.loads(sys.argv[1])
    from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

    special = [name.encode() for name in json.loads(sys.argv[2])]
    tokens = [*(bytes([index]) for index in range(256)), *special, b"<end>"]
    tokenizer = LLTokenizer(
        TokenizerWrapper(GuidanceVocabulary(tokens, list(range(256, len(tokens))), len(tokens) - 1))
    )
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    for line in sys.stdin:
        # The default action of the timer's signal ends the process.
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        matcher = LLMatcher(tokenizer, json.loads(line), log_level=0, limits=parser_limits())
        matcher.compute_bitmask()  # the first step is often the most expensive
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.write(json.dumps(matcher.get_error()) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
