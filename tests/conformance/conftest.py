"""The service for other people's clients, and the results of each client's script."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.conftest import Service, started
from tests.conformance import fault_proxy as faults
from tests.conformance.clients import Result, run
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
def fault_proxy(base_url: str) -> Iterator[faults.FaultProxy]:
    with faults.running(base_url) as fault_proxy:
        yield fault_proxy


@pytest.fixture(scope="session")
def result(base_url: str, fault_proxy: faults.FaultProxy, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """The result of a client's check; its script runs once, when the first of its results is needed, failed or not."""

    @functools.cache
    def answers(client: str) -> dict[str, dict[str, Any]] | RuntimeError:
        asked = task(client, base_url, fault_proxy.url, without=(NEEDS_ITS_OWN_SERVICE,))
        try:
            return run(client, asked, tmp_path_factory.mktemp(client))
        except RuntimeError as error:
            return error

    def of_check(client: str, check: str) -> dict[str, Any]:
        found = answers(client)
        if isinstance(found, RuntimeError):
            pytest.fail(str(found), pytrace=False)
        answer = found[check]
        if "raised" in answer:
            pytest.fail(f"{client} at {check}: {answer['raised']}", pytrace=False)
        return answer

    return of_check
