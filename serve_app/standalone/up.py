"""Runs the service in the foreground: checks ports and model, starts Ray, deploys, waits for signals.

Everything that listens does so on loopback, except the API if `http.host` is another address. The API's port is the
ingress replica's own (Serve's direct ingress): there is no proxy before it. Ray's files are in a temporary folder; the
logs are in the log folder.
"""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

from serve_app import __version__, demo
from serve_app.access.check_settings import check_access_settings
from serve_app.checkpoint import checkpoint_folder
from serve_app.errors import ServiceError
from serve_app.logs import WriteLine, follow_logs
from serve_app.read_ahead import read_ahead
from serve_app.settings import Settings
from serve_app.standalone.deploy import StartFailed, deploy
from serve_app.standalone.exposure import check_exposure, exposure_warning
from serve_app.standalone.log_folder import create_run_folder, keep_ray_logs
from serve_app.standalone.private_ray import LOOPBACK, private_folder, private_ray
from serve_app.standalone.replicas import with_replicas
from serve_app.standalone.shutdown import DRAIN_S, StopSignal


def up(settings: Settings, write_line: WriteLine, *, json_logs: bool = False) -> int:
    """Run the service until a signal stops it; return the exit status of the process.

    `write_line` writes a line to the terminal. It must not use this process's standard output, which goes to a file
    while Ray runs.
    """
    settings, replicas_warning = with_replicas(settings, os.cpu_count() or 1)
    for warning in (exposure_warning(settings), replicas_warning):
        if warning:
            write_line(f"warning: {warning}")
    try:
        check_access_settings(settings)
        check_exposure(settings)
        _require_free_port(settings.http.host, settings.http.port, "http.port", "--port")
        _require_free_port(LOOPBACK, settings.metrics.port, "metrics.port", "--metrics-port")
        settings = _with_log_folder(_with_local_checkpoint(settings, write_line))
    except (StartFailed, ServiceError) as error:
        write_line(f"glm-serve: {error}")
        return 1
    stop = StopSignal()
    logs, folder = Path(settings.log.folder), private_folder()
    ray_folder = folder / "ray"
    status = 0
    try:
        write_line("starting Ray …")
        with private_ray(settings, ray_folder, stop):
            if deploy(settings, stop, write_line):
                _write_ready(settings, write_line)
                with follow_logs(logs, write_line, as_json=json_logs):
                    stop.wait()
                write_line(
                    f"stopping: running answers get {DRAIN_S:g} s to finish (press Ctrl-C again to stop at once)"
                )
    except StartFailed as error:
        write_line(f"glm-serve: {error}")
        write_line(f"glm-serve: The logs are in {logs}.")
        status = 1
    finally:
        keep_ray_logs(ray_folder, logs)
        shutil.rmtree(folder, ignore_errors=True)
    if status == 0:
        write_line("stopped")
    return status


def _require_free_port(host: str, port: int, setting: str, flag: str) -> None:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:  # UnicodeError: a label of the name is empty or too long
        reason = getattr(error, "strerror", None) or error
        raise StartFailed(
            f"The address {host} is not found ({reason}). Give --host (http.host) an address of this machine."
        ) from error
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            raise StartFailed(
                f"Can't listen on {host}:{port} ({error.strerror}). Choose another port with {flag} ({setting})."
            ) from error


def _with_local_checkpoint(settings: Settings, write_line: WriteLine) -> Settings:
    """Download the checkpoint here, in the foreground, where its progress can be seen."""
    write_line(f"glm-serve {__version__}: model {settings.model.served_name} ({settings.model.source})")
    folder = checkpoint_folder(settings.model)
    read_ahead(folder)
    model = settings.model.model_copy(update={"path": str(folder.resolve()), "name": settings.model.served_name})
    return settings.model_copy(update={"model": model})


def _with_log_folder(settings: Settings) -> Settings:
    """The settings with the folder of this run's logs."""
    try:
        folder = create_run_folder(settings.log)
    except OSError as error:
        raise StartFailed(f"The log folder can't be created: {error}. Choose another one with log.folder.") from error
    return settings.model_copy(update={"log": settings.log.model_copy(update={"folder": str(folder)})})


def _write_ready(settings: Settings, write_line: WriteLine) -> None:
    url = settings.http.local_url
    write_line(f"ready: {url}/v1  (API reference: {url}/docs)")
    if settings.model.is_demo:
        write_line(f"model: {demo.DESCRIPTION}")
    write_line(f"metrics: http://{LOOPBACK}:{settings.metrics.port}/metrics")
    write_line(f"logs in {settings.log.folder}; Ctrl-C stops")
