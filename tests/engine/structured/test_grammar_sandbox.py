"""Grammar sandbox: errors, limits, lanes; a process that is killed is replaced."""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from serve_app.engine.structured.grammar_sandbox import GrammarSandbox
from serve_app.errors import Overloaded
from serve_app.settings import EngineSettings

HEAD = '%llguidance {"no_forcing": true}\nstart: '


def endless(name: str = "") -> str:
    """A grammar that takes llguidance longer than any limit."""
    patterns = [{"type": "string", "pattern": f".*{name}{index}.*"} for index in range(40)]
    return HEAD + "%json " + json.dumps({"allOf": patterns})


@pytest.fixture
def sandbox() -> Iterator[GrammarSandbox]:
    one = GrammarSandbox(["<think>"], EngineSettings(grammar_cpu_s=0.2, grammar_queue=8))
    yield one
    one.close()


def test_a_valid_grammar_has_no_error(sandbox: GrammarSandbox) -> None:
    assert sandbox.check(HEAD + '<think> "红灯"') == ""


def test_an_error_is_the_one_of_llguidance(sandbox: GrammarSandbox) -> None:
    assert "unclosed character class" in sandbox.check(HEAD + "/[/")
    assert sandbox.check(HEAD + '"a"') == ""


def test_a_grammar_without_end_is_given_up_and_costs_no_process(sandbox: GrammarSandbox) -> None:
    sandbox.check(HEAD + '"a"')
    processes = pids(sandbox)
    assert sandbox.check(endless()) == "It takes too long to compile."
    assert sandbox.check(HEAD + '"a"') == ""
    assert processes <= pids(sandbox)


def test_a_grammar_that_needs_too_much_memory_is_refused() -> None:
    limits = EngineSettings(grammar_cpu_s=30).model_copy(update={"grammar_memory_mib": 96})
    small = GrammarSandbox([], limits)
    assert small.check(endless()) == "It takes too much memory to compile."
    small.close()


def test_a_process_that_was_killed_is_replaced_and_its_grammar_is_tried_again(sandbox: GrammarSandbox) -> None:
    sandbox.check(HEAD + '"a"')
    for pid in pids(sandbox):
        os.kill(pid, signal.SIGKILL)
    assert sandbox.check(HEAD + '"a"') == ""


def test_a_new_grammar_does_not_wait_for_those_that_take_long() -> None:
    """Thirty grammars made an innocent one wait for all of them, 29 to 42 s."""
    sandbox = GrammarSandbox(["<think>"], EngineSettings(grammar_cpu_s=0.15))
    sandbox.check(HEAD + '"a"')
    refused: list[str] = []
    attackers = [
        threading.Thread(target=lambda number=number: refused.append(sandbox.check(endless(str(number)))))
        for number in range(15)
    ]
    for attacker in attackers:
        attacker.start()
    while not refused:  # until the slow lane is full
        time.sleep(0.01)
    for number in range(5):
        assert sandbox.check(f'{HEAD}"innocent {number}"') == ""
    assert len(refused) < 6
    for attacker in attackers:
        attacker.join()
    assert refused == ["It takes too long to compile."] * 15
    sandbox.close()


def test_a_full_queue_refuses(sandbox: GrammarSandbox) -> None:
    errors: list[Overloaded] = []

    def check(number: int) -> None:
        try:
            sandbox.check(endless(str(number)))
        except Overloaded as error:
            errors.append(error)

    threads = [threading.Thread(target=check, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors
    assert str(errors[0]).startswith("8 forms of answers")
    assert sandbox.check(HEAD + '"a"') == ""


def test_closing_ends_the_processes(sandbox: GrammarSandbox) -> None:
    sandbox.check(HEAD + '"a"')
    processes = pids(sandbox)
    assert processes
    sandbox.close()
    assert not any(os.path.exists(f"/proc/{pid}") for pid in processes)


def pids(sandbox: GrammarSandbox) -> set[int]:
    processes = (sandbox._quick_process, *sandbox._slow_processes)
    return {process.pid for process in processes if process.pid is not None}
