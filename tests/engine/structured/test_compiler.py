"""Grammar compiler: what was checked once does not go to the sandbox again, and what is ours never does."""

import json
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from serve_app.contracts import Constraint, Prompt, Sampling
from serve_app.engine.structured.compiler import GrammarCompiler
from serve_app.errors import InvalidRequest
from tests.engine.conftest import EOS, MARKED


@pytest.fixture
def compiler() -> Iterator[GrammarCompiler]:
    one = GrammarCompiler(MARKED, frozenset([EOS]), len(MARKED.token_bytes))
    yield one
    one.close()


@pytest.fixture
def checked(compiler: GrammarCompiler) -> list[str]:
    """The grammars that the sandbox is asked about."""
    grammars: list[str] = []
    check = compiler._sandbox.check

    def record(grammar: str) -> str:
        grammars.append(grammar)
        return check(grammar)

    compiler._sandbox.check = record  # type: ignore[method-assign]
    return grammars


def prompt(constraint: Constraint) -> Prompt:
    return Prompt("a", np.array([1], dtype=np.int32), (), Sampling(max_tokens=9), 9.0, constraint=constraint)


def test_a_json_object_never_waits_for_the_sandbox(compiler: GrammarCompiler, checked: list[str]) -> None:
    compiler.matcher(prompt(Constraint("json_object")), in_reasoning=False)
    assert not checked


def test_a_schema_is_checked_once(compiler: GrammarCompiler, checked: list[str]) -> None:
    for number in [0, *range(100), 0]:  # more than the compiled grammars that are kept
        compiler.matcher(prompt(Constraint("choice", f'["{number}"]')), in_reasoning=False)
    assert len(checked) == 100


def test_a_refusal_is_remembered(compiler: GrammarCompiler, checked: list[str]) -> None:
    for _ in range(3):
        with pytest.raises(InvalidRequest, match="unclosed character class"):
            compiler.matcher(prompt(Constraint("regex", "[")), in_reasoning=False)
    assert len(checked) == 1


def test_the_same_schema_at_once_is_checked_once(compiler: GrammarCompiler, checked: list[str]) -> None:
    schema = {"allOf": [{"type": "string", "pattern": f".*{index}.*"} for index in range(20)]}
    errors: list[str] = []

    def compile_it() -> None:
        try:
            compiler.matcher(prompt(Constraint("json_schema", json.dumps(schema))), in_reasoning=False)
        except InvalidRequest as error:
            errors.append(error.message)

    threads = [threading.Thread(target=compile_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == ["response_format is not supported: It takes too long to compile."] * 8
    assert len(checked) == 1
