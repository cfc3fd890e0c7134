"""deploy/compose.yaml as docs/one-machine.md uses it: keys, a picture question, logs and audit lines on the host."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.cluster.questions import EVALUATION
from tests.image.conftest import READY_LIMIT_S, answers
from tests.image.containers import ROOT, Containers
from tests.ports import free_port
from tests.waiting import wait_until

USER = 10001
WAYBILL = "ZX587254423214"


class Compose:
    """`podman-compose` in a copy of deploy/ with the folders that the page lists."""

    def __init__(self, containers: Containers, folder: Path, image: str) -> None:
        self.folder, self.containers, self.image = folder, containers, image
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        shutil.copytree(ROOT / "deploy", folder)
        for name in ("access", "models", "logs", "audit"):
            (folder / name).mkdir()
            os.chown(folder / name, USER, USER)
        settings = folder / "glm-serve.env"
        settings.write_text(settings.read_text().replace("GLM_AUDIT__MODE=off", "GLM_AUDIT__MODE=required"))

    def __call__(self, *arguments: str) -> str:
        environment = {**self.containers.environment, "GLM_IMAGE": self.image, "GLM_PORT": str(self.port)}
        command = ["podman-compose", "--project-name", "glm-compose-test", *arguments]
        ended = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        if ended.returncode:
            pytest.fail(f"{' '.join(command)}: {ended.stdout}{ended.stderr}")
        return ended.stdout + ended.stderr

    def make_key(self, caller: str) -> str:
        volume = f"{self.folder}/access:/etc/glm-serve"
        command = ("glm-serve", "keys", "add", caller, "--file", "/etc/glm-serve/keys.json")
        return self.containers.podman("run", "--rm", "--volume", volume, self.image, *command).strip().split()[-1]


@pytest.fixture(scope="module")
def compose(
    containers: Containers, image: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Compose, str]]:
    """The service and a key for it."""
    folder = tmp_path_factory.mktemp("compose")
    for parent in (folder, folder.parent):
        parent.chmod(0o755)
    running = Compose(containers, folder / "deploy", image)
    key = running.make_key("shop")
    try:
        running("up", "--detach")
        wait_until(lambda: answers(f"{running.url}/readyz"), READY_LIMIT_S, lambda: running("logs"))
        yield running, key
    finally:
        running("down")


def test_the_service_answers_callers_with_a_key_and_keeps_its_lines_on_the_host(compose: tuple[Compose, str]) -> None:
    running, key = compose
    form = {"question": (None, "What is the waybill number?"), "image": (EVALUATION / "labels-002.jpg").read_bytes()}
    assert httpx.post(f"{running.url}/v1/ask", files=form).status_code == 401
    headers = {"Authorization": f"Bearer {key}"}
    answered = httpx.post(f"{running.url}/v1/ask", files=form, headers=headers, timeout=60)
    assert WAYBILL in answered.json()["answer"]
    request_id = answered.headers["x-request-id"]

    def written(folder: str) -> str:
        return "".join(file.read_text() for file in (running.folder / folder).rglob("*") if file.is_file())

    wait_until(lambda: request_id in written("logs"), 20, "the request is not in the log on the host")
    assert request_id in written("audit")
    assert WAYBILL not in written("logs") + written("audit")
    assert [json.loads(line) for line in written("audit").splitlines() if request_id in line]
