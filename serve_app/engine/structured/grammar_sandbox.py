"""Grammar sandbox: test compilation of callers' grammars in separate processes, in two lanes.

A grammar is first tried with little CPU time, which is enough for nearly all. One that needs more is tried again in the
slow lane, on processes other than the first. So a grammar that compiles quickly never waits for one that does not.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from serve_app.engine.structured import sandbox_process
from serve_app.errors import Overloaded
from serve_app.settings import EngineSettings

DEFAULT_LIMITS: Final = EngineSettings()
QUICK_CPU_S = 0.01
_WALL_S, _WALL_PER_CPU = 5.0, 20  # of a job: other processes use the cores too
_LONGEST_WAIT_S = 30.0
_TOO_BUSY = "The form of the answer (schema, pattern or tools) could not be compiled in time. Try again shortly."


class GrammarSandbox:
    """Checks grammars; any thread may call it."""

    def __init__(self, special: Iterable[str], limits: EngineSettings = DEFAULT_LIMITS) -> None:
        self._limits = limits
        special_tokens = list(special)
        self._quick_process = _Process(special_tokens)
        self._slow_processes = [_Process(special_tokens) for _ in range(max(1, limits.grammar_processes - 1))]
        self._idle = [*self._slow_processes, self._quick_process]
        self._quick: deque[object] = deque()  # tickets of the waiting calls
        self._slow: deque[object] = deque()
        self._changed = threading.Condition()

    def check(self, grammar: str) -> str:
        """The error of a grammar, "" if it compiles.

        Raises Overloaded if too many wait or the machine is too busy, OSError if no process can be started.
        """
        answer = self._compile(grammar, QUICK_CPU_S, slow=False)
        if answer.get("exceeded") == "cpu":
            answer = self._compile(grammar, self._limits.grammar_cpu_s, slow=True)
        match answer.get("exceeded"):
            case "cpu":
                return "It takes too long to compile."
            case "memory":
                return "It takes too much memory to compile."
            case "wall":
                raise Overloaded(_TOO_BUSY)
        if "error" not in answer:
            raise OSError(f"A child of the grammar sandbox ended with status {answer['status']}.")
        return str(answer["error"])

    def close(self) -> None:
        """End the processes; running jobs are lost."""
        for process in (*self._slow_processes, self._quick_process):
            process.close()

    def _compile(self, grammar: str, cpu_s: float, slow: bool) -> dict[str, Any]:
        job = {
            "grammar": grammar,
            "cpu_s": cpu_s,
            "wall_s": _WALL_S + _WALL_PER_CPU * cpu_s,
            "memory_bytes": self._limits.grammar_memory_mib * 2**20,
        }
        with self._process(slow) as process:
            try:
                return process.answer(job)
            except OSError:  # it was killed; the next attempt starts another
                return process.answer(job)

    @contextmanager
    def _process(self, slow: bool) -> Iterator[_Process]:
        """An idle process, in the order of arrival of each lane."""
        queue, ticket = self._slow if slow else self._quick, object()
        with self._changed:
            if len(self._quick) + len(self._slow) >= self._limits.grammar_queue:
                raise Overloaded(
                    f"{self._limits.grammar_queue} forms of answers (schemas, patterns or tools) are waiting to be "
                    "compiled. Try again shortly."
                )
            queue.append(ticket)
            self._changed.wait_for(
                lambda: queue[0] is ticket and self._choice(slow) is not None, timeout=_LONGEST_WAIT_S
            )
            process = self._choice(slow) if queue[0] is ticket else None
            queue.remove(ticket)
            self._changed.notify_all()
            if process is None:
                raise Overloaded(_TOO_BUSY)
            self._idle.remove(process)
        try:
            yield process
        finally:
            with self._changed:
                self._idle.append(process)
                self._changed.notify_all()

    def _choice(self, slow: bool) -> _Process | None:
        """The idle process that this lane may use; the slow lane has precedence on all but the first."""
        if not slow and self._quick_process in self._idle:
            return self._quick_process
        if not slow and self._slow:
            return None
        return next((process for process in self._slow_processes if process in self._idle), None)


class _Process:
    """A process that runs sandbox_process.py; it is started when it is first used, and again if it was killed."""

    def __init__(self, special: list[str]) -> None:
        # -P and the paths: the child finds the packages that this process found, and nothing else.
        self._command = [sys.executable, "-P", sandbox_process.__file__, json.dumps(sys.path), json.dumps(special)]
        self._running: subprocess.Popen[str] | None = None

    @property
    def pid(self) -> int | None:
        return self._running.pid if self._running is not None else None

    def answer(self, job: dict[str, Any]) -> dict[str, Any]:
        """The answer to a job. Raises OSError if the process ends before it."""
        process, self._running = self._running or self._start(), None
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(job) + "\n")
        process.stdin.flush()
        if not (line := process.stdout.readline()):
            raise OSError(f"The process of the grammar sandbox ended with status {process.wait()}.")
        self._running = process
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        process, self._running = self._running, None
        if process is not None:
            process.communicate()  # it ends at the end of its input

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="ascii"
        )
