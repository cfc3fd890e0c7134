"""Deploys the Serve graph on the running Ray and waits until it answers."""

from __future__ import annotations

import logging
import re
import socket
import time
import urllib.error
import urllib.request
from typing import Final

from serve_app.logs import WriteLine, serve_logging
from serve_app.settings import Settings
from serve_app.standalone.private_ray import LOOPBACK
from serve_app.standalone.shutdown import StopSignal

APP_NAME = "glm"
# A replica that stops looks for running requests after this time; Serve's own 2 s are for several nodes.
STOP_CHECK_S: Final = 0.2
LONGEST_REASON = 500  # characters of a failure that the terminal shows; the logs have the complete text
_FAILED_MARK = "failed to start with exception"  # from Serve, which would try twice more


class StartFailed(Exception):
    """The service can't start; the message is for the user at the terminal."""


def deploy(settings: Settings, stop: StopSignal, write_line: WriteLine) -> bool:
    """Deploy and wait until the service answers; False if a signal stopped it before. Raises StartFailed."""
    import ray
    from ray import serve

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    if settings.model.device == "auto":
        device = "cuda" if ray.cluster_resources().get("GPU", 0) else "cpu"
        model = settings.model.model_copy(update={"device": device})
        settings = settings.model_copy(update={"model": model})
    require_gpus(settings, int(ray.cluster_resources().get("GPU", 0)))

    from serve_app.app import bind

    started = time.monotonic()
    serve.start(
        # Serve's own proxy is not used but can't be left out: it gets a free port and serves nothing (serve_proxy.py).
        http_options={"host": settings.http.host, "port": _free_port()},
        logging_config=serve_logging(settings.log),
    )
    application = bind(settings, graceful_shutdown_wait_loop_s=STOP_CHECK_S)
    target = serve.RunTarget(application, name=APP_NAME, logging_config=serve_logging(settings.log))
    serve.run_many([target], wait_for_applications_running=False)
    ready: set[str] = set()
    while not stop.is_set():
        status = serve.status().applications[APP_NAME]
        for name, deployment in status.deployments.items():
            if deployment.status == "HEALTHY" and name not in ready:
                ready.add(name)
                write_line(f"{name} ready after {time.monotonic() - started:.1f} s")
            if deployment.status == "DEPLOY_FAILED" or _FAILED_MARK in deployment.message:
                raise StartFailed(f"{name} could not start: {failure_reason(deployment.message)}")
        if status.status == "DEPLOY_FAILED":
            raise StartFailed(failure_reason(status.message))
        if status.status == "RUNNING" and is_ready(settings):
            return True
        stop.wait(0.2)
    return False


def require_gpus(settings: Settings, gpus: int) -> None:
    """Raises StartFailed if there are fewer GPUs than engine replicas: Serve would wait for one without an end."""
    wanted = settings.replicas.engine
    if settings.model.device != "cuda" or gpus >= wanted:
        return
    if gpus == 0:
        raise StartFailed(
            "model.device is cuda, and Ray finds no GPU on this machine. Check that nvidia-smi shows one and that"
            " CUDA_VISIBLE_DEVICES does not hide it, or start with --device cpu."
        )
    raise StartFailed(
        f"{wanted} engine replicas need {wanted} GPUs, and {gpus} can be used here. Give --engines {gpus}"
        " (replicas.engine), or make more GPUs visible (CUDA_VISIBLE_DEVICES)."
    )


def failure_reason(message: str) -> str:
    """The error message at the end of a replica's traceback, without the stack."""
    lines = message.strip().splitlines() or ["No reason was given."]
    frames = [number for number, line in enumerate(lines) if line.startswith("  ")]
    text = " ".join(line.strip() for line in lines[frames[-1] + 1 :]) if frames else " ".join(lines)
    return re.sub(r"^serve_app\.errors\.\w+: ", "", text)[:LONGEST_REASON]


def is_ready(settings: Settings) -> bool:
    """Whether the service of these settings answers GET /readyz with success."""
    # Without a handler for proxies urllib would send the request to the proxy of the environment.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{settings.http.local_url}/readyz", timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port
