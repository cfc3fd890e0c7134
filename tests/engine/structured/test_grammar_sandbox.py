"""GrammarCompiler in a process of their own: judged, given up in time, and nothing is left behind."""

import json
import os
import signal
from collections.abc import Iterator

import pytest

from serve_app.engine.structured.grammar_sandbox import GrammarSandbox

HEAD = '%llguidance {"no_forcing": true}\nstart: '
ENDLESS = {"allOf": [{"type": "string", "pattern": f".*{index}.*"} for index in range(40)]}


@pytest.fixture
def sandbox() -> Iterator[GrammarSandbox]:
    one = GrammarSandbox(["<think>"])
    yield one
    one.close()


def test_a_sound_grammar_has_no_flaw(sandbox: GrammarSandbox) -> None:
    assert sandbox.check(HEAD + '<think> "红灯"') == ""


def test_a_flaw_is_sent_in_the_librarys_words(sandbox: GrammarSandbox) -> None:
    assert "unclosed character class" in sandbox.check(HEAD + "/[/")
    assert sandbox.check(HEAD + '"a"') == ""


def test_a_grammar_without_end_is_given_up_and_the_next_is_judged(sandbox: GrammarSandbox) -> None:
    assert sandbox.check(HEAD + "%json " + json.dumps(ENDLESS)) == "it takes too long to compile"
    assert sandbox.check(HEAD + '"a"') == ""


def test_a_process_that_was_killed_is_sent_and_replaced(sandbox: GrammarSandbox) -> None:
    sandbox.check(HEAD + '"a"')
    assert sandbox._child is not None
    os.kill(sandbox._child.pid, signal.SIGKILL)
    with pytest.raises(OSError, match=r"ended with status|Broken pipe"):
        sandbox.check(HEAD + '"a"')
    assert sandbox.check(HEAD + '"a"') == ""


def test_closing_ends_the_process(sandbox: GrammarSandbox) -> None:
    sandbox.check(HEAD + '"a"')
    child = sandbox._child
    assert child is not None
    sandbox.close()
    assert child.poll() == 0
