"""What the way through Ray Serve costs: requests a second and latency of the bare graph, without a model.

The graph has the service's shape (ingress -> preprocess -> engine) but answers at once. Each mode is
a set of Serve's environment flags in a fresh Ray; load comes from this process, warm-up apart,
latencies as medians and 99th percentiles. Afterwards, in the chosen mode, the ways of handing a
prompt with pixels from preprocess to the engine: by value (gRPC) or by reference (object store).

    python -m benchmarks.hops                          all modes, result in benchmarks/results/
    python -m benchmarks.hops --modes direct --seconds 2

The last stdout line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aiohttp

ROOT = Path(__file__).parent.parent
CONCURRENCY = (1, 16)
WARM_UP_S = 1.0
PIXEL_BYTES = (0, 300_000, 1_000_000, 3_000_000)
STREAMED_EVENTS = 100
TRANSPORTS = {  # prompt by reference, events by reference
    "all by value": (0, 0),
    "prompt by reference, events by value": (1, 0),
    "all by reference": (1, 1),
}
MODES = {
    "default": {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "0"},
    "throughput": {"RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": "0"},  # Serve's Python proxy before it
    "haproxy": {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": "0"},
    "direct": {},  # as `glm-serve up` runs it
}


# -- the graph -----------------------------------------------------------------------------------


def graph() -> Any:
    import numpy as np
    from fastapi import FastAPI
    from ray import serve

    @serve.deployment(name="preprocess", max_ongoing_requests=1000, ray_actor_options={"num_cpus": 0})
    class Preprocess:
        async def prepare(self, pixel_bytes: int) -> dict[str, Any]:
            return {"token_ids": np.zeros(400, np.int32), "pixels": np.zeros(pixel_bytes, np.uint8)}

    @serve.deployment(name="engine", max_ongoing_requests=1000, ray_actor_options={"num_cpus": 0})
    class Engine:
        async def generate(self, prompt: dict[str, Any], events: int) -> Any:
            for number in range(events):
                yield number

    @serve.deployment(name="ingress", max_ongoing_requests=1000, ray_actor_options={"num_cpus": 0})
    @serve.ingress()
    class Ingress:
        def __init__(self, preprocess: Any, engine: Any) -> None:
            self._preprocess = preprocess
            self._engine = engine

        def __serve_build_asgi_app__(self) -> FastAPI:
            app = FastAPI()

            @app.get("/plain")
            async def plain() -> dict[str, int]:
                return {"events": 0}

            @app.get("/chain")
            async def chain(pixels: int = 0, events: int = 2, ref: int = 1, ref_events: int = 0) -> dict[str, int]:
                prepare = self._preprocess.prepare.options(_by_reference=bool(ref))
                generate = self._engine.generate.options(stream=True, _by_reference=bool(ref_events))
                count = 0
                async for _ in generate.remote(prepare.remote(pixels), events):
                    count += 1
                return {"events": count}

            return app

    return Ingress.bind(Preprocess.bind(), Engine.bind())


def serve_graph(mode: str, port: int, proxy_port: int) -> None:
    """Runs in a child: the graph under one set of flags, until the parent says stop."""
    from serve_app.settings import Settings
    from serve_app.standalone import LOOPBACK, ray_environment

    environment = ray_environment(Settings.model_validate({"http": {"port": port}}))
    environment |= MODES[mode]
    if environment.get("RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT") == "0":  # not the public port, then
        environment |= {
            "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(proxy_port),
            "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(proxy_port + 1),
        }
        proxy_port = port
    elif mode == "default":
        proxy_port = port
    os.environ.update(environment)

    import ray
    from ray import serve

    with tempfile.TemporaryDirectory(prefix="hops-", dir="/tmp") as folder:
        ray.init(
            address="local",
            num_cpus=8,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            object_store_memory=2**29,
            _node_ip_address=LOOPBACK,
            _temp_dir=folder,
        )
        serve.start(http_options={"host": LOOPBACK, "port": proxy_port}, logging_config={"enable_access_log": False})
        serve.run(graph(), name="hops")
        print("ready", flush=True)
        sys.stdin.readline()
        ray.shutdown()


# -- the load ------------------------------------------------------------------------------------


async def load(url: str, concurrency: int, seconds: float) -> dict[str, float]:
    """Closed loop: each of `concurrency` callers asks again as soon as it has its answer."""
    latencies_ms: list[float] = []

    async def caller(until: float, note: Callable[[float], None]) -> None:
        while time.perf_counter() < until:
            began = time.perf_counter()
            async with session.get(url) as response:
                await response.read()
                if response.status != 200:
                    raise RuntimeError(f"{url} answered {response.status}")
            note((time.perf_counter() - began) * 1000)

    connector = aiohttp.TCPConnector(limit=concurrency)
    async with aiohttp.ClientSession(connector=connector) as session:
        warm = time.perf_counter() + WARM_UP_S
        await asyncio.gather(*(caller(warm, lambda _: None) for _ in range(concurrency)))
        until = time.perf_counter() + seconds
        await asyncio.gather(*(caller(until, latencies_ms.append) for _ in range(concurrency)))
    latencies_ms.sort()
    return {
        "requests_per_s": round(len(latencies_ms) / seconds, 1),
        "p50_ms": round(statistics.median(latencies_ms), 2),
        "p99_ms": round(latencies_ms[int(len(latencies_ms) * 0.99)], 2),
    }


def measure(mode: str, seconds: float) -> dict[str, Any]:
    port, proxy_port = free_ports()
    command = [sys.executable, "-m", "benchmarks.hops", "--serve", mode, str(port), str(proxy_port)]
    child = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin is not None
    assert child.stdout is not None
    base = f"http://127.0.0.1:{port}"
    try:
        began = time.perf_counter()
        if "ready" not in iter(lambda: child.stdout.readline().strip(), ""):
            raise RuntimeError(f"the graph did not start in mode {mode}")
        result: dict[str, Any] = {"start_s": round(time.perf_counter() - began, 1)}
        for route in ("plain", "chain"):
            for concurrency in CONCURRENCY:
                figures = asyncio.run(load(f"{base}/{route}?ref={int(mode == 'default')}", concurrency, seconds))
                result[f"{route} c={concurrency}"] = figures
                print(f"{mode:<11} {route:<6} c={concurrency:<3} {figures}", flush=True)
        if mode == "direct":
            result["transports"] = {name: transports(base, name, seconds) for name in TRANSPORTS}
        return result
    finally:
        child.stdin.close()
        try:
            child.wait(20)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
            child.wait()


def transports(base: str, name: str, seconds: float) -> dict[str, Any]:
    ref, ref_events = TRANSPORTS[name]
    ways = {f"{size} bytes": f"pixels={size}" for size in PIXEL_BYTES}
    ways[f"{STREAMED_EVENTS} events"] = f"pixels={PIXEL_BYTES[1]}&events={STREAMED_EVENTS}"
    result = {}
    for way, query in ways.items():
        url = f"{base}/chain?{query}&ref={ref}&ref_events={ref_events}"
        result[way] = asyncio.run(load(url, 1, seconds))
        print(f"{name:<38} {way:<14} {result[way]}", flush=True)
    return result


def free_ports() -> tuple[int, int]:
    import socket

    with socket.socket() as first, socket.socket() as second:
        first.bind(("127.0.0.1", 0))
        second.bind(("127.0.0.1", 0))
        return first.getsockname()[1], second.getsockname()[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--seconds", type=float, default=4.0, help="length of each measurement (default: 4)")
    parser.add_argument("--serve", nargs=3, metavar=("MODE", "PORT", "OTHER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        mode, port, proxy_port = options.serve
        serve_graph(mode, int(port), int(proxy_port))
        return
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    report = {
        "benchmark": "hops",
        "date": datetime.date.today().isoformat(),
        "commit": commit.stdout.strip(),
        "cores": os.cpu_count(),
        "versions": {"python": platform.python_version(), "ray": version("ray"), "grpcio": version("grpcio")},
        "modes": {mode: measure(mode, options.seconds) for mode in options.modes},
    }
    if options.modes == list(MODES):
        results = ROOT / "benchmarks" / "results"
        results.mkdir(exist_ok=True)
        (results / f"hops-{report['date']}.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
