"""The image run by hand, as `podman run --publish 8000:8000` does it."""

from __future__ import annotations

import json
import time

from openai import OpenAI

from tests.cluster.questions import EVALUATION, data_url
from tests.image.conftest import PUBLISHED, READY_LIMIT_S, RunningImage, answers
from tests.image.containers import Containers
from tests.waiting import wait_until

PICTURE = "labels-002.jpg"
QUESTION = "What is the waybill number?"
WAYBILL = "ZX587254423214"
STOP_LIMIT_S = 15


def ask(base_url: str) -> tuple[str, str]:
    """The answer to a question about a picture, and the request's id."""
    client = OpenAI(base_url=f"{base_url}/v1", api_key="none", timeout=60, max_retries=0)
    picture = {"type": "image_url", "image_url": {"url": data_url((EVALUATION / PICTURE).read_bytes())}}
    answered = client.chat.completions.with_raw_response.create(
        model="glm-vision-demo",
        messages=[{"role": "user", "content": [picture, {"type": "text", "text": QUESTION}]}],  # type: ignore[list-item]
        temperature=0,
    )
    return answered.parse().choices[0].message.content or "", answered.headers["x-request-id"]


def record_of(log: str, request_id: str) -> dict[str, object]:
    """The request's one record in a log of JSON lines between others."""
    lines = [line for line in log.splitlines() if request_id in line and line.startswith("{")]
    (record,) = [each for each in map(json.loads, lines) if each["name"] == "glm.access"]
    assert isinstance(record, dict)
    return record


def test_a_picture_question_is_answered_through_the_published_port(service: RunningImage):
    answer, _ = ask(service.base_url)
    assert WAYBILL in answer


def test_its_log_shows_each_request_as_one_json_record(service: RunningImage):
    _, request_id = ask(service.base_url)
    wait_until(lambda: bool(record_of(service.containers.logs(service.name), request_id)), 10, "no record in the log")
    record = record_of(service.containers.logs(service.name), request_id)
    assert (record["route"], record["status"]) == ("/v1/chat/completions", 200)
    assert WAYBILL not in service.containers.logs(service.name)


def test_its_health_check_finds_it_healthy(service: RunningImage):
    check = service.containers.run("podman", "healthcheck", "run", service.name)
    assert check.returncode == 0, check.stdout + check.stderr
    assert service.containers.inspect(service.name)["State"]["Health"]["Status"] == "healthy"


def test_its_health_check_fails_while_nothing_answers(containers: Containers, image: str):
    with containers.started(image, "--network", "none", command=("sleep", "60")) as name:
        assert containers.run("podman", "healthcheck", "run", name).returncode != 0


def test_it_writes_nowhere_but_to_tmp_and_shared_memory(service: RunningImage):
    since = "find / -xdev -newer /proc/1/cmdline -type f ! -path '/proc/*' ! -path '/sys/*' 2>/dev/null"
    assert service.containers.inside(service.name, f"{since}; find /models -mindepth 1").stdout == ""


def test_no_process_of_it_becomes_a_zombie(service: RunningImage):
    """It is process 1 of its container, so only it can reap the processes that its children leave."""
    script = "for status in /proc/[0-9]*/status; do grep -l '^State:.Z' $status; done 2>/dev/null; true"
    wait_until(lambda: service.containers.inside(service.name, script).stdout == "", 10, "a zombie stays")


def test_sigterm_stops_it_in_time(containers: Containers, image: str):
    with containers.started(image, *PUBLISHED) as name:
        url = f"http://{containers.podman('port', name, '8000').strip()}/readyz"
        wait_until(lambda: answers(url), READY_LIMIT_S, lambda: containers.logs(name))
        started = time.monotonic()
        containers.podman("stop", "--time", str(STOP_LIMIT_S + 15), name, timeout_s=60)
        assert time.monotonic() - started < STOP_LIMIT_S
        assert containers.inspect(name)["State"]["ExitCode"] == 0
        assert containers.logs(name).rstrip().endswith("stopped")
