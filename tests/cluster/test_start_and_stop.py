"""`glm-serve up` as a user starts it: its ready lines, what it listens on, and that nothing is left at its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from serve_app import demo
from serve_app.standalone.shutdown import DRAIN_S
from tests.cluster.conftest import ROOT, STOP_LIMIT_S, Service, started
from tests.nobody import run_as_nobody
from tests.ports import free_port

pytestmark = pytest.mark.cluster


def children(service: Service) -> list[psutil.Process]:
    return psutil.Process(service.process.pid).children(recursive=True)


def log_folder(service: Service) -> Path:
    (line,) = [line for line in service.log().splitlines() if line.startswith("logs in ")]
    return Path(line.removeprefix("logs in ").partition(";")[0])


def ray_folder(service: Service) -> Path:
    (server,) = service.processes("/gcs_server ")
    (logs,) = [each.partition("=")[2] for each in server.cmdline() if each.startswith("--log_dir=")]
    return Path(logs).parents[1]  # <folder>/session_…/logs


def still_running(processes: list[psutil.Process]) -> list[str]:
    _, alive = psutil.wait_procs(processes, timeout=0.5)
    found = []
    for process in alive:
        with suppress(psutil.Error):  # it has just ended
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline())[:100])
    return found


def test_the_ready_lines_name_what_can_be_opened(service: Service):
    lines = service.log().splitlines()
    assert f"ready: {service.base_url}/v1  (API reference: {service.base_url}/docs)" in lines
    assert f"model: {demo.DESCRIPTION}" in lines
    assert f"metrics: {service.metrics_url}" in lines
    with service.client() as client:
        assert client.get("/docs").status_code == 200
        assert client.get("/healthz").status_code == 200
        assert client.get("/readyz").status_code == 200
        assert client.get(service.metrics_url).status_code == 200


def test_only_processes_that_the_service_needs_run(service: Service):
    """Ray started its dashboard, autoscaler and log monitor too; `ray.init` waited 1.5 s for the first."""
    assert service.processes("dashboard/dashboard.py") + service.processes("monitor.py") == []
    assert service.processes("dashboard/agent.py") or service.processes("DashboardAgent")  # it has the metrics page


def test_http_is_answered_on_loopback_only(service: Service):
    """Serve's ports between replicas are on all interfaces, but speak gRPC and want this run's token."""
    addresses = set()
    for process in [psutil.Process(service.process.pid), *service.processes()]:
        with suppress(psutil.Error):  # it has just ended
            connections = process.net_connections(kind="tcp")
            addresses |= {(each.laddr.ip, each.laddr.port) for each in connections if each.status == psutil.CONN_LISTEN}
    open_ports = [port for address, port in addresses if not address.endswith("127.0.0.1")]
    assert addresses
    for port in open_ports:
        answer = subprocess.run(
            ["curl", "-s", "--max-time", "3", "-o", os.devnull, "-w", "%{http_code}", f"http://127.0.0.1:{port}/"],
            capture_output=True,
            text=True,
        ).stdout
        assert answer == "000", f"port {port} speaks HTTP on all interfaces"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_user_reaches_neither_rays_files_nor_the_logs(service: Service):
    """Ray makes its folder writable for everyone."""
    folder = ray_folder(service)
    assert folder.stat().st_mode & 0o777 == 0o777
    for path in (folder, *folder.glob("session_2*/*"), log_folder(service)):
        tried = run_as_nobody(f"import os; os.listdir({str(path)!r})")
        assert "PermissionError" in tried.stderr, path


@contextmanager
def answer_that_outlasts_a_stop(service: Service) -> Iterator[Iterator[str]]:
    """The lines of a stream of thousands of tokens; its text has begun."""
    body = {"messages": [{"role": "user", "content": "Hi"}], "stream": True, "max_tokens": 7000, "ignore_eos": True}
    with service.client() as client, client.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = response.iter_lines()
        while '"content":"' not in next(lines).replace(" ", "").replace('"content":""', ""):
            pass
        yield lines


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_stop_leaves_no_process_and_only_logs(tmp_path: Path, signal_number: signal.Signals):
    """SIGTERM comes while an answer runs that takes longer than `DRAIN_S`: its stream ends with an error.

    Serve's shutdown could still run when Ray's was over; on a busy machine Ray then ended the process before it had
    cleaned up.
    """
    home = tmp_path / "home"
    home.mkdir()
    with started(tmp_path, HOME=str(home), XDG_STATE_HOME="") as service:
        processes, folder, logs = children(service), ray_folder(service), log_folder(service)
        assert folder.is_dir()
        if signal_number is signal.SIGINT:
            os.killpg(service.process.pid, signal_number)  # a terminal's Ctrl-C goes to the whole group
            assert service.process.wait(STOP_LIMIT_S) == 0
        else:
            with answer_that_outlasts_a_stop(service) as lines:
                service.process.send_signal(signal_number)
                *_, error, done = filter(None, lines)
                assert "The service was stopped before the answer was complete." in error
                assert done == "data: [DONE]"
                assert service.process.wait(DRAIN_S + STOP_LIMIT_S) == 0
    assert still_running(processes) == []
    assert not folder.parent.exists()
    assert logs.parent == home / ".local" / "state" / "glm-vision-serve" / "logs"
    assert [path for path in home.rglob("*") if path.is_file() and not path.is_relative_to(logs)] == []
    assert list(logs.glob("replica_glm_engine_*.log"))
    assert (logs / "ray" / "gcs_server.out").is_file()
    assert service.log().endswith("stopped\n")


def test_repeated_signals_are_one_stop(tmp_path: Path):
    """Two in a row, as under `timeout`, left a service that ignored every signal: a handler waited for its own lock."""
    with started(tmp_path) as service:
        processes = children(service)
        for _ in range(20):
            service.process.send_signal(signal.SIGINT)
        assert service.process.wait(STOP_LIMIT_S) == 0
    assert still_running(processes) == []


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path):
    with started(tmp_path) as service:
        processes = children(service)
        os.killpg(service.process.pid, signal.SIGINT)
        time.sleep(0.5)
        os.killpg(service.process.pid, signal.SIGINT)
        assert service.process.wait(3) == 128 + signal.SIGINT
    assert still_running(processes) == []


def test_a_port_in_use_is_reported_at_once(service: Service):
    port = service.base_url.rpartition(":")[2]
    began = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-m", "serve_app", "up", "--port", port], cwd=ROOT, capture_output=True, text=True, timeout=20
    )
    assert time.monotonic() - began < 5
    assert ended.returncode == 1
    assert ended.stdout == (
        f"glm-serve: Can't listen on 127.0.0.1:{port} (Address already in use). "
        "Choose another port with --port (http.port).\n"
    )


def test_a_model_that_does_not_load_is_reported_in_a_sentence(tmp_path: Path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "gpt2"}')
    port, metrics_port = str(free_port()), str(free_port())
    ended = subprocess.run(
        [
            sys.executable,
            "-m",
            "serve_app",
            "up",
            "--model",
            str(model),
            "--port",
            port,
            "--metrics-port",
            metrics_port,
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "XDG_STATE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 1
    assert "Traceback" not in ended.stdout + ended.stderr
    reason, logs = ended.stdout.splitlines()[-2:]
    assert f" could not start: The model in {model} has model_type 'gpt2'. This type is not supported." in reason
    folder = logs.removeprefix("glm-serve: The logs are in ").removesuffix(".")
    assert list(Path(folder).glob("replica_*.log"))
