"""The audit log of the real service: one line an answer when replicas are killed, no answer when the disk is full."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from serve_app.audit.files import audit_files, lines_of
from serve_app.audit.verify import verify
from tests.cluster.conftest import Service, started
from tests.waiting import wait_until

pytestmark = pytest.mark.cluster

REQUESTS = int(os.environ.get("AUDITED_REQUESTS", "200"))
KILLED = ("ingress", "engine", "preprocess")[: 3 if REQUESTS > 200 else 2] * (1 + REQUESTS // 500)
CLIENTS = 4
BACK_S = 60.0  # for a killed replica
DISK = "64m"


@dataclass
class Audited:
    """A service whose audit folder is on a small disk of its own."""

    service: Service
    folder: Path  # as this process sees it

    def lines(self, kind: str = "request") -> list[dict[str, Any]]:
        found = [json.loads(data) for file in audit_files(self.folder) for _, data in lines_of(file)]
        return [line for line in found if line["kind"] == kind]

    def kill(self, stage: str) -> None:
        for process in psutil.Process(self.service.process.pid).children(recursive=True):
            with suppress(psutil.Error):
                if f"ServeReplica:glm:{stage}" in " ".join(process.cmdline()):
                    process.kill()


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Audited]:
    folder = tmp_path_factory.mktemp("audited")
    disk = folder / "disk"
    disk.mkdir()
    mount = f'mount -t tmpfs -o size={DISK} tmpfs {disk} && exec "$@"'
    settings = {"GLM_AUDIT__MODE": "required", "GLM_AUDIT__FOLDER": str(disk / "audit")}
    with started(folder, within=("unshare", "-m", "bash", "-c", mount, "--"), **settings) as service:
        yield Audited(service, Path(f"/proc/{service.process.pid}/root{disk}/audit"))


def question(number: int) -> dict[str, Any]:
    content = f"Question {number}"
    stream = {"stream": True} if number % 2 else {}
    return {"messages": [{"role": "user", "content": content}], "max_tokens": 4, "temperature": 0, **stream}


def test_every_answer_has_exactly_one_line_when_replicas_are_killed(audited: Audited) -> None:
    answered: list[str] = []
    refused: Counter[str] = Counter()
    numbers = iter(range(REQUESTS))

    def ask() -> None:
        with audited.service.client() as client:
            for number in numbers:
                id = f"request-{number}"
                try:
                    response = client.post("/v1/chat/completions", json=question(number), headers={"X-Request-ID": id})
                except httpx.TransportError as error:  # its ingress was killed
                    refused[type(error).__name__] += 1
                    wait_until(lambda client=client: is_ready(client), BACK_S, "the ingress is back")  # type: ignore[misc]
                    continue
                complete = "[DONE]" in response.text if number % 2 else response.status_code == 200
                if response.status_code == 200 and complete and '"error"' not in response.text:
                    answered.append(id)
                else:
                    refused[str(response.status_code)] += 1

    clients = [threading.Thread(target=ask) for _ in range(CLIENTS)]
    for each in clients:
        each.start()
    for number, stage in enumerate(KILLED, 1):
        due = number * REQUESTS / (len(KILLED) + 1)
        wait_until(lambda due=due: len(answered) + refused.total() >= due, 300, "more answers")  # type: ignore[misc]
        audited.kill(stage)
    for each in clients:
        each.join()
    lines = Counter(line["request_id"] for line in audited.lines() if line["outcome"] == "answered")
    assert len(answered) > REQUESTS / 2, refused
    assert {id: lines[id] for id in answered} == dict.fromkeys(answered, 1)
    found = verify(audited.folder)
    assert (found.problems, found.lost) == ([], 0)
    assert found.files == 1 + KILLED.count("ingress")
    first = audit_files(audited.folder)[0]
    original = first.read_bytes()
    first.write_bytes(original.replace(b'"answered"', b'"answereD"', 1))
    assert verify(audited.folder).problems
    first.write_bytes(original)


def is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def test_no_answer_is_given_while_the_disk_is_full(audited: Audited) -> None:
    filler = audited.folder.parent / "filler"
    with audited.service.client() as client:
        wait_until(lambda: is_ready(client), BACK_S, "the service is ready")
        assert client.post("/v1/chat/completions", json=question(0)).status_code == 200
        with filler.open("wb", buffering=0) as stream, suppress(OSError):
            while True:
                stream.write(b"x" * 4096)
        statuses = [client.post("/v1/chat/completions", json=question(number)) for number in range(60)]
        refusals = [each for each in statuses if each.status_code != 200]
        assert refusals  # what is left of the last page of the file has room for some lines
        assert all(each.json()["error"]["code"] == "audit_unavailable" for each in refusals)
        assert statuses[-1].status_code == 503
        assert client.get("/healthz").status_code == 200
        filler.unlink()
        time.sleep(1.5)  # the writer tries again each second
        assert client.post("/v1/chat/completions", json=question(0)).status_code == 200
    found = verify(audited.folder)
    assert found.problems == []
    assert found.lost > 0
    assert audited.lines("resumed")
