"""The real service, started once for all cluster tests as a user would: by `glm-serve up`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from tests.cluster.bystander import Bystander, bystander
from tests.ports import free_port

ROOT = Path(__file__).parent.parent.parent
PROCESSES = {  # kind -> what its command line contains
    "ingress": "glm:ingress",
    "preprocess": "glm:preprocess",
    "engine": "glm:engine",
    "decoders": "decoder_worker",
    "grammar sandbox": "sandbox_process",
}
START_LIMIT_S = 180  # the promise is 90 on two free cores; tests share theirs
STOP_LIMIT_S = 15
NO_CACHE = {"GLM_CACHE__BACKEND": "off"}  # tests repeat questions and mean the model


@dataclass(frozen=True)
class Service:
    """A running `glm-serve up`."""

    base_url: str
    metrics_url: str
    process: subprocess.Popen[str]
    log_file: Path

    def client(self, timeout_s: float = 120.0) -> httpx.Client:
        return httpx.Client(base_url=self.base_url, timeout=timeout_s)

    def log(self) -> str:
        return self.log_file.read_text()

    def processes(self, part: str = "") -> list[psutil.Process]:
        """Its processes that run now and whose command lines contain `part`, without itself."""
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.Error):  # it has just ended
                if part in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def memory(self) -> dict[str, int]:
        """Bytes of each kind of process, without the object store, whose size is fixed."""
        found = dict.fromkeys(PROCESSES, 0)
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.Error):  # it has just ended
                command = " ".join(process.cmdline())
                for name, part in PROCESSES.items():
                    if part in command:
                        found[name] += process.memory_full_info().uss
        return found


@contextmanager
def started(folder: Path, *options: str, within: Sequence[str] = (), **environment: str) -> Iterator[Service]:
    """`glm-serve up` with these options on free ports; stopped and waited for at the end.

    `within` is the beginning of a command line that ends by executing the rest.
    """
    port, metrics_port = free_port(), free_port()
    log_file = folder / "up.log"
    inherited = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}  # that is for tests
    command = [
        *within,
        sys.executable,
        "-m",
        "serve_app",
        "up",
        "--port",
        str(port),
        "--metrics-port",
        str(metrics_port),
    ]
    with log_file.open("w") as stream:
        process = subprocess.Popen(
            [*command, *options],
            stdout=stream,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            cwd=ROOT,
            env={
                **inherited,
                "PYTHONPATH": str(ROOT),
                "PYTHONUNBUFFERED": "1",
                "XDG_STATE_HOME": str(folder / "state"),  # where the logs go
                **NO_CACHE,
                **environment,
            },
            text=True,
            start_new_session=True,  # so that a signal can go to the whole group, as from a terminal
        )
    service = Service(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{metrics_port}/metrics", process, log_file)
    try:
        wait_until_ready(service)
        yield service
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(STOP_LIMIT_S + 10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                raise


def wait_until_ready(service: Service) -> None:
    limit = time.monotonic() + START_LIMIT_S
    while time.monotonic() < limit:
        if "\nready: " in service.log():
            return
        if service.process.poll() is not None:
            break
        time.sleep(0.2)
    pytest.fail(f"the service did not become ready:\n{service.log()}")


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service with the demo model; shared, so leave nothing running in it."""
    with started(tmp_path_factory.mktemp("service")) as running:
        yield running


@pytest.fixture(scope="session")
def undisturbed(service: Service) -> Bystander:
    """What the machine gives without an attack; it may be busy with other tests."""
    with bystander(service.base_url, least_s=5.0) as one:
        pass
    return one


@pytest.fixture(scope="session")
def memory_at_rest(service: Service, undisturbed: Bystander) -> dict[str, int]:
    """Before any attack, after some questions."""
    return service.memory()


@pytest.fixture(scope="session")
def base_url(service: Service) -> str:
    return service.base_url
