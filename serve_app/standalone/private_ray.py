"""Starts a Ray for this run only: its environment, its files and its output."""

from __future__ import annotations

import importlib
import os
import secrets
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from serve_app.ray_flags import EVERYWHERE, OBJECT_STORE_BYTES
from serve_app.settings import Settings
from serve_app.standalone.log_folder import MAX_FILE_BYTES, OUTPUT, ROTATED_FILES
from serve_app.standalone.shutdown import StopSignal, shut_down

LOOPBACK = "127.0.0.1"
PACKAGE_PARENT = str(Path(__file__).parents[2])
OTHER_PROCESSES: Final = 3  # than replicas of the stages: Serve's controller and proxy, and the bots
# Methods of Ray's Node, each of which starts a Python process: Ray's dashboard (started even with
# `include_dashboard=False`; `ray.init` waits for it), its autoscaler and its collector of workers' output.
UNUSED_PROCESSES: Final = ("start_api_server", "start_monitor", "start_log_monitor")


@contextmanager
def private_ray(settings: Settings, folder: Path, stop: StopSignal) -> Iterator[None]:
    """Run Ray in this process tree with its files in `folder`; shut it down at the end.

    Ray lets every user write to its folder, so only this user may enter `folder`'s parent (`private_folder`).
    """
    os.environ.update(ray_environment(settings))
    folder.mkdir()
    with _output_to(folder / OUTPUT):
        try:
            _start(settings, folder)
            stop.install()  # Ray has installed its own SIGTERM handler
            yield
        finally:
            shut_down()


def private_folder() -> Path:
    """A new temporary folder that only this user may enter.

    Not in $TMPDIR: the path of a socket may have 107 characters, and Ray adds 65 to it.
    """
    return Path(tempfile.mkdtemp(prefix="glm-serve-", dir="/tmp"))


def ray_environment(settings: Settings) -> dict[str, str]:
    """The environment of all Ray processes. The reasons are in docs/decisions/0002-serve-flags.md."""
    port = settings.http.port
    return {
        **EVERYWHERE,
        # Ray replaces a loopback node address by the machine's own, and its agents then serve HTTP on every interface.
        # Where it considers itself confined to one machine, as on macOS, it keeps loopback.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # Workers find the package where it is not installed (`python -m serve_app` in a checkout).
        "PYTHONPATH": os.pathsep.join(filter(None, (PACKAGE_PARENT, os.environ.get("PYTHONPATH")))),
        # Serve opens each replica's gRPC port on all interfaces; without a token anyone who reaches it could run code.
        # It is in the environment and not in ~/.ray, so that nothing remains after the run.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_SERVE_ENABLE_HA_PROXY": "0",
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serve_app.standalone.serve_proxy.middlewares",
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(port),
        # Serve counts a port for each ingress replica; all of them listen on the first (ingress/server.py).
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(port + max(1, settings.replicas.ingress)),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",  # there is no load balancer to wait for
        "RAY_ROTATION_MAX_BYTES": str(MAX_FILE_BYTES),
        "RAY_ROTATION_BACKUP_COUNT": str(ROTATED_FILES),
        "RAY_SERVE_PORT_QUARANTINE_S": "0",  # a restarted ingress takes the same port again
    }


def _start(settings: Settings, folder: Path) -> None:
    import ray  # reads its environment when it is imported
    import ray.dashboard.optional_deps  # `ray.init` does so too; imported here, no other thread imports the same
    from ray._private.node import Node

    for name in UNUSED_PROCESSES:  # Ray 2.60 has no option for it
        setattr(Node, name, lambda node, **options: None)
    # Serve and our own modules take a second or more to import, while Ray's processes start. If it fails, `deploy`,
    # which imports the same, raises the error.
    threading.Thread(target=importlib.import_module, args=("serve_app.app",), name="imports", daemon=True).start()
    replicas = settings.replicas
    ray.init(
        address="local",
        # Logical: the replicas share the cores of the machine. Ray starts an idle process for each.
        num_cpus=OTHER_PROCESSES + replicas.ingress + replicas.preprocess + replicas.engine,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=OBJECT_STORE_BYTES * replicas.engine,
        _node_ip_address=LOOPBACK,
        _metrics_export_port=settings.metrics.port,
        _temp_dir=str(folder),
    )


@contextmanager
def _output_to(file: Path) -> Iterator[None]:
    """Redirect what this process writes to the terminal, C++ code included, to the file."""
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
