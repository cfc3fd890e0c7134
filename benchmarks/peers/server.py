"""Servers of benchmarks: how each is started, and a context that starts one and ends it with all its processes."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from benchmarks.report import ROOT

START_LIMIT_S = 420.0
STOP_LIMIT_S = 30.0
LAST_LINES = 30  # of the output of a server that did not start


@dataclass(frozen=True)
class Server:
    """An OpenAI-compatible server that a benchmark starts."""

    name: str
    command: tuple[str, ...]
    probe: str  # a path that responds with 2xx once the server is ready
    model: str  # its name for the model
    env: Mapping[str, str] = field(default_factory=dict)
    ignores_eos: bool = True  # accepts `ignore_eos`
    folder: Path = ROOT  # in which it runs


def ours(folder: Path, port: int, settings: Mapping[str, str] | None = None, checkout: Path = ROOT) -> Server:
    """This service, or that of another checkout of this repository; `settings` are `GLM_*` variables."""
    command = (sys.executable, "-m", "serve_app", "up", "--port", str(port))
    paths = [str(checkout), *filter(None, [os.environ.get("PYTHONPATH")])]  # packages may be in the second
    env = _our_environment(folder, port, settings or {}) | {"PYTHONPATH": os.pathsep.join(paths)}
    return Server("ours", command, "/readyz", "glm", env, folder=checkout)


def ours_behind_haproxy(folder: Path, port: int, settings: Mapping[str, str] | None = None) -> Server:
    """This service with Serve's HAProxy in front."""
    command = (sys.executable, "-m", "benchmarks.peers.behind_haproxy", str(port))
    return Server("ours_behind_haproxy", command, "/readyz", "glm", _our_environment(folder, port, settings or {}))


def _our_environment(folder: Path, port: int, settings: Mapping[str, str]) -> dict[str, str]:
    return {
        "GLM_MODEL__PATH": str(folder),
        "GLM_MODEL__NAME": "glm",
        "GLM_METRICS__PORT": str(port + 1),
        **settings,
    }


def vllm(folder: Path, port: int, context_tokens: int, packages: str = "", quantization: str = "none") -> Server:
    """vLLM's OpenAI server with its defaults; `packages` is the folder that it is installed in, "" for this Python's.

    Raises SystemExit if it is not installed.
    """
    env = vllm_environment(packages)
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--port", str(port)]
    command += ["--served-model-name", "glm", "--max-model-len", str(context_tokens), "--max-num-seqs", "128"]
    command += ["--limit-mm-per-prompt", json.dumps({"image": 1, "video": 0}), "--gpu-memory-utilization", "0.85"]
    if quantization != "none":
        command += ["--quantization", quantization]
    return Server("vllm", tuple(command), "/health", "glm", env)


def vllm_environment(packages: str) -> dict[str, str]:
    """The environment of vLLM's processes; raises SystemExit if `packages`, or this Python, lacks it."""
    env = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    env["VLLM_USE_FLASHINFER_SAMPLER"] = "0"  # its kernels need a compiler
    if packages:
        env["PYTHONPATH"] = os.pathsep.join([packages, str(ROOT)])
    if not (Path(packages) / "vllm").is_dir() if packages else importlib.util.find_spec("vllm") is None:
        raise SystemExit(
            f"vLLM is not installed in {packages or sys.prefix}. It needs an NVIDIA GPU and packages that conflict with"
            " ours: pip install --target DIR vllm==0.25.1, then --vllm-packages DIR."
        )
    return env


def transformers(folder: Path, port: int) -> Server:
    """`transformers serve`, on the GPU if there is one."""
    command = (sys.executable, "-m", "benchmarks.peers.transformers_serve", str(folder), str(port))
    return Server("transformers", command, "/health", str(folder), ignores_eos=False)


def plain_generate(folder: Path, port: int) -> Server:
    """`generate()` behind FastAPI, one request at a time."""
    command = (sys.executable, "-m", "benchmarks.peers.plain_generate", str(folder), str(port))
    return Server("plain_generate", command, "/v1/models", str(folder))


@contextmanager
def running(server: Server, port: int, log: Path | None = None) -> Iterator[tuple[str, float]]:
    """(base URL, seconds from start to ready) of a started server; raises SystemExit with its output if it fails.

    `log` is the file to write its output to; by default it is dropped at the end.
    """
    started = time.monotonic()
    with open(log, "w+b") if log else tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            server.command,
            cwd=server.folder,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **server.env},
        )
        try:
            base = f"http://127.0.0.1:{port}"
            while not _responds(base + server.probe):
                if process.poll() is not None or time.monotonic() > started + START_LIMIT_S:
                    output.seek(0)
                    lines = output.read().decode(errors="replace").splitlines()[-LAST_LINES:]
                    raise SystemExit("\n".join([f"{server.name} did not start: {' '.join(server.command)}", *lines]))
                time.sleep(0.25)
            yield base, time.monotonic() - started
        finally:
            _end(process)


def _responds(url: str) -> bool:
    try:
        return httpx.get(url, timeout=10, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def _end(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGINT, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(timeout=STOP_LIMIT_S)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
