"""One image for all tests of this folder, built on a base made here; one container and one cluster run from it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.image.building import build, keep_small, make_base
from tests.image.containers import NETWORK, Containers, of_this_machine
from tests.waiting import wait_until

IMAGE = "localhost/glm-vision-serve:cpu"
READY_LIMIT_S = 120
ANONYMOUS = ("--env", "GLM_ACCESS__ANONYMOUS=allow")  # a container listens on all addresses
PUBLISHED = (*ANONYMOUS, "--network", NETWORK, "--publish", "127.0.0.1::8000")  # on a free port of this machine
CONFINED = ("--read-only", "--cap-drop", "all", "--security-opt", "no-new-privileges")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.image)


@dataclass(frozen=True)
class RunningImage:
    """A container that runs the image's own command."""

    containers: Containers
    name: str
    base_url: str


@pytest.fixture(scope="session")
def containers() -> Iterator[Containers]:
    found = of_this_machine()
    with found.network():
        yield found


@pytest.fixture(scope="session")
def image(containers: Containers) -> str:
    """The cpu image of this checkout; layers of earlier runs are used where nothing has changed."""
    keep_small(containers)
    make_base(containers)
    return build(containers, "cpu", IMAGE)


@pytest.fixture(scope="session")
def service(containers: Containers, image: str) -> Iterator[RunningImage]:
    """The image run as its README line says, but confined: read-only root, no capabilities."""
    with containers.started(image, *PUBLISHED, *CONFINED) as name:
        address = containers.podman("port", name, "8000").strip()
        url = f"http://{address}"
        wait_until(lambda: answers(f"{url}/readyz"), READY_LIMIT_S, lambda: containers.logs(name))
        yield RunningImage(containers, name, url)


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture
def unique_tag() -> str:
    return f"localhost/glm-vision-serve:test-{os.urandom(4).hex()}"
