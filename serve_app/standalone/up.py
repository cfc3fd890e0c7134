"""Runs the service in the foreground: checks ports and model, starts Ray, deploys, waits for signals.

Everything that listens does so on loopback, except the API if `http.host` is another address. The API's port is the
ingress replica's own (Serve's direct ingress): there is no proxy before it. Ray's files are in a folder of this run;
nothing is written to the user's home.
"""

from __future__ import annotations

import shutil
import socket
import tempfile
from pathlib import Path

from serve_app import __version__
from serve_app.checkpoint import checkpoint_folder
from serve_app.errors import ServiceError
from serve_app.logs import WriteLine, follow_logs
from serve_app.settings import Settings
from serve_app.standalone.deploy import StartFailed, deploy, service_url
from serve_app.standalone.private_ray import LOOPBACK, private_ray
from serve_app.standalone.shutdown import DRAIN_S, StopSignal

LOGS = Path("session_latest", "logs", "serve")


def up(settings: Settings, write_line: WriteLine, *, json_logs: bool = False) -> int:
    """Run the service until a signal stops it; return the exit status of the process.

    `write_line` writes a line to the terminal. It must not use this process's standard output, which goes to a file
    while Ray runs.
    """
    try:
        _require_free_port(settings.http.host, settings.http.port, "http.port", "--port")
        _require_free_port(LOOPBACK, settings.metrics.port, "metrics.port", "--metrics-port")
        settings = _with_local_checkpoint(settings, write_line)
    except (StartFailed, ServiceError) as error:
        write_line(f"glm-serve: {error}")
        return 1
    stop = StopSignal()
    # Not in $TMPDIR: the path of a socket may have 107 characters, and Ray adds sixty to this one.
    folder = Path(tempfile.mkdtemp(prefix="glm-serve-", dir="/tmp"))
    status = 0
    try:
        write_line("starting Ray …")
        with private_ray(settings, folder, stop):
            if deploy(settings, stop, write_line):
                _write_ready(settings, folder, write_line)
                with follow_logs(folder / LOGS, write_line, as_json=json_logs):
                    stop.wait()
                write_line(
                    f"stopping: running answers get {DRAIN_S:g} s to finish (press Ctrl-C again to stop at once)"
                )
    except StartFailed as error:
        write_line(f"glm-serve: {error}")
        write_line(f"glm-serve: The logs are in {folder / LOGS}.")
        status = 1
    if status == 0:
        shutil.rmtree(folder, ignore_errors=True)
        write_line("stopped")
    return status


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


def _with_local_checkpoint(settings: Settings, write_line: WriteLine) -> Settings:
    """Download the checkpoint here, in the foreground, where its progress can be seen."""
    write_line(f"glm-serve {__version__}: model {settings.model.served_name} ({settings.model.source})")
    folder = checkpoint_folder(settings.model)
    model = settings.model.model_copy(update={"path": str(folder.resolve()), "name": settings.model.served_name})
    return settings.model_copy(update={"model": model})


def _write_ready(settings: Settings, folder: Path, write_line: WriteLine) -> None:
    url = service_url(settings)
    write_line(f"ready: {url}/v1  (page: {url}/, API reference: {url}/docs)")
    write_line(f"metrics: http://{LOOPBACK}:{settings.metrics.port}/metrics")
    write_line(f"logs in {folder / LOGS}; Ctrl-C stops")
