"""The service on one machine: a private Ray in this process tree, in the foreground.

Everything that listens does so on loopback, except the API if `http.host` says otherwise. The API's
port is the ingress replica's own (Serve's direct ingress): no proxy stands before it. Ray's files
live in a folder of this run; nothing is written to the user's home.
"""

from __future__ import annotations

import os
import re
import secrets
import select
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

from serve_app import __version__
from serve_app.checkpoint import checkpoint_folder
from serve_app.errors import ServiceError
from serve_app.logs import WriteLine, follow_logs, serve_logging
from serve_app.ray_flags import EVERYWHERE, OBJECT_STORE_BYTES
from serve_app.settings import Settings

APP_NAME = "glm"
LOOPBACK = "127.0.0.1"
PACKAGE_PARENT = str(Path(__file__).parent.parent)
DRAIN_S = 8.0  # running answers may finish in this time after the first Ctrl-C
ONE_PRESS_S = 0.3  # a wrapper (timeout, a shell) may pass the same Ctrl-C on once more
EXIT_S = 4.0  # Ray's processes get this long to leave by themselves
LONGEST_REASON = 500  # characters of a failure that the terminal shows; the logs have it whole
LOGS = Path("session_latest", "logs", "serve")
_FAILED_MARK = "failed to start with exception"  # Serve's words; it would try twice more


class StartFailed(Exception):
    """The service can't start; the message is for the person at the terminal."""


def up(settings: Settings, say: WriteLine, *, json_logs: bool = False) -> int:
    """Run the service until it is told to stop; returns the process's exit status.

    `say` must not use this process's standard output: while Ray runs, that goes to a file with all
    that Ray and its libraries have to say.
    """
    try:
        _require_free_port(settings.http.host, settings.http.port, "http.port", "--port")
        _require_free_port(LOOPBACK, settings.metrics.port, "metrics.port", "--metrics-port")
        settings = _with_local_checkpoint(settings, say)
    except (StartFailed, ServiceError) as error:
        say(f"glm-serve: {error}")
        return 1
    stop = _StopSignal()
    # Not in $TMPDIR: a socket's path may have 107 characters, and Ray adds sixty to this one.
    folder = Path(tempfile.mkdtemp(prefix="glm-serve-", dir="/tmp"))
    status = 0
    try:
        with _private_ray(settings, folder, stop, say):
            if _deployed(settings, stop, say):
                say(_ready_lines(settings, folder))
                with follow_logs(folder / LOGS, say, as_json=json_logs):
                    stop.wait()
                say(f"stopping: running answers get {DRAIN_S:g} s to finish (Ctrl-C again stops at once)")
    except StartFailed as error:
        say(f"glm-serve: {error}")
        say(f"glm-serve: more in {folder / LOGS}")
        status = 1
    if status == 0:
        shutil.rmtree(folder, ignore_errors=True)
        say("stopped")
    return status


# -- before Ray starts ---------------------------------------------------------------------------


def _require_free_port(host: str, port: int, setting: str, flag: str) -> None:
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            raise StartFailed(
                f"can't listen on {host}:{port} ({error.strerror}); choose another port with {flag} ({setting})"
            ) from error


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def _with_local_checkpoint(settings: Settings, say: WriteLine) -> Settings:
    """The checkpoint downloaded here, in the foreground, where its progress can be seen."""
    say(f"glm-serve {__version__}: model {settings.model.served_name} ({settings.model.source})")
    folder = checkpoint_folder(settings.model)
    model = settings.model.model_copy(update={"path": str(folder.resolve()), "name": settings.model.served_name})
    return settings.model_copy(update={"model": model})


def ray_environment(settings: Settings) -> dict[str, str]:
    """The environment of all Ray processes; why each: docs/decisions/0002-serve-flags.md."""
    port = settings.http.port
    return {
        **EVERYWHERE,
        # Ray swaps a loopback node address for the machine's own, and its agents then serve HTTP on every
        # interface; where it takes itself for confined to one machine, as on macOS, it leaves loopback alone.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # Workers find the package also where it is not installed (`python -m serve_app` in a checkout).
        "PYTHONPATH": os.pathsep.join(filter(None, (PACKAGE_PARENT, os.environ.get("PYTHONPATH")))),
        # A token of this run: without one, whoever reaches a replica's gRPC port (Serve opens it on all
        # interfaces) could run code. In the environment and not in ~/.ray, so that nothing stays behind.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_SERVE_ENABLE_HA_PROXY": "0",
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(port),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(port + 1),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",  # no load balancer has to notice first
        "RAY_SERVE_PORT_QUARANTINE_S": "0",  # a restarted ingress takes the same port again
    }


# -- Ray and the graph ---------------------------------------------------------------------------


@contextmanager
def _private_ray(settings: Settings, folder: Path, stop: _StopSignal, say: WriteLine) -> Iterator[None]:
    os.environ.update(ray_environment(settings))
    say("starting Ray …")
    with _output_to(folder / "ray.log"):
        try:  # Ray is imported after its environment is set: it reads it then
            _start_ray(settings, folder)
            stop.install()  # Ray put its own SIGTERM handler
            yield
        finally:
            _shut_down()


def _start_ray(settings: Settings, folder: Path) -> None:
    import ray

    ray.init(
        address="local",
        num_cpus=max(8, os.cpu_count() or 1),  # logical: the replicas share the cores that there are
        include_dashboard=False,  # metrics come from the node's agent, which runs anyway
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=OBJECT_STORE_BYTES,
        runtime_env={"worker_process_setup_hook": "serve_app.standalone.reuse_ports"},
        _node_ip_address=LOOPBACK,
        _metrics_export_port=settings.metrics.port,
        _temp_dir=str(folder),
    )


