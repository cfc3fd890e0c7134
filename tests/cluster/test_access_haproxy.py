"""Access on a cluster, through HAProxy: every route by every kind of credentials, streams."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from tests.cluster.credentials import (
    AUDIENCE,
    ISSUER,
    STREAMS,
    Credentials,
    check_routes,
    check_stream,
)
from tests.cluster.nodes import PORT, running
from tests.cluster.release import release

pytestmark = pytest.mark.cluster

Check = Callable[..., None]


@pytest.fixture(scope="module")
def check(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Check]:
    """Runs a function with the address of a worker's HAProxy, and the credentials, in the cluster's network."""
    resource = release("cpu-demo")
    config = yaml.safe_load(resource["spec"]["serveConfigV2"])
    settings = config["applications"][0]["args"]
    settings["access"] = {"keys_file": "/tmp/keys.json"}
    settings["jwt"] = {"keys": "/tmp/jwks.json", "issuer": ISSUER, "audience": AUDIENCE, "refresh_s": 10}
    resource["spec"]["serveConfigV2"] = yaml.safe_dump(config)
    with running(tmp_path_factory.mktemp("access")) as cluster:
        cluster.install(resource)
        credentials = Credentials([node.folder for node in cluster.nodes.values()])
        cluster.wait_until_running()
        address = next(node.address for node in cluster.nodes.values() if node.serves)

        def run(checking: Check, *more: Any) -> None:
            cluster.call(lambda: checking(f"http://{address}:{PORT}", credentials, *more), 120)

        yield run


def test_every_route_by_credentials(check: Check) -> None:
    check(check_routes)


@pytest.mark.parametrize("path", STREAMS)
def test_streams_by_credentials(check: Check, path: str) -> None:
    check(check_stream, path)
