"""Replays the corpus, then runs mutated cases of each kind for some seconds; CONTRIBUTING.md names the long run."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.fuzz import corpus
from tests.fuzz.run import CASES, run
from tests.fuzz.service import FuzzedService, check

Running = tuple[FuzzedService, asyncio.AbstractEventLoop]


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    loop = asyncio.new_event_loop()

    async def start() -> FuzzedService:
        return FuzzedService()

    service = loop.run_until_complete(start())
    yield service, loop
    loop.run_until_complete(service.close())
    loop.close()


@pytest.mark.parametrize("kind", CASES)
def test_every_case_of_the_corpus_is_answered_or_refused(kind: str, running: Running) -> None:
    service, loop = running
    cases = list(corpus.load(kind))
    assert len(cases) > 20
    for case in cases:
        check(loop.run_until_complete(service.send(case)))


@pytest.mark.parametrize("kind", CASES)
def test_mutated_cases_are_answered_or_refused(kind: str, running: Running) -> None:
    service, loop = running
    figures = run(kind, 5.0, first_seed=0, service=service, loop=loop)
    assert not figures.findings, figures.findings
    assert figures.cases > 20


def test_the_corpus_is_small() -> None:
    assert sum(path.stat().st_size for path in corpus.FOLDER.iterdir()) < 2**20
