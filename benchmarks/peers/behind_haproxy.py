"""This service on one machine behind Serve's HAProxy, as on a cluster, to compare with its own port (`glm-serve up`).

    python -m benchmarks.peers.behind_haproxy PORT      settings as GLM_* variables

Not for production: HAProxy's statistics pages (ports 8404 and 9101) listen on all addresses
(docs/decisions/0002-serve-flags.md).
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import threading

from serve_app.ray_flags import CLUSTER, OBJECT_STORE_BYTES

LOOPBACK = "127.0.0.1"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    serve_until_stopped(parser.parse_args().port)


def serve_until_stopped(port: int) -> None:
    """Serves until SIGINT or SIGTERM."""
    folder = tempfile.mkdtemp(prefix="glm-haproxy-", dir="/tmp")
    os.environ.update(CLUSTER)
    for name in ("RAY_LOG_TO_STDERR", "RAY_SERVE_LOG_TO_STDERR"):
        os.environ.pop(name)
    os.environ |= {
        "RAY_AUTH_MODE": "disabled",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        **{
            f"RAY_SERVE_HAPROXY_{name}": f"{folder}/{file}"
            for name, file in (
                ("CONFIG_FILE_LOC", "haproxy.cfg"),
                ("SOCKET_PATH", "admin.sock"),
                ("SERVER_STATE_BASE", ""),
                ("SERVER_STATE_FILE", "server-state"),
            )
        },
    }

    import ray  # reads its environment when it is imported
    from ray import serve

    from serve_app.app import build
    from serve_app.settings import Settings
    from serve_app.standalone.replicas import with_replicas

    settings, _ = with_replicas(Settings(), os.cpu_count() or 1)
    counts = settings.replicas
    ray.init(
        address="local",
        num_cpus=max(8, os.cpu_count() or 1, counts.engine + counts.preprocess + 4),
        include_dashboard=False,
        logging_level="ERROR",
        object_store_memory=OBJECT_STORE_BYTES * counts.engine,
        _node_ip_address=LOOPBACK,
        _metrics_export_port=settings.metrics.port,
        _temp_dir=f"{folder}/ray",
    )
    if settings.model.device == "auto":
        device = "cuda" if ray.cluster_resources().get("GPU", 0) else "cpu"
        settings = settings.model_copy(update={"model": settings.model.model_copy(update={"device": device})})
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    try:
        serve.start(http_options={"host": LOOPBACK, "port": port})
        serve.run(build(settings), name="glm")
        while not stopped.wait(0.5):
            pass
    finally:
        serve.shutdown()
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
