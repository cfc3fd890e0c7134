"""Grammars in a process of their own: judged, given up in time, and nothing is left behind."""

import json
import os
import signal
from collections.abc import Iterator

import pytest

from serve_app.engine.structured.grammar_sandbox import Trial

HEAD = '%llguidance {"no_forcing": true}\nstart: '
ENDLESS = {"allOf": [{"type": "string", "pattern": f".*{index}.*"} for index in range(40)]}


@pytest.fixture
def trial() -> Iterator[Trial]:
    one = Trial(["<think>"])
    yield one
    one.close()


def test_a_sound_grammar_has_no_flaw(trial: Trial) -> None:
    assert trial.flaw(HEAD + '<think> "红灯"') == ""


def test_a_flaw_is_told_in_the_librarys_words(trial: Trial) -> None:
    assert "unclosed character class" in trial.flaw(HEAD + "/[/")
    assert trial.flaw(HEAD + '"a"') == ""


def test_a_grammar_without_end_is_given_up_and_the_next_is_judged(trial: Trial) -> None:
    assert trial.flaw(HEAD + "%json " + json.dumps(ENDLESS)) == "it takes too long to prepare"
    assert trial.flaw(HEAD + '"a"') == ""


def test_a_process_that_was_killed_is_told_and_replaced(trial: Trial) -> None:
    trial.flaw(HEAD + '"a"')
    assert trial._child is not None
    os.kill(trial._child.pid, signal.SIGKILL)
    with pytest.raises(OSError, match=r"ended with status|Broken pipe"):
        trial.flaw(HEAD + '"a"')
    assert trial.flaw(HEAD + '"a"') == ""


def test_closing_ends_the_process(trial: Trial) -> None:
    trial.flaw(HEAD + '"a"')
    child = trial._child
    assert child is not None
    trial.close()
    assert child.poll() == 0