def reuse_ports() -> None:
    """Runs in each Ray worker: lets the ingress listen again on the port that it had before.

    Serve binds direct ingress without SO_REUSEADDR, so for a minute after a stop (or after the death of
    the ingress replica) the kernel would refuse the port while old connections fade out.
    """
    from ray.serve._private import replica

    start_server = replica.start_asgi_http_server

    def start_server_again(*args: Any, **options: Any) -> Any:
        return start_server(*args, **{**options, "enable_so_reuseport": True})

    replica.start_asgi_http_server = start_server_again


@contextmanager
def _output_to(file: Path) -> Iterator[None]:
    """What this process writes to the terminal, C++ code included, goes to the file for a while."""
    terminal = {descriptor: os.dup(descriptor) for descriptor in (1, 2)}
    with file.open("wb") as stream:
        for descriptor in terminal:
            os.dup2(stream.fileno(), descriptor)
    try:
        yield
    finally:
        for stream_out in (sys.stdout, sys.stderr):
            stream_out.flush()
        for descriptor, original in terminal.items():
            os.dup2(original, descriptor)
            os.close(original)


def _deployed(settings: Settings, stop: _StopSignal, say: WriteLine) -> bool:
    """Deploy the graph and wait until it answers; False when told to stop meanwhile."""
    import logging

    import ray
    from ray import serve

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    if settings.model.device == "auto":
        device = "cuda" if ray.cluster_resources().get("GPU", 0) else "cpu"
        model = settings.model.model_copy(update={"device": device})
        settings = settings.model_copy(update={"model": model})

    from serve_app.app import build

    started = time.monotonic()
    serve.start(
        # Serve's own proxy is not used but can't be left out; it gets a port nobody needs to know.
        http_options={"host": settings.http.host, "port": _free_port()},
        logging_config=serve_logging(settings.log),
    )
    target = serve.RunTarget(build(settings), name=APP_NAME, logging_config=serve_logging(settings.log))
    serve.run_many([target], wait_for_applications_running=False)
    ready: set[str] = set()
    while not stop.is_set():
        application = serve.status().applications[APP_NAME]
        for name, deployment in application.deployments.items():
            if deployment.status == "HEALTHY" and name not in ready:
                ready.add(name)
                say(f"{name} ready after {time.monotonic() - started:.1f} s")
            if deployment.status == "DEPLOY_FAILED" or _FAILED_MARK in deployment.message:
                raise StartFailed(f"{name} could not start: {reason(deployment.message)}")
        if application.status == "DEPLOY_FAILED":
            raise StartFailed(reason(application.message))
        if application.status == "RUNNING" and _answers(settings):
            return True
        stop.wait(0.2)
    return False


def reason(message: str) -> str:
    """The last words of a replica's traceback: what went wrong, without where."""
    lines = message.strip().splitlines() or ["no reason was given"]
    frames = [number for number, line in enumerate(lines) if line.startswith("  ")]
    words = " ".join(line.strip() for line in lines[frames[-1] + 1 :]) if frames else " ".join(lines)
    return re.sub(r"^serve_app\.errors\.\w+: ", "", words)[:LONGEST_REASON]


def _answers(settings: Settings) -> bool:
    try:
        with urllib.request.urlopen(f"{_url(settings)}/readyz", timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


def _url(settings: Settings) -> str:
    host = settings.http.host
    if host in ("0.0.0.0", "::"):
        host = LOOPBACK
    return f"http://[{host}]:{settings.http.port}" if ":" in host else f"http://{host}:{settings.http.port}"


def _ready_lines(settings: Settings, folder: Path) -> str:
    url = _url(settings)
    return (
        f"ready: {url}/v1  (try it: {url}/docs, metrics: http://{LOOPBACK}:{settings.metrics.port}/metrics)\n"
        f"logs in {folder / LOGS}; Ctrl-C stops"
    )


# -- the end -------------------------------------------------------------------------------------


class _StopSignal:
    """Ctrl-C, SIGTERM or a closed terminal: the first one stops the service, the second one kills it.

    No lock anywhere: a second signal may interrupt the handler of the first, and `threading.Event`
    would then wait for itself forever.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self._first_at: float | None = None  # monotonic seconds
        self._told, self._tell = os.pipe()
        self.install()

    def is_set(self) -> bool:
        return self._first_at is not None

    def install(self) -> None:
        for number in self.SIGNALS:
            signal.signal(number, self._on_signal)

    def wait(self, timeout_s: float | None = None) -> None:
        select.select([self._told], [], [], timeout_s)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._first_at is None:
            self._first_at = now
            os.write(self._tell, b".")
        elif now - self._first_at > ONE_PRESS_S:
            _kill(psutil.Process().children(recursive=True))
            os._exit(128 + number)


def _shut_down() -> None:
    import ray
    from ray import serve

    # Listed before: a process whose parent is gone can't be found as a child any more.
    processes = psutil.Process().children(recursive=True)
    if ray.is_initialized():
        draining = threading.Thread(target=serve.shutdown, daemon=True)
        draining.start()
        draining.join(DRAIN_S)
        ray.shutdown()
    _, left = psutil.wait_procs(processes, timeout=EXIT_S)
    _kill(left)


def _kill(processes: list[Any]) -> None:
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
