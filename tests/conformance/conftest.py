"""The real service for other people's clients, and what each of them got from it."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.conftest import Service, started
from tests.conformance import gate as gates
from tests.conformance.clients import Got, run
from tests.conformance.task import task

NEEDS_ITS_OWN_SERVICE = "overloaded"
SHORT = {"GLM_PREPROCESS__DEFAULT_MAX_TOKENS": "8"}  # schemathesis asks hundreds of times without a limit


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with started(tmp_path_factory.mktemp("service"), **SHORT) as running:
        yield running


@pytest.fixture(scope="session")
def base_url(service: Service) -> str:
    return service.base_url


@pytest.fixture(scope="session")
def gate(base_url: str) -> Iterator[gates.Gate]:
    with gates.opened(base_url) as gate:
        yield gate


@pytest.fixture(scope="session")
def got(base_url: str, gate: gates.Gate, tmp_path_factory: pytest.TempPathFactory) -> Got:
    """What a client got at a check; its script runs once, the first time that it is asked for, failed or not."""

    @functools.cache
    def answers(client: str) -> dict[str, dict[str, Any]] | RuntimeError:
        asked = task(client, base_url, gate.url, without=(NEEDS_ITS_OWN_SERVICE,))
        try:
            return run(client, asked, tmp_path_factory.mktemp(client))
        except RuntimeError as error:
            return error

    def ask(client: str, check: str) -> dict[str, Any]:
        found = answers(client)
        if isinstance(found, RuntimeError):
            pytest.fail(str(found), pytrace=False)
        answer = found[check]
        if "raised" in answer:
            pytest.fail(f"{client} at {check}: {answer['raised']}", pytrace=False)
        return answer

    return ask
