"""Grammar sandbox process: compiles each grammar in a forked child, within limits of CPU time and memory.

llguidance cannot be interrupted, and some grammars take it hours: a string with sixteen patterns (`allOf`) takes ten
seconds, and each further pattern doubles that. The child has loaded everything when it is forked, so a child that is
killed costs the next grammar nothing.

Run as a script. It reads lines of JSON from standard input, each a job: {"grammar", "cpu_s", "wall_s", "memory_bytes"}.
It writes a line for each: {"error": text, "" if the grammar compiles} or {"exceeded": "cpu", "wall" or "memory"} or
{"status": exit status of a child that failed}.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llguidance import LLParserLimits, LLTokenizer

_EXCEEDED = {
    -signal.SIGPROF: "cpu",
    -signal.SIGABRT: "memory",  # Rust aborts when an allocation fails
    -signal.SIGSEGV: "memory",  # the stack is full
}


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


def main() -> None:
    """Answer the jobs of standard input until it ends."""
    sys.path[:] = json.loads(sys.argv[1])
    from llguidance import LLTokenizer, TokenizerWrapper

    special = [name.encode() for name in json.loads(sys.argv[2])]
    tokens = [*(bytes([index]) for index in range(256)), *special, b"<end>"]
    vocabulary = GuidanceVocabulary(tokens, list(range(256, len(tokens))), len(tokens) - 1)
    tokenizer = LLTokenizer(TokenizerWrapper(vocabulary))
    for line in sys.stdin:
        sys.stdout.write(json.dumps(_answer(json.loads(line), tokenizer)) + "\n")
        sys.stdout.flush()


def _answer(job: dict[str, Any], tokenizer: LLTokenizer) -> dict[str, Any]:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        try:
            os.write(writer, _compile(job, tokenizer).encode())
        finally:
            os._exit(0)
    os.close(writer)
    in_time = bool(select.select([reader], [], [], job["wall_s"])[0])
    if not in_time:
        os.kill(child, signal.SIGKILL)
    with os.fdopen(reader, "rb") as stream:
        error = stream.read().decode()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if not in_time:
        return {"exceeded": "wall"}
    if status in _EXCEEDED:
        return {"exceeded": _EXCEEDED[status]}
    return {"error": json.loads(error)} if status == 0 and error else {"status": status}


def _compile(job: dict[str, Any], tokenizer: LLTokenizer) -> str:
    """In the child: the error of a grammar as JSON, one that fits in a pipe."""
    from llguidance import LLMatcher

    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # Rust reports each failed allocation
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (job["memory_bytes"], job["memory_bytes"]))
    signal.setitimer(signal.ITIMER_PROF, job["cpu_s"])  # the default action of its signal ends the process
    matcher = LLMatcher(tokenizer, job["grammar"], log_level=0, limits=parser_limits())
    matcher.compute_bitmask()  # the first step is often the most expensive
    return json.dumps(matcher.get_error()[:4000])


if __name__ == "__main__":
    main()
