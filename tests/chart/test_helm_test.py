"""The pod of `helm test`: its script, with a real `glm-serve ask`, against servers that are late, wrong or absent."""

from __future__ import annotations

import functools
import http.server
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.chart.render import CHART, ROOT, Object, of_kind, render
from tests.ports import free_port

pytestmark = pytest.mark.chart


@functools.cache
def hooks() -> list[Object]:
    strategy = {"upgrade.strategy": "NewClusterWithIncrementalUpgrade", "upgrade.incremental.gatewayClassName": "istio"}
    return [
        each
        for each in render(set=strategy)
        if (each["metadata"].get("annotations") or {}).get("helm.sh/hook") == "test"
    ]


class Service(http.server.BaseHTTPRequestHandler):
    """Answers pictures with the waybill number and refuses other files; `refusals` requests get 503 before that."""

    refusals = 0
    answer = "ZX587254423214"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if type(self).refusals > 0:
            type(self).refusals -= 1
            self._send(503, {"error": {"message": "The model is loading."}})
        elif b"image/jpeg" not in body:
            self._send(400, {"error": {"message": "The file is not a picture."}})
        else:
            delta = {"role": "assistant", "content": self.answer}
            chunk = {"choices": [{"index": 0, "delta": delta, "finish_reason": "stop"}]}
            self._send(200, f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n")

    def _send(self, status: int, content: object) -> None:
        body = (content if isinstance(content, str) else json.dumps(content)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/event-stream" if isinstance(content, str) else "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(port: int, after_s: float = 0.0, refusals: int = 0, answer: str = Service.answer) -> Iterator[None]:
    """The service on this port, from some seconds later on."""
    handler = type("Late", (Service,), {"refusals": refusals, "answer": answer})
    started: list[http.server.ThreadingHTTPServer] = []

    def serve() -> None:
        time.sleep(after_s)
        started.append(http.server.ThreadingHTTPServer(("127.0.0.1", port), handler))
        started[0].serve_forever()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        while not started:
            time.sleep(0.05)
        started[0].shutdown()
        thread.join()
        started[0].server_close()


@pytest.fixture
def port() -> int:
    return free_port()


def run(port: int, time_limit_s: int = 60) -> tuple[int, str]:
    """The exit status and the output of the pod's container."""
    (container,) = of_kind(hooks(), "Pod")[0]["spec"]["containers"]
    environment = {each["name"]: each["value"] for each in container["env"]}
    environment |= {"URL": f"http://127.0.0.1:{port}", "PICTURE": str(CHART / "files/label.jpg"), "PAUSE_S": "0.2"}
    environment |= {"TIME_LIMIT_S": str(time_limit_s), "PYTHONPATH": str(ROOT)}
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command: Sequence[str] = [*container["command"], *container["args"]]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    return ended.returncode, ended.stdout + ended.stderr


def test_a_service_that_can_not_be_reached_at_first_is_asked_again(port: int):
    """A new pod's address is not in the policies at once: 4 of 6 tests failed on a real cluster."""
    hooks()  # the time until the server begins is that of the pod's first attempts, without helm's
    with serving(port, after_s=3.0, refusals=2):
        status, output = run(port)
    assert status == 0, output
    assert "asking again: glm-serve: No service answers" in output
    assert "asking again: glm-serve: The model is loading." in output
    assert "ZX587254423214" in output
    assert output.rstrip().endswith("is refused, as expected: glm-serve: The file is not a picture.")


def test_a_service_that_never_answers_fails_with_what_was_seen_last(port: int):
    status, output = run(port, time_limit_s=2)
    assert status == 1
    assert f"The last attempt ended with: glm-serve: No service answers at http://127.0.0.1:{port}." in output


def test_a_wrong_answer_fails_at_once(port: int):
    with serving(port, answer="I can't read it."):
        status, output = run(port)
    assert status == 1
    assert "I can't read it." in output
    assert "The answer does not match ZX587254423214." in output


def test_nothing_is_left_after_a_test():
    for hook in hooks():
        policy = hook["metadata"]["annotations"]["helm.sh/hook-delete-policy"].split(",")
        assert policy == ["before-hook-creation", "hook-succeeded", "hook-failed"], hook["kind"]
    (pod,) = of_kind(hooks(), "Pod")
    assert pod["metadata"]["annotations"]["helm.sh/hook-output-log-policy"] == "hook-succeeded,hook-failed"


def test_the_script_ends_before_the_pods_deadline():
    (pod,) = of_kind(hooks(), "Pod")
    (limit,) = [each["value"] for each in pod["spec"]["containers"][0]["env"] if each["name"] == "TIME_LIMIT_S"]
    assert int(limit) <= pod["spec"]["activeDeadlineSeconds"] - 60
